package template

import (
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"sort"
	"strconv"
	"strings"
)

// reference is the configuration and the rendering in plain Go. It expects that lines are well-formed; whether what they
// make is JSON, accepts says.
type reference struct {
	top, decimals   int
	threshold       float64
	languages       []string
	template, class string
	texts, nones    map[string]string
	digits          map[string][]rune
	labels          [][]string
	standIn         bool // for every name and text
}

func newReference(configuration string) *reference {
	r := &reference{top: 1, decimals: 3, texts: map[string]string{}, nones: map[string]string{}, digits: map[string][]rune{}}
	for line := range strings.SplitSeq(configuration, "\n") {
		key, rest, _ := strings.Cut(strings.TrimSuffix(line, "\r"), " ")
		language, text, _ := strings.Cut(rest, " ")
		switch key {
		case "top":
			r.top, _ = strconv.Atoi(rest)
		case "decimals":
			r.decimals, _ = strconv.Atoi(rest)
		case "threshold":
			r.threshold, _ = strconv.ParseFloat(rest, 64)
		case "languages":
			r.languages = strings.Split(rest, " ")
		case "template":
			r.template = rest
		case "class":
			r.class = rest
		case "text":
			r.texts[language] = text
		case "none":
			r.nones[language] = text
		case "digits":
			r.digits[language] = []rune(text)
		case "label":
			r.labels = append(r.labels, strings.Split(rest, "|"))
		}
	}
	return r
}

// escape makes text fit for a JSON string, as little changed as possible.
func escape(s string) string {
	var b strings.Builder
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteRune(c)
		case c < ' ':
			fmt.Fprintf(&b, `\u%04x`, c)
		default:
			b.WriteRune(c)
		}
	}
	return b.String()
}

var field = regexp.MustCompile(`\$(\$|[a-z]*)`)

func fill(template string, escaped bool, fields map[string]string) string {
	var b strings.Builder
	literal := func(s string) {
		if escaped {
			s = escape(s)
		}
		b.WriteString(s)
	}
	at := 0
	for _, m := range field.FindAllStringSubmatchIndex(template, -1) {
		literal(template[at:m[0]])
		at = m[1]
		if name := template[m[2]:m[3]]; name == "$" {
			literal("$")
		} else {
			b.WriteString(fields[name])
		}
	}
	literal(template[at:])
	return b.String()
}

func (r *reference) render(scores []float32, language string) (answer string, classes int) {
	number := 0
	for i, l := range r.languages {
		if l == language {
			number = i
		}
	}
	language = r.languages[number]
	var best []int
	for id, s := range scores {
		if float64(s) >= r.threshold {
			best = append(best, id)
		}
	}
	sort.SliceStable(best, func(a, b int) bool { return scores[best[a]] > scores[best[b]] })
	best = best[:min(len(best), r.top)]
	fixed := func(x float64, decimals int) string {
		scale := math.Pow10(decimals)
		s := fmt.Sprintf("%0*d", decimals+1, int64(math.RoundToEven(x*scale)))
		if decimals > 0 {
			s = s[:len(s)-decimals] + "." + s[len(s)-decimals:]
		}
		return s
	}
	fields := func(rank, id int, digits []rune) map[string]string {
		percent := fixed(100*float64(scores[id]), 0)
		if digits != nil {
			percent = strings.Map(func(c rune) rune { return digits[c-'0'] }, percent)
		}
		label := escape(r.labels[id][number])
		if r.standIn {
			label = "a"
		}
		return map[string]string{
			"rank": strconv.Itoa(rank), "id": strconv.Itoa(id), "label": label, "score": fixed(float64(scores[id]), r.decimals), "percent": escape(percent),
		}
	}
	var rendered []string
	for i, id := range best {
		rendered = append(rendered, fill(r.class, false, fields(i+1, id, nil)))
	}
	text := escape(r.nones[language])
	if len(best) > 0 {
		text = fill(r.texts[language], true, fields(1, best[0], r.digits[language]))
	}
	language = escape(language)
	if r.standIn {
		text, language = "a", "a"
	}
	return fill(r.template, false, map[string]string{
		"text": text, "language": language, "count": strconv.Itoa(len(best)), "classes": strings.Join(rendered, ","),
	}), len(best)
}

// accepts tells whether every answer is JSON: with all classes, none, one, and all of them at the threshold, and with other
// names and texts.
func (r *reference) accepts() bool {
	low := float32(r.threshold)
	if float64(low) < r.threshold {
		low = math.Nextafter32(low, 2e6)
	}
	high, below := float32(r.threshold+1), float32(r.threshold-1)
	for _, language := range r.languages {
		for _, s := range [][2]float32{{high, high}, {below, below}, {high, below}, {low, low}} {
			scores := make([]float32, len(r.labels))
			for i := range scores {
				scores[i] = s[1]
			}
			scores[0] = s[0]
			if answer, _ := r.render(scores, language); !json.Valid([]byte(answer)) {
				return false
			}
		}
	}
	// What only happens to be JSON, since a name is a number or nothing, is none with another one.
	other := *r
	other.standIn = true
	all := make([]float32, len(r.labels))
	for i := range all {
		all[i] = high
	}
	answer, _ := other.render(all, "")
	return json.Valid([]byte(answer))
}

package metrics

import (
	"math"
	"strconv"
	"strings"
)

// contentType is that of Prometheus' text format, which every scraper reads.
const contentType = "text/plain; version=0.0.4; charset=utf-8"

// page is a page in Prometheus' text format under construction.
//
// Families are begun by family and get their samples before the next begins; one without samples is left out. That a
// name is unique and has the right ending for its kind is the caller's matter, and its test's.
type page struct {
	buf              []byte
	name, help, kind string
	begun            bool
}

// The kinds of metrics.
const (
	counter   = "counter"
	gauge     = "gauge"
	histogram = "histogram"
)

// family begins a metric.
func (p *page) family(name, kind, help string) {
	p.name, p.kind, p.help, p.begun = name, kind, help, false
}

// labels are names and values as they are written, without braces.
type labels string

// label writes labels, given as name and value in turn.
func label(pairs ...string) labels {
	var b strings.Builder
	for i := 0; i+1 < len(pairs); i += 2 {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(pairs[i])
		b.WriteString(`="`)
		// A scraper refuses the whole page for one byte that is no UTF-8.
		b.WriteString(escaper.Replace(strings.ToValidUTF8(pairs[i+1], "\uFFFD")))
		b.WriteByte('"')
	}
	return labels(b.String())
}

var escaper = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// value adds a sample. What is not a number is not known, and is left out.
func (p *page) value(l labels, v float64) {
	if math.IsNaN(v) {
		return
	}
	p.sample("", l, "", v)
}

// count adds a sample that is a whole number.
func (p *page) count(l labels, n uint64) {
	p.open("", l, "")
	p.buf = strconv.AppendUint(p.buf, n, 10)
	p.buf = append(p.buf, '\n')
}

// sample adds a line, with the upper bound of a bucket where there is one.
func (p *page) sample(suffix string, l labels, le string, v float64) {
	p.open(suffix, l, le)
	switch {
	case math.IsInf(v, 1):
		p.buf = append(p.buf, "+Inf"...)
	case math.IsInf(v, -1):
		p.buf = append(p.buf, "-Inf"...)
	default:
		p.buf = strconv.AppendFloat(p.buf, v, 'g', -1, 64)
	}
	p.buf = append(p.buf, '\n')
}

// distribution adds a histogram: how many were at most each of the bounds, how many there are and their sum.
func (p *page) distribution(l labels, bounds []bucket, atMost func(bucket) uint64, count uint64, sum float64) {
	for _, b := range bounds {
		p.open("_bucket", l, b.le)
		p.buf = strconv.AppendUint(p.buf, atMost(b), 10)
		p.buf = append(p.buf, '\n')
	}
	p.open("_bucket", l, "+Inf")
	p.buf = strconv.AppendUint(p.buf, count, 10)
	p.buf = append(p.buf, '\n')
	p.sample("_sum", l, "", sum)
	p.open("_count", l, "")
	p.buf = strconv.AppendUint(p.buf, count, 10)
	p.buf = append(p.buf, '\n')
}

// open writes what comes before a value, and the head of the family before its first sample.
func (p *page) open(suffix string, l labels, le string) {
	if !p.begun {
		p.begun = true
		p.buf = append(p.buf, "# HELP "+p.name+" "+p.help+"\n# TYPE "+p.name+" "+p.kind+"\n"...)
	}
	p.buf = append(append(p.buf, p.name...), suffix...)
	if l != "" || le != "" {
		p.buf = append(append(p.buf, '{'), l...)
		if le != "" {
			if l != "" {
				p.buf = append(p.buf, ',')
			}
			p.buf = append(append(append(p.buf, `le="`...), le...), '"')
		}
		p.buf = append(p.buf, '}')
	}
	p.buf = append(p.buf, ' ')
}

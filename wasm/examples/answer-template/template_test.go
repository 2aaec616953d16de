package template

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/abi"
	"github.com/dhowfleet/dhow/wasm/guest/kittest"
	"github.com/dhowfleet/dhow/wasm/host"
)

func step(t testing.TB) []byte {
	t.Helper()
	return kittest.Build(t, "../../guest/assemblyscript/build", "index.ts")
}

func garments(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile("testdata/garments.txt")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func compile(t testing.TB) *host.Module {
	t.Helper()
	return kittest.Compile(t, step(t), host.Options{
		Name: "answer.wasm", Configuration: []byte(garments(t)), Counters: []string{"unsure"}, Features: []string{"confidence", "margin"},
	})
}

// sink keeps what a guest emitted.
type sink struct{ got []string }

func (s *sink) Feature(name string, v float64) { s.got = append(s.got, fmt.Sprint(name, "=", v)) }
func (s *sink) Count(name string, n uint64)    { s.got = append(s.got, fmt.Sprint(name, "+", n)) }

func TestAnswersInTwoLanguages(t *testing.T) {
	m := compile(t)
	scores := []float32{0, .0625, 0, 0, .25, 0, .6875, 0, 0, 0, .02, .02, .02, .02, .02, .02, .02, .02, .02, .02}
	in := []tensor.Tensor{tensor.FromFloat32("probabilities", []int64{2, 10}, scores), tensor.FromStrings("language", "ar", "en")}
	s := &sink{}
	out, err := m.Process(context.Background(), in, s)
	if err != nil || len(out) != 1 || out[0].Name != "answer" || fmt.Sprint(out[0].Shape) != "[2]" {
		t.Fatalf("%v, %v", out, err)
	}
	answers, err := tensor.SplitBytes(out[0].Data)
	if err != nil || len(answers) != 2 {
		t.Fatal(err)
	}
	for i, want := range []string{
		`{"text":"الأرجح أن هذا: قميص (٦٩ ٪).","language":"ar","count":3,"classes":[` +
			`{"rank":1,"id":6,"label":"قميص","score":0.6875,"percent":69},{"rank":2,"id":4,"label":"معطف","score":0.2500,"percent":25},{"rank":3,"id":1,"label":"بنطلون","score":0.0625,"percent":6}]}`,
		`{"text":"I cannot tell what this is.","language":"en","count":0,"classes":[]}`,
	} {
		if string(answers[i]) != want {
			t.Errorf("row %d:\n%s\nwant\n%s", i, answers[i], want)
		}
	}
	if got := fmt.Sprint(s.got); got != "[confidence=0.6875 margin=0.4375 confidence=0.019999999552965164 margin=0 unsure+1]" {
		t.Errorf("emitted %s", got)
	}
	// Without a language, and with one that nobody speaks: the first.
	for _, in := range [][]tensor.Tensor{in[:1], {in[0], tensor.FromStrings("language", "xx")}} {
		out, err := m.Process(context.Background(), in, nil)
		if err != nil || !strings.Contains(string(out[0].Data), `"text":"This is most likely: Shirt (69 %).","language":"en"`) {
			t.Errorf("%v, %v", out, err)
		}
	}
}

func TestWhatDoesNotFitIsRefused(t *testing.T) {
	m := compile(t)
	row := func(scores ...float32) tensor.Tensor {
		return tensor.FromFloat32("probabilities", []int64{1, int64(len(scores))}, append([]float32{}, scores...))
	}
	good := row(make([]float32, 10)...)
	for what, c := range map[string]struct {
		in      []tensor.Tensor
		byInput bool
		text    string
	}{
		"no scores":     {nil, false, `there is no tensor "probabilities"`},
		"other classes": {[]tensor.Tensor{row(1, 2)}, false, "FP32 [1,2], FP32 [n,10] is wanted"},
		"not a number":  {[]tensor.Tensor{row(0, 0, 0, float32(math.NaN()), 0, 0, 0, 0, 0, 0)}, false, "score 3 is no number"},
		"infinity":      {[]tensor.Tensor{row(0, 0, 0, 0, 0, 0, 0, 0, 0, float32(math.Inf(-1)))}, false, "score 9 is no number"},
		"two languages": {[]tensor.Tensor{good, tensor.FromStrings("language", "ar", "en")}, true, "language is BYTES [2], BYTES [1] or [1] is wanted"},
		"no text":       {[]tensor.Tensor{good, {Name: "language", Datatype: tensor.Uint8, Shape: []int64{1}, Data: []byte{1}}}, true, "language is UINT8 [1]"},
	} {
		var guestErr *host.GuestError
		if _, err := m.Process(context.Background(), c.in, nil); !errors.As(err, &guestErr) || guestErr.Input != c.byInput || !strings.Contains(guestErr.Message, c.text) {
			t.Errorf("%s: %v", what, err)
		}
	}
	empty := tensor.Tensor{Name: "probabilities", Datatype: tensor.FP32, Shape: []int64{0, 10}}
	if out, err := m.Process(context.Background(), []tensor.Tensor{empty}, nil); err != nil || len(out) != 1 || len(out[0].Data) != 0 {
		t.Errorf("no rows: %v, %v", out, err)
	}
}

// ask hands one row to a bare guest and returns its answer.
func ask(b *kittest.Bare, scores []float32, language string) (string, error) {
	in := []tensor.Tensor{tensor.FromFloat32("probabilities", []int64{1, int64(len(scores))}, scores), tensor.FromStrings("language", language)}
	list, err := abi.Encode(in)
	if err != nil {
		return "", err
	}
	item, err := b.Answer(abi.ExportProcess, list)
	if err != nil || item.Status != abi.StatusTensors {
		return "", fmt.Errorf("%d %q, %v", item.Status, item.Payload, err)
	}
	out, err := abi.Decode(item.Payload)
	if err != nil || len(out) != 1 || len(out[0].Data) < 4 {
		return "", fmt.Errorf("%v, %v", out, err)
	}
	return string(out[0].Data[4:]), nil
}

// configuration draws one whose lines are well-formed. What its template makes may be anything but JSON.
func configuration() *rapid.Generator[string] {
	word := rapid.StringOfN(rapid.RuneFrom([]rune("ab\"\\/\t\x01 é٣\U0001F45F$")), 0, 8, -1)
	text := rapid.Custom(func(t *rapid.T) string {
		s := strings.ReplaceAll(word.Draw(t, "text"), "$", "$$")
		return s + rapid.SampledFrom([]string{"", "$label", "$id $score", "$percent%", "$$label"}).Draw(t, "field")
	})
	return rapid.Custom(func(t *rapid.T) string {
		template := rapid.SampledFrom([]string{
			`{"t":"$text","l":"$language","n":$count,"c":[$classes]}`, `[$classes]`, `"$text"`, `$count`, `{"$language":["$text",[[$classes]]]}`,
			`{"t":$text}`, `[$classes`, `$classes`, `{"n":$count $classes}`, `["$$",$count,[$classes] ]`, `{"c":[$classes 1]}`, `"$count`, `[$classes],`, ` {} `, `[1,]`, `"$$\u00e9"`, `"\u00g0"`, `[-$count]`, `0$count`,
		}).Draw(t, "template")
		class := rapid.SampledFrom([]string{
			`{"rank":$rank,"id":$id,"label":"$label","score":$score,"percent":$percent}`, `"$label"`, `$score`, `[$id,$rank]`, `1$rank`, `$label`, `,"c$rank":$id`, `$percent$id`, `{"$label":null}`, `$id,$id`,
		}).Draw(t, "class")
		lines := []string{
			"# " + word.Draw(t, "comment"), "top " + fmt.Sprint(rapid.IntRange(1, 4).Draw(t, "top")), "decimals " + fmt.Sprint(rapid.IntRange(0, 9).Draw(t, "decimals")),
			"threshold " + rapid.SampledFrom([]string{"0", "0.1", ".25", "1", ".333333333333333"}).Draw(t, "threshold"),
			"languages en ar", "template " + template, "class " + class, "digits ar " + rapid.SampledFrom([]string{"٠١٢٣٤٥٦٧٨٩", "\"\\cdefghi\U0001F45F"}).Draw(t, "digits"),
		}
		for _, l := range []string{"en", "ar"} {
			lines = append(lines, "text "+l+" x"+text.Draw(t, "text"), "none "+l+" y"+word.Draw(t, "none"))
		}
		for range rapid.IntRange(1, 5).Draw(t, "labels") {
			lines = append(lines, "label "+word.Draw(t, "name")+"|"+word.Draw(t, "name"))
		}
		return strings.Join(lines, rapid.SampledFrom([]string{"\n", "\r\n", "\n\n"}).Draw(t, "end of line"))
	})
}

// TestDrawnConfigurations: the step accepts those whose every answer is JSON, and answers what the reference does.
func TestDrawnConfigurations(t *testing.T) {
	b := kittest.NewBare(t, step(t), []byte(garments(t)))
	accepted, refused := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		text := configuration().Draw(t, "configuration")
		r := newReference(text)
		ok, err := b.Configure([]byte(text))
		if err != nil || ok != r.accepts() {
			t.Fatalf("%s\nis accepted: %t (%s), want %t; %v", text, ok, b.Said, !ok, err)
		}
		if !ok {
			refused++
			return
		}
		accepted++
		for range 5 {
			var scores []float32
			for range r.labels {
				scores = append(scores, rapid.OneOf(rapid.SampledFrom([]float32{0, .1, .25, .5, 1, .005, 1e9, -1}), rapid.Float32Range(-1, 1)).Draw(t, "score"))
			}
			language := rapid.SampledFrom([]string{"en", "ar", "", "e", "arx"}).Draw(t, "language")
			want, _ := r.render(scores, language)
			got, err := ask(b, scores, language)
			if err != nil || got != want || !json.Valid([]byte(got)) || !utf8.ValidString(got) {
				t.Fatalf("%s\n%v in %q: %v\n%s\nwant\n%s", text, scores, language, err, got, want)
			}
		}
	})
	t.Logf("%d configurations were accepted, %d refused", accepted, refused)
	if accepted == 0 || refused == 0 {
		t.Error("one kind was not tested")
	}
}

func TestAConfigurationThatIsWrongIsRefused(t *testing.T) {
	b := kittest.NewBare(t, step(t), []byte(garments(t)))
	const rest = "\nlanguages en\ntemplate 1\nlabel a"
	for configuration, want := range map[string]string{
		"":                                    "there is no template",
		"languages en\nlabel a":               "there is no template",
		"languages en\ntemplate 1":            "there are no labels",
		"languages en\ntemplate 1\nlabel ":    "line 3: label is followed by nothing",
		"top 0" + rest:                        "line 1: top is a whole number from 1 to 100",
		"top 1.5" + rest:                      "top is a whole number",
		"top 101" + rest:                      "top is a whole number",
		"decimals 10" + rest:                  "decimals is a whole number from 0 to 9",
		"threshold -1" + rest:                 "threshold is a number",
		"threshold 1e3" + rest:                "threshold is a number",
		"threshold 0.1234567890123456" + rest: "threshold is a number",
		"label a" + rest:                      "line 1: label is not understood, or stands before languages",
		"colour red" + rest:                   "line 1: colour is not understood",
		"languages en en":                     "languages are words",
		"languages en  ar":                    "languages are words",
		"languages en\nlanguages ar":          "there are languages already",
		rest + "|b":                           "a label has a name for each language",
		rest + "\ntext en hm":                 "language en has text without none",
		rest + "\nnone en hm":                 "none without text",
		rest + "\ntext ar hm":                 "text is followed by a language and a text",
		rest + "\ntext en $rank\nnone en x":   "$rank has no meaning here",
		rest + "\ntext en 5 $\nnone en x":     "$ has no meaning here; $$ is a dollar sign",
		rest + "\nclass $text":                "$text has no meaning here",
		rest + "\ndigits en 01234567":         "digits are ten characters",
		rest + "\ncolour red":                 "colour is not understood",
		"languages en\ntemplate \"\nlabel a":  "in language en the template makes no JSON: \"",
		"languages en\nlabel a\ntemplate " + strings.Repeat("[", 65) + strings.Repeat("]", 65): "makes no JSON",
	} {
		if ok, err := b.Configure([]byte(configuration)); err != nil || ok || !strings.Contains(b.Said, want) {
			t.Errorf("%q: %t, %v, %s", configuration, ok, err, b.Said)
		}
	}
	for _, odd := range []string{"\xff", "\xc3", "\xc3(", "é", "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80", "\xed\x9f\xbf", "\xf0\x80\x80\x80", "\U0010FFFF", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xe2\x82", "€", "\x80", "\U0001F45F", "\xf0\x9f\x91"} {
		ok, err := b.Configure([]byte("# " + odd + rest))
		if err != nil || ok != utf8.ValidString(odd) {
			t.Errorf("%x is taken for UTF-8: %t, %v", odd, ok, err)
		}
	}
}

// TestDamagedRequests: what is cut off is never taken for scores.
func TestDamagedRequests(t *testing.T) {
	b := kittest.NewBare(t, step(t), []byte(garments(t)))
	list, err := abi.Encode([]tensor.Tensor{tensor.FromFloat32("probabilities", []int64{1, 10}, make([]float32, 10)), tensor.FromStrings("language", "ar")})
	if err != nil {
		t.Fatal(err)
	}
	for n := range list {
		cut := append([]byte(nil), list[:n]...)
		for range 2 {
			if item, err := b.Answer(abi.ExportProcess, cut); err != nil || item.Status != abi.StatusGuestError {
				t.Fatalf("the first %d bytes: %+v, %v", n, item, err)
			}
			if n >= 8 {
				binary.LittleEndian.PutUint32(cut[4:], uint32(n))
			}
		}
	}
}

// BenchmarkAnswer is the step and the reference on one row.
func BenchmarkAnswer(b *testing.B) {
	scores := []float32{.02, .0625, 0, 0, .25, 0, .6675, 0, 0, 0}
	in := []tensor.Tensor{tensor.FromFloat32("probabilities", []int64{1, 10}, scores), tensor.FromStrings("language", "ar")}
	b.Run("wasm", func(b *testing.B) {
		m := compile(b)
		for b.Loop() {
			if _, err := m.Process(context.Background(), in, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("go", func(b *testing.B) {
		r := newReference(garments(b))
		for b.Loop() {
			if s, _ := r.render(scores, "ar"); s == "" {
				b.Fatal("no answer")
			}
		}
	})
}

package jsontensor

import (
	"encoding/json"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func scan(data []byte) *Scanner {
	s := NewScanner(data)
	return &s
}

// FuzzSkip: the scanner takes exactly what is JSON, but for its bound on nesting.
func FuzzSkip(f *testing.F) {
	for _, seed := range []string{`{"a":[1,-2.5e+7,true,null,"\u12aB\\\"/"],"b":{}}`, `01`, `-`, `1.`, `"\x"`, "\"\t\"", `[1,]`, `{"a"}`, ` tru`, `1e5 x`, `""`, `0.0E0`, `[[[[]]]]`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s := scan(data)
		err := s.Skip()
		if err == nil {
			err = s.End()
		}
		if err != nil && strings.Contains(err.Error(), "nested") {
			return
		}
		if (err == nil) != json.Valid(data) {
			t.Fatalf("%q: %v, encoding/json says %v", data, err, json.Valid(data))
		}
	})
}

// TestTextRoundTrip: what appendText writes is JSON, and the scanner and encoding/json read the text back.
func TestTextRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String().Draw(t, "text")
		written := AppendText(nil, text)
		var plain string
		if err := json.Unmarshal(written, &plain); err != nil || plain != text {
			t.Fatalf("%q was written as %s: %v", text, written, err)
		}
		got, err := scan(written).Text()
		if err != nil || string(got) != text {
			t.Fatalf("%q came back as %q: %v", text, got, err)
		}
		escaped, _ := json.Marshal(text)
		if got, err := scan(escaped).Text(); err != nil || string(got) != text {
			t.Fatalf("%s came back as %q: %v", escaped, got, err)
		}
	})
}

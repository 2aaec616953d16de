package strictyaml

import (
	"fmt"
	"strings"
	"testing"
)

type settings struct {
	name  string
	count int
	on    bool
	parts []string
}

func read(text string) (settings, error) {
	var s settings
	doc, err := Document([]byte(text))
	if err != nil {
		return s, err
	}
	var r Reader
	r.Mapping(doc, "the settings",
		Key("name", true, func(n *Node) {
			r.Text(n, "name", &s.name, func(v string) error {
				if v == "bad" {
					return fmt.Errorf("%q is taken", v)
				}
				return nil
			})
		}),
		Key("count", false, func(n *Node) { Int(&r, n, "count", &s.count, 1, 9) }),
		Key("on", false, func(n *Node) { r.Bool(n, "on", &s.on) }),
		Key("parts", false, func(n *Node) {
			r.List(n, "parts", 2, func(n *Node) {
				var p string
				r.Text(n, "part", &p, nil)
				s.parts = append(s.parts, p)
			})
		}))
	return s, r.Err()
}

func TestWhatIsReadIsAsItIsWritten(t *testing.T) {
	s, err := read("name: 1.10\ncount: 9\non: true\nparts: [a, 0x10]\n")
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(s); got != "{1.10 9 true [a 0x10]}" {
		t.Error(got)
	}
}

func TestMistakesAreNamedWithTheirLines(t *testing.T) {
	for text, want := range map[string]string{
		"":                               "is empty",
		"# nothing\n":                    "is empty",
		"name: a\n---\nname: b\n":        "holds more than one document",
		"name: [":                        "is no YAML",
		"- a\n":                          "line 1: the settings must be a mapping",
		"name: a\nnmae: b\n":             `line 2: unknown key "nmae" in the settings; known are name, count, on, parts`,
		"name: a\nname: b\n":             `line 2: key "name" occurs twice in the settings`,
		"count: 1\n":                     `line 1: "name" is missing in the settings`,
		"name:\n":                        `line 1: "name" in the settings has no value`,
		"name: bad\n":                    `line 1: name: "bad" is taken`,
		"name: {a: b}\n":                 "line 1: name must be a single value",
		"name: a\ncount: 10\n":           `line 2: count: "10" is no number from 1 to 9`,
		"name: a\ncount: 1e0\n":          `"1e0" is no number`,
		"name: a\non: yes\n":             `"yes" is neither true nor false`,
		"name: a\nparts: b\n":            "line 2: parts must be a list",
		"name: a\nparts: [b, c, d]\n":    "line 2: parts has 3 entries, at most 2 are allowed",
		"name: &x a\ncount: *x\n":        "line 2: count must be a single value",
		"name: a\ncount: 99999999999999": "is no number",
	} {
		if _, err := read(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestMistakesAreBounded(t *testing.T) {
	var text strings.Builder
	for i := range 40 {
		fmt.Fprintf(&text, "unknown%d: 1\n", i)
	}
	_, err := read(text.String())
	if err == nil || !strings.HasSuffix(err.Error(), "; and more") || strings.Count(err.Error(), "line ") != MaxProblems {
		t.Errorf("%v", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add("name: a\nparts: [b]\n")
	f.Add("name: &a [*a]\n")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := read(text)
		if err == nil && (s.count < 0 || s.count > 9 || len(s.parts) > 2) {
			t.Fatalf("%q is read as %+v", text, s)
		}
	})
}

package textformat

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

// bare drops the lines, which differ between spellings.
func bare(v Value) Value {
	v.Line = 0
	for i := range v.Fields {
		v.Fields[i].Line, v.Fields[i].Value = 0, bare(v.Fields[i].Value)
	}
	for i := range v.Items {
		v.Items[i] = bare(v.Items[i])
	}
	return v
}

func TestSpellingsOfTheSame(t *testing.T) {
	want, err := Read([]byte(`a: "x/y" b { c: [1, -2] d: true } e: []`))
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		"a: 'x' \"/y\"; b: < c: [ 1 ,\n -2 ], d: true, > e: [ # nothing\n]",
		"\ufeffa:\"\\170\\x2f\\u0079\",b{c:[1,- 2];d:true}e:[]",
		"a : \"\\U00000078/y\" b{c:[1,-\n2]d:true}e:[]#",
	} {
		got, err := Read([]byte(text))
		if err != nil || !reflect.DeepEqual(bare(got), bare(want)) {
			t.Errorf("%q is %+v, %v", text, got, err)
		}
	}
	got, err := ReadJSON([]byte(`{"a": "x\/y", "gone": null, "b": {"c": [1, -2, null], "d": true}, "e": []}`))
	if err != nil || !reflect.DeepEqual(bare(got), bare(want)) {
		t.Errorf("as JSON %+v, %v", got, err)
	}
}

func TestLinesAreCounted(t *testing.T) {
	v, err := Read([]byte("a: 1 # one\n\nb {\n  c: 'x'\n  'y' d: 2\n}"))
	if err != nil {
		t.Fatal(err)
	}
	b := v.Fields[1]
	if b.Line != 3 || b.Value.Fields[0].Line != 4 || b.Value.Fields[1].Line != 5 {
		t.Errorf("%+v", v)
	}
	for text, line := range map[string]int{"a: 1\n}": 2, "a:\n\n\"x": 3, "\n\n\na {": 4} {
		_, err := Read([]byte(text))
		var syntax *SyntaxError
		if !errors.As(err, &syntax) || syntax.Line != line {
			t.Errorf("%q: %v, want line %d", text, err, line)
		}
	}
	if _, err := ReadJSON([]byte("{\n\"a\":\n}")); err == nil || !strings.HasPrefix(err.Error(), "line 2") && !strings.HasPrefix(err.Error(), "line 3") {
		t.Error(err)
	}
}

func TestBounds(t *testing.T) {
	for _, text := range []string{strings.Repeat(" ", MaxBytes+1), strings.Repeat("a{", MaxNesting+1) + strings.Repeat("}", MaxNesting+1), strings.Repeat("a:1 ", MaxValues+1)} {
		if _, err := Read([]byte(text)); err == nil {
			t.Errorf("%.20q... was read", text)
		}
	}
	if _, err := Read([]byte(strings.Repeat("a{", MaxNesting) + strings.Repeat("}", MaxNesting))); err != nil {
		t.Error(err)
	}
	for _, text := range []string{strings.Repeat(" ", MaxBytes+1), strings.Repeat("[", MaxNesting+2), "[" + strings.Repeat("1,", MaxValues) + "1]"} {
		if _, err := ReadJSON([]byte(text)); err == nil {
			t.Errorf("%.20q... was read", text)
		}
	}
}

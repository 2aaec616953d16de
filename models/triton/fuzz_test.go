package triton

import (
	"encoding/json"
	"reflect"
	"testing"
	"unicode/utf8"
)

// FuzzParse holds that no text makes the parser fail in an unforeseen way, and that what it reads is written and read
// back as the same, as text and as JSON.
func FuzzParse(f *testing.F) {
	f.Add([]byte(full))
	for _, s := range []string{
		"", "#", "a:1", "input{}", "name:'\\0'", "name:\"\\u00e9\\ud83d\\ude00\"", "dims:[", "input<dims:[-1,0x7f,017]>",
		"version_policy{all{}}", "ensemble_scheduling{step{model_name:'a'input_map{key:'x'value:'y'}}}",
		"model_warmup{inputs{key:'x'value{zero_data:true}}}", "parameters{key:'a'value{string_value:'b'}}",
		"dynamic_batching{priority_queue_policy{key:1 value{}}}", "optimization{cuda{graphs:true}}", "max_batch_size:-0",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, _, err := Parse(text)
		if err != nil {
			return
		}
		written := Format(c)
		again, warnings, err := Parse(written)
		if err != nil || len(warnings) != 0 || !reflect.DeepEqual(c, again) {
			t.Fatalf("%v, warnings %v\nread    %+v\nwritten %s\nagain   %+v", err, warnings, c, written, again)
		}
		if c.Fill("model") != nil || c.Validate() != nil {
			return
		}
		_, _ = c.Specs()
		asJSON, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := ParseJSON(asJSON); err != nil {
			t.Fatalf("%v in %s", err, asJSON)
		}
	})
}

// FuzzParseJSON holds the same for configurations that clients send.
func FuzzParseJSON(f *testing.F) {
	for _, s := range []string{`{}`, `{"name":"a"}`, `{"input":[{"dims":["1",-1]}]}`, `{"parameters":{"k":{"string_value":"v"}}}`, `{"versionPolicy":{"all":{}}}`, `[null]`, `{"a":[{"b":{}}]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, _, err := ParseJSON(text)
		if err != nil {
			return
		}
		if again, _, err := Parse(Format(c)); err != nil || !reflect.DeepEqual(c, again) {
			t.Fatalf("%v\nread    %+v\nwritten %s\nagain   %+v", err, c, Format(c), again)
		}
		if !utf8.Valid(Format(c)) {
			t.Fatal("what was written is no UTF-8")
		}
	})
}

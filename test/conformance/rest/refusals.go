package rest

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/dhowfleet/dhow/test/conformance/suite"
	"github.com/dhowfleet/dhow/test/conformance/wire"
)

func errorChecks() []suite.Check {
	var out []suite.Check
	for _, b := range badRequests {
		out = append(out, suite.Check{Group: "errors", Name: b.Name, Scope: suite.First, About: b.About + " is refused", Run: func(r *suite.Run) error {
			if len(r.Model.Inputs) == 0 {
				return suite.Skip("the model has no inputs")
			}
			doc := map[string]any{}
			var inputs []map[string]any
			for i := range r.Model.Inputs {
				v := &r.Model.Inputs[i]
				inputs = append(inputs, map[string]any{"name": v.Name, "datatype": v.Datatype, "shape": append([]int64{}, v.Shape...), "data": v.List()})
			}
			doc["inputs"] = inputs
			if why := b.change(doc, inputs[0], &r.Model.Inputs[0]); why != "" {
				return suite.Skip("%s", why)
			}
			got, err := r.Post(suite.Path(r.Model.Name, "", "/infer"), doc)
			if err != nil {
				return err
			}
			return r.RefusedWell(got)
		}})
	}
	texts := []struct{ Name, About, Body string }{
		{"empty-body", "an empty body", ""},
		{"no-json", "a body that is no JSON", "this is no JSON"},
		{"cut-json", "a body that ends inside the JSON", `{"inputs":[{"name":"x","shape":[1],`},
		{"after-json", "a body that goes on after the JSON", `{"inputs":[]} {}`},
		{"list", "a body that is a list", "[]"},
		{"null", "a body that is null", "null"},
		{"empty-object", "a body without inputs", "{}"},
		{"inputs-object", "inputs that are no list", `{"inputs":{}}`},
		{"inputs-numbers", "inputs that are numbers", `{"inputs":[1,2]}`},
		{"deep", "lists nested 100,000 deep", `{"inputs":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + "}"},
	}
	for _, t := range texts {
		out = append(out, suite.Check{Group: "errors", Name: t.Name, Scope: suite.First, About: t.About + " is refused", Run: func(r *suite.Run) error {
			if t.Name == "empty-object" && len(r.Model.Inputs) == 0 {
				return suite.Skip("the model has no inputs")
			}
			got, err := r.PostText(suite.Path(r.Model.Name, "", "/infer"), []byte(t.Body))
			if err != nil {
				return err
			}
			return r.RefusedWell(got)
		}})
	}
	return append(out,
		suite.Check{Group: "errors", Name: "unknown-model", About: "a request to a model that is not there is refused", Run: func(r *suite.Run) error {
			got, err := r.Post(suite.Path("conformance no such model", "", "/infer"), map[string]any{"inputs": []any{}})
			if err != nil {
				return err
			}
			return got.Refused()
		}},
		suite.Check{Group: "errors", Name: "unknown-version", Scope: suite.First, About: "a request to a version that is not there is refused", Run: func(r *suite.Run) error {
			c := r.Carried()
			c.Version = "987654321"
			return r.Refuses(c)
		}},
		suite.Check{Group: "errors", Name: "wrong-method", Scope: suite.First, About: "infer is not got", Run: func(r *suite.Run) error {
			got, err := r.Do(http.MethodGet, suite.Path(r.Model.Name, "", "/infer"), nil, nil)
			if err != nil {
				return err
			}
			if got.Status/100 != 4 {
				return fmt.Errorf("status %d", got.Status)
			}
			return nil
		}},
	)
}

// bad is a request that was right before change made it wrong. change gets the document, its first input, and that as
// a value; it returns why it cannot be made wrong in this way.
type bad struct {
	Name, About string
	change      func(doc, in map[string]any, v *wire.Value) string
}

var badRequests = []bad{
	{"no-inputs", "a request with an empty list of inputs", func(doc, _ map[string]any, _ *wire.Value) string {
		doc["inputs"] = []any{}
		return ""
	}},
	{"missing-input", "a request without the last of several inputs", func(doc, _ map[string]any, _ *wire.Value) string {
		all, _ := doc["inputs"].([]map[string]any)
		if len(all) < 2 {
			return "the model has one input"
		}
		doc["inputs"] = all[:len(all)-1]
		return ""
	}},
	{"repeated-input", "an input given twice", func(doc, in map[string]any, _ *wire.Value) string {
		all, _ := doc["inputs"].([]map[string]any)
		doc["inputs"] = append(all, in)
		return ""
	}},
	set("unknown-input", "an input that the model does not have", "name", "conformance no such input"),
	set("name-number", "a name that is a number", "name", 7),
	drop("no-name", "an input without a name", "name"),
	drop("no-datatype", "an input without a datatype", "datatype"),
	drop("no-shape", "an input without a shape", "shape"),
	drop("no-data", "an input without data", "data"),
	set("unknown-datatype", "a datatype that the protocol does not have", "datatype", "FLOAT"),
	set("datatype-case", "a datatype in lower case", "datatype", "fp32"),
	{"wrong-datatype", "another datatype than the model's", func(_, in map[string]any, v *wire.Value) string {
		in["datatype"] = "INT32"
		if v.Datatype == "INT32" {
			in["datatype"] = "INT64"
		}
		if v.Datatype == "BYTES" || v.Datatype == "BOOL" {
			data := []any{}
			for range v.List() {
				data = append(data, 0)
			}
			in["data"] = data
		}
		return ""
	}},
	{"wrong-rank", "a shape with one dimension too many", func(_, in map[string]any, v *wire.Value) string {
		in["shape"] = append([]int64{1}, v.Shape...)
		return ""
	}},
	set("negative-dimension", "a shape with -1", "shape", []int64{-1}),
	set("fractional-dimension", "a shape with 1.5", "shape", []float64{1.5}),
	set("huge-dimension", "a shape that no memory holds", "shape", []int64{1 << 40, 1 << 40}),
	set("shape-text", "a shape that is a text", "shape", "1,2"),
	{"data-short", "one element too few", func(_, in map[string]any, v *wire.Value) string {
		list := v.List()
		if len(list) == 0 {
			return "the request has no elements"
		}
		in["data"] = list[:len(list)-1]
		return ""
	}},
	{"data-long", "one element too many", func(_, in map[string]any, v *wire.Value) string {
		extra := wire.Fill(v.Name, v.Datatype, []int64{1}, false)
		in["data"] = append(v.List(), extra.List()...)
		return ""
	}},
	{"data-kind", "data of another kind than the datatype", func(_, in map[string]any, v *wire.Value) string {
		return replace(in, v, map[string]any{"BYTES": 1.5, "BOOL": "yes"}, "text")
	}},
	{"data-null", "an element that is null", func(_, in map[string]any, v *wire.Value) string { return replace(in, v, nil, nil) }},
	{"data-object", "an element that is an object", func(_, in map[string]any, v *wire.Value) string {
		return replace(in, v, nil, map[string]any{})
	}},
	{"data-range", "a number outside the datatype's range", func(_, in map[string]any, v *wire.Value) string {
		if v.Datatype == "BYTES" || v.Datatype == "BOOL" {
			return "the model's first input holds no numbers"
		}
		return replace(in, v, nil, jsonNumber("1e999"))
	}},
	set("data-number", "data that is a number", "data", 1),
	{"unknown-output", "an output that the model does not have", func(doc, _ map[string]any, _ *wire.Value) string {
		doc["outputs"] = []any{map[string]any{"name": "conformance no such output"}}
		return ""
	}},
	{"outputs-text", "outputs that are texts", func(doc, _ map[string]any, _ *wire.Value) string {
		doc["outputs"] = []string{"y"}
		return ""
	}},
	{"id-number", "an id that is a number", func(doc, _ map[string]any, _ *wire.Value) string {
		doc["id"] = 42
		return ""
	}},
	{"parameters-list", "parameters that are a list", func(doc, _ map[string]any, _ *wire.Value) string {
		doc["parameters"] = []int{1}
		return ""
	}},
}

func set(name, about, key string, to any) bad {
	return bad{name, about, func(_, in map[string]any, _ *wire.Value) string {
		in[key] = to
		return ""
	}}
}

func drop(name, about, key string) bad {
	return bad{name, about, func(_, in map[string]any, _ *wire.Value) string {
		delete(in, key)
		return ""
	}}
}

// jsonNumber is written into JSON as it is.
type jsonNumber string

func (n jsonNumber) MarshalJSON() ([]byte, error) { return []byte(n), nil }

// replace puts another first element into the data: that of the datatype, or else.
func replace(in map[string]any, v *wire.Value, byType map[string]any, otherwise any) string {
	list := v.List()
	if len(list) == 0 {
		return "the request has no elements"
	}
	list[0] = otherwise
	if x, ok := byType[v.Datatype]; ok {
		list[0] = x
	}
	in["data"] = list
	return ""
}

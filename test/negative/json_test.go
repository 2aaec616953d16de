package negative

import (
	"fmt"
	"strings"
	"testing"
)

// body is a request of one input of the model neg, of these fields.
func body(input string) string { return `{"inputs":[{` + input + `}]}` }

// whole has every field that an input needs, and more.
func whole(more string) string {
	return body(`"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]` + more)
}

// to is a request with a JSON body to a model.
func to(model, body string) request {
	return request{path: "/v2/models/" + model + "/infer", body: body}
}

func syntax() []restCase {
	return []restCase{
		{"nothing", to("neg", ""), 400, "broken"},
		{"white space", to("neg", " \n\t "), 400, "broken"},
		{"a brace", to("neg", "{"), 400, "broken"},
		{"no brace at the end", to("neg", good[:len(good)-1]), 400, "broken"},
		{"two values", to("neg", good+"{}"), 400, "something follows"},
		{"a comma at the end", to("neg", good+","), 400, "something follows"},
		{"zero bytes", to("neg", "\x00\x00"), 400, "broken"},
		{"a byte order mark", to("neg", "\xef\xbb\xbf"+good), 400, "broken"},
		{"UTF-16", to("neg", "{\x00\"\x00i\x00"), 400, "broken"},
		{"a comment", to("neg", "/* */"+good), 400, "broken"},
		{"single quotes", to("neg", `{'inputs':[]}`), 400, "broken"},
		{"a name without quotes", to("neg", `{inputs:[]}`), 400, "broken"},
		{"no colon", to("neg", `{"inputs" []}`), 400, "broken"},
		{"a comma before a brace", to("neg", `{"inputs":[],}`), 400, "broken"},
		{"a comma before a bracket", to("neg", body(`"name":"x","shape":[1,4,],"datatype":"FP32","data":[1,2,3,4]`)), 400, ""},
		{"two commas in data", to("neg", body(`"name":"x","shape":[1,4],"datatype":"FP32","data":[1,,3,4]`)), 400, ""},
		{"no comma in data", to("neg", body(`"name":"x","shape":[1,4],"datatype":"FP32","data":[1 2 3 4]`)), 400, ""},
		{"data without an end", to("neg", `{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3`), 400, ""},
		{"a string without an end", to("neg", `{"id":"abc`), 400, "string"},
		{"a line break in a string", to("neg", "{\"id\":\"a\nb\"}"), 400, "control character"},
		{"an unknown escape", to("neg", `{"id":"\x41"}`), 400, "escape"},
		{"half a Unicode escape", to("neg", `{"id":"\u12"}`), 400, "hexadecimal"},
		{"an escape at the end", to("neg", `{"id":"\`), 400, "string"},
		{"nested too deep, arrays", to("neg", `{"other":`+strings.Repeat("[", 30000)), 400, "nested"},
		{"nested too deep, objects", to("neg", `{"other":`+strings.Repeat(`{"a":`, 10000)), 400, "nested"},
		{"nested too deep, in parameters", to("neg", `{"parameters":{"p":`+strings.Repeat("[", 1000)), 400, ""},
		{"nested too deep, in data", to("neg", body(`"name":"x","shape":[1,4],"datatype":"FP32","data":`+strings.Repeat("[", 1000))), 400, ""},
		{"a word cut off", to("neg", `{"other":tru}`), 400, "broken"},
		{"a word too much", to("neg", `{"other":nulll}`), 400, "broken"},
		{"NaN as a word", to("neg", body(`"name":"x","shape":[1,4],"datatype":"FP32","data":[NaN,1,2,3]`)), 400, ""},
		{"Infinity as a word", to("neg", body(`"name":"x","shape":[1,4],"datatype":"FP32","data":[Infinity,1,2,3]`)), 400, ""},
		{"minus alone", to("neg", body(`"name":"x","shape":[1,4],"datatype":"FP32","data":[-,1,2,3]`)), 400, ""},
		{"a plus", to("neg", body(`"name":"x","shape":[1,4],"datatype":"FP32","data":[+1,1,2,3]`)), 400, ""},
		{"a zero in front", to("neg", body(`"name":"x","shape":[1,4],"datatype":"FP32","data":[01,1,2,3]`)), 400, ""},
		{"a point in front", to("neg", body(`"name":"x","shape":[1,4],"datatype":"FP32","data":[.5,1,2,3]`)), 400, ""},
		{"a point at the end", to("neg", body(`"name":"x","shape":[1,4],"datatype":"FP32","data":[5.,1,2,3]`)), 400, ""},
		{"an exponent without digits", to("neg", body(`"name":"x","shape":[1,4],"datatype":"FP32","data":[1e,1,2,3]`)), 400, ""},
		{"hexadecimal", to("neg", body(`"name":"x","shape":[1,4],"datatype":"FP32","data":[0x10,1,2,3]`)), 400, ""},
		{"bytes that are not UTF-8 outside strings", to("neg", "\xff\xfe"+good), 400, "broken"},
	}
}

// numbered lists outputs of different names.
func numbered(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"name":"y%d"},`, i)
	}
	return b.String()
}

func kinds() []restCase {
	return []restCase{
		{"a list as the request", to("neg", "[]"), 400, "an object should be"},
		{"a string as the request", to("neg", `"inputs"`), 400, "an object should be"},
		{"a number as the request", to("neg", "1"), 400, "an object should be"},
		{"null as the request", to("neg", "null"), 400, "an object should be"},
		{"no inputs", to("neg", "{}"), 400, `no "inputs"`},
		{"an empty list of inputs", to("neg", `{"inputs":[]}`), 400, `"x"`},
		{"null as inputs", to("neg", `{"inputs":null}`), 400, "a list should be"},
		{"an object as inputs", to("neg", `{"inputs":{}}`), 400, "a list should be"},
		{"a string as an input", to("neg", `{"inputs":["x"]}`), 400, "an object should be"},
		{"null as an input", to("neg", `{"inputs":[null]}`), 400, "an object should be"},
		{"inputs twice", to("neg", `{"inputs":[],"inputs":[]}`), 400, "twice"},
		{"outputs twice", to("neg", `{"outputs":[],"outputs":[]}`), 400, "twice"},
		{"data twice", to("neg", whole(`,"data":[1,2,3,4]`)), 400, "twice"},
		{"a number as the id", to("neg", `{"id":5,"inputs":[]}`), 400, "a string should be"},
		{"an object as the id", to("neg", `{"id":{},"inputs":[]}`), 400, "a string should be"},
		{"an id of a kilobyte and more", to("neg", `{"id":"`+strings.Repeat("i", 1025)+`","inputs":[]}`), 400, "id"},
		{"a list as parameters", to("neg", `{"parameters":[],"inputs":[]}`), 400, "an object should be"},
		{"a string as binary_data_output", to("neg", `{"parameters":{"binary_data_output":"yes"},"inputs":[]}`), 400, "true or false should be"},
		{"a number as a name", to("neg", body(`"name":1,"shape":[1,4],"datatype":"FP32","data":[1,2,3,4]`)), 400, "a string should be"},
		{"null as a name", to("neg", body(`"name":null,"shape":[1,4],"datatype":"FP32","data":[1,2,3,4]`)), 400, "a string should be"},
		{"a number as a datatype", to("neg", body(`"name":"x","shape":[1,4],"datatype":1,"data":[1,2,3,4]`)), 400, "a string should be"},
		{"a datatype in lower case", to("neg", body(`"name":"x","shape":[1,4],"datatype":"fp32","data":[1,2,3,4]`)), 400, `"fp32"`},
		{"a datatype of another tongue", to("neg", body(`"name":"x","shape":[1,4],"datatype":"TYPE_FP32","data":[1,2,3,4]`)), 400, `"TYPE_FP32"`},
		{"INVALID as a datatype", to("neg", body(`"name":"x","shape":[1,4],"datatype":"INVALID","data":[1,2,3,4]`)), 400, "datatype"},
		{"an empty datatype", to("neg", body(`"name":"x","shape":[1,4],"datatype":"","data":[1,2,3,4]`)), 400, "datatype"},
		{"a number as a shape", to("neg", body(`"name":"x","shape":4,"datatype":"FP32","data":[1,2,3,4]`)), 400, "a list should be"},
		{"strings in a shape", to("neg", body(`"name":"x","shape":["1","4"],"datatype":"FP32","data":[1,2,3,4]`)), 400, "a number should be"},
		{"a list in a shape", to("neg", body(`"name":"x","shape":[[1,4]],"datatype":"FP32","data":[1,2,3,4]`)), 400, "a number should be"},
		{"a number as data", to("neg", body(`"name":"x","shape":[1,4],"datatype":"FP32","data":4`)), 400, ""},
		{"an object as data", to("neg", body(`"name":"x","shape":[1,4],"datatype":"FP32","data":{}`)), 400, ""},
		{"a string as data", to("neg", body(`"name":"x","shape":[1,4],"datatype":"FP32","data":"AAAA"`)), 400, ""},
		{"null as data", to("neg", body(`"name":"x","shape":[1,4],"datatype":"FP32","data":null`)), 400, ""},
		{"strings in FP32", to("neg", body(`"name":"x","shape":[1,4],"datatype":"FP32","data":["1","2","3","4"]`)), 400, ""},
		{"null in FP32", to("neg", body(`"name":"x","shape":[1,4],"datatype":"FP32","data":[null,2,3,4]`)), 400, ""},
		{"truth in FP32", to("neg", body(`"name":"x","shape":[1,4],"datatype":"FP32","data":[true,2,3,4]`)), 400, ""},
		{"an object in FP32", to("neg", body(`"name":"x","shape":[1,4],"datatype":"FP32","data":[{},2,3,4]`)), 400, ""},
		{"a string as binary_data_size", to("neg", whole(`,"parameters":{"binary_data_size":"16"}`)), 400, "a number should be"},
		{"a number as content_type", to("neg", whole(`,"parameters":{"content_type":1}`)), 400, "a string should be"},
		{"an object as outputs", to("neg", `{"outputs":{},"inputs":[]}`), 400, "a list should be"},
		{"a string as an output", to("neg", `{"outputs":["y"],"inputs":[]}`), 400, "an object should be"},
		{"an output without a name", to("neg", `{"outputs":[{}],"inputs":[]}`), 400, "no name"},
		{"a string as binary_data", to("neg", `{"outputs":[{"name":"y","parameters":{"binary_data":"true"}}],"inputs":[]}`), 400, "true or false should be"},
		{"257 inputs", to("neg", `{"inputs":[`+strings.Repeat(`{"name":"x","shape":[1],"datatype":"FP32","data":[1]},`, 256)+`{"name":"x","shape":[1],"datatype":"FP32","data":[1]}]}`), 400, "256 inputs"},
		{"257 outputs", to("neg", `{"outputs":[`+numbered(256)+`{"name":"y"}],"inputs":[]}`), 400, "256 outputs"},
	}
}

func TestJSONThatIsBroken(t *testing.T) { run(t, start(t, nil), syntax()) }

func TestJSONOfTheWrongKind(t *testing.T) { run(t, start(t, nil), kinds()) }

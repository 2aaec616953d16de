package negative

import (
	"strings"
	"testing"
)

// one is an input with the data that stands for four elements of FP32.
func shaped(shape, data string) string {
	return body(`"name":"x","shape":` + shape + `,"datatype":"FP32","data":` + data)
}

func shapes() []restCase {
	return []restCase{
		{"no shape", to("neg", body(`"name":"x","datatype":"FP32","data":[1,2,3,4]`)), 400, "no shape"},
		{"no name", to("neg", body(`"shape":[1,4],"datatype":"FP32","data":[1,2,3,4]`)), 400, "no name"},
		{"no datatype", to("neg", body(`"name":"x","shape":[1,4],"data":[1,2,3,4]`)), 400, "no datatype"},
		{"no data", to("neg", body(`"name":"x","shape":[1,4],"datatype":"FP32"`)), 400, "neither data nor"},
		{"minus one in the shape", to("neg", shaped("[-1,4]", "[1,2,3,4]")), 400, "-1"},
		{"minus zero in the shape", to("neg", shaped("[-0,4]", "[1,2,3,4]")), 400, ""},
		{"a fraction in the shape", to("neg", shaped("[1.0,4]", "[1,2,3,4]")), 400, "1.0"},
		{"an exponent in the shape", to("neg", shaped("[1e0,4]", "[1,2,3,4]")), 400, "1e0"},
		{"a dimension of 2^63", to("neg", shaped("[1,9223372036854775808]", "[1]")), 400, "9223372036854775808"},
		{"a dimension of 2^63-1", to("neg", shaped("[1,9223372036854775807]", "[1]")), 400, ""},
		{"a dimension of many digits", to("neg", shaped("["+strings.Repeat("9", 5000)+"]", "[1]")), 400, ""},
		{"dimensions whose product is 2^64", to("neg", shaped("[4294967296,4294967296]", "[1,2,3,4]")), 400, "too many elements"},
		{"dimensions whose product is 2^64+4", to("neg", shaped("[2,4611686018427387905,2]", "[1,2,3,4]")), 400, ""},
		{"a million elements of nothing", to("neg", shaped("[250000,4]", "[]")), 400, "fewer"},
		{"seventeen dimensions", to("neg", shaped("["+strings.Repeat("1,", 16)+"4]", "[1,2,3,4]")), 400, "16 dimensions"},
		{"an empty shape", to("neg", shaped("[]", "[1]")), 400, "[-1 4]"},
		{"too few dimensions", to("neg", shaped("[4]", "[1,2,3,4]")), 400, "[-1 4]"},
		{"too many dimensions", to("neg", shaped("[1,1,4]", "[1,2,3,4]")), 400, "[-1 4]"},
		{"another width", to("neg", shaped("[1,5]", "[1,2,3,4,5]")), 400, "[-1 4]"},
		{"no width", to("neg", shaped("[1,0]", "[]")), 400, "[-1 4]"},
		{"dimensions the other way round", to("neg", shaped("[4,1]", "[1,2,3,4]")), 400, "[-1 4]"},
		{"a batch that the model does not take", to("fixed", body(`"name":"f","shape":[2,3,2],"datatype":"FP32","data":[1,2,3,4,5,6,7,8,9,10,11,12]`)), 400, "[1 3 2]"},
		{"a list for a scalar", to("scalar", body(`"name":"s","shape":[1],"datatype":"FP32","data":[1]`)), 400, "[]"},
		{"two elements for a scalar", to("scalar", body(`"name":"s","shape":[],"datatype":"FP32","data":[1,2]`)), 400, `"s"`},
		{"nesting in a scalar", to("scalar", body(`"name":"s","shape":[],"datatype":"FP32","data":[[1]]`)), 400, `"s"`},
	}
}

func data() []restCase {
	return []restCase{
		{"an element too few", to("neg", shaped("[1,4]", "[1,2,3]")), 400, "4"},
		{"an element too many", to("neg", shaped("[1,4]", "[1,2,3,4,5]")), 400, "4"},
		{"no elements", to("neg", shaped("[1,4]", "[]")), 400, `"x"`},
		{"rows of unlike length", to("neg", shaped("[2,4]", "[[1,2,3,4],[5,6,7]]")), 400, `"x"`},
		{"a row too long", to("neg", shaped("[2,4]", "[[1,2,3,4,5],[6,7,8]]")), 400, `"x"`},
		{"a row too few", to("neg", shaped("[2,4]", "[[1,2,3,4]]")), 400, `"x"`},
		{"a row too many", to("neg", shaped("[1,4]", "[[1,2,3,4],[5,6,7,8]]")), 400, `"x"`},
		{"nested too deep for the shape", to("neg", shaped("[1,4]", "[[[1],[2],[3],[4]]]")), 400, ""},
		{"nested not deep enough", to("fixed", body(`"name":"f","shape":[1,3,2],"datatype":"FP32","data":[[1,2,3,4,5,6]]`)), 400, ""},
		{"a number among rows", to("neg", shaped("[2,4]", "[[1,2,3,4],5]")), 400, ""},
		{"a row among numbers", to("neg", shaped("[2,4]", "[1,[2,3,4,5],6,7,8]")), 400, ""},
		{"an empty row", to("neg", shaped("[2,4]", "[[1,2,3,4],[]]")), 400, `"x"`},
		{"beyond FP32", to("neg", shaped("[1,4]", "[1e39,0,0,0]")), 400, "FP32"},
		{"far beyond FP32", to("neg", shaped("[1,4]", "[1e999999999,0,0,0]")), 400, "FP32"},
		{"beyond FP64", to("double", body(`"name":"d","shape":[1],"datatype":"FP64","data":[1e309]`)), 400, "FP64"},
		{"a number of many digits", to("neg", shaped("[1,4]", "["+strings.Repeat("9", 40000)+",0,0,0]")), 400, "FP32"},
		{"a fraction in INT64", to("int", body(`"name":"i","shape":[1,1],"datatype":"INT64","data":[1.5]`)), 400, "1.5"},
		{"a whole fraction in INT64", to("int", body(`"name":"i","shape":[1,1],"datatype":"INT64","data":[1.0]`)), 400, "1.0"},
		{"an exponent in INT64", to("int", body(`"name":"i","shape":[1,1],"datatype":"INT64","data":[1e3]`)), 400, "1e3"},
		{"2^63 in INT64", to("int", body(`"name":"i","shape":[1,1],"datatype":"INT64","data":[9223372036854775808]`)), 400, "9223372036854775808"},
		{"less than -2^63 in INT64", to("int", body(`"name":"i","shape":[1,1],"datatype":"INT64","data":[-9223372036854775809]`)), 400, "-9223372036854775809"},
		{"a string in INT64", to("int", body(`"name":"i","shape":[1,1],"datatype":"INT64","data":["1"]`)), 400, ""},
		{"300 in UINT8", to("neg", body(`"name":"x","shape":[1],"datatype":"UINT8","data":[300]`)), 400, "300"},
		{"-1 in UINT64", to("neg", body(`"name":"x","shape":[1],"datatype":"UINT64","data":[-1]`)), 400, "-1"},
		{"-129 in INT8", to("neg", body(`"name":"x","shape":[1],"datatype":"INT8","data":[-129]`)), 400, "-129"},
		{"2 in BOOL", to("bool", body(`"name":"b","shape":[2],"datatype":"BOOL","data":[true,2]`)), 400, ""},
		{"1 in BOOL", to("bool", body(`"name":"b","shape":[2],"datatype":"BOOL","data":[1,0]`)), 400, ""},
		{"words in BOOL", to("bool", body(`"name":"b","shape":[2],"datatype":"BOOL","data":["true","false"]`)), 400, ""},
		{"FP16 in JSON", to("half", body(`"name":"h","shape":[1],"datatype":"FP16","data":[1]`)), 400, "no form in JSON"},
		{"BF16 in JSON", to("half", body(`"name":"h","shape":[1],"datatype":"BF16","data":[1]`)), 400, "no form in JSON"},
		{"numbers in BYTES", to("text", body(`"name":"t","shape":[1],"datatype":"BYTES","data":[1]`)), 400, ""},
		{"null in BYTES", to("text", body(`"name":"t","shape":[1],"datatype":"BYTES","data":[null]`)), 400, ""},
		{"bytes that are not UTF-8 in BYTES", to("text", body("\"name\":\"t\",\"shape\":[1],\"datatype\":\"BYTES\",\"data\":[\"a\xff\"]")), 400, "UTF-8"},
		{"no base64 where it is said", to("text", body(`"name":"t","shape":[1],"datatype":"BYTES","parameters":{"content_type":"base64"},"data":["%%%"]`)), 400, "base64"},
		{"base64 for numbers", to("neg", body(`"name":"x","shape":[1,4],"datatype":"FP32","parameters":{"content_type":"base64"},"data":[1,2,3,4]`)), 400, "base64"},
	}
}

func models() []restCase {
	const a, b = `{"name":"a","shape":[1,2],"datatype":"FP32","data":[1,2]}`, `{"name":"b","shape":[1,2],"datatype":"FP32","data":[1,2]}`
	two := func(inputs string) request { return to("sum", `{"inputs":[`+inputs+`]}`) }
	wants := func(outputs string) request {
		return to("neg", strings.Replace(good, `"id":"good"`, `"outputs":[`+outputs+`]`, 1))
	}
	x := strings.Replace(good, `"id":"good",`, "", 1)
	return []restCase{
		{"an input missing", two(a), 400, `"b"`},
		{"an input twice", two(a + "," + a + "," + b), 400, `"a" is given twice`},
		{"an input twice instead of another", two(a + "," + a), 400, ""},
		{"an input too many", two(a + "," + b + "," + strings.Replace(a, `"a"`, `"z"`, 1)), 400, `"z"`},
		{"an input's name in another case", two(a + "," + strings.Replace(b, `"b"`, `"B"`, 1)), 400, `"B"`},
		{"an input's name with a space", two(a + "," + strings.Replace(b, `"b"`, `"b "`, 1)), 400, `"b "`},
		{"inputs of unlike batches", two(a + "," + strings.NewReplacer(`[1,2],"datatype"`, `[3,2],"datatype"`, `"data":[1,2]`, `"data":[1,2,3,4,5,6]`).Replace(b) + `,{"name":"c","shape":[1],"datatype":"FP32","data":[1]}`), 400, ""},
		{"an output's name as an input", two(a + "," + strings.Replace(b, `"b"`, `"c"`, 1)), 400, `"c"`},
		{"another datatype than the model's", to("neg", body(`"name":"x","shape":[1,4],"datatype":"FP64","data":[1,2,3,4]`)), 400, "FP32"},
		{"strings for a model of numbers", to("neg", body(`"name":"x","shape":[1,4],"datatype":"BYTES","data":["1","2","3","4"]`)), 400, "FP32"},
		{"numbers for a model of strings", to("text", body(`"name":"t","shape":[1],"datatype":"INT64","data":[1]`)), 400, "BYTES"},
		{"an output that is not there", wants(`{"name":"z"}`), 400, `"z"`},
		{"an output's name in another case", wants(`{"name":"Y"}`), 400, `"Y"`},
		{"an output with an empty name", wants(`{"name":""}`), 400, "no name"},
		{"an input's name as an output", wants(`{"name":"x"}`), 400, `"x"`},
		{"an output among good ones that is not there", wants(`{"name":"y"},{"name":"z"}`), 400, `"z"`},
		{"a name of kilobytes", to("neg", body(`"name":"`+strings.Repeat("n", 20000)+`","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]`)), 400, "no input"},
		{"a name that looks like code", to("neg", body(`"name":"${jndi:ldap://x}\u0000<script>","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]`)), 400, "no input"},
		{"a computation that fails", to("fails", body(`"name":"x","shape":[2],"datatype":"FP32","data":[1,2]`)), 500, "fail"},
		{"a model that is too slow", to("slow", x), 504, "time"},
		{"a model that is busy", to("busy", x), 429, "later"},
		{"a model that is closed", to("closed", x), 500, ""},
		{"a model with a bug", to("buggy", x), 500, "log"},
		{"a model that is not there", to("none", good), 404, `"none"`},
		{"a model's name in another case", to("Neg", good), 404, `"Neg"`},
		{"a version that is not there", request{path: "/v2/models/neg/versions/2/infer", body: good}, 404, `"2"`},
		{"a version with a zero in front", request{path: "/v2/models/neg/versions/01/infer", body: good}, 404, `"01"`},
		{"a version that is a word", request{path: "/v2/models/neg/versions/latest/infer", body: good}, 404, `"latest"`},
		{"a model that has shadows only", to("shadow", good), 404, "shadow"},
	}
}

func TestShapesThatCannotBe(t *testing.T) { run(t, start(t, nil), shapes()) }

func TestDataThatDoesNotFit(t *testing.T) { run(t, start(t, nil), data()) }

func TestWhatTheModelDoesNotTake(t *testing.T) { run(t, start(t, nil), models()) }

package negative

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"testing"
)

const lengthHeader = "Inference-Header-Content-Length"

// raw is a request whose JSON is followed by binary tensors.
func binaryTo(model, json, tensors string, header ...string) request {
	r := to(model, json+tensors)
	r.header = append([]string{lengthHeader, strconv.Itoa(len(json))}, header...)
	return r
}

// sized is an input of four FP32 with a size for its binary form.
func sized(size string) string {
	return body(`"name":"x","shape":[1,4],"datatype":"FP32","parameters":{"binary_data_size":` + size + `}`)
}

// element is a BYTES element that says its length and has another.
func element(says uint32, text string) string {
	return string(binary.LittleEndian.AppendUint32(nil, says)) + text
}

func texts(count, size int) string {
	return body(fmt.Sprintf(`"name":"t","shape":[%d],"datatype":"BYTES","parameters":{"binary_data_size":%d}`, count, size))
}

func binaries() []restCase {
	sixteen := string(make([]byte, 16))
	length := func(value string) request {
		r := binaryTo("neg", sized("16"), sixteen)
		r.header[1] = value
		return r
	}
	return []restCase{
		{"a size one less", binaryTo("neg", sized("15"), sixteen[:15]), 400, "16"},
		{"a size one more", binaryTo("neg", sized("17"), sixteen+"x"), 400, "16"},
		{"a size of more than there is", binaryTo("neg", sized("16"), sixteen[:15]), 400, "15"},
		{"a size of less than there is", binaryTo("neg", sized("16"), sixteen+"x"), 400, "1 bytes follow"},
		{"a size of nothing", binaryTo("neg", sized("0"), ""), 400, "16"},
		{"a negative size", binaryTo("neg", sized("-16"), sixteen), 400, "-16"},
		{"a size with a fraction", binaryTo("neg", sized("16.0"), sixteen), 400, "16.0"},
		{"a size with an exponent", binaryTo("neg", sized("1.6e1"), sixteen), 400, ""},
		{"a size of 2^63-1", binaryTo("neg", sized("9223372036854775807"), sixteen), 400, ""},
		{"a size of 2^64+16", binaryTo("neg", sized("18446744073709551632"), sixteen), 400, ""},
		{"a size of null", binaryTo("neg", sized("null"), sixteen), 400, ""},
		{"binary data without the header", request{body: sized("16") + sixteen}, 400, ""},
		{"a size and data", binaryTo("neg", body(`"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,4],"parameters":{"binary_data_size":16}`), sixteen), 400, "both"},
		{"two inputs that share their bytes", binaryTo("sum", `{"inputs":[{"name":"a","shape":[1,2],"datatype":"FP32","parameters":{"binary_data_size":8}},{"name":"b","shape":[1,2],"datatype":"FP32","parameters":{"binary_data_size":8}}]}`, sixteen[:8]), 400, `"b"`},
		{"two inputs of which one takes the other's", binaryTo("sum", `{"inputs":[{"name":"a","shape":[1,2],"datatype":"FP32","parameters":{"binary_data_size":12}},{"name":"b","shape":[1,2],"datatype":"FP32","parameters":{"binary_data_size":4}}]}`, sixteen), 400, ""},
		{"binary data for which no input asks", binaryTo("neg", good, sixteen), 400, "16 bytes follow"},
		{"a shape that needs more", binaryTo("neg", body(`"name":"x","shape":[2,4],"datatype":"FP32","parameters":{"binary_data_size":16}`), sixteen), 400, "32"},
		{"a shape that overflows", binaryTo("neg", body(`"name":"x","shape":[4611686018427387904,4],"datatype":"FP32","parameters":{"binary_data_size":16}`), sixteen), 400, "too many elements"},
		{"a header length of less than the JSON", length("10"), 400, "broken"},
		{"a header length of more than the JSON", length(strconv.Itoa(len(sized("16")) + 1)), 400, ""},
		{"a header length of more than the body", length("100000"), 400, "100000"},
		{"a negative header length", length("-1"), 400, "-1"},
		{"a header length of 2^63", length("9223372036854775808"), 400, "9223372036854775808"},
		{"a header length in words", length("all"), 400, "all"},
		{"a header length in hexadecimal", length("0x20"), 400, "0x20"},
		{"a header length with a plus and a space", length("+1 0"), 400, "+1 0"},
		{"a header length of zero", length("0"), 400, "broken"},
		{"BOOL that is 2", binaryTo("bool", body(`"name":"b","shape":[2],"datatype":"BOOL","parameters":{"binary_data_size":2}`), "\x01\x02"), 400, "BOOL"},
		{"BYTES that end in a length", binaryTo("text", texts(1, 3), "\x01\x00\x00"), 400, "length"},
		{"BYTES of which one runs over the end", binaryTo("text", texts(1, 6), element(3, "ab")), 400, "past the end"},
		{"BYTES with a length of 2^32-1", binaryTo("text", texts(1, 6), element(1<<32-1, "ab")), 400, "past the end"},
		{"BYTES with bytes left over", binaryTo("text", texts(1, 7), element(2, "abc")), 400, ""},
		{"BYTES with an element too few", binaryTo("text", texts(2, 6), element(2, "ab")), 400, "1"},
		{"BYTES with an element too many", binaryTo("text", texts(1, 8), element(0, "")+element(0, "")), 400, "2"},
		{"BYTES in the other byte order", binaryTo("text", texts(1, 6), "\x00\x00\x00\x02ab"), 400, "past the end"},
		{"BYTES that promise a million elements", binaryTo("text", texts(1000000, 0), ""), 400, "1000000"},
		{"FP16 of an odd number of bytes", binaryTo("half", body(`"name":"h","shape":[1],"datatype":"FP16","parameters":{"binary_data_size":3}`), "abc"), 400, "2"},
		{"FP16 asked for in JSON", binaryTo("half", body(`"name":"h","shape":[1],"datatype":"FP16","parameters":{"binary_data_size":2}`), "ab"), 400, "binary"},
		{"NaN asked for in JSON", binaryTo("neg", sized("16"), "\x00\x00\xc0\x7f"+sixteen[:12]), 400, "NaN"},
		{"infinity asked for in JSON", binaryTo("neg", sized("16"), "\x00\x00\x80\xff"+sixteen[:12]), 400, "Inf"},
		{"bytes that are not UTF-8 asked for in JSON", binaryTo("text", texts(1, 6), element(2, "\xff\xfe")), 400, "UTF-8"},
	}
}

func TestBinaryThatDoesNotFit(t *testing.T) { run(t, start(t, nil), binaries()) }

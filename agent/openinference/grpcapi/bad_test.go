package grpcapi

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/models/tensor"
	inferencepb "github.com/dhowfleet/dhow/protocol/gen/inference"
)

// reply is what came over the wire.
type reply struct {
	http          int
	code, message string
	body          []byte
}

// post sends bytes as they are to a method.
func (s *server) post(method, body string, header ...string) reply {
	s.Helper()
	if !strings.Contains(method, "/") {
		method = "/inference.GRPCInferenceService/" + method
	}
	req, err := http.NewRequestWithContext(s.Context(), http.MethodPost, s.url+method, strings.NewReader(body))
	if err != nil {
		s.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/grpc+proto")
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "method" {
			req.Method = header[i+1]
			continue
		}
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := s.http.Do(req)
	if err != nil {
		s.Fatal(err)
	}
	defer resp.Body.Close()
	out := reply{http: resp.StatusCode}
	if out.body, err = io.ReadAll(resp.Body); err != nil {
		s.Fatal(err)
	}
	get := func(key string) string {
		if v := resp.Trailer.Get(key); v != "" {
			return v
		}
		return resp.Header.Get(key)
	}
	out.code = get("Grpc-Status")
	if out.message, err = url.PathUnescape(get("Grpc-Message")); err != nil {
		s.Error(err)
	}
	return out
}

// framed is a message with gRPC's prefix.
func framed(message []byte) string {
	return "\x00" + string(binary.BigEndian.AppendUint32(nil, uint32(len(message)))) + string(message)
}

func zipped(b []byte) string {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	z.Write(b)
	z.Close()
	return "\x01" + string(binary.BigEndian.AppendUint32(nil, uint32(out.Len()))) + out.String()
}

type (
	inferRequest = inferencepb.ModelInferRequest
	inputTensor  = inferencepb.ModelInferRequest_InferInputTensor
	outputTensor = inferencepb.ModelInferRequest_InferRequestedOutputTensor
	contents     = inferencepb.InferTensorContents
	parameters   = map[string]*inferencepb.InferParameter
)

// TestBadRequests: each is refused by its code and a sentence that gives nothing away, and the server goes on.
func TestBadRequests(t *testing.T) {
	s := start(t, Options{})
	s.echo.run = func(_ context.Context, in []tensor.Tensor) error {
		if len(in) > 0 && in[0].Name == "boom" {
			return errors.New("kernel failed:\n bad luck")
		}
		if len(in) > 0 && in[0].Name == "misfit" {
			return inference.Inputf("the model has no input %q", "misfit")
		}
		if len(in) > 0 && in[0].Name == "panic" {
			panic("secret")
		}
		return nil
	}
	typed := func(datatype string, shape []int64, c *contents) func(*inferRequest) {
		return func(r *inferRequest) {
			r.RawInputContents = nil
			r.Inputs[0].Datatype, r.Inputs[0].Shape, r.Inputs[0].Contents = datatype, shape, c
		}
	}
	long := strings.Repeat("ü", 1024)
	const wrong, missing = connect.CodeInvalidArgument, connect.CodeNotFound
	for _, c := range []struct {
		name string
		code connect.Code
		say  string
		make func(*inferRequest)
	}{
		{"no model", wrong, "model_name is missing", func(r *inferRequest) { r.ModelName = "" }},
		{"unknown model", missing, `no model "M"`, func(r *inferRequest) { r.ModelName = "M" }},
		{"unknown version", missing, `no version "9"`, func(r *inferRequest) { r.ModelVersion = "9" }},
		{"long model name", wrong, "model_name has 2048 bytes", func(r *inferRequest) { r.ModelName = long }},
		{"long version", wrong, "model_version has", func(r *inferRequest) { r.ModelVersion = long }},
		{"long id", wrong, "id has", func(r *inferRequest) { r.Id = long }},
		{"long input name", wrong, "name of an input has", func(r *inferRequest) { r.Inputs[0].Name = long }},
		{"long output name", wrong, "name of an output has", func(r *inferRequest) { r.Outputs = []*outputTensor{{Name: long}} }},
		{"no input name", wrong, "an input has no name", func(r *inferRequest) { r.Inputs[0].Name = "" }},
		{"no output name", wrong, "an output has no name", func(r *inferRequest) { r.Outputs = []*outputTensor{{}} }},
		{"unknown output", wrong, `no output "z"`, func(r *inferRequest) { r.Outputs = []*outputTensor{{Name: "z"}} }},
		{"output twice", wrong, "asked for twice", func(r *inferRequest) { r.Outputs = []*outputTensor{{Name: "x_out"}, {Name: "x_out"}} }},
		{"no datatype", wrong, `datatype "" is not`, func(r *inferRequest) { r.Inputs[0].Datatype = "" }},
		{"unknown datatype", wrong, `datatype "fp32" is not`, func(r *inferRequest) { r.Inputs[0].Datatype = "fp32" }},
		{"endless datatype", wrong, "...", func(r *inferRequest) { r.Inputs[0].Datatype = strings.Repeat("F", 1<<20) }},
		{"datatype INVALID", wrong, "INVALID", func(r *inferRequest) { r.Inputs[0].Datatype = "INVALID" }},
		{"negative dimension", wrong, "negative dimension", func(r *inferRequest) { r.Inputs[0].Shape = []int64{-1, 2} }},
		{"shape that overflows", wrong, "too many elements", func(r *inferRequest) { r.Inputs[0].Shape = []int64{1 << 62, 4} }},
		{"too many dimensions", wrong, "more than 16 dimensions", func(r *inferRequest) { r.Inputs[0].Shape = make([]int64, 17) }},
		{"raw too short", wrong, "needs 16 bytes, got 8", func(r *inferRequest) { r.Inputs[0].Shape = []int64{2, 2} }},
		{"raw too long", wrong, "needs 4 bytes, got 8", func(r *inferRequest) { r.Inputs[0].Shape = []int64{1} }},
		{"raw missing", wrong, "2 inputs and 1 raw_input_contents", func(r *inferRequest) {
			r.Inputs = append(r.Inputs, &inputTensor{Name: "y", Datatype: "FP32", Shape: []int64{1}})
		}},
		{"raw too many", wrong, "1 inputs and 2 raw_input_contents", func(r *inferRequest) { r.RawInputContents = append(r.RawInputContents, nil) }},
		{"raw without inputs", wrong, "0 inputs and 1 raw_input_contents", func(r *inferRequest) { r.Inputs = nil }},
		{"raw and typed", wrong, "one way or all the other", func(r *inferRequest) { r.Inputs[0].Contents = &contents{Fp32Contents: []float32{1, 2}} }},
		{"raw and typed mixed", wrong, "one way or all the other", func(r *inferRequest) {
			r.Inputs = append(r.Inputs, &inputTensor{Name: "y", Datatype: "FP32", Shape: []int64{1}, Contents: &contents{Fp32Contents: []float32{1}}})
		}},
		{"no data", wrong, "shape [1 2] has 2 elements, fp32_contents has 0", func(r *inferRequest) { r.RawInputContents = nil }},
		{"typed FP16", wrong, "send it in raw_input_contents", typed("FP16", []int64{1}, &contents{Fp32Contents: []float32{1}})},
		{"typed BF16", wrong, "BF16 has no typed contents", typed("BF16", []int64{1}, nil)},
		{"typed too few", wrong, "has 3 elements, int64_contents has 2", typed("INT64", []int64{3}, &contents{Int64Contents: []int64{1, 2}})},
		{"typed too many", wrong, "more elements than the 1", typed("INT64", []int64{1}, &contents{Int64Contents: []int64{1, 2}})},
		{"typed floats too few", wrong, "has 2 elements, fp32_contents has 1", typed("FP32", []int64{2}, &contents{Fp32Contents: []float32{1}})},
		{"typed bytes too few", wrong, "has 2 elements, bytes_contents has 1", typed("BYTES", []int64{2}, &contents{BytesContents: [][]byte{[]byte("longer than that")}})},
		{"typed huge shape", wrong, "has 1099511627776 elements", typed("INT64", []int64{1 << 40}, &contents{Int64Contents: []int64{1}})},
		{"typed in another field", wrong, "INT32 comes in int_contents, not in int64_contents", typed("INT32", []int64{1}, &contents{Int64Contents: []int64{1}})},
		{"typed in two fields", wrong, "FP32 comes in fp32_contents, not in fp64_contents", typed("FP32", []int64{1}, &contents{Fp32Contents: []float32{1}, Fp64Contents: []float64{1}})},
		{"typed INT8 out of range", wrong, "128 is no INT8", typed("INT8", []int64{1}, &contents{IntContents: []int32{128}})},
		{"typed INT16 out of range", wrong, "-32769 is no INT16", typed("INT16", []int64{1}, &contents{IntContents: []int32{-32769}})},
		{"typed UINT8 out of range", wrong, "256 is no UINT8", typed("UINT8", []int64{1}, &contents{UintContents: []uint32{256}})},
		{"typed UINT16 out of range", wrong, "4294967295 is no UINT16", typed("UINT16", []int64{1}, &contents{UintContents: []uint32{1<<32 - 1}})},
		{"BYTES that ends in a length", wrong, "ends inside a length", func(r *inferRequest) {
			r.Inputs[0].Datatype, r.Inputs[0].Shape, r.RawInputContents = "BYTES", []int64{1}, [][]byte{{1, 0}}
		}},
		{"BYTES past the end", wrong, "runs past the end", func(r *inferRequest) {
			r.Inputs[0].Datatype, r.Inputs[0].Shape, r.RawInputContents = "BYTES", []int64{1}, [][]byte{{255, 255, 255, 255, 1}}
		}},
		{"BYTES of another count", wrong, "has 1 elements, the shape says 2", func(r *inferRequest) {
			r.Inputs[0].Datatype, r.Inputs[0].Shape, r.RawInputContents = "BYTES", []int64{2}, [][]byte{{1, 0, 0, 0, 'a'}}
		}},
		{"shared memory for an input", wrong, "shared memory is not served", func(r *inferRequest) {
			r.RawInputContents, r.Inputs[0].Parameters = nil, parameters{"shared_memory_region": textParam("r")}
		}},
		{"shared memory for an output", wrong, "shared memory is not served", func(r *inferRequest) {
			r.Outputs = []*outputTensor{{Name: "x_out", Parameters: parameters{"shared_memory_region": textParam("r")}}}
		}},
		{"no classes", wrong, "from 1", func(r *inferRequest) {
			r.Outputs = []*outputTensor{{Name: "x_out", Parameters: parameters{"classification": int64Param(0)}}}
		}},
		{"classes as text", wrong, "from 1", func(r *inferRequest) {
			r.Outputs = []*outputTensor{{Name: "x_out", Parameters: parameters{"classification": textParam("3")}}}
		}},
		{"classes of text", wrong, "no scores to classify by", func(r *inferRequest) {
			r.Inputs[0].Datatype, r.Inputs[0].Shape, r.RawInputContents = "BYTES", []int64{1}, [][]byte{{1, 0, 0, 0, 'a'}}
			r.Outputs = []*outputTensor{{Name: "x_out", Parameters: parameters{"classification": int64Param(1)}}}
		}},
		{"priority as text", wrong, `"priority" is to be an integer`, func(r *inferRequest) { r.Parameters = parameters{"priority": textParam("1")} }},
		{"negative priority", wrong, `"priority" is to be an integer`, func(r *inferRequest) { r.Parameters = parameters{"priority": int64Param(-1)} }},
		{"timeout of nothing", wrong, `"timeout" is to be an integer`, func(r *inferRequest) { r.Parameters = parameters{"timeout": {}} }},
		{"sequence", wrong, "keep no sequences", func(r *inferRequest) { r.Parameters = parameters{"sequence_id": int64Param(4)} }},
		{"sequence by name", wrong, "keep no sequences", func(r *inferRequest) { r.Parameters = parameters{"sequence_id": textParam("s")} }},
		{"too many inputs", wrong, "more than 256 inputs", func(r *inferRequest) {
			for range 256 {
				r.Inputs = append(r.Inputs, r.Inputs[0])
			}
		}},
		{"too many raw", wrong, "more than 256 raw_input_contents", func(r *inferRequest) { r.RawInputContents = make([][]byte, 300) }},
		{"too many outputs", wrong, "more than 256 outputs", func(r *inferRequest) {
			for i := range 300 {
				r.Outputs = append(r.Outputs, &outputTensor{Name: strings.Repeat("o", i+1)})
			}
		}},
		{"the model refuses", wrong, `no input "misfit"`, func(r *inferRequest) { r.Inputs[0].Name = "misfit" }},
		{"the model fails", connect.CodeInternal, "kernel failed: bad luck", func(r *inferRequest) { r.Inputs[0].Name = "boom" }},
		{"the model panics", connect.CodeInternal, "the agent's log says where", func(r *inferRequest) { r.Inputs[0].Name = "panic" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := ask("m")
			c.make(r)
			_, err := s.infer(t.Context(), r)
			refused(t, err, c.code, c.say)
			s.good()
		})
	}
	s.free()
}

// TestBadBytes: what is no request at all.
func TestBadBytes(t *testing.T) {
	s := start(t, Options{MaxMessage: 1 << 16})
	good, err := proto.Marshal(ask("m"))
	if err != nil {
		t.Fatal(err)
	}
	if got := s.post("ModelInfer", framed(good)); got.code != "0" {
		t.Fatalf("the bytes of a good request: %+v", got)
	}
	if got := s.post("ModelInfer", zipped(good), "Grpc-Encoding", "gzip"); got.code != "0" {
		t.Fatalf("a compressed request: %+v", got)
	}
	for _, c := range []struct {
		name, method, body string
		header             []string
		http               int
		code, say          string
	}{
		{"nothing", "ModelInfer", "", nil, 200, "12", ""},
		{"an empty message", "ModelInfer", framed(nil), nil, 200, "3", "empty"},
		{"a prefix that is cut off", "ModelInfer", "\x00\x00", nil, 200, "13", "incomplete"},
		{"a message that is cut off", "ModelInfer", framed(good)[:20], nil, 200, "13", "promised"},
		{"two messages", "ModelInfer", framed(good) + framed(good), nil, 200, "12", "multiple"},
		{"no protobuf", "ModelInfer", framed([]byte{0xff, 0xff}), nil, 200, "3", "cut off, or not protobuf"},
		{"protobuf that is cut off", "ModelInfer", framed(good[:len(good)-3]), nil, 200, "3", "cut off, or not protobuf"},
		{"a group without an end", "ModelInfer", framed([]byte{0x53}), nil, 200, "3", "cut off, or not protobuf"},
		{"a name that is no UTF-8", "ModelInfer", framed([]byte{0x0a, 1, 0xff}), nil, 200, "3", "model_name is not UTF-8"},
		{"an input that is cut off", "ModelInfer", framed([]byte{0x0a, 1, 'm', 0x2a, 1, 0x0a}), nil, 200, "3", "cut off, or not protobuf"},
		{"too large", "ModelInfer", framed(make([]byte, 1<<17)), nil, 200, "8", "larger than"},
		{"too large once inflated", "ModelInfer", zipped(make([]byte, 8<<20)), []string{"Grpc-Encoding", "gzip"}, 200, "8", "larger than 65536 bytes"},
		{"gzip that is none", "ModelInfer", "\x01" + framed(good)[1:], []string{"Grpc-Encoding", "gzip"}, 200, "3", "encoding"},
		{"gzip that is cut off", "ModelInfer", func() string {
			z := []byte(zipped(good))
			z = z[:len(z)-8]
			binary.BigEndian.PutUint32(z[1:], uint32(len(z)-5))
			return string(z)
		}(), []string{"Grpc-Encoding", "gzip"}, 200, "3", "cut off"},
		{"deflate that is none", "ModelInfer", "\x01" + framed(good)[1:], []string{"Grpc-Encoding", "deflate"}, 200, "3", "encoding"},
		{"an encoding that nobody knows", "ModelInfer", framed(good), []string{"Grpc-Encoding", "zstd"}, 200, "12", "zstd"},
		{"a time limit that is none", "ModelInfer", framed(good), []string{"Grpc-Timeout", "soon"}, 200, "3", "timeout"},
		{"an unknown method", "ModelDance", framed(nil), nil, 200, "12", "no such method"},
		{"shared memory", "SystemSharedMemoryStatus", framed(nil), nil, 200, "12", "no such method"},
		{"an unknown service", "/a.B/C", framed(nil), nil, 200, "12", "no such method"},
		{"REST", "/v2/health/live", "", []string{"Content-Type", "text/plain"}, 404, "", ""},
		{"another content type", "ModelInfer", "x", []string{"Content-Type", "text/plain"}, 415, "", ""},
		{"GET", "ModelInfer", "", []string{"method", http.MethodGet}, 405, "", ""},
		{"Connect JSON that is none", "ModelInfer", "{", []string{"Content-Type", "application/json"}, 400, "", ""},
		{"a metadata request that is no protobuf", "ModelMetadata", framed([]byte{0xff}), nil, 200, "3", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := s.post(c.method, c.body, c.header...)
			if got.http != c.http || got.code != c.code || !strings.Contains(got.message, c.say) {
				t.Errorf("got HTTP %d, status %s %q, want %d, %s %q", got.http, got.code, got.message, c.http, c.code, c.say)
			}
			for _, leak := range []string{"grpcapi", "inferencepb", "runtime error", ".go:"} {
				if strings.Contains(got.message+string(got.body), leak) {
					t.Errorf("%q gives away %q", got.message, leak)
				}
			}
			s.good()
		})
	}
	s.free()
}

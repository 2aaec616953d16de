package negative

import (
	"context"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/dhowfleet/dhow/agent/modelrepository"
	"github.com/dhowfleet/dhow/agent/openinference/grpcapi"
	inferencepb "github.com/dhowfleet/dhow/protocol/gen/inference"
)

type (
	inferRequest = inferencepb.ModelInferRequest
	inferInput   = inferencepb.ModelInferRequest_InferInputTensor
	inferOutput  = inferencepb.ModelInferRequest_InferRequestedOutputTensor
	contents     = inferencepb.InferTensorContents
	parameter    = inferencepb.InferParameter
)

// infer is a call with a good request that change makes a bad one of.
func infer(change func(*inferRequest)) call { return call{body: frame(encode(rpc(change)))} }

// asked is a request of a model with one input.
func asked(model string, in *inferInput, raw ...[]byte) call {
	return infer(func(m *inferRequest) { m.ModelName, m.Inputs, m.RawInputContents = model, []*inferInput{in}, raw })
}

func typedInput(datatype string, shape []int64, c *contents) call {
	return asked("neg", &inferInput{Name: "x", Datatype: datatype, Shape: shape, Contents: c})
}

const (
	invalid     = connect.CodeInvalidArgument
	notFound    = connect.CodeNotFound
	exhausted   = connect.CodeResourceExhausted
	unavailable = connect.CodeUnavailable
)

func rpcRequests() []rpcCase {
	four := []int64{1, 4}
	raw := floats(1, 2, 3, 4)
	integer := func(n int64) *parameter {
		return &parameter{ParameterChoice: &inferencepb.InferParameter_Int64Param{Int64Param: n}}
	}
	with := func(name string, p *parameter) call {
		return infer(func(m *inferRequest) { m.Parameters = map[string]*parameter{name: p} })
	}
	output := func(outputs ...*inferOutput) call { return infer(func(m *inferRequest) { m.Outputs = outputs }) }
	return []rpcCase{
		{"an empty message", call{body: frame("")}, invalid, ""},
		{"no model", infer(func(m *inferRequest) { m.ModelName = "" }), invalid, ""},
		{"a model that is not there", infer(func(m *inferRequest) { m.ModelName = "none" }), notFound, `"none"`},
		{"a model's name in another case", infer(func(m *inferRequest) { m.ModelName = "NEG" }), notFound, `"NEG"`},
		{"a model's name as a path", infer(func(m *inferRequest) { m.ModelName = "../../etc/passwd" }), notFound, "no model"},
		{"a model's name of kilobytes", infer(func(m *inferRequest) { m.ModelName = strings.Repeat("m", 20000) }), invalid, "20000 bytes"},
		{"a version that is not there", infer(func(m *inferRequest) { m.ModelVersion = "2" }), notFound, `"2"`},
		{"a model that has shadows only", infer(func(m *inferRequest) { m.ModelName = "shadow" }), notFound, "shadow"},
		{"an id of a kilobyte and more", infer(func(m *inferRequest) { m.Id = strings.Repeat("i", 1025) }), invalid, "id"},
		{"no inputs", infer(func(m *inferRequest) { m.Inputs, m.RawInputContents = nil, nil }), invalid, `"x"`},
		{"257 inputs", infer(func(m *inferRequest) {
			for range 256 {
				m.Inputs = append(m.Inputs, m.Inputs[0])
			}
		}), invalid, "256"},
		{"257 outputs", infer(func(m *inferRequest) {
			for range 257 {
				m.Outputs = append(m.Outputs, &inferOutput{Name: "y"})
			}
		}), invalid, ""},
		{"an input without a name", asked("neg", &inferInput{Datatype: "FP32", Shape: four}, raw), invalid, "name"},
		{"an input with another name", asked("neg", &inferInput{Name: "X", Datatype: "FP32", Shape: four}, raw), invalid, `"X"`},
		{"an input with a name of kilobytes", asked("neg", &inferInput{Name: strings.Repeat("x", 20000), Datatype: "FP32", Shape: four}, raw), invalid, "20000 bytes"},
		{"an input twice", infer(func(m *inferRequest) {
			m.Inputs, m.RawInputContents = append(m.Inputs, m.Inputs[0]), [][]byte{raw, raw}
		}), invalid, "twice"},
		{"an input without a datatype", asked("neg", &inferInput{Name: "x", Shape: four}, raw), invalid, "datatype"},
		{"a datatype in lower case", asked("neg", &inferInput{Name: "x", Datatype: "fp32", Shape: four}, raw), invalid, `"fp32"`},
		{"a datatype of the configuration", asked("neg", &inferInput{Name: "x", Datatype: "TYPE_FP32", Shape: four}, raw), invalid, `"TYPE_FP32"`},
		{"another datatype than the model's", asked("neg", &inferInput{Name: "x", Datatype: "INT32", Shape: four}, raw), invalid, "FP32"},
		{"no shape", asked("neg", &inferInput{Name: "x", Datatype: "FP32"}, raw), invalid, ""},
		{"minus one in the shape", asked("neg", &inferInput{Name: "x", Datatype: "FP32", Shape: []int64{-1, 4}}, raw), invalid, "-1"},
		{"the smallest number in the shape", asked("neg", &inferInput{Name: "x", Datatype: "FP32", Shape: []int64{-1 << 63, 4}}, raw), invalid, "-9223372036854775808"},
		{"dimensions whose product overflows", asked("neg", &inferInput{Name: "x", Datatype: "FP32", Shape: []int64{1 << 62, 1 << 62}}, raw), invalid, ""},
		{"dimensions whose bytes overflow", asked("neg", &inferInput{Name: "x", Datatype: "FP32", Shape: []int64{1 << 60, 4}}, raw), invalid, ""},
		{"seventeen dimensions", asked("neg", &inferInput{Name: "x", Datatype: "FP32", Shape: make([]int64, 17)}, nil), invalid, ""},
		{"another width", asked("neg", &inferInput{Name: "x", Datatype: "FP32", Shape: []int64{1, 3}}, raw[:12]), invalid, "[-1 4]"},
		{"raw bytes too short", asked("neg", &inferInput{Name: "x", Datatype: "FP32", Shape: four}, raw[:15]), invalid, "15"},
		{"raw bytes too long", asked("neg", &inferInput{Name: "x", Datatype: "FP32", Shape: four}, append(raw[:16:16], 0)), invalid, "17"},
		{"raw bytes of nothing", asked("neg", &inferInput{Name: "x", Datatype: "FP32", Shape: four}, nil), invalid, ""},
		{"no data", asked("neg", &inferInput{Name: "x", Datatype: "FP32", Shape: four}), invalid, ""},
		{"raw and typed contents", asked("neg", &inferInput{Name: "x", Datatype: "FP32", Shape: four, Contents: &contents{Fp32Contents: []float32{1, 2, 3, 4}}}, raw), invalid, "raw"},
		{"more raw contents than inputs", asked("neg", &inferInput{Name: "x", Datatype: "FP32", Shape: four}, raw, raw), invalid, "2"},
		{"less raw contents than inputs", infer(func(m *inferRequest) {
			m.ModelName, m.RawInputContents = "sum", [][]byte{raw[:8]}
			m.Inputs = []*inferInput{{Name: "a", Datatype: "FP32", Shape: []int64{1, 2}}, {Name: "b", Datatype: "FP32", Shape: []int64{1, 2}}}
		}), invalid, "1"},
		{"an element too few", typedInput("FP32", four, &contents{Fp32Contents: []float32{1, 2, 3}}), invalid, "3"},
		{"an element too many", typedInput("FP32", four, &contents{Fp32Contents: []float32{1, 2, 3, 4, 5}}), invalid, "more elements"},
		{"elements of another kind", typedInput("FP32", four, &contents{Fp64Contents: []float64{1, 2, 3, 4}}), invalid, "fp32_contents"},
		{"elements of two kinds", typedInput("FP32", four, &contents{Fp32Contents: []float32{1, 2, 3, 4}, IntContents: []int32{1}}), invalid, "int_contents"},
		{"300 in UINT8", typedInput("UINT8", []int64{1}, &contents{UintContents: []uint32{300}}), invalid, "300"},
		{"-129 in INT8", typedInput("INT8", []int64{1}, &contents{IntContents: []int32{-129}}), invalid, "-129"},
		{"FP16 typed", asked("half", &inferInput{Name: "h", Datatype: "FP16", Shape: []int64{1}, Contents: &contents{Fp32Contents: []float32{1}}}), invalid, "raw_input_contents"},
		{"a million elements of nothing", asked("text", &inferInput{Name: "t", Datatype: "BYTES", Shape: []int64{1 << 20}, Contents: &contents{}}), invalid, ""},
		{"BOOL that is 2", asked("bool", &inferInput{Name: "b", Datatype: "BOOL", Shape: []int64{2}}, []byte{1, 2}), invalid, "BOOL"},
		{"BYTES that end in a length", asked("text", &inferInput{Name: "t", Datatype: "BYTES", Shape: []int64{1}}, []byte{1, 0, 0}), invalid, "length"},
		{"BYTES of which one runs over the end", asked("text", &inferInput{Name: "t", Datatype: "BYTES", Shape: []int64{1}}, []byte(element(3, "ab"))), invalid, "past the end"},
		{"BYTES with a length of 2^32-1", asked("text", &inferInput{Name: "t", Datatype: "BYTES", Shape: []int64{1}}, []byte(element(1<<32-1, "ab"))), invalid, "past the end"},
		{"BYTES with an element too many", asked("text", &inferInput{Name: "t", Datatype: "BYTES", Shape: []int64{1}}, []byte(element(0, "")+element(0, ""))), invalid, "2"},
		{"an output that is not there", output(&inferOutput{Name: "z"}), invalid, `"z"`},
		{"an output without a name", output(&inferOutput{}), invalid, "name"},
		{"an output twice", output(&inferOutput{Name: "y"}, &inferOutput{Name: "y"}), invalid, "twice"},
		{"no class", output(&inferOutput{Name: "y", Parameters: map[string]*parameter{"classification": integer(0)}}), invalid, "classification"},
		{"less than no class", output(&inferOutput{Name: "y", Parameters: map[string]*parameter{"classification": integer(-1)}}), invalid, "classification"},
		{"classes of strings", infer(func(m *inferRequest) {
			m.ModelName, m.Inputs, m.RawInputContents = "text", []*inferInput{{Name: "t", Datatype: "BYTES", Shape: []int64{1}}}, [][]byte{[]byte(element(1, "a"))}
			m.Outputs = []*inferOutput{{Name: "u", Parameters: map[string]*parameter{"classification": integer(1)}}}
		}), invalid, "BYTES"},
		{"a negative priority", with("priority", integer(-1)), invalid, "priority"},
		{"a negative timeout", with("timeout", integer(-1)), invalid, "timeout"},
		{"a timeout in words", with("timeout", &parameter{ParameterChoice: &inferencepb.InferParameter_StringParam{StringParam: "5s"}}), invalid, "timeout"},
		{"a sequence", with("sequence_id", integer(7)), invalid, "sequence"},
		{"shared memory", asked("neg", &inferInput{Name: "x", Datatype: "FP32", Shape: four, Parameters: map[string]*parameter{"shared_memory_region": {ParameterChoice: &inferencepb.InferParameter_StringParam{StringParam: "r"}}}}), invalid, "shared memory"},
		{"a computation that fails", asked("fails", &inferInput{Name: "x", Datatype: "FP32", Shape: []int64{2}}, raw[:8]), connect.CodeInternal, "fail"},
		{"a model that is too slow", infer(func(m *inferRequest) { m.ModelName = "slow" }), connect.CodeDeadlineExceeded, ""},
		{"a model that is busy", infer(func(m *inferRequest) { m.ModelName = "busy" }), unavailable, "later"},
		{"a model that is closed", infer(func(m *inferRequest) { m.ModelName = "closed" }), connect.CodeInternal, ""},
		{"a model with a bug", infer(func(m *inferRequest) { m.ModelName = "buggy" }), connect.CodeInternal, "log"},
	}
}

func rpcFrames() []rpcCase {
	message := encode(rpc(nil))
	header := func(header ...string) call { return call{body: frame(message), header: header} }
	return []rpcCase{
		{"nothing", call{}, connect.CodeUnimplemented, "zero messages"},
		{"half a frame's head", call{body: "\x00\x00\x00"}, connect.CodeInternal, ""},
		{"a frame that is cut off", call{body: frame(message)[:len(message)-3]}, connect.CodeInternal, ""},
		{"a frame that promises more than is allowed", call{body: "\x00\xff\xff\xff\xff"}, exhausted, ""},
		{"a message of more than is allowed", call{body: frame(strings.Repeat("\x00", maxBody+1))}, exhausted, ""},
		{"a compressed frame without saying how", call{body: "\x01" + frame(message)[1:]}, connect.CodeInternal, ""},
		{"a frame with an unknown flag", call{body: "\x40" + frame(message)[1:]}, connect.CodeInternal, ""},
		{"two messages where one belongs", call{body: frame(message) + frame(message)}, connect.CodeUnimplemented, ""},
		{"gzip that is none", call{body: "\x01" + frame(message)[1:], header: []string{"Grpc-Encoding", "gzip"}}, invalid, ""},
		{"gzip that becomes too large", call{body: "\x01" + frame(squeezed("gzip", strings.Repeat("\x00", 8<<20)))[1:], header: []string{"Grpc-Encoding", "gzip"}}, exhausted, ""},
		{"an encoding that nobody knows", header("Grpc-Encoding", "br"), connect.CodeUnimplemented, "br"},
		{"no protobuf", call{body: frame("\xff\xff\xff\xff")}, invalid, ""},
		{"protobuf with a field cut off", call{body: frame(message[:len(message)-1])}, invalid, ""},
		{"protobuf with a group", call{body: frame("\x0b\x0b\x0b")}, invalid, ""},
		{"protobuf nested without end", call{body: frame(strings.Repeat("\x0b", 20000))}, invalid, ""},
		{"a field of another wire type", call{body: frame("\x08\x01")}, invalid, ""},
		{"a name that is not UTF-8", call{body: frame("\x0a\x02\xff\xfe")}, invalid, "UTF-8"},
		{"a timeout that is none", header("Grpc-Timeout", "soon"), invalid, ""},
		{"a negative timeout of the call", header("Grpc-Timeout", "-1S"), invalid, ""},
		{"a message that does not come", call{stops: true}, connect.CodeDeadlineExceeded, "time"},
		{"a message that stops", call{body: frame(message)[:20], stops: true}, connect.CodeDeadlineExceeded, "time"},
		{"a method that is not there", call{method: "ModelTrain", body: frame("")}, connect.CodeUnimplemented, ""},
		{"a method in lower case", call{method: "modelInfer", body: frame("")}, connect.CodeUnimplemented, ""},
		{"shared memory that is not there", call{method: "SystemSharedMemoryStatus", body: frame("")}, connect.CodeUnimplemented, ""},
		{"log settings that are not there", call{method: "LogSettings", body: frame("")}, connect.CodeUnimplemented, ""},
		{"another service", call{method: "/grpc.channelz.v1.Channelz/GetServers", body: frame("")}, connect.CodeUnimplemented, ""},
		{"health of a service that is not there", call{method: "/grpc.health.v1.Health/Check", body: frame("\x0a\x04none")}, notFound, ""},
		{"metadata of a model that is not there", call{method: "ModelMetadata", body: frame("\x0a\x04none")}, notFound, `"none"`},
		{"metadata of a version that is not there", call{method: "ModelMetadata", body: frame("\x0a\x03neg\x12\x012")}, notFound, `"2"`},
		{"the configuration of a model that is not there", call{method: "ModelConfig", body: frame("\x0a\x04none")}, notFound, `"none"`},
		{"a load that is not allowed", call{method: "RepositoryModelLoad", body: frame("\x12\x03neg")}, unavailable, ""},
		{"an unload that is not allowed", call{method: "RepositoryModelUnload", body: frame("\x12\x03neg")}, unavailable, ""},
		{"a call for a page elsewhere", header("Origin", "https://evil.example"), connect.CodeUnknown, "403"},
		{"a call to a page's own name", header("Host", "evil.example"), connect.CodeUnknown, "403"},
		{"a deadline that passes", call{body: frame(encode(rpc(func(m *inferRequest) { m.ModelName = "slow" }))), header: []string{"Grpc-Timeout", "1m"}}, connect.CodeDeadlineExceeded, ""},
	}
}

// failing is a repository whose error is not for others' eyes.
type failing struct{ shelf }

func (failing) Index(context.Context, bool) ([]modelrepository.Entry, error) {
	return nil, context.DeadlineExceeded
}

func rpcRepositories() []rpcCase {
	return []rpcCase{
		{"an index that takes too long", call{method: "RepositoryIndex", body: frame("")}, connect.CodeDeadlineExceeded, ""},
		{"a load of a model that is not there", call{method: "RepositoryModelLoad", body: frame("\x12\x04none")}, notFound, `"none"`},
		{"an unload of a model that is not there", call{method: "RepositoryModelUnload", body: frame("\x12\x04none")}, notFound, `"none"`},
	}
}

func TestRPCRequestsThatAreWrong(t *testing.T) { runRPC(t, startRPC(t, nil), rpcRequests()) }

func TestRPCFramesThatAreWrong(t *testing.T) { runRPC(t, startRPC(t, nil), rpcFrames()) }

func TestRPCRepositoriesAskedWrongly(t *testing.T) {
	runRPC(t, startRPC(t, func(o *grpcapi.Options) { o.Repository = failing{} }), rpcRepositories())
}

package grpcapi

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/models/triton"
	inferencepb "github.com/dhowfleet/dhow/protocol/gen/inference"
)

// samples has a tensor of [2] for each datatype, raw and, where there is one, typed.
func samples() []struct {
	datatype string
	raw      []byte
	typed    *inferencepb.InferTensorContents
} {
	le := binary.LittleEndian
	u16 := func(v ...uint16) (b []byte) {
		for _, v := range v {
			b = le.AppendUint16(b, v)
		}
		return b
	}
	u32 := func(v ...uint32) (b []byte) {
		for _, v := range v {
			b = le.AppendUint32(b, v)
		}
		return b
	}
	u64 := func(v ...uint64) (b []byte) {
		for _, v := range v {
			b = le.AppendUint64(b, v)
		}
		return b
	}
	type contents = inferencepb.InferTensorContents
	return []struct {
		datatype string
		raw      []byte
		typed    *contents
	}{
		{"BOOL", []byte{1, 0}, &contents{BoolContents: []bool{true, false}}},
		{"UINT8", []byte{255, 0}, &contents{UintContents: []uint32{255, 0}}},
		{"UINT16", u16(65535, 1), &contents{UintContents: []uint32{65535, 1}}},
		{"UINT32", u32(math.MaxUint32, 1), &contents{UintContents: []uint32{math.MaxUint32, 1}}},
		{"UINT64", u64(math.MaxUint64, 1), &contents{Uint64Contents: []uint64{math.MaxUint64, 1}}},
		{"INT8", []byte{128, 127}, &contents{IntContents: []int32{-128, 127}}},
		{"INT16", u16(0x8000, 32767), &contents{IntContents: []int32{-32768, 32767}}},
		{"INT32", u32(1<<31, 7), &contents{IntContents: []int32{math.MinInt32, 7}}},
		{"INT64", u64(1<<63, 7), &contents{Int64Contents: []int64{math.MinInt64, 7}}},
		{"FP16", u16(0x3c00, 0xfbff), nil},
		{"BF16", u16(0x3f80, 0xff7f), nil},
		{"FP32", u32(math.Float32bits(1.5), math.Float32bits(float32(math.Inf(-1)))), &contents{Fp32Contents: []float32{1.5, float32(math.Inf(-1))}}},
		{"FP64", u64(math.Float64bits(1.5), math.Float64bits(math.MaxFloat64)), &contents{Fp64Contents: []float64{1.5, math.MaxFloat64}}},
		{"BYTES", tensor.FromStrings("", "é\x00", "").Data, &contents{BytesContents: [][]byte{[]byte("é\x00"), {}}}},
	}
}

// TestEveryDatatype sends each raw and typed, by every protocol, plain and compressed; the answer is raw and the same.
func TestEveryDatatype(t *testing.T) {
	s := start(t, Options{})
	for name, client := range map[string][]connect.ClientOption{
		"grpc": {connect.WithGRPC()}, "grpc gzip": {connect.WithGRPC(), connect.WithSendGzip()},
		"grpcweb": {connect.WithGRPCWeb()}, "connect": nil, "connect gzip": {connect.WithSendGzip()}, "connect json": {connect.WithProtoJSON()},
	} {
		c := s.client(client...)
		for _, v := range samples() {
			for _, typed := range []bool{false, true} {
				if typed && v.typed == nil {
					continue
				}
				r := &inferencepb.ModelInferRequest{
					ModelName: "m", ModelVersion: "2", Id: "the id",
					Inputs: []*inferencepb.ModelInferRequest_InferInputTensor{{Name: "x", Datatype: v.datatype, Shape: []int64{2}}},
				}
				if typed {
					r.Inputs[0].Contents = v.typed
				} else {
					r.RawInputContents = [][]byte{v.raw}
				}
				res, err := c.ModelInfer(t.Context(), connect.NewRequest(r))
				if err != nil {
					t.Errorf("%s %s typed %v: %v", name, v.datatype, typed, err)
					continue
				}
				m, got := res.Msg, tensorOf(res.Msg, 0)
				if m.GetModelName() != "m" || m.GetModelVersion() != "2" || m.GetId() != "the id" || res.Header().Get(headerVersion) != "2" || res.Header().Get(headerVariant) != "candidate" {
					t.Errorf("%s %s: answered %v, %v", name, v.datatype, m, res.Header())
				}
				if got.Name != "x_out" || got.Datatype.String() != v.datatype || !slices.Equal(got.Shape, []int64{2}) || !bytes.Equal(got.Data, v.raw) || m.GetOutputs()[0].GetContents() != nil {
					t.Errorf("%s %s typed %v: got %v, want %v", name, v.datatype, typed, got, v.raw)
				}
			}
		}
	}
	s.free()
}

func TestShapesWithoutElementsAndWithoutDimensions(t *testing.T) {
	s := start(t, Options{})
	for _, c := range []struct {
		datatype string
		shape    []int64
		raw      []byte
		typed    *inferencepb.InferTensorContents
	}{
		{"FP32", []int64{0, 2}, []byte{}, nil},
		{"FP32", []int64{3, 0}, nil, nil},
		{"FP16", []int64{0}, nil, nil},
		{"BYTES", []int64{0}, nil, &inferencepb.InferTensorContents{}},
		{"INT64", nil, []byte{1, 0, 0, 0, 0, 0, 0, 0}, nil},
		{"INT32", nil, nil, &inferencepb.InferTensorContents{IntContents: []int32{5}}},
	} {
		r := &inferencepb.ModelInferRequest{
			ModelName: odd, Inputs: []*inferencepb.ModelInferRequest_InferInputTensor{{Name: "x", Datatype: c.datatype, Shape: c.shape, Contents: c.typed}},
		}
		if c.raw != nil {
			r.RawInputContents = [][]byte{c.raw}
		}
		res, err := s.infer(t.Context(), r)
		if err != nil {
			t.Errorf("%s %v: %v", c.datatype, c.shape, err)
			continue
		}
		got := tensorOf(res, 0)
		if err := got.Validate(); err != nil || res.GetModelName() != odd || !slices.Equal(got.Shape, c.shape) || len(res.GetRawOutputContents()) != 1 {
			t.Errorf("%s %v: got %v, %v", c.datatype, c.shape, res, err)
		}
	}
}

func TestRequestedOutputsAndClasses(t *testing.T) {
	s := start(t, Options{})
	r := ask("m")
	y := tensor.FromFloat32("y", []int64{1, 2}, []float32{3, 4})
	r.Inputs = append(r.Inputs, &inferencepb.ModelInferRequest_InferInputTensor{Name: "y", Datatype: "FP32", Shape: y.Shape})
	r.RawInputContents = append(r.RawInputContents, y.Data)
	r.Outputs = []*inferencepb.ModelInferRequest_InferRequestedOutputTensor{
		{Name: "y_out"},
		{Name: "x_out", Parameters: map[string]*inferencepb.InferParameter{"classification": int64Param(2)}},
	}
	res, err := s.infer(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if got := tensorOf(res, 0); got.Name != "y_out" || !bytes.Equal(got.Data, y.Data) {
		t.Errorf("the first is %v", got)
	}
	got := tensorOf(res, 1)
	want := tensor.FromStrings("", "2.000000:1:dog", "1.000000:0:cat").Data
	if got.Name != "x_out" || got.Datatype != tensor.Bytes || !slices.Equal(got.Shape, []int64{1, 2}) || !bytes.Equal(got.Data, want) {
		t.Errorf("the classes are %v %q", got.Shape, got.Data)
	}
	// A configuration that batches nothing makes the first dimension one of the classes'.
	s.table.Set("flat", []serving.Variant{{Version: "1", Role: 1, Runner: &echo{}, Config: &triton.Config{}}})
	r.ModelName = "flat"
	if res, err = s.infer(t.Context(), r); err != nil || !slices.Equal(tensorOf(res, 1).Shape, []int64{2}) {
		t.Errorf("got %v, %v", res, err)
	}
}

// TestPriorityAndTimeout: the parameters reach the request, and a timeout ends it.
func TestPriorityAndTimeout(t *testing.T) {
	s := start(t, Options{})
	s.echo.run = func(ctx context.Context, _ []tensor.Tensor) error {
		if p := serving.PriorityOf(ctx); p != 7 {
			return fmt.Errorf("priority is %d", p)
		}
		<-ctx.Done()
		return ctx.Err()
	}
	for _, timeout := range []*inferencepb.InferParameter{
		int64Param(1000), {ParameterChoice: &inferencepb.InferParameter_Uint64Param{Uint64Param: 1000}},
	} {
		r := ask("m")
		r.Parameters = map[string]*inferencepb.InferParameter{"priority": int64Param(7), "timeout": timeout, "of a model's own": textParam("?")}
		_, err := s.infer(t.Context(), r)
		refused(t, err, connect.CodeDeadlineExceeded, "within its time")
	}
	s.echo.run = nil
	// One that is beyond all time shortens nothing.
	r := ask("m")
	r.Parameters = map[string]*inferencepb.InferParameter{"timeout": int64Param(math.MaxInt64)}
	if _, err := s.infer(t.Context(), r); err != nil {
		t.Error(err)
	}
}

// TestDeadlineOfTheClient reaches the model, and giving up ends its work.
func TestDeadlineOfTheClient(t *testing.T) {
	s := start(t, Options{})
	ended := make(chan error, 1)
	running := make(chan struct{}, 1)
	s.echo.run = func(ctx context.Context, _ []tensor.Tensor) error {
		running <- struct{}{}
		<-ctx.Done()
		ended <- ctx.Err()
		return ctx.Err()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := s.infer(ctx, ask("m"))
	refused(t, err, connect.CodeDeadlineExceeded, "")
	<-running
	if err := <-ended; !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	go func() {
		<-running
		cancel()
	}()
	_, err = s.infer(ctx, ask("m"))
	refused(t, err, connect.CodeCanceled, "")
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	s.free()
}

package grpcapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/dhowfleet/dhow/agent/access"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/models/tensor"
	inferencepb "github.com/dhowfleet/dhow/protocol/gen/inference"
)

type stream = connect.BidiStreamForClient[inferencepb.ModelInferRequest, inferencepb.ModelStreamInferResponse]

func send(t *testing.T, st *stream, r *inferencepb.ModelInferRequest) {
	t.Helper()
	if err := st.Send(r); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, st *stream) *inferencepb.ModelStreamInferResponse {
	t.Helper()
	res, err := st.Receive()
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// TestStreamAnswersInOrder although the first takes longest, and goes on after errors.
func TestStreamAnswersInOrder(t *testing.T) {
	s := start(t, Options{})
	second := make(chan struct{})
	begun := sync.OnceFunc(func() { close(second) })
	s.echo.run = func(_ context.Context, in []tensor.Tensor) error {
		switch in[0].Shape[0] {
		case 1:
			<-second // the later one computes beside it
		case 2:
			begun()
		}
		return nil
	}
	st := s.ModelStreamInfer(t.Context())
	for i := range 2 {
		r := ask("m")
		r.Id = fmt.Sprint(i)
		r.Inputs[0].Shape = []int64{int64(i + 1), int64(2 - i)}
		send(t, st, r)
	}
	r := ask("m")
	r.Id, r.RawInputContents = "wrong", [][]byte{{1}}
	send(t, st, r)
	send(t, st, &inferencepb.ModelInferRequest{})
	r = ask("nobody")
	r.Id = "missing"
	send(t, st, r)
	r = ask("m")
	r.Id, r.Inputs[0].Shape = "last", []int64{2}
	send(t, st, r)
	for _, want := range []struct{ id, message string }{{"0", ""}, {"1", ""}, {"wrong", `tensor "x": shape [1 2] of FP32 needs 8 bytes, got 1`}, {"", "model_name is missing"}, {"missing", `there is no model "nobody"`}, {"last", ""}} {
		res := receive(t, st)
		got := res.GetInferResponse()
		if got.GetId() != want.id || res.GetErrorMessage() != want.message || !got.GetParameters()["triton_final_response"].GetBoolParam() || (len(got.GetOutputs()) == 1) != (want.message == "") {
			t.Errorf("got %v, want %v", res, want)
		}
	}
	if err := st.CloseRequest(); err != nil {
		t.Fatal(err)
	}
	if res, err := st.Receive(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last: %v, %v", res, err)
	}
	s.free()
}

// TestStreamBoundsWhatIsInFlight: a client that only sends is read no further, and has all its answers in the end.
func TestStreamBoundsWhatIsInFlight(t *testing.T) {
	s := start(t, Options{})
	var entered atomic.Int64
	gate := make(chan struct{})
	s.handler.options.Authorize = func(func(string) string, access.Group, string) (access.Caller, func(), error) {
		entered.Add(1)
		<-gate
		return access.Caller{}, nothing, nil
	}
	st := s.ModelStreamInfer(t.Context())
	const all = 3 * streamDepth
	for range all {
		send(t, st, ask("m"))
	}
	for entered.Load() < streamDepth-1 {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(50 * time.Millisecond) // for one more than allowed to show
	if n := entered.Load(); n > streamDepth {
		t.Errorf("%d requests are in flight, at most %d may", n, streamDepth)
	}
	close(gate)
	st.CloseRequest()
	for i := range all {
		if res := receive(t, st); res.GetErrorMessage() != "" {
			t.Fatalf("answer %d: %v", i, res)
		}
	}
	if n := entered.Load(); n != all {
		t.Errorf("%d of %d were authorized", n, all)
	}
	s.free()
}

// TestStreamThatIsGivenUp ends the work of its requests.
func TestStreamThatIsGivenUp(t *testing.T) {
	s := start(t, Options{})
	var running, ended sync.WaitGroup
	running.Add(3)
	ended.Add(3)
	s.echo.run = func(ctx context.Context, _ []tensor.Tensor) error {
		running.Done()
		<-ctx.Done()
		ended.Done()
		return ctx.Err()
	}
	ctx, cancel := context.WithCancel(t.Context())
	st := s.ModelStreamInfer(ctx)
	for range 3 {
		send(t, st, ask("m"))
	}
	running.Wait()
	cancel()
	ended.Wait()
	s.echo.run = nil
	s.free()
	s.good()
}

// TestStreamOutOfTime ends although the client neither sends nor leaves.
func TestStreamOutOfTime(t *testing.T) {
	s := start(t, Options{})
	silence, end := io.Pipe()
	defer end.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/inference.GRPCInferenceService/ModelStreamInfer", silence)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Grpc-Timeout", "50m")
	resp, err := s.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	if code := resp.Trailer.Get("Grpc-Status"); code != "4" {
		t.Errorf("status %s %s, want 4 (deadline exceeded)", code, resp.Trailer.Get("Grpc-Message"))
	}
	s.good()
}

// TestStreamEndsForWhatIsNoMessage: framing that is lost cannot be found again.
func TestStreamEndsForWhatIsNoMessage(t *testing.T) {
	s := start(t, Options{MaxMessage: 1 << 10})
	for _, c := range []struct {
		name, body, code string
	}{
		{"too large", "\x00\x00\x00\x08\x00" + string(make([]byte, 2048)), "8"},
		{"cut off", "\x00\x00\x00\x00\x09abc", "13"},
		{"compressed by nothing", "\x01\x00\x00\x00\x01a", "13"},
	} {
		if got := s.post("ModelStreamInfer", c.body); got.code != c.code {
			t.Errorf("%s: status %s %q, want %s", c.name, got.code, got.message, c.code)
		}
	}
	// One that is a message, but no protobuf, is answered.
	got := s.post("ModelStreamInfer", "\x00\x00\x00\x00\x01\xff")
	if got.code != "0" || len(got.body) == 0 {
		t.Errorf("got %+v", got)
	}
	s.free()
	s.good()
}

// TestStreamIsAuthorizedByMessage, and each ends when it was answered.
func TestStreamIsAuthorizedByMessage(t *testing.T) {
	var over sync.WaitGroup
	over.Add(2)
	n := 0
	s := start(t, Options{Authorize: func(header func(string) string, g access.Group, model string) (access.Caller, func(), error) {
		if g != access.Inference || model != "m" || header("Authorization") != "Bearer k" {
			return access.Caller{}, nothing, errors.New("asked about something else")
		}
		if n++; n == 2 {
			return access.Caller{}, over.Done, &access.Error{Kind: access.QuotaExceeded, RetryAfter: time.Second, Message: "enough"}
		}
		return access.Caller{Name: "till", Priority: 5}, over.Done, nil
	}})
	s.echo.run = func(ctx context.Context, _ []tensor.Tensor) error {
		if p := serving.PriorityOf(ctx); p != 5 {
			return fmt.Errorf("priority is %d", p)
		}
		return nil
	}
	st := s.ModelStreamInfer(t.Context())
	st.RequestHeader().Set("Authorization", "Bearer k")
	for _, want := range []string{"", "enough"} {
		send(t, st, ask("m"))
		if res := receive(t, st); res.GetErrorMessage() != want {
			t.Errorf("got %v, want %q", res, want)
		}
	}
	over.Wait() // before the stream ends
	st.CloseRequest()
	st.CloseResponse()
}

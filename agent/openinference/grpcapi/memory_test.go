package grpcapi

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/models/tensor"
	inferencepb "github.com/dhowfleet/dhow/protocol/gen/inference"
)

// large is a request with n bytes of data.
func large(n int) *inferencepb.ModelInferRequest {
	r := ask("m")
	r.Inputs[0].Datatype, r.Inputs[0].Shape, r.RawInputContents = "UINT8", []int64{int64(n)}, [][]byte{make([]byte, n)}
	return r
}

// TestMemoryIsBounded over requests, compressed ones and typed contents that grow, and is free again after each.
func TestMemoryIsBounded(t *testing.T) {
	s := start(t, Options{MaxMemory: 3 << 20})
	if _, err := s.infer(t.Context(), large(1<<20)); err != nil {
		t.Error(err)
	}
	_, err := s.infer(t.Context(), large(4<<20))
	refused(t, err, connect.CodeUnavailable, "try again later")
	s.free()

	message, err := proto.Marshal(large(4 << 20))
	if err != nil {
		t.Fatal(err)
	}
	bomb := zipped(message)
	if len(bomb) > 1<<16 {
		t.Fatalf("the bomb has %d bytes", len(bomb))
	}
	if got := s.post("ModelInfer", bomb, "Grpc-Encoding", "gzip"); got.code != "14" || !strings.Contains(got.message, "try again later") {
		t.Errorf("a bomb: %+v", got)
	}
	s.free()

	// A packed int64 of one byte becomes eight.
	grows := &inferencepb.ModelInferRequest{ModelName: "m", Inputs: []*inferencepb.ModelInferRequest_InferInputTensor{
		{Name: "x", Datatype: "INT64", Shape: []int64{1 << 19}, Contents: &inferencepb.InferTensorContents{Int64Contents: make([]int64, 1<<19)}},
	}}
	_, err = s.infer(t.Context(), grows)
	refused(t, err, connect.CodeUnavailable, "try again later")
	s.free()

	// On a stream the one that is too much is refused, and the stream goes on.
	st := s.ModelStreamInfer(t.Context())
	for _, want := range []string{"", "too much memory", ""} {
		r := large(1 << 20)
		if want != "" {
			r = grows
		}
		send(t, st, r)
		if res := receive(t, st); (want == "") != (res.GetErrorMessage() == "") || !strings.Contains(res.GetErrorMessage(), want) {
			t.Errorf("got %q, want %q", res.GetErrorMessage(), want)
		}
	}
	st.CloseRequest()
	st.CloseResponse()
	s.free()
	s.good()
}

// TestMemoryIsShared: what another handler holds is not there.
func TestMemoryIsShared(t *testing.T) {
	shared := &budget{}
	shared.most.Store(1 << 20)
	s := start(t, Options{Memory: shared})
	if err := shared.Reserve(1<<20 - 10); err != nil {
		t.Fatal(err)
	}
	_, err := s.infer(t.Context(), ask("m"))
	refused(t, err, connect.CodeUnavailable, "try again later")
	shared.Release(1<<20 - 10)
	s.good()
	s.free()
}

// TestMessagesMustCome within their time, on a stream each; an idle stream may stay.
func TestMessagesMustCome(t *testing.T) {
	const limit = 200 * time.Millisecond
	s := start(t, Options{BodyTimeout: limit})
	good, err := proto.Marshal(ask("m"))
	if err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{"ModelInfer", "ModelStreamInfer"} {
		body, w := io.Pipe()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/inference.GRPCInferenceService/"+method, body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/grpc")
		go func() {
			if method == "ModelStreamInfer" {
				time.Sleep(2 * limit)
				w.Write([]byte(framed(good)))
				time.Sleep(2 * limit)
			}
			w.Write([]byte(framed(good)[:10]))
		}()
		resp, err := s.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		answers, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Error(err)
		}
		w.Close()
		if code, message := resp.Trailer.Get("Grpc-Status"), resp.Trailer.Get("Grpc-Message"); code != "4" || !strings.Contains(message, "did not come within its time") {
			t.Errorf("%s: status %s %q", method, code, message)
		}
		if (method == "ModelStreamInfer") != (len(answers) > 0) {
			t.Errorf("%s was answered with %d bytes", method, len(answers))
		}
	}
	s.free()
	s.good()
}

// TestAnswersAreCompressedWhenRequestsAre, and not because a client could read them.
func TestAnswersAreCompressedWhenRequestsAre(t *testing.T) {
	s := start(t, Options{})
	message, err := proto.Marshal(large(1 << 16))
	if err != nil {
		t.Fatal(err)
	}
	for body, small := range map[string]bool{framed(message): false, zipped(message): true} {
		got := s.post("ModelInfer", body, "Grpc-Encoding", map[bool]string{true: "gzip", false: "identity"}[small], "Grpc-Accept-Encoding", "gzip, deflate")
		if got.code != "0" || (len(got.body) < 1<<12) != small {
			t.Errorf("compressed %v: status %s, %d bytes", small, got.code, len(got.body))
		}
	}
	s.free()
}

// TestFullQueue is UNAVAILABLE, at once.
func TestFullQueue(t *testing.T) {
	s := start(t, Options{})
	s.table.Set("one", []serving.Variant{{Version: "1", Role: 1, Queue: 1, Concurrency: 1, Runner: &echo{run: func(ctx context.Context, _ []tensor.Tensor) error {
		<-ctx.Done()
		return ctx.Err()
	}}}})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 3)
	for range 3 {
		go func() {
			_, err := s.infer(ctx, ask("one"))
			if connect.CodeOf(err) == connect.CodeUnavailable {
				cancel()
			}
			ended <- err
		}()
	}
	full := 0
	for range 3 {
		err := <-ended
		if connect.CodeOf(err) == connect.CodeUnavailable {
			refused(t, err, connect.CodeUnavailable, "too many requests are waiting")
			full++
		}
	}
	if full != 1 {
		t.Errorf("%d of 3 were refused, want 1", full)
	}
	s.free()
}

// TestReserveHolds: a budget refuses what it has not, and takes nothing then.
func TestReserveHolds(t *testing.T) {
	b := &budget{}
	b.most.Store(10)
	if err := b.Reserve(10); err != nil {
		t.Error(err)
	}
	if err := b.Reserve(1); !errors.Is(err, errNoMemory) {
		t.Error(err)
	}
	b.Release(10)
	if used := b.used.Load(); used != 0 {
		t.Errorf("%d bytes are used", used)
	}
}

// unaryBody is a message for a handler without a connection.
func unaryBody(t testing.TB, r *inferencepb.ModelInferRequest) []byte {
	message, err := proto.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
}

package grpcapi

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/dhowfleet/dhow/agent/openinference"
	"github.com/dhowfleet/dhow/models/tensor"
)

// discard is a response that goes nowhere.
type discard struct {
	header http.Header
	n      int
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) WriteHeader(int)             {}
func (d *discard) Write(p []byte) (int, error) { d.n += len(p); return len(p), nil }
func (d *discard) Flush()                      {}

// direct returns a call of the handler without a connection.
func direct(t testing.TB, elements int) func() {
	s := start(t, Options{})
	r := ask("m")
	r.Id = "7e57d004-2b97-0e7a-b45f-5387367791cd"
	x := tensor.FromFloat32("x", nil, make([]float32, elements))
	r.Inputs[0].Shape, r.RawInputContents = []int64{1, int64(elements)}, [][]byte{x.Data}
	body := bytes.NewReader(unaryBody(t, r))
	req := httptest.NewRequest(http.MethodPost, "http://localhost/inference.GRPCInferenceService/ModelInfer", nil)
	req.ProtoMajor = 2
	w := &discard{header: http.Header{}}
	return func() {
		body.Seek(0, io.SeekStart)
		req.Body = io.NopCloser(body)
		req.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}}
		clear(w.header)
		w.n = 0
		s.handler.ServeHTTP(w, req)
		if w.n < 4*elements || w.header.Get(http.TrailerPrefix+"Grpc-Status") != "0" {
			t.Fatalf("%d bytes, %v", w.n, w.header)
		}
	}
}

// maxAllocations is a ceiling over the 43 there are, most of them connect's: pools lose some under the race detector.
const maxAllocations = 60

func TestAllocations(t *testing.T) {
	for _, elements := range []int{16, 1 << 16} {
		call := direct(t, elements)
		call()
		n := testing.AllocsPerRun(200, call)
		t.Logf("%d elements: %.0f allocations", elements, n)
		if n > maxAllocations {
			t.Errorf("%d elements take %.0f allocations, at most %d", elements, n, maxAllocations)
		}
	}
}

// BenchmarkHandler is a call without HTTP: 4 KiB in and out.
func BenchmarkHandler(b *testing.B) {
	call := direct(b, 1024)
	b.ReportAllocs()
	for b.Loop() {
		call()
	}
}

// BenchmarkLoopback asks over a connection, by gRPC, on a stream, and by REST with binary tensors: 4 KiB in and out, one
// client, so that what is seen is the time of one request.
func BenchmarkLoopback(b *testing.B) {
	s := start(b, Options{})
	x := tensor.FromFloat32("x", []int64{1, 1024}, make([]float32, 1024))
	r := ask("m")
	r.Inputs[0].Shape, r.RawInputContents = x.Shape, [][]byte{x.Data}
	rest := listen(b, openinference.New(s.table, openinference.Options{}))
	plain := &http.Client{Transport: &http.Transport{}}
	defer plain.CloseIdleConnections()
	head := `{"inputs":[{"name":"x","shape":[1,1024],"datatype":"FP32","parameters":{"binary_data_size":4096}}],"parameters":{"binary_data_output":true}}`
	body := append([]byte(head), x.Data...)
	st := s.ModelStreamInfer(b.Context())
	defer st.CloseResponse()
	for _, c := range []struct {
		name string
		call func() error
	}{
		{"gRPC", func() error {
			_, err := s.ModelInfer(b.Context(), connect.NewRequest(r))
			return err
		}},
		{"gRPC stream", func() error {
			if err := st.Send(r); err != nil {
				return err
			}
			_, err := st.Receive()
			return err
		}},
		{"REST binary", func() error {
			req, err := http.NewRequestWithContext(b.Context(), http.MethodPost, rest+"/v2/models/m/infer", bytes.NewReader(body))
			if err != nil {
				return err
			}
			req.Header.Set("Inference-Header-Content-Length", fmt.Sprint(len(head)))
			resp, err := plain.Do(req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			_, err = io.Copy(io.Discard, resp.Body)
			return err
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				start := time.Now()
				if err := c.call(); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(start))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1e3, "us-p50")
			b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1e3, "us-p99")
		})
	}
}

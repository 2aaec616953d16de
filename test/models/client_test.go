package models

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/test/conformance/rpc"
	"github.com/dhowfleet/dhow/test/conformance/wire"
	"github.com/dhowfleet/dhow/test/inprocess"
)

// client is a server with one model after the other, and who asks it.
type client struct {
	server *inprocess.Server
	http   *http.Client
	grpc   *rpc.Target
}

func start(t *testing.T) *client {
	t.Helper()
	s, err := inprocess.Start()
	if err != nil {
		t.Fatal(err)
	}
	c := &client{s, &http.Client{Timeout: time.Minute}, rpc.NewTarget(s.GRPC, http.Header{}, time.Minute)}
	t.Cleanup(func() {
		c.http.CloseIdleConnections()
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return c
}

// load serves a file and returns the names of the outputs that are not served.
func (c *client) load(t *testing.T, name, path string) []string {
	t.Helper()
	unserved, err := c.server.Load(t.Context(), name, path)
	if err != nil {
		t.Fatal(err)
	}
	return unserved
}

// fetched is a file of .cache/models; the test skips where it is not.
func fetched(t *testing.T, elements ...string) string {
	t.Helper()
	path := filepath.Join(append([]string{"..", "..", ".cache", "models"}, elements...)...)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("%s is not there; test/models/fetch gets it", filepath.Join(elements...))
	}
	return path
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// rest asks over REST with binary tensors.
func (c *client) rest(t *testing.T, model string, inputs ...wire.Value) *wire.Answer {
	t.Helper()
	p := c.send(t, model, wire.Call{Inputs: inputs, Binary: wire.All, Parameters: map[string]any{"binary_data_output": true}})
	a, err := p.Answer()
	if err != nil {
		t.Fatalf("%s: %v: %.300s", model, err, p.Body)
	}
	return a
}

// post makes a call and returns what came, whatever it is.
func (c *client) post(t *testing.T, model string, call wire.Call) (status int, body string) {
	t.Helper()
	p := c.send(t, model, call)
	return p.Status, string(p.Body)
}

func (c *client) send(t *testing.T, model string, call wire.Call) *wire.Reply {
	t.Helper()
	body, length, err := call.Encode()
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.server.URL+"/v2/models/"+url.PathEscape(model)+"/infer", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = wire.LengthHeader(length)
	res, err := c.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return &wire.Reply{Status: res.StatusCode, Header: res.Header, Body: b}
}

// ask asks over REST and gRPC; both must say the same.
func (c *client) ask(t *testing.T, model string, inputs ...wire.Value) *wire.Answer {
	t.Helper()
	a := c.rest(t, model, inputs...)
	b, err := c.grpc.Infer(t.Context(), model, inputs, true)
	if err != nil {
		t.Fatalf("%s over gRPC: %v", model, err)
	}
	if err := b.Agrees(a); err != nil {
		t.Fatalf("%s: REST and gRPC differ: %v", model, err)
	}
	return a
}

func f32(name string, shape []int64, values []float32) wire.Value {
	v := wire.Value{Name: name, Datatype: "FP32", Shape: shape, Raw: make([]byte, 0, 4*len(values))}
	for _, x := range values {
		v.Raw = binary.LittleEndian.AppendUint32(v.Raw, math.Float32bits(x))
	}
	return v
}

func i64(name string, shape []int64, values ...int64) wire.Value {
	v := wire.Value{Name: name, Datatype: "INT64", Shape: shape}
	for _, x := range values {
		v.Raw = binary.LittleEndian.AppendUint64(v.Raw, uint64(x))
	}
	return v
}

func texts(name string, shape []int64, values ...string) wire.Value {
	v := wire.Value{Name: name, Datatype: "BYTES", Shape: shape}
	for _, s := range values {
		v.Raw = append(binary.LittleEndian.AppendUint32(v.Raw, uint32(len(s))), s...)
	}
	return v
}

// numbers are an output's elements.
func numbers(t *testing.T, a *wire.Answer, name string) []float64 {
	t.Helper()
	v := a.Find(name)
	if v == nil {
		t.Fatalf("there is no output %q", name)
	}
	var out []float64
	if err := v.Each(func(_ int64, e []byte) { out = append(out, wire.Number(v.Datatype, e)) }); err != nil {
		t.Fatal(err)
	}
	return out
}

func highest(values []float64) int {
	best := 0
	for i, v := range values {
		if v > values[best] {
			best = i
		}
	}
	return best
}

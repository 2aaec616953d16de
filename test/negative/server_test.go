package negative

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/inference/onnxruntime"
	"github.com/dhowfleet/dhow/agent/inference/onnxtest"
	"github.com/dhowfleet/dhow/agent/openinference"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/host"
)

const (
	maxBody   = 64 << 10
	maxMemory = 4 << 20
	patience  = 200 * time.Millisecond // for a body
	oddName   = `a model/with:odd "names"`
)

// server is what the cases are sent to.
type server struct {
	*testing.T
	addr    string
	secrets []string // must be in no answer
	header  []string // of good requests
}

// model is a real model as the table runs it.
type model struct{ inference.Model }

func (m model) Infer(ctx context.Context, in []tensor.Tensor, wanted []string, _ host.Sink) ([]tensor.Tensor, error) {
	return m.Run(ctx, in, wanted)
}

// faulty is a model that does not answer.
type faulty struct {
	model
	err error // nil: waits until the request ends
}

func (f faulty) Infer(ctx context.Context, _ []tensor.Tensor, _ []string, _ host.Sink) ([]tensor.Tensor, error) {
	if f.err != nil {
		return nil, f.err
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

func (faulty) Close() error { return nil }

// panicking is a model whose code has a bug.
type panicking struct{ model }

func (panicking) Infer(_ context.Context, in []tensor.Tensor, _ []string, _ host.Sink) ([]tensor.Tensor, error) {
	return in[len(in)+3:], nil
}

func (panicking) Close() error { return nil }

func same(in, out string, kind int, dims ...int64) *onnxtest.Graph {
	return &onnxtest.Graph{
		Inputs:  []onnxtest.Value{{Name: in, Type: kind, Dims: dims}},
		Outputs: []onnxtest.Value{{Name: out, Type: kind, Dims: dims}},
		Nodes:   []onnxtest.Node{{Op: "Identity", Inputs: []string{in}, Outputs: []string{out}}},
	}
}

// graphs are the models that the cases ask.
func graphs() map[string]*onnxtest.Graph {
	three := []byte{3, 0, 0, 0, 0, 0, 0, 0}
	return map[string]*onnxtest.Graph{
		"neg":    onnxtest.Negate(4),
		"text":   same("t", "u", onnxtest.String, -1),
		"bool":   same("b", "c", onnxtest.Bool, 2),
		"int":    same("i", "j", onnxtest.Int64, -1, -2),
		"half":   same("h", "k", onnxtest.Float16, -1),
		"double": same("d", "e", onnxtest.Double, -1),
		"scalar": same("s", "r", onnxtest.Float),
		"fixed":  same("f", "g", onnxtest.Float, 1, 3, 2),
		"sum": {
			Inputs:  []onnxtest.Value{{Name: "a", Type: onnxtest.Float, Dims: []int64{-1, 2}}, {Name: "b", Type: onnxtest.Float, Dims: []int64{-1, 2}}},
			Outputs: []onnxtest.Value{{Name: "c", Type: onnxtest.Float, Dims: []int64{-1, 2}}, {Name: "d", Type: onnxtest.Float, Dims: []int64{-1, 2}}},
			Nodes:   []onnxtest.Node{{Op: "Add", Inputs: []string{"a", "b"}, Outputs: []string{"c"}}, {Op: "Sub", Inputs: []string{"a", "b"}, Outputs: []string{"d"}}},
		},
		// It takes any length and fails at every one but three.
		"fails": {
			Inputs:    []onnxtest.Value{{Name: "x", Type: onnxtest.Float, Dims: []int64{-1}}},
			Outputs:   []onnxtest.Value{{Name: "y", Type: onnxtest.Float, Dims: []int64{3}}},
			Constants: []onnxtest.Constant{{Name: "shape", Type: onnxtest.Int64, Dims: []int64{1}, Data: three}},
			Nodes:     []onnxtest.Node{{Op: "Reshape", Inputs: []string{"x", "shape"}, Outputs: []string{"y"}}},
		},
		oddName: onnxtest.Negate(4),
	}
}

// table loads the models.
func table(t *testing.T) *serving.Table {
	t.Helper()
	engine := onnxruntime.New("")
	if err := engine.Open(); err != nil {
		t.Fatal(err)
	}
	table := serving.NewTable(serving.Options{Concurrency: 4, Queue: 64, Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() {
		if err := table.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	load := func(g *onnxtest.Graph) model {
		path := filepath.Join(t.TempDir(), "model.onnx")
		if err := os.WriteFile(path, g.Model(), 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := engine.Load(t.Context(), path, inference.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return model{m}
	}
	for name, g := range graphs() {
		table.Set(name, []serving.Variant{{Version: "1", Role: 1, ShareMillionths: 1_000_000, Runner: load(g)}, {Version: "3", Runner: load(g)}})
	}
	any := load(onnxtest.Negate(4))
	t.Cleanup(func() { _ = any.Close() })
	table.Set("slow", []serving.Variant{{Version: "1", Role: 1, Runner: faulty{any, nil}, Timeout: 50 * time.Millisecond}})
	table.Set("busy", []serving.Variant{{Version: "1", Role: 1, Runner: faulty{any, serving.ErrOverloaded}}})
	table.Set("closed", []serving.Variant{{Version: "1", Role: 1, Runner: faulty{any, inference.ErrClosed}}})
	table.Set("buggy", []serving.Variant{{Version: "1", Role: 1, Runner: panicking{any}}})
	table.Set("shadow", []serving.Variant{{Version: "1", Role: 3, Runner: load(onnxtest.Negate(4))}})
	return table
}

// start serves the models over REST.
func start(t *testing.T, adapt func(*openinference.Options)) *server {
	t.Helper()
	o := openinference.Options{Version: "9.9.9", MaxBody: maxBody, MaxMemory: maxMemory, BodyTimeout: patience}
	if adapt != nil {
		adapt(&o)
	}
	return listen(t, openinference.New(table(t), o))
}

// listen serves a handler as the agent does.
func listen(t *testing.T, handler http.Handler) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10, Protocols: protocols, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)}
	var serve sync.WaitGroup
	serve.Go(func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		_ = srv.Close()
		serve.Wait()
	})
	return &server{T: t, addr: l.Addr().String()}
}

// request is an HTTP request as it goes over the line.
type request struct {
	method, path string // "" is POST to the model neg
	header       []string
	body         string
	raw          string // replaces all of the above
	ends         bool   // the client says with the last byte that no more comes
}

// bytes writes the request.
func (r *request) bytes() []byte {
	if r.raw != "" {
		return []byte(r.raw)
	}
	method, path := r.method, r.path
	if method == "" {
		method = http.MethodPost
	}
	if path == "" {
		path = "/v2/models/neg/infer"
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\n", method, path)
	given := map[string]bool{}
	for i := 0; i+1 < len(r.header); i += 2 {
		fmt.Fprintf(&b, "%s: %s\r\n", r.header[i], r.header[i+1])
		given[r.header[i]] = true
	}
	if !given["Host"] {
		b.WriteString("Host: localhost\r\n")
	}
	if !given["Content-Length"] && !given["Transfer-Encoding"] && method != http.MethodGet {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(r.body))
	}
	b.WriteString("\r\n" + r.body)
	return b.Bytes()
}

type answer struct {
	status int
	header http.Header
	body   string
}

// send sends one request on a connection of its own and reads the answer to its end.
func (s *server) send(r *request) answer {
	s.Helper()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	// A server that has seen enough answers before all is sent; what it says is read all the same.
	var writing sync.WaitGroup
	writing.Go(func() {
		_, _ = c.Write(r.bytes())
		if r.ends {
			_ = c.(*net.TCPConn).CloseWrite()
		}
	})
	defer writing.Wait()
	method := r.method
	if method == "" {
		method = http.MethodPost
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		s.Fatalf("no answer: %v", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		s.Fatalf("half an answer: %v", err)
	}
	a := answer{resp.StatusCode, resp.Header, string(body)}
	s.tight(fmt.Sprint(a.header, a.body))
	_ = c.Close()
	return a
}

// inside is what an answer must not tell.
var inside = regexp.MustCompile(`\.go:\d|\.cc\b|\.h:\d|goroutine |runtime error|0x[0-9a-fA-F]{6,}|/tmp/|/work/|/root|/home/|/usr/|onnxruntime/|model\.onnx|github\.com|golang|panic|strconv|json:|yaml:|proto:|%!|<nil>|interface \{|map\[string|\*[a-z]+\.[A-Z]|errors\.|\[\]byte|uint8\b`)

// tight checks that a text tells nothing of the inside.
func (s *server) tight(text string) {
	s.Helper()
	if found := inside.FindString(text); found != "" {
		s.Errorf("the answer tells of the inside (%q): %.2000s", found, text)
	}
	for _, secret := range s.secrets {
		if strings.Contains(text, secret) {
			s.Errorf("the answer has a key in it: %.2000s", text)
		}
	}
}

const (
	good       = `{"id":"good","inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,-2.5,0,3]}]}`
	goodAnswer = `{"model_name":"neg","model_version":"1","id":"good","outputs":[{"name":"y","datatype":"FP32","shape":[1,4],"data":[-1,2.5,-0,-3]}]}`
)

// well checks that the server is as it was.
func (s *server) well() {
	s.Helper()
	if a := s.send(&request{method: "GET", path: "/v2/health/ready", header: s.header}); a.status != 200 {
		s.Fatalf("the server is not ready any more: %d %s", a.status, a.body)
	}
	if a := s.send(&request{body: good, header: s.header}); a.status != 200 || a.body != goodAnswer {
		s.Fatalf("a good request gets %d %s", a.status, a.body)
	}
}

// refused checks that an answer is the protocol's error with a sentence that has text in it.
func (s *server) refused(a answer, status int, text string) {
	s.Helper()
	var e map[string]string
	err := json.Unmarshal([]byte(a.body), &e)
	if a.status != status || err != nil || len(e) != 1 || !strings.Contains(e["error"], text) || a.header.Get("Content-Type") != "application/json" {
		s.Errorf("%d %s %s\nwant %d with %q", a.status, a.header.Get("Content-Type"), a.body, status, text)
	}
	if len(e["error"]) > 1000 {
		s.Errorf("a sentence of %d bytes", len(e["error"]))
	}
	switch retry := a.header.Get("Retry-After") != ""; {
	case (status == 429 || status == 503) != retry:
		s.Errorf("status %d with Retry-After %q", status, a.header.Get("Retry-After"))
	case (status == 405) != (a.header.Get("Allow") != ""):
		s.Errorf("status %d with Allow %q", status, a.header.Get("Allow"))
	}
}

// restCase is a request and the answer that it must get.
type restCase struct {
	name string
	request
	status int
	text   string
}

// run sends the cases, each followed by a look at the server.
func run(t *testing.T, s *server, cases []restCase) {
	t.Helper()
	names := map[string]bool{}
	for _, c := range cases {
		if names[c.name] {
			t.Errorf("two cases are called %q", c.name)
		}
		names[c.name] = true
		t.Run(c.name, func(t *testing.T) {
			s := &server{T: t, addr: s.addr, secrets: s.secrets, header: s.header}
			s.refused(s.send(&c.request), c.status, c.text)
			s.well()
		})
	}
}

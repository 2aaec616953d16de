package openinference

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/host"
)

// echo answers with its inputs, renamed, after whatever run says.
type echo struct {
	run func(ctx context.Context, in []tensor.Tensor) error
}

func (e *echo) Infer(ctx context.Context, in []tensor.Tensor, wanted []string, _ host.Sink) ([]tensor.Tensor, error) {
	if e.run != nil {
		if err := e.run(ctx, in); err != nil {
			return nil, err
		}
	}
	var out []tensor.Tensor
	for _, t := range in {
		if err := t.Validate(); err != nil {
			return nil, inference.Inputf("%v", err)
		}
		t.Name += "_out"
		if len(wanted) > 0 {
			found := false
			for _, w := range wanted {
				found = found || w == t.Name
			}
			if !found {
				continue
			}
		}
		out = append(out, t)
	}
	return out, nil
}

func (*echo) Inputs() []tensor.Spec {
	return []tensor.Spec{{Name: "x", Datatype: tensor.FP32, Shape: []int64{-1, 2}}}
}

func (*echo) Outputs() []tensor.Spec {
	return []tensor.Spec{{Name: "x_out", Datatype: tensor.FP32, Shape: nil}}
}

func (*echo) Close() error { return nil }

type server struct {
	*testing.T
	url   string
	echo  *echo
	table *serving.Table
}

func start(t *testing.T, o Options) *server {
	t.Helper()
	s := &server{T: t, echo: &echo{}, table: serving.NewTable(serving.Options{Concurrency: 4, Queue: 4})}
	s.table.Set("m", []serving.Variant{
		{Version: "1", Role: 1, ShareMillionths: 1_000_000, Runner: s.echo},
		{Version: "2", Role: 2, Runner: &echo{}},
	})
	s.table.Set("a model/with:odd name", []serving.Variant{{Version: "1", Role: 1, Runner: &echo{}}})
	srv := httptest.NewServer(New(s.table, o))
	t.Cleanup(srv.Close)
	s.url = srv.URL
	return s
}

type answer struct {
	status int
	header http.Header
	body   []byte
}

func (s *server) do(method, path string, body []byte, header ...string) answer {
	s.Helper()
	req, err := http.NewRequestWithContext(s.Context(), method, s.url+path, bytes.NewReader(body))
	if err != nil {
		s.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
			continue
		}
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		s.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK && method != http.MethodHead {
		var e struct{ Error string }
		if json.Unmarshal(data, &e) != nil || e.Error == "" || resp.Header.Get("Content-Type") != "application/json" {
			s.Errorf("%s %s: status %d with %q is no error of the protocol", method, path, resp.StatusCode, data)
		}
	}
	return answer{resp.StatusCode, resp.Header, data}
}

func (s *server) want(a answer, status int, text string) {
	s.Helper()
	if a.status != status || !strings.Contains(string(a.body), text) {
		s.Errorf("%d %s, want %d with %q", a.status, a.body, status, text)
	}
}

const small = `{"id":"7","inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[[1,-0.5]]}]}`

func TestMetadataAndHealth(t *testing.T) {
	ready := true
	s := start(t, Options{Version: "v9", Ready: func() bool { return ready }})
	for path, want := range map[string]string{
		"/v2":                           `{"name":"dhow","version":"v9","extensions":["binary_tensor_data","classification","model_configuration","parameters","schedule_policy"]}`,
		"/v2/health/live":               `{"live":true}`,
		"/v2/health/ready":              `{"ready":true}`,
		"/v2/models/m":                  `{"name":"m","versions":["1","2"],"platform":"onnxruntime_onnx","inputs":[{"name":"x","datatype":"FP32","shape":[-1,2]}],"outputs":[{"name":"x_out","datatype":"FP32","shape":[]}]}`,
		"/v2/models/m/versions/2":       `{"name":"m","versions":["2"],`,
		"/v2/models/m/ready":            `{"name":"m","ready":true}`,
		"/v2/models/m/versions/1/ready": `{"name":"m","ready":true}`,
		"/v2/models/a%20model%2Fwith:odd%20name/ready": `{"name":"a model/with:odd name","ready":true}`,
	} {
		a := s.do("GET", path, nil)
		s.want(a, 200, want)
		if a.header.Get("Content-Type") != "application/json" || !json.Valid(a.body) {
			t.Errorf("%s: %v", path, a.header)
		}
	}
	ready = false
	s.want(s.do("GET", "/v2/health/ready", nil), 503, "not ready")
	s.want(s.do("GET", "/v2/health/live", nil), 200, "true")
	s.want(s.do("GET", "/v2/models/M", nil), 404, `there is no model \"M\"`)
	s.want(s.do("GET", "/v2/models/m/versions/3/ready", nil), 404, `no version \"3\", but [\"1\" \"2\"]`)
	s.want(s.do("GET", "/v3", nil), 404, "nothing at /v3")
	s.want(s.do("GET", "/v2/models/m/infer", nil), 405, "wants POST, not GET")
	s.want(s.do("HEAD", "/v2/health/live", nil), 200, "")
}

func TestInferJSON(t *testing.T) {
	s := start(t, Options{})
	a := s.do("POST", "/v2/models/m/infer", []byte(small))
	if string(a.body) != `{"model_name":"m","model_version":"1","id":"7","outputs":[{"name":"x_out","datatype":"FP32","shape":[1,2],"data":[1,-0.5]}]}` {
		t.Errorf("%s", a.body)
	}
	if a.header.Get("Content-Type") != "application/json" || a.header.Get("Dhow-Model-Version") != "1" || a.header.Get("Dhow-Variant") != "baseline" || a.header.Get(headerLength) != "" {
		t.Errorf("%v", a.header)
	}
	a = s.do("POST", "/v2/models/m/versions/2/infer", []byte(strings.Replace(small, `"id":"7",`, "", 1)))
	if a.header.Get("Dhow-Model-Version") != "2" || a.header.Get("Dhow-Variant") != "candidate" || strings.Contains(string(a.body), `"id"`) {
		t.Errorf("%s %v", a.body, a.header)
	}
	s.want(s.do("POST", "/v2/models/none/infer", []byte(small)), 404, "no model")
	s.want(s.do("POST", "/v2/models/m/infer", []byte(`{"inputs":`)), 400, "the JSON is broken at byte 10")
	s.want(s.do("POST", "/v2/models/m/infer", []byte(`{"inputs":[{"name":"t","shape":[2],"datatype":"BYTES","data":["Größe \"1\"\n",""]},{"name":"b","shape":[2],"datatype":"BOOL","data":[true,false]}]}`)),
		200, `"data":["Größe \"1\"\n",""]},{"name":"b_out","datatype":"BOOL","shape":[2],"data":[true,false]}`)
	s.want(s.do("POST", "/v2/models/m/infer", []byte(`{"inputs":[{"name":"t","shape":[1],"datatype":"BYTES","data":["aGkA"],"parameters":{"content_type":"base64"}}]}`)),
		200, `"data":["hi\u0000"]`)
}

func TestInferBinary(t *testing.T) {
	s := start(t, Options{})
	x := tensor.FromFloat32("x", []int64{1, 2}, []float32{float32(math.NaN()), 3})
	y := tensor.FromStrings("y", "\xff\x00")
	header := fmt.Sprintf(`{"id":"b","inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","parameters":{"binary_data_size":8}},{"name":"y","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":%d}},{"name":"z","shape":[1],"datatype":"INT32","data":[5]}]`, len(y.Data))
	post := func(outputs string) answer {
		head := header + outputs + "}"
		return s.do("POST", "/v2/models/m/infer", append(append([]byte(head), x.Data...), y.Data...), headerLength, strconv.Itoa(len(head)))
	}
	a := post(`,"parameters":{"binary_data_output":true},"outputs":[{"name":"z_out","parameters":{"binary_data":false}},{"name":"x_out"},{"name":"y_out"}]`)
	n, err := strconv.Atoi(a.header.Get(headerLength))
	if err != nil || n > len(a.body) || a.header.Get("Content-Type") != "application/octet-stream" || a.header.Get("Content-Length") != strconv.Itoa(len(a.body)) {
		t.Fatalf("%v %s", a.header, a.body)
	}
	want := `{"model_name":"m","model_version":"1","id":"b","outputs":[{"name":"z_out","datatype":"INT32","shape":[1],"data":[5]},{"name":"x_out","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":8}},{"name":"y_out","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":6}}]}`
	if string(a.body[:n]) != want || !bytes.Equal(a.body[n:], append(append([]byte(nil), x.Data...), y.Data...)) {
		t.Errorf("%q", a.body)
	}
	// JSON cannot hold what these outputs hold, and the answer says what to do.
	s.want(post(`,"outputs":[{"name":"x_out"}]`), 400, `output \"x_out\" holds a value that JSON cannot (NaN); ask for it as binary data`)
	s.want(post(`,"outputs":[{"name":"y_out"}]`), 400, `not UTF-8 text; ask for it as binary data`)
	for text, want := range map[string]string{"x": "is no length", "-1": "is no length", "1000000": "is no length within the body's"} {
		s.want(s.do("POST", "/v2/models/m/infer", []byte(small), headerLength, text), 400, want)
	}
	s.want(s.do("POST", "/v2/models/m/infer", []byte(small), headerLength, "10"), 400, "it ends where")
}

func TestFailuresHaveTheirStatus(t *testing.T) {
	s := start(t, Options{})
	for _, c := range []struct {
		err    error
		status int
		text   string
	}{
		{inference.Inputf("input \"x\" is odd"), 400, `input \"x\" is odd`},
		{errors.New("the model failed: x"), 500, "the model failed: x"},
		{context.DeadlineExceeded, 504, "within its time"},
		{serving.ErrOverloaded, 429, "try again later"},
	} {
		s.echo.run = func(context.Context, []tensor.Tensor) error { return c.err }
		a := s.do("POST", "/v2/models/m/infer", []byte(small))
		s.want(a, c.status, c.text)
		if (a.header.Get("Retry-After") != "") != (c.status == 429) || a.header.Get("Dhow-Model-Version") != "1" {
			t.Errorf("%v", a.header)
		}
	}
	s.echo.run = func(context.Context, []tensor.Tensor) error { panic("a bug") }
	s.want(s.do("POST", "/v2/models/m/infer", []byte(small)), 500, "the agent's log says where")
	s.echo.run = nil
	s.want(s.do("POST", "/v2/models/m/infer", []byte(small)), 200, "")
}

func TestBodiesAreBounded(t *testing.T) {
	s := start(t, Options{MaxBody: 1000, MaxMemory: 4000})
	long := append([]byte(small), bytes.Repeat([]byte{' '}, 1000)...)
	s.want(s.do("POST", "/v2/models/m/infer", long), 413, "larger than 1000 bytes")
	s.want(s.do("POST", "/v2/models/m/infer", long[:1000]), 200, "")
	chunked := func(body io.Reader, header ...string) answer {
		req, err := http.NewRequestWithContext(t.Context(), "POST", s.url+"/v2/models/m/infer", io.MultiReader(body)) // hides the length
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i+1 < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		data, _ := io.ReadAll(resp.Body)
		return answer{resp.StatusCode, resp.Header, data}
	}
	s.want(chunked(bytes.NewReader(long)), 413, "larger than 1000 bytes")
	s.want(chunked(bytes.NewReader(long[:1000])), 200, "")
	// A small body that becomes a large one.
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = z.Write(make([]byte, 1<<20))
	_ = z.Close()
	s.want(chunked(&bomb, "Content-Encoding", "gzip"), 413, "larger than 1000 bytes")
	// A short text whose tensors are large.
	wide := fmt.Sprintf(`{"inputs":[{"name":"x","shape":[401],"datatype":"FP64","data":[%s0]}]}`, strings.Repeat("0,", 400))
	s.want(s.do("POST", "/v2/models/m/infer", []byte(wide)), 503, "too much memory")
	s.want(s.do("POST", "/v2/models/m/infer", []byte(small)), 200, "")
}

// TestMemoryIsBoundedOverAllRequests holds requests in the model while another one comes.
func TestMemoryIsBoundedOverAllRequests(t *testing.T) {
	s := start(t, Options{MaxMemory: 3000})
	body := append([]byte(small), bytes.Repeat([]byte{' '}, 1000)...)
	release, entered := make(chan struct{}), make(chan struct{}, 2)
	s.echo.run = func(context.Context, []tensor.Tensor) error {
		entered <- struct{}{}
		<-release
		return nil
	}
	var held sync.WaitGroup
	for range 2 {
		held.Go(func() { s.want(s.do("POST", "/v2/models/m/infer", body), 200, "") })
		<-entered
	}
	a := s.do("POST", "/v2/models/m/infer", body)
	s.want(a, 503, "too much memory is in use")
	if a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	close(release)
	held.Wait()
	s.echo.run = nil
	s.want(s.do("POST", "/v2/models/m/infer", body), 200, "")
}

func TestCompressedBodies(t *testing.T) {
	s := start(t, Options{})
	var g, d bytes.Buffer
	zg, zd := gzip.NewWriter(&g), zlib.NewWriter(&d)
	for _, z := range []io.WriteCloser{zg, zd} {
		_, _ = io.WriteString(z, small)
		_ = z.Close()
	}
	s.want(s.do("POST", "/v2/models/m/infer", g.Bytes(), "Content-Encoding", "gzip"), 200, `"data":[1,-0.5]`)
	s.want(s.do("POST", "/v2/models/m/infer", d.Bytes(), "Content-Encoding", "deflate"), 200, `"data":[1,-0.5]`)
	s.want(s.do("POST", "/v2/models/m/infer", []byte(small), "Content-Encoding", "gzip"), 400, "not gzip")
	s.want(s.do("POST", "/v2/models/m/infer", g.Bytes()[:g.Len()-4], "Content-Encoding", "gzip"), 400, "cannot read the body")
	s.want(s.do("POST", "/v2/models/m/infer", []byte(small), "Content-Encoding", "br"), 415, `\"br\" is not known`)
}

// TestCompressedAnswers: the client gets what it takes, and the binary header counts the JSON as it was.
func TestCompressedAnswers(t *testing.T) {
	s := start(t, Options{})
	ask := func(n int, accept string, binary bool) answer {
		body := fmt.Sprintf(`{"inputs":[{"name":"x","shape":[%d],"datatype":"INT32","data":[%s7]}],"parameters":{"binary_data_output":%v}}`, n, strings.Repeat("7,", n-1), binary)
		return s.do("POST", "/v2/models/m/infer", []byte(body), "Accept-Encoding", accept)
	}
	plain := func(a answer) []byte {
		t.Helper()
		var z io.Reader = bytes.NewReader(a.body)
		var err error
		switch a.header.Get("Content-Encoding") {
		case "gzip":
			z, err = gzip.NewReader(z)
		case "deflate":
			z, err = zlib.NewReader(z)
		}
		if err != nil {
			t.Fatal(err)
		}
		out, err := io.ReadAll(z)
		if err != nil || a.header.Get("Content-Length") != strconv.Itoa(len(a.body)) {
			t.Fatal(err, a.header)
		}
		return out
	}
	for accept, want := range map[string]string{
		"gzip": "gzip", "deflate": "deflate", "gzip, deflate, br": "gzip", "gzip;q=0.2, deflate;q=0.9": "deflate", "GZIP": "gzip",
		"identity": "", "br": "", "gzip;q=0": "", "gzip;q=x": "", "gzip;q=NaN": "",
	} {
		for _, binary := range []bool{false, true} {
			a := ask(1000, accept, binary)
			if got := a.header.Get("Content-Encoding"); a.status != 200 || got != want || a.header.Get("Vary") != "Accept-Encoding" {
				t.Errorf("%q is answered with %q: %d %v", accept, got, a.status, a.header)
			}
			out := plain(a)
			if !binary {
				s.want(answer{200, a.header, out}, a.status, strings.Repeat("7,", 999)+"7]}]}")
				continue
			}
			n, err := strconv.Atoi(a.header.Get(headerLength))
			if err != nil || n > len(out) || !json.Valid(out[:n]) || len(out)-n != 4000 {
				t.Errorf("%v: %d bytes", a.header, len(out))
			}
		}
	}
	if a := ask(10, "gzip", false); a.header.Get("Content-Encoding") != "" {
		t.Errorf("a small answer is compressed: %v", a.header)
	}
	// What does not shrink is sent as it is, whether that shows at once or in the end.
	for _, n := range []int{3000, 300_000} {
		noise := make([]byte, n)
		_, _ = rand.NewChaCha8([32]byte{}).Read(noise)
		head := fmt.Sprintf(`{"inputs":[{"name":"x","shape":[%d],"datatype":"UINT8","parameters":{"binary_data_size":%d}}],"parameters":{"binary_data_output":true}}`, n, n)
		a := s.do("POST", "/v2/models/m/infer", append([]byte(head), noise...), headerLength, strconv.Itoa(len(head)), "Accept-Encoding", "gzip")
		if a.header.Get("Content-Encoding") != "" && len(a.body) > n || !bytes.HasSuffix(plain(a), noise) {
			t.Errorf("%d bytes of noise became %d, %v", n, len(a.body), a.header)
		}
	}
	s.want(s.do("POST", "/v1/models/m:predict", []byte(`{"instances":[`+strings.Repeat("[1,2],", 500)+`[1,2]]}`), "Accept-Encoding", "deflate"), 200, "\x78")
}

func TestPagesFromElsewhereAreRefused(t *testing.T) {
	s := start(t, Options{Serves: func(host string) bool { return host == "till-3.local" }})
	port := s.url[strings.LastIndex(s.url, ":"):]
	for _, c := range []struct {
		method string
		header []string
		status int
	}{
		{"GET", []string{"Host", "localhost" + port}, 200},
		{"GET", []string{"Host", "LOCALHOST"}, 200},
		{"GET", []string{"Host", "[::1]" + port}, 200},
		{"GET", []string{"Host", "127.8.8.8"}, 200},
		{"GET", []string{"Host", "till-3.local" + port}, 200},
		{"GET", []string{"Host", "evil.example" + port}, 403},
		{"GET", []string{"Host", "localhost.evil.example"}, 403},
		{"GET", []string{"Host", "10.0.0.1"}, 403},
		{"POST", []string{"Origin", "https://evil.example"}, 403},
		{"POST", []string{"Origin", "null"}, 403},
		{"POST", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"POST", []string{"Sec-Fetch-Site", "same-origin"}, 200},
		{"POST", []string{"Origin", s.url}, 200},
	} {
		path, body := "/v2", ""
		if c.method == "POST" {
			path, body = "/v2/models/m/infer", small
		}
		if a := s.do(c.method, path, []byte(body), c.header...); a.status != c.status {
			t.Errorf("%s %v: %d %s, want %d", c.method, c.header, a.status, a.body, c.status)
		}
	}
}

// TestReusedMemoryDoesNotMix sends different requests at once; the memory of one must not show in another.
func TestReusedMemoryDoesNotMix(t *testing.T) {
	s := start(t, Options{})
	s.table.Set("m", []serving.Variant{{Version: "1", Role: 1, Runner: &echo{}}})
	var load sync.WaitGroup
	for g := range 4 {
		load.Go(func() {
			for i := range 50 {
				n := 1 + (g*50+i)%37
				data := strings.Repeat(fmt.Sprintf("%d,", g*1000+i), n)
				body := fmt.Sprintf(`{"id":"%d-%d","inputs":[{"name":"x","shape":[%d],"datatype":"INT32","data":[%s]}]}`, g, i, n, data[:len(data)-1])
				a := s.do("POST", "/v2/models/m/infer", []byte(body))
				s.want(a, 200, fmt.Sprintf(`"id":"%d-%d","outputs":[{"name":"x_out","datatype":"INT32","shape":[%d],"data":[%s]}]`, g, i, n, data[:len(data)-1]))
			}
		})
	}
	load.Wait()
}

package openinference

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/agent/access"
	"github.com/dhowfleet/dhow/agent/accesslog"
	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/modelrepository"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/agent/statistics"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/models/triton"
	"github.com/dhowfleet/dhow/wasm/host"
)

// controller is a repository of one model that remembers what it was asked.
type controller struct {
	asked []string
	err   error
}

func (c *controller) Index(_ context.Context, ready bool) ([]modelrepository.Entry, error) {
	c.asked = append(c.asked, fmt.Sprint("index ", ready))
	return []modelrepository.Entry{{Name: "m", Version: "1", State: modelrepository.Ready}, {Name: "new", State: modelrepository.Unavailable, Reason: "unloaded"}, {Name: "never"}}, c.err
}

func (c *controller) Load(_ context.Context, name string, parameters map[string]string) error {
	c.asked = append(c.asked, fmt.Sprint("load ", name, " ", parameters))
	return c.err
}

func (c *controller) Unload(_ context.Context, name string, dependents bool) error {
	c.asked = append(c.asked, fmt.Sprint("unload ", name, " ", dependents))
	return c.err
}

// settings can log all but verbosely.
type settings struct{ LogSettings }

func (s *settings) Settings() LogSettings { return s.LogSettings }

func (s *settings) Set(v LogSettings) error {
	if v.VerboseLevel > 0 {
		return errors.New("there is no verbose log")
	}
	s.LogSettings = v
	return nil
}

func TestRepository(t *testing.T) {
	c := &controller{}
	s := start(t, Options{Repository: c})
	s.want(s.do("POST", "/v2/repository/index", nil), 200, `[{"name":"m","version":"1","state":"READY"},{"name":"new","state":"UNAVAILABLE","reason":"unloaded"},{"name":"never"}]`)
	s.want(s.do("POST", "/v2/repository/index", []byte(`{"ready":true,"x":1}`)), 200, "READY")
	s.want(s.do("POST", "/v2/repository/models/a%2Fb%3A%22/load", []byte(`{"parameters":{"config":"{}","n":1,"b":true}}`)), 200, "{}")
	s.want(s.do("POST", "/v2/repository/models/m/load", nil), 200, "{}")
	s.want(s.do("POST", "/v2/repository/models/m/unload", []byte(`{"parameters":{"unload_dependents":true}}`)), 200, "{}")
	s.want(s.do("POST", "/v2/repository/models/m/unload", []byte(`{"parameters":null}`)), 200, "{}")
	want := []string{"index false", "index true", `load a/b:" map[b:true config:{} n:1]`, "load m map[]", "unload m true", "unload m false"}
	if !slices.Equal(c.asked, want) {
		t.Errorf("%q, want %q", c.asked, want)
	}
	s.want(s.do("POST", "/v2/repository/index", []byte(`{"ready":1}`)), 400, "true or false should be")
	s.want(s.do("POST", "/v2/repository/index", []byte(`[]`)), 400, "an object should be")
	s.want(s.do("POST", "/v2/repository/models/m/load", []byte(`{"parameters":{"x":{}}}`)), 400, "a number should be")
	s.want(s.do("POST", "/v2/repository/models/m/load", []byte(`{"parameters":{`+strings.Repeat(`"x":1,`, 1)+`}}`)), 400, "a name in quotes")
	s.want(s.do("GET", "/v2/repository/index", nil), 405, "wants POST")
	s.want(s.do("POST", "/v2/repository/models/m/reload", nil), 404, "nothing at")
	c.err = &modelrepository.NotFoundError{Name: "q"}
	s.want(s.do("POST", "/v2/repository/models/q/load", nil), 404, `has no model \"q\"`)
	c.err = fmt.Errorf("%w: they are its fleet manager's", modelrepository.ErrNotControlled)
	s.want(s.do("POST", "/v2/repository/models/m/unload", nil), 400, "its fleet manager's")
	none := start(t, Options{})
	none.want(none.do("POST", "/v2/repository/index", nil), 501, "no model repository")
	none.want(none.do("POST", "/v2/repository/models/m/load", nil), 501, "no model repository")
}

func TestWhatIsNotDoneIsSaid(t *testing.T) {
	s := start(t, Options{})
	for _, path := range []string{"/v2/trace/setting", "/v2/models/m/trace/setting", "/v2/logging", "/v2/systemsharedmemory/status", "/v2/cudasharedmemory/region/r/register", "/v2/models/stats", "/v2/models/m/stats"} {
		method := "GET"
		if strings.Contains(path, "register") {
			method = "POST"
		}
		s.want(s.do(method, path, nil), 501, `{"error":"`)
	}
	for _, path := range []string{"/", "/v2/models", "/v2/models/", "/v2/models//infer", "/v2/models/m/versions", "/v2/models/m/versions/", "/v2/models/m/versions//infer", "/v2/models/m/", "/v2/models/m/infer/x", "/v1/models/", "/v1/models/m/x", "/v1/models/:predict", "/v2/repository/models//load", "/v2/health"} {
		s.want(s.do("GET", path, nil), 404, "there is nothing at")
	}
	s.want(s.do("PUT", "/v2/models/m", nil), 405, "wants GET, not PUT")
	s.want(s.do("GET", "/v2/"+strings.Repeat("x", 5000), nil), 404, "xx...")
}

func TestLogging(t *testing.T) {
	s := start(t, Options{Logging: &settings{LogSettings{Info: true, Warning: true, Error: true, Format: "default"}}})
	s.want(s.do("GET", "/v2/logging", nil), 200, `{"log_file":"","log_info":true,"log_warning":true,"log_error":true,"log_verbose_level":0,"log_format":"default"}`)
	s.want(s.do("POST", "/v2/logging", []byte(`{"log_info":false}`)), 200, `"log_info":false,"log_warning":true`)
	s.want(s.do("POST", "/v2/logging", []byte(`{"log_verbose_level":1}`)), 400, "no verbose log")
	a := s.do("POST", "/v2/logging", []byte(`{"log_info":"yes"}`))
	s.want(a, 400, "values of their types")
	if strings.Contains(string(a.body), "Go") {
		t.Errorf("%s", a.body)
	}
	s.want(s.do("GET", "/v2", nil), 200, `"logging"`)
}

// scores has a batch and answers with what it is told.
type scores struct {
	echo
	out []tensor.Tensor
}

func (s *scores) Infer(context.Context, []tensor.Tensor, []string, host.Sink) ([]tensor.Tensor, error) {
	return s.out, nil
}

func TestClassificationAndConfig(t *testing.T) {
	s := start(t, Options{})
	runner := &scores{out: []tensor.Tensor{tensor.FromFloat32("y", []int64{2, 3}, []float32{0.1, 0.7, 0.2, 5, 4, 6}), tensor.FromStrings("s", "a")}}
	s.table.Set("c", []serving.Variant{{
		Version: "3", Role: 1, Runner: runner,
		Config: &triton.Config{Name: "c", Platform: triton.PlatformONNX, Backend: triton.BackendONNX, MaxBatchSize: 8}, Labels: map[string][]string{"y": {"cat", "dog"}},
	}})
	ask := func(outputs string) answer {
		return s.do("POST", "/v2/models/c/infer", []byte(`{"inputs":[],"outputs":[`+outputs+`]}`))
	}
	s.want(ask(`{"name":"y","parameters":{"classification":2}}`), 200, `"outputs":[{"name":"y","datatype":"BYTES","shape":[2,2],"data":["0.700000:1:dog","0.200000:2","6.000000:2","5.000000:0:cat"]}]`)
	s.want(ask(`{"name":"s"},{"name":"y","parameters":{"classification":9000000000000}}`), 200, `{"name":"s","datatype":"BYTES","shape":[1],"data":["a"]},{"name":"y","datatype":"BYTES","shape":[2,3]`)
	s.want(ask(`{"name":"s","parameters":{"classification":1}}`), 400, "no scores to classify by")
	s.want(ask(`{"name":"q"}`), 400, `no output \"q\"`)
	a := ask(`{"name":"y","parameters":{"classification":1,"binary_data":true}}`)
	s.want(a, 200, "\x0e\x00\x00\x000.700000:1:dog\x0a\x00\x00\x006.000000:2")
	s.want(s.do("GET", "/v2/models/c/config", nil), 200, `"max_batch_size":8`)
	s.want(s.do("GET", "/v2/models/c/versions/3/config", nil), 200, `"name":"c"`)
	s.want(s.do("GET", "/v2/models/c/versions/4/config", nil), 404, "no version")
	s.want(s.do("GET", "/v2/models/m/config", nil), 200, `"TYPE_FP32"`)
	// An output that does not hold is the model's fault, and no more than that.
	runner.out = []tensor.Tensor{{Name: "y", Datatype: tensor.FP32, Shape: []int64{2}, Data: make([]byte, 4)}}
	s.want(ask(`{"name":"y"}`), 500, "the model returned an output that does not hold")
}

func TestStatistics(t *testing.T) {
	at := time.UnixMilli(1234567)
	s := start(t, Options{Statistics: func() []statistics.Snapshot {
		return []statistics.Snapshot{
			{Name: "m", Version: "1", LastInference: at, InferenceCount: 7, ExecutionCount: 3, Success: statistics.Duration{Count: 4, Nanos: 500},
				Batches: []statistics.Batch{{Size: 2, ComputeInfer: statistics.Duration{Count: 1, Nanos: 9}}}},
			{Name: "m", Version: "2"}, {Name: "a model/with:odd name", Version: "1"},
		}
	}})
	var got struct {
		Models []struct {
			Name, Version string
			Last          int64 `json:"last_inference"`
			Count         int   `json:"inference_count"`
			Inference     struct {
				Success struct{ Count, NS int }
			} `json:"inference_stats"`
			Batches []struct {
				Size  int                     `json:"batch_size"`
				Infer struct{ Count, NS int } `json:"compute_infer"`
			} `json:"batch_stats"`
		} `json:"model_stats"`
	}
	read := func(path string, models int) {
		t.Helper()
		a := s.do("GET", path, nil)
		if err := json.Unmarshal(a.body, &got); err != nil || a.status != 200 || len(got.Models) != models {
			t.Fatalf("%s: %d %s %v", path, a.status, a.body, err)
		}
	}
	read("/v2/models/a%20model%2Fwith%3Aodd%20name/stats", 1)
	read("/v2/models/m/versions/2/stats", 1)
	read("/v2/models/m/stats", 2)
	read("/v2/models/stats", 3)
	if m := got.Models[0]; m.Last != 1234567 || m.Count != 7 || m.Inference.Success.NS != 500 || m.Batches[0].Size != 2 || m.Batches[0].Infer.NS != 9 || got.Models[1].Last != 0 {
		t.Errorf("%+v", got)
	}
	s.want(s.do("GET", "/v2/models/q/stats", nil), 404, "no model")
	s.want(s.do("GET", "/v2", nil), 200, `"statistics"`)
}

func TestPredict(t *testing.T) {
	s := start(t, Options{})
	s.table.Set("a:predict", []serving.Variant{{Version: "1", Role: 1, Runner: &echo{}}})
	s.want(s.do("POST", "/v1/models/m:predict", []byte(`{"instances":[[1,2],[3,4]]}`)), 200, `{"predictions":[[1,2],[3,4]]}`)
	s.want(s.do("POST", "/v1/models/m/versions/1:predict", []byte(`{"instances":[[1,2]]}`)), 200, `{"predictions":[[1,2]]}`)
	s.want(s.do("POST", "/v1/models/a%20model%2Fwith%3Aodd%20name:predict", []byte(`{"instances":[{"x":[1,2]}]}`)), 200, `{"predictions":[[1,2]]}`)
	s.want(s.do("POST", "/v1/models/a:predict:predict", []byte(`{"inputs":[[1,2]]}`)), 200, `{"outputs":[[1,2]]}`)
	s.want(s.do("GET", "/v1/models", nil), 200, `{"models":["a model/with:odd name","a:predict","m"]}`)
	s.want(s.do("GET", "/v1/models/m", nil), 200, `{"name":"m","ready":true}`)
	s.want(s.do("GET", "/v1/models/a:predict", nil), 200, `{"name":"a:predict","ready":true}`)
	s.want(s.do("GET", "/v1/models/q", nil), 404, "no model")
	s.want(s.do("POST", "/v1/models/q:predict", nil), 404, "no model")
	s.want(s.do("POST", "/v1/models/m:explain", []byte(`{}`)), 405, "wants GET")
	s.want(s.do("POST", "/v1/models/m:predict", []byte(`{"instances":[[1]]}`)), 400, "dimension 1 of data")
	s.want(s.do("POST", "/v1/models/m:predict", []byte(`{"instances":[]}`), headerLength, "3"), 400, "binary data is for /v2")
}

// TestEveryEndpointIsGuarded asks all of them for nobody: each must have a group of its own and be refused.
func TestEveryEndpointIsGuarded(t *testing.T) {
	for what := range endpoints {
		e := &endpoints[what]
		if resource(what) == pathNothing {
			continue
		}
		if !slices.Contains(access.Groups(), e.group) || e.methods == "" || (e.get == nil) == (e.serve == nil) {
			t.Errorf("endpoint %d: %+v", what, e)
		}
	}
	var kind access.Kind
	ended := 0
	var entries []accesslog.Entry
	s := start(t, Options{
		Authorize: func(header func(string) string, group access.Group, model string) (access.Caller, func(), error) {
			done := func() { ended++ }
			if header("Authorization") == "Bearer right" {
				return access.Caller{Name: "till", Priority: 3}, done, nil
			}
			return access.Caller{}, done, &access.Error{Kind: kind, RetryAfter: 1500 * time.Millisecond, Message: "no " + string(group) + " of " + model}
		},
		AccessLog: func(e *accesslog.Entry) { entries = append(entries, *e) },
	})
	asked := 0
	for path, want := range map[string]string{
		"/v2": "no metadata of ", "/v2/health/live": "no health of ", "/v2/health/ready": "no health of ", "/v2/models/m": "no metadata of m", "/v2/models/m/ready": "no health of m",
		"/v2/models/m/config": "no model-config of m", "/v2/models/m/stats": "no statistics of m", "/v2/models/stats": "no statistics of ", "/v2/logging": "no logging of ", "/v2/trace/setting": "no trace of ",
		"POST /v2/models/m/infer": "no inference of m", "POST /v2/repository/index": "no model-repository of ", "POST /v2/repository/models/m/load": "no model-repository of m",
		"POST /v2/repository/models/m/unload": "no model-repository of m", "/v1/models": "no metadata of ", "/v1/models/m": "no health of m", "POST /v1/models/m:predict": "no inference of m",
	} {
		method, path, ok := strings.Cut(path, " ")
		if !ok {
			method, path = "GET", method
		}
		for kind = access.Unauthenticated; kind <= access.QuotaExceeded; kind++ {
			a := s.do(method, path, nil)
			asked++
			s.want(a, []int{0, 401, 403, 429}[kind], want+`"}`)
			if (a.header.Get("Retry-After") == "2") != (kind == access.QuotaExceeded) || (a.header.Get("WWW-Authenticate") != "") != (kind == access.Unauthenticated) {
				t.Errorf("%v", a.header)
			}
		}
	}
	s.want(s.do("POST", "/v2/models/m/infer", []byte(small), "Authorization", "Bearer right", "Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), 200, "")
	if asked++; ended != asked || len(entries) != asked {
		t.Errorf("%d of %d requests have ended, %d are written", ended, asked, len(entries))
	}
	e := entries[len(entries)-1]
	if e.Caller != "till" || e.Model != "m" || e.Version != "1" || e.ID != "7" || e.Status != 200 || e.Code != "ok" || e.Group != "inference" || e.BytesIn != int64(len(small)) || e.BytesOut == 0 || e.Duration <= 0 || e.TraceID != "0af7651916cd43dd8448eb211c80319c" {
		t.Errorf("%+v", e)
	}
}

// TestParameters: priority and timeout reach the model; what is not known does not matter.
func TestParameters(t *testing.T) {
	s := start(t, Options{})
	var priority uint64
	var left time.Duration
	s.echo.run = func(ctx context.Context, _ []tensor.Tensor) error {
		deadline, _ := ctx.Deadline()
		priority, left = serving.PriorityOf(ctx), time.Until(deadline)
		return nil
	}
	with := func(parameters string) string {
		return strings.Replace(small, "{", `{"parameters":{`+parameters+`},`, 1)
	}
	s.want(s.do("POST", "/v2/models/m/infer", []byte(with(`"priority":2,"timeout":1000000,"sequence_id":0,"sequence_start":false,"mine":{"a":[]}`))), 200, "")
	if priority != 2 || left > time.Second {
		t.Error(priority, left)
	}
	s.want(s.do("POST", "/v2/models/m/infer", []byte(with(`"timeout":18446744073709551615`))), 200, "")
	s.echo.run = func(ctx context.Context, _ []tensor.Tensor) error {
		<-ctx.Done()
		return ctx.Err()
	}
	s.want(s.do("POST", "/v2/models/m/infer", []byte(with(`"timeout":1`))), 504, "within its time")
	s.echo.run = func(context.Context, []tensor.Tensor) error { return inference.Inputf("no") }
	s.want(s.do("POST", "/v2/models/m/infer", []byte(with(``))), 400, "no")
}

// FuzzResolve: a name that is escaped into a path comes out of it again, whatever it is.
func FuzzResolve(f *testing.F) {
	for _, name := range []string{"m", "a/b", "a:b", `"`, "..", ".", "//", "%2F", "Größe", "a:predict", "versions", "stats ", "\x00\xff", "?x#y"} {
		f.Add(name, "1")
	}
	f.Fuzz(func(t *testing.T, name, version string) {
		if name == "" || version == "" {
			return
		}
		escaped, tail := url.PathEscape(name), "/versions/"+url.PathEscape(version)
		for path, want := range map[string]target{
			"/v2/models/" + escaped + "/infer":             {pathInfer, name, ""},
			"/v2/models/" + escaped + tail + "/infer":      {pathInfer, name, version},
			"/v2/models/" + escaped + tail:                 {pathModel, name, version},
			"/v2/repository/models/" + escaped + "/unload": {pathUnload, name, ""},
			"/v1/models/" + escaped + ":predict":           {pathPredictV1, name, ""},
			"/v1/models/" + escaped + tail + ":predict":    {pathPredictV1, name, version},
		} {
			r, err := http.ReadRequest(reader("POST " + path + " HTTP/1.1\r\nHost: x\r\n\r\n"))
			if err != nil {
				t.Fatalf("%q: %v", path, err)
			}
			if got := resolve(r.URL); got != want {
				t.Fatalf("%q is %+v, want %+v", path, got, want)
			}
		}
		u := &url.URL{Path: name, RawPath: version} // whatever it is
		_ = resolve(u)
	})
}

// raced says that the race detector is on.
var raced bool

// TestAllocations puts a ceiling on what a request costs beside what net/http needs.
func TestAllocations(t *testing.T) {
	if raced {
		t.Skip("under the race detector a sync.Pool drops what it is given, to find more")
	}
	table := serving.NewTable(serving.Options{})
	table.Set("m", []serving.Variant{{Version: "1", Role: 1, Runner: &scores{out: []tensor.Tensor{tensor.FromFloat32("y", []int64{1, 4}, make([]float32, 4))}}}})
	handler := New(table, Options{})
	for name, c := range map[string]struct {
		body    string
		ceiling float64
	}{
		"JSON":   {small, 12},
		"binary": {`{"id":"7","inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","parameters":{"binary_data_size":8}}],"parameters":{"binary_data_output":true}}`, 12},
	} {
		length := len(c.body)
		if name == "binary" {
			c.body += "\x00\x00\x00\x00\x00\x00\x00\x00"
		}
		r := httptest.NewRequest(http.MethodPost, "http://localhost/v2/models/m/infer", nil)
		r.Header.Set(headerLength, fmt.Sprint(length))
		r.ContentLength = int64(len(c.body))
		body := &again{text: c.body}
		r.Body = body
		w := &sink{header: http.Header{}}
		n := testing.AllocsPerRun(100, func() {
			body.at = 0
			clear(w.header)
			handler.ServeHTTP(w, r)
		})
		if w.header.Get("Dhow-Model-Version") != "1" || n > c.ceiling {
			t.Errorf("%s: %v allocations, at most %v are allowed; %v", name, n, c.ceiling, w.header)
		}
	}
}

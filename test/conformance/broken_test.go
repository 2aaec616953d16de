package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/dhowfleet/dhow/agent/inference/onnxtest"
	"github.com/dhowfleet/dhow/test/conformance/suite"
	"github.com/dhowfleet/dhow/test/conformance/wire"
)

// fault is something that a server could do wrong, and the checks that must see it.
type fault struct {
	name   string
	tamper func(r *http.Request, sent []byte, got *wire.Reply)
	seen   []string
}

// rewrite changes the JSON of successful answers to paths that end so.
func rewrite(end string, change func(doc map[string]any)) func(*http.Request, []byte, *wire.Reply) {
	return func(r *http.Request, _ []byte, got *wire.Reply) {
		if !strings.HasSuffix(r.URL.Path, end) || got.Status != http.StatusOK || got.Header.Get("Content-Encoding") != "" {
			return
		}
		head, tail := got.Body, []byte(nil)
		if n, err := strconv.Atoi(got.Header.Get(wire.LengthName)); err == nil {
			head, tail = got.Body[:n], got.Body[n:]
		}
		var doc map[string]any
		d := json.NewDecoder(bytes.NewReader(head))
		d.UseNumber()
		if d.Decode(&doc) != nil {
			return
		}
		change(doc)
		b, err := json.Marshal(doc)
		if err != nil {
			panic(err) // made of what was decoded
		}
		if tail != nil {
			got.Header.Set(wire.LengthName, strconv.Itoa(len(b)))
		}
		got.Body = append(b, tail...)
	}
}

func firstOutput(change func(out map[string]any)) func(map[string]any) {
	return func(doc map[string]any) {
		if outs, ok := doc["outputs"].([]any); ok && len(outs) > 0 {
			change(outs[0].(map[string]any))
		}
	}
}

var faults = []fault{
	{"not live", func(r *http.Request, _ []byte, got *wire.Reply) {
		if r.URL.Path == "/v2/health/live" {
			got.Status = http.StatusServiceUnavailable
		}
	}, []string{"health/live", "last/still-live"}},
	{"live is false", rewrite("/health/live", func(doc map[string]any) { doc["live"] = false }), []string{"health/live"}},
	{"metadata without a version", func(r *http.Request, sent []byte, got *wire.Reply) {
		if r.URL.Path == "/v2" {
			rewrite("/v2", func(doc map[string]any) { delete(doc, "version") })(r, sent, got)
		}
	}, []string{"metadata/server"}},
	{"a datatype of another protocol", rewrite("/models/simple", firstOutput(func(out map[string]any) { out["datatype"] = "TYPE_INT32" })), []string{"metadata/model", "infer/metadata-holds"}},
	{"metadata's shape is not that of answers", rewrite("/models/simple", firstOutput(func(out map[string]any) { out["shape"] = []int{1, 15} })), []string{"infer/metadata-holds"}},
	{"a version that is not there", rewrite("/models/simple", func(doc map[string]any) { doc["versions"] = []string{"1", "2"} }), []string{"metadata/versions", "infer/versions"}},
	{"the id is dropped", rewrite("/infer", func(doc map[string]any) { delete(doc, "id") }), []string{"infer/id", "infer/concurrent"}},
	{"the id is always the same", rewrite("/infer", func(doc map[string]any) { doc["id"] = "42" }), []string{"infer/id", "infer/concurrent"}},
	{"another model's name", rewrite("/infer", func(doc map[string]any) { doc["model_name"] = "Simple" }), []string{"infer/json-flat", "binary/both"}},
	{"another version", rewrite("/infer", func(doc map[string]any) { doc["model_version"] = "7" }), []string{"infer/versions"}},
	{"outputs have no names", rewrite("/infer", firstOutput(func(out map[string]any) { out["name"] = "" })), []string{"infer/metadata-holds"}},
	{"an output is missing", rewrite("/infer", func(doc map[string]any) { doc["outputs"] = doc["outputs"].([]any)[:1] }), []string{"infer/model-found", "fixture/simple-json"}},
	{"requested outputs are ignored", func(r *http.Request, sent []byte, got *wire.Reply) {
		if bytes.Contains(sent, []byte(`"outputs":[{"name":"OUTPUT0"}]`)) {
			rewrite("/infer", func(doc map[string]any) { doc["outputs"] = append(doc["outputs"].([]any), doc["outputs"].([]any)...) })(r, sent, got)
		}
	}, []string{"infer/requested-outputs"}},
	{"a wrong value", rewrite("/infer", firstOutput(func(out map[string]any) {
		if data, ok := out["data"].([]any); ok {
			data[len(data)-1] = 5
		}
	})), []string{"infer/json-flat", "fixture/simple-json", "binary/in"}},
	{"integers as fractions", rewrite("/infer", firstOutput(func(out map[string]any) {
		if data, ok := out["data"].([]any); ok {
			data[0] = json.Number("0.0")
		}
	})), []string{"infer/json-flat"}},
	{"an element too few", rewrite("/infer", firstOutput(func(out map[string]any) {
		if data, ok := out["data"].([]any); ok {
			out["data"] = data[1:]
		}
	})), []string{"infer/json-flat"}},
	{"nested data is refused", func(r *http.Request, sent []byte, got *wire.Reply) {
		if bytes.Contains(sent, []byte(`"data":[[`)) {
			got.Status, got.Body = http.StatusBadRequest, []byte(`{"error":"no"}`)
		}
	}, []string{"infer/json-nested", "fixture/simple-nested"}},
	{"binary data is big-endian", func(r *http.Request, _ []byte, got *wire.Reply) {
		if n, err := strconv.Atoi(got.Header.Get(wire.LengthName)); err == nil {
			for i := n; i+4 <= len(got.Body); i += 4 {
				b := got.Body[i:]
				b[0], b[1], b[2], b[3] = b[3], b[2], b[1], b[0]
			}
		}
	}, []string{"fixture/simple-binary"}},
	{"the header length is missing", func(_ *http.Request, _ []byte, got *wire.Reply) { got.Header.Del(wire.LengthName) }, []string{"infer/model-found"}},
	{"binary data is cut", func(_ *http.Request, _ []byte, got *wire.Reply) {
		if got.Header.Get(wire.LengthName) != "" {
			got.Body = got.Body[:len(got.Body)-4]
		}
	}, []string{"infer/model-found"}},
	{"errors have status 200", func(_ *http.Request, _ []byte, got *wire.Reply) {
		if got.Status/100 == 4 {
			got.Status = http.StatusOK
		}
	}, []string{"metadata/unknown-model", "errors/no-json", "errors/unknown-input", "errors/data-short", "binary/length-beyond", "errors/deep"}},
	{"errors have status 500", func(_ *http.Request, _ []byte, got *wire.Reply) {
		if got.Status/100 == 4 {
			got.Status = http.StatusInternalServerError
		}
	}, []string{"metadata/unknown-model", "errors/empty-body", "errors/unknown-output", "compression/broken-gzip"}},
	{"errors are texts", func(_ *http.Request, _ []byte, got *wire.Reply) {
		if got.Status/100 == 4 {
			got.Body = []byte("no")
		}
	}, []string{"errors/no-json", "errors/wrong-datatype", "metadata/unknown-version"}},
	{"errors are empty", func(_ *http.Request, _ []byte, got *wire.Reply) {
		if got.Status/100 == 4 {
			got.Body = []byte(`{"error":" "}`)
		}
	}, []string{"errors/no-json", "errors/id-number"}},
	{"everything is answered", func(r *http.Request, sent []byte, got *wire.Reply) {
		if strings.HasSuffix(r.URL.Path, "/infer") && got.Status/100 == 4 {
			got.Status, got.Body = http.StatusOK, []byte(`{"model_name":"simple","outputs":[]}`)
		}
	}, []string{"errors/wrong-rank", "errors/negative-dimension", "errors/data-null", "errors/unknown-model", "errors/repeated-input"}},
	{"an answer that is gzip in name only", func(r *http.Request, _ []byte, got *wire.Reply) {
		if r.Header.Get("Accept-Encoding") == "gzip" {
			got.Header.Set("Content-Encoding", "gzip")
			got.Body = []byte("nothing of the kind")
		}
	}, []string{"compression/out"}},
	{"shared memory is taken for data", func(_ *http.Request, sent []byte, got *wire.Reply) {
		if bytes.Contains(sent, []byte("shared_memory_region")) {
			got.Status, got.Body = http.StatusOK, []byte(`{"model_name":"simple","outputs":[]}`)
		}
	}, []string{"extensions/not-advertised"}},
	{"metadata of every name", func(r *http.Request, _ []byte, got *wire.Reply) {
		if strings.HasPrefix(r.URL.Path, "/v2/models/") && got.Status == http.StatusNotFound {
			got.Status, got.Body = http.StatusOK, []byte(`{"name":"simple","versions":["1"],"platform":"x","inputs":[],"outputs":[]}`)
		}
	}, []string{"metadata/unknown-model", "metadata/case", "metadata/unknown-version", "errors/unknown-version"}},
	{"classes are not ranked", func(r *http.Request, sent []byte, got *wire.Reply) {
		if bytes.Contains(sent, []byte("classification")) {
			rewrite("/infer", firstOutput(func(out map[string]any) {
				if data, ok := out["data"].([]any); ok {
					slices.Reverse(data)
				}
			}))(r, sent, got)
		}
	}, []string{"extensions/classification"}},
	{"statistics stand still", eachStatistics(func(s map[string]any) { s["inference_count"] = 0 }), []string{"extensions/statistics"}},
	{"statistics lack a duration", eachStatistics(func(s map[string]any) { delete(s["inference_stats"].(map[string]any), "cache_miss") }), []string{"extensions/statistics", "extensions/statistics-fail"}},
	{"a configuration with other dims", rewrite("/config", func(doc map[string]any) {
		doc["input"].([]any)[0].(map[string]any)["dims"] = []int{5}
	}), []string{"extensions/configuration"}},
	{"a configuration with the batch dimension", rewrite("/config", func(doc map[string]any) { doc["max_batch_size"] = 0 }), []string{"extensions/configuration"}},
	{"a prediction too few", rewrite(":predict", func(doc map[string]any) { doc["predictions"] = []any{} }), []string{"v1/predict"}},
	{"the index is a table of states of its own", func(r *http.Request, _ []byte, got *wire.Reply) {
		if r.URL.Path == "/v2/repository/index" {
			got.Body = bytes.ReplaceAll(got.Body, []byte("READY"), []byte("SERVING"))
		}
	}, []string{"repository/index", "repository/index-ready"}},
	{"unloading does nothing", func(r *http.Request, _ []byte, got *wire.Reply) {
		if strings.HasSuffix(r.URL.Path, "/ready") {
			got.Status = http.StatusOK
		}
	}, []string{"repository/unload-load", "metadata/unknown-model-ready"}},
}

func eachStatistics(change func(map[string]any)) func(*http.Request, []byte, *wire.Reply) {
	return rewrite("/stats", func(doc map[string]any) {
		for _, s := range doc["model_stats"].([]any) {
			change(s.(map[string]any))
		}
	})
}

// TestBrokenServersAreSeen: a suite that passes everything would say nothing. Each fault is laid over answers that
// conform, and the checks that are about it must fail.
func TestBrokenServersAreSeen(t *testing.T) {
	s := serve(t, map[string]*onnxtest.Graph{"simple": simple(), "negate": onnxtest.Negate(4)})
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			front := httptest.NewServer(tampering(t, s.URL, f.tamper))
			defer front.Close()
			args := []string{"-url", front.URL, "-fixture", "simple", "-model", "simple", "-model", "negate", "-control", "negate", "-json"}
			var stdout, stderr bytes.Buffer
			exit := start(t.Context(), args, &stdout, &stderr)
			var doc struct{ Outcomes []suite.Outcome }
			if err := json.Unmarshal(stdout.Bytes(), &doc); err != nil {
				t.Fatal(err, stderr.String())
			}
			if exit != 1 {
				t.Errorf("exit status %d", exit)
			}
			failed := map[string]bool{}
			for _, out := range doc.Outcomes {
				if out.Status == suite.Fail {
					failed[out.Group+"/"+out.Check] = true
				}
			}
			for _, name := range f.seen {
				if !failed[name] {
					t.Errorf("%s did not fail; failed were %v", name, failed)
				}
			}
		})
	}
}

// tampering forwards to the server behind and changes what it answers.
func tampering(t *testing.T, behind string, tamper func(*http.Request, []byte, *wire.Reply)) http.Handler {
	client := &http.Client{Transport: &http.Transport{DisableCompression: true}}
	t.Cleanup(client.CloseIdleConnections)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		req, err := http.NewRequestWithContext(r.Context(), r.Method, behind+r.URL.RequestURI(), bytes.NewReader(sent))
		if err != nil {
			t.Error(err)
			return
		}
		req.Header = r.Header.Clone()
		res, err := client.Do(req)
		if err != nil {
			return // the client left
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Error(err)
		}
		got := &wire.Reply{Status: res.StatusCode, Header: res.Header, Body: body}
		tamper(r, sent, got)
		got.Header.Del("Content-Length")
		for name, values := range got.Header {
			w.Header()[name] = values
		}
		w.WriteHeader(got.Status)
		w.Write(got.Body)
	})
}

// TestArguments: what is wrong with the arguments is told, and nothing else happens.
func TestArguments(t *testing.T) {
	for _, c := range []struct {
		args   []string
		exit   int
		says   string
		stdout bool
	}{
		{[]string{}, 2, "-url is missing", false},
		{[]string{"-url", "http://127.0.0.1:1", "more"}, 2, "no flag takes", false},
		{[]string{"-url", "http://127.0.0.1:1", "-fixture", "other"}, 2, "no fixture", false},
		{[]string{"-url", "http://127.0.0.1:1", "-group", "other"}, 2, "no group", false},
		{[]string{"-url", "http://127.0.0.1:1", "-header", "x"}, 2, "Name: value", false},
		{[]string{"-url", "http://127.0.0.1:1", "-shape", "x"}, 2, "INPUT=1,3,224,224", false},
		{[]string{"-url", "http://127.0.0.1:1", "-shape", "x=1,-2"}, 2, "no dimension", false},
		{[]string{"-url", "http://127.0.0.1:1", "-max-models", "0"}, 2, "above zero", false},
		{[]string{"-url", "http://127.0.0.1:1", "-model", "x"}, 1, "cannot reach", false},
		{[]string{"-list"}, 0, "infer", true},
	} {
		var stdout, stderr bytes.Buffer
		exit := start(t.Context(), c.args, &stdout, &stderr)
		said := stderr.String()
		if c.stdout {
			said = stdout.String()
		}
		if exit != c.exit || !strings.Contains(said, c.says) {
			t.Errorf("%v: exit status %d, said %q", c.args, exit, said)
		}
	}
}

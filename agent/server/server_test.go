package server

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/agent/access"
	"github.com/dhowfleet/dhow/agent/config"
	"github.com/dhowfleet/dhow/agent/health"
	"github.com/dhowfleet/dhow/agent/localapi"
	"github.com/dhowfleet/dhow/agent/modelrepository"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/host"
)

// echo answers with what it was asked.
type echo struct{}

func (echo) Infer(_ context.Context, in []tensor.Tensor, _ []string, _ host.Sink) ([]tensor.Tensor, error) {
	out := in[0]
	out.Name = "y"
	return []tensor.Tensor{out}, nil
}
func (echo) Inputs() []tensor.Spec {
	return []tensor.Spec{{Name: "x", Datatype: tensor.FP32, Shape: []int64{-1}}}
}
func (echo) Outputs() []tensor.Spec {
	return []tensor.Spec{{Name: "y", Datatype: tensor.FP32, Shape: []int64{-1}}}
}
func (echo) Close() error { return nil }

type repository struct{}

func (repository) Index(context.Context, bool) ([]modelrepository.Entry, error) {
	return []modelrepository.Entry{{Name: "m", Version: "1", State: modelrepository.Ready}}, nil
}
func (repository) Load(context.Context, string, map[string]string) error { return nil }
func (repository) Unload(context.Context, string, bool) error            { return nil }

// start serves one model until the test ends.
func start(t *testing.T, change func(*config.Serving)) (*Server, *health.Registry) {
	t.Helper()
	c := config.Default().Serving
	c.Listen, c.GRPCListen, c.MetricsListen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	change(&c)
	warnings := health.New(time.Now)
	s, err := New(c, Deps{Logger: slog.New(slog.DiscardHandler), Health: warnings})
	if err != nil {
		t.Fatal(err)
	}
	s.Table.Set("m", []serving.Variant{{Version: "1", Role: 1, Runner: echo{}}})
	served := make(chan error, 1)
	go func() {
		served <- s.Serve(Fronts{Repository: repository{}, Status: func(ctx context.Context) (localapi.Document, error) {
			d := localapi.Document{Version: "test", Models: []localapi.Model{{Model: "m", Version: "1", State: "serving"}}}
			s.Describe(ctx, &d)
			return d, nil
		}})
	}()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		s.Close(ctx)
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return s, warnings
}

func ask(t *testing.T, c *http.Client, method, url, key, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

const question = `{"inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[1,2]}]}`

func TestEveryFrontIsWhereItBelongs(t *testing.T) {
	log := filepath.Join(t.TempDir(), "access.log")
	socket := filepath.Join(t.TempDir(), "s")
	s, _ := start(t, func(c *config.Serving) { c.AccessLog, c.Socket, c.ResponseCache = log, socket, 1<<20 })
	rest, grpc, metrics := "http://"+s.Addr(), "http://"+s.endpoints.Addr("grpc"), "http://"+s.endpoints.Addr("metrics")
	unix := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	for _, c := range []struct {
		client            *http.Client
		method, url, body string
		status            int
		want              string
	}{
		{http.DefaultClient, "POST", rest + "/v2/models/m/infer", question, 200, `"data":[1,2]`},
		{http.DefaultClient, "POST", rest + "/v1/models/m:predict", `{"instances":[1,2]}`, 200, "predictions"},
		{http.DefaultClient, "GET", rest + "/", "", 200, "<html"},
		{http.DefaultClient, "GET", rest + "/dhow/", "", 200, "<html"},
		{http.DefaultClient, "GET", rest + "/dhow/status", "", 200, `"requests":2`},
		{http.DefaultClient, "GET", rest + "/metrics", "", 404, "error"},
		{http.DefaultClient, "GET", rest + "/v2/nothing", "", 404, "error"},
		{http.DefaultClient, "GET", metrics + "/metrics", "", 200, `nv_inference_request_success{model="m",version="1"} 2`},
		{http.DefaultClient, "GET", metrics + "/", "", 404, ""},
		{http.DefaultClient, "POST", grpc + "/inference.GRPCInferenceService/ServerLive", "{}", 415, ""},
		{unix, "GET", "http://any.name/v2/health/live", "", 200, "live"},
		{unix, "GET", "http://any.name/metrics", "", 200, "nv_inference_count"},
		{unix, "GET", "http://any.name/dhow/status", "", 200, `"accessLog"`},
	} {
		status, body := ask(t, c.client, c.method, c.url, "", c.body)
		if status != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s %s: %d %.300s", c.method, c.url, status, body)
		}
	}
	unix.CloseIdleConnections()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if text, err := os.ReadFile(log); err == nil && strings.Contains(string(text), `"model":"m"`) {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("the access log holds %s (%v)", text, err)
		}
	}
}

func TestKeysRuleEveryEndpoint(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys.yaml")
	key := access.NewKey()
	document, err := (&access.Key{Name: "till", Hash: access.HashOf(key), Groups: []access.Group{access.Inference}}).Document()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, document, 0o600); err != nil {
		t.Fatal(err)
	}
	s, _ := start(t, func(c *config.Serving) { c.ServingKeys = file })
	rest, metrics := "http://"+s.Addr(), "http://"+s.endpoints.Addr("metrics")
	for _, c := range []struct {
		method, url, key, body string
		status                 int
	}{
		{"POST", rest + "/v2/models/m/infer", "", question, 401},
		{"POST", rest + "/v2/models/m/infer", access.NewKey(), question, 401},
		{"POST", rest + "/v2/models/m/infer", key, question, 200},
		{"GET", rest + "/v2/models/m", key, "", 403},
		{"GET", rest + "/v2/health/ready", "", "", 200},
		{"GET", rest + "/", "", "", 401},
		{"GET", rest + "/dhow/status", key, "", 403},
		{"GET", metrics + "/metrics", "", "", 401},
		{"GET", metrics + "/metrics", key, "", 403},
	} {
		if status, body := ask(t, http.DefaultClient, c.method, c.url, c.key, c.body); status != c.status {
			t.Errorf("%s %s: %d %s", c.method, c.url, status, body)
		}
	}
}

func TestATakenHabitIsAWarning(t *testing.T) {
	l, err := net.Listen("tcp", config.HabitGRPC)
	if err != nil {
		t.Skipf("another program has %s already: %v", config.HabitGRPC, err)
	}
	defer l.Close()
	_, raised := start(t, func(c *config.Serving) { c.GRPCListen = "" })
	all := raised.Warnings()
	if len(all) != 1 || all[0].GetCode() != string(health.EndpointTaken) || !strings.Contains(all[0].GetMessage(), "grpc "+config.HabitGRPC) {
		t.Errorf("%v", all)
	}
}

func TestMistakesShowAtTheStart(t *testing.T) {
	for want, change := range map[string]func(*config.Serving){
		"nothing.yaml":      func(c *config.Serving) { c.ServingKeys = "/nonexistent/nothing.yaml" },
		"cert.pem":          func(c *config.Serving) { c.TLSCertificate, c.TLSKey = "/nonexistent/cert.pem", "/nonexistent/key.pem" },
		"access.log":        func(c *config.Serving) { c.AccessLog = "/nonexistent/access.log" },
		"the http endpoint": func(c *config.Serving) { c.Listen = "203.0.113.1:1" },
	} {
		c := config.Default().Serving
		c.Listen, c.GRPCListen, c.MetricsListen = "127.0.0.1:0", config.Off, config.Off
		change(&c)
		if _, err := New(c, Deps{Logger: slog.New(slog.DiscardHandler), Health: health.New(time.Now)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestADocumentIsJSON(t *testing.T) {
	s, _ := start(t, func(*config.Serving) {})
	_, body := ask(t, http.DefaultClient, "GET", "http://"+s.Addr()+"/dhow/status", "", "")
	var d localapi.Document
	if err := json.Unmarshal([]byte(body), &d); err != nil || len(d.Addresses) != 3 || len(d.Hardware) < 2 || d.Models[0].Role != "baseline" {
		t.Errorf("%v: %s", err, body)
	}
}

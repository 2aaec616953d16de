package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/agent/inference/onnxtest"
	"github.com/dhowfleet/dhow/cmd/dhow/localfleet"
)

// simple is the model that Triton's own examples use: the sum and the difference of two INT32 tensors.
func simple() *onnxtest.Graph {
	const int32 = 6
	value := func(name string) onnxtest.Value {
		return onnxtest.Value{Name: name, Type: int32, Dims: []int64{-1, 16}}
	}
	return &onnxtest.Graph{
		Inputs:  []onnxtest.Value{value("INPUT0"), value("INPUT1")},
		Outputs: []onnxtest.Value{value("OUTPUT0"), value("OUTPUT1")},
		Nodes: []onnxtest.Node{
			{Op: "Add", Inputs: []string{"INPUT0", "INPUT1"}, Outputs: []string{"OUTPUT0"}},
			{Op: "Sub", Inputs: []string{"INPUT0", "INPUT1"}, Outputs: []string{"OUTPUT1"}},
		},
	}
}

// put writes a version of a model into a repository, beside it and then renamed, as careful users do.
func put(t *testing.T, repository, model, version string, graph *onnxtest.Graph) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Join(repository, model), 0o700))
	aside := filepath.Join(t.TempDir(), "version")
	must(t, os.Mkdir(aside, 0o700))
	must(t, os.WriteFile(filepath.Join(aside, "model.onnx"), graph.Model(), 0o600))
	must(t, os.Rename(aside, filepath.Join(repository, model, version)))
}

// served is a running `dhow-agent serve`.
type served struct {
	url, grpc, metrics, socket string
	pid                        int
	log                        bytes.Buffer
}

func serve(t *testing.T, repository string, args ...string) *served {
	t.Helper()
	s := &served{socket: filepath.Join(t.TempDir(), "agent.sock")}
	for _, a := range []*string{&s.url, &s.grpc, &s.metrics} {
		address, err := localfleet.FreePort()
		must(t, err)
		*a = address
	}
	cmd := exec.Command(filepath.Join(built(t), "dhow-agent"), append([]string{
		"serve", "--model-repository", repository, "--listen", s.url, "--grpc-listen", s.grpc, "--metrics-listen", s.metrics, "--socket", s.socket,
	}, args...)...)
	cmd.Stdout, cmd.Stderr = &s.log, &s.log
	must(t, cmd.Start())
	s.pid = cmd.Process.Pid
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		if err := <-ended; err != nil {
			t.Errorf("the agent ended with %v", err)
		}
		if t.Failed() {
			t.Logf("its log:\n%s", s.log.String())
		}
	})
	s.url = "http://" + s.url
	must(t, localfleet.Until(t.Context(), 30*time.Second, func(context.Context) error {
		status, body, err := s.get(http.DefaultClient, s.url+"/v2/health/ready")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("%d %s", status, body)
		}
		return err
	}))
	return s
}

func (s *served) get(c *http.Client, url string) (int, string, error) {
	resp, err := c.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

func (s *served) post(t *testing.T, path, body string) (int, string) {
	t.Helper()
	resp, err := http.Post(s.url+path, "application/json", strings.NewReader(body))
	must(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp.StatusCode, string(text)
}

// TestARepositoryIsServedWithoutAFleet: what a newcomer tries first. A folder of models, one command, and every client
// of the protocol finds what it expects: REST, gRPC, metrics, the status page, and all of it on a Unix socket.
func TestARepositoryIsServedWithoutAFleet(t *testing.T) {
	t.Parallel()
	repository := t.TempDir()
	put(t, repository, "simple", "1", simple())
	put(t, repository, "negate", "1", onnxtest.Negate(8))
	put(t, repository, "negate", "3", onnxtest.Negate(8))
	s := serve(t, repository)

	// The protocol, held against the program that is for any server.
	conformance := filepath.Join(t.TempDir(), "conformance")
	build := exec.Command("go", "build", "-o", conformance, "./test/conformance")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.Command(conformance, "-url", s.url, "-grpc", s.grpc, "-fixture", "simple").CombinedOutput()
	if err != nil {
		t.Errorf("the conformance suite: %v\n%s", err, out)
	}

	for url, want := range map[string]string{
		"http://" + s.metrics + "/metrics": `nv_inference_request_success{model="simple",version="1"}`,
		s.url + "/":                        "<html",
		s.url + "/dhow/status":             `"models":[`,
	} {
		status, body, err := s.get(http.DefaultClient, url)
		if err != nil || status != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %d, %v, without %q: %.2000s", url, status, err, want, body)
		}
	}
	unix := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", s.socket)
	}}}
	if status, body, err := s.get(unix, "http://agent/v2/models/negate"); err != nil || status != http.StatusOK || !strings.Contains(body, `"versions":["3"]`) {
		t.Errorf("over the socket: %d %s %v", status, body, err)
	}
	if text, err := exec.Command(filepath.Join(built(t), "dhow-agent"), "status", "--listen", strings.TrimPrefix(s.url, "http://")).CombinedOutput(); err != nil || !strings.Contains(string(text), "simple") {
		t.Errorf("status: %v\n%s", err, text)
	}
}

// TestARepositoryFollowsItsFolder: new versions are served without a restart, a broken one leaves the old one in place.
func TestARepositoryFollowsItsFolder(t *testing.T) {
	t.Parallel()
	repository := t.TempDir()
	put(t, repository, "m", "1", onnxtest.Negate(4))
	s := serve(t, repository, "--model-control-mode", "poll", "--repository-poll", "200ms")
	const request = `{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}`
	version := func() string {
		status, body := s.post(t, "/v2/models/m/infer", request)
		var answer struct {
			Version string `json:"model_version"`
		}
		if err := json.Unmarshal([]byte(body), &answer); err != nil || status != http.StatusOK {
			t.Fatalf("%d %s", status, body)
		}
		return answer.Version
	}
	until := func(want string) {
		t.Helper()
		must(t, localfleet.Until(t.Context(), 30*time.Second, func(context.Context) error {
			if got := version(); got != want {
				return fmt.Errorf("version %s answers, not %s", got, want)
			}
			return nil
		}))
	}
	until("1")
	put(t, repository, "m", "2", onnxtest.Negate(4))
	until("2")
	aside := filepath.Join(t.TempDir(), "broken")
	must(t, os.Mkdir(aside, 0o700))
	must(t, os.WriteFile(filepath.Join(aside, "model.onnx"), []byte("no model"), 0o600))
	must(t, os.Rename(aside, filepath.Join(repository, "m", "3")))
	must(t, localfleet.Until(t.Context(), 30*time.Second, func(context.Context) error {
		_, index := s.post(t, "/v2/repository/index", "{}")
		if !strings.Contains(index, `"UNAVAILABLE"`) {
			return fmt.Errorf("the index does not say that version 3 is broken: %s", index)
		}
		return nil
	}))
	if got := version(); got != "2" {
		t.Errorf("version %s answers while a broken one lies beside it", got)
	}
}

// TestModelsAreLoadedByRequest: mode explicit.
func TestModelsAreLoadedByRequest(t *testing.T) {
	t.Parallel()
	repository := t.TempDir()
	put(t, repository, "a", "1", onnxtest.Negate(4))
	put(t, repository, "b", "1", onnxtest.Negate(4))
	s := serve(t, repository, "--model-control-mode", "explicit", "--load-model", "a")
	ready := func(model string) int {
		status, _, err := s.get(http.DefaultClient, s.url+"/v2/models/"+model+"/ready")
		must(t, err)
		return status
	}
	if a, b := ready("a"), ready("b"); a != http.StatusOK || b == http.StatusOK {
		t.Fatalf("a %d, b %d", a, b)
	}
	for _, step := range []struct {
		path string
		a, b bool
	}{{"b/load", true, true}, {"a/unload", false, true}, {"a/load", true, true}} {
		if status, body := s.post(t, "/v2/repository/models/"+step.path, ""); status != http.StatusOK {
			t.Fatalf("%s: %d %s", step.path, status, body)
		}
		must(t, localfleet.Until(t.Context(), 10*time.Second, func(context.Context) error {
			if a, b := ready("a") == http.StatusOK, ready("b") == http.StatusOK; a != step.a || b != step.b {
				return fmt.Errorf("after %s a is ready: %v, b: %v", step.path, a, b)
			}
			return nil
		}))
	}
	if status, body := s.post(t, "/v2/repository/models/c/load", ""); status < 400 || status >= 500 || !strings.Contains(body, "error") {
		t.Errorf("a model that is not there: %d %s", status, body)
	}
}

// TestKeysAreNeededAndChangedWithoutARestart: a server with a file of keys, over TLS is package access's to test.
func TestKeysAreNeededAndChangedWithoutARestart(t *testing.T) {
	t.Parallel()
	repository := t.TempDir()
	put(t, repository, "m", "1", onnxtest.Negate(4))
	keys := filepath.Join(t.TempDir(), "keys.yaml")
	create := func(name string) string {
		out, err := exec.Command(filepath.Join(built(t), "dhow-agent"), "key", "create", "--name", name, "--groups", "inference", "--append", keys).Output()
		must(t, err)
		return strings.TrimSpace(string(out))
	}
	first := create("till")
	s := serve(t, repository, "--serving-keys", keys)
	ask := func(key string) int {
		req, err := http.NewRequest(http.MethodPost, s.url+"/v2/models/m/infer", strings.NewReader(`{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}`))
		must(t, err)
		if key != "" {
			req.Header.Set("Authorization", "Bearer "+key)
		}
		resp, err := http.DefaultClient.Do(req)
		must(t, err)
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	if without, with := ask(""), ask(first); without != http.StatusUnauthorized || with != http.StatusOK {
		t.Fatalf("without a key %d, with one %d", without, with)
	}
	must(t, os.Rename(keys, keys+".before"))
	second := create("kiosk")
	must(t, localfleet.Until(t.Context(), 10*time.Second, func(context.Context) error {
		if a, b := ask(first), ask(second); a != http.StatusUnauthorized || b != http.StatusOK {
			return fmt.Errorf("the old key %d, the new one %d", a, b)
		}
		return nil
	}))
	if strings.Contains(s.log.String(), first) || strings.Contains(s.log.String(), second) {
		t.Error("the log holds a key")
	}
}

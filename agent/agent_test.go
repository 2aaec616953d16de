package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"

	"github.com/dhowfleet/dhow/agent/config"
	"github.com/dhowfleet/dhow/agent/deploy"
	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/inference/onnxtest"
	"github.com/dhowfleet/dhow/agent/localapi"
	"github.com/dhowfleet/dhow/agent/store"
	"github.com/dhowfleet/dhow/models/blob"
	"github.com/dhowfleet/dhow/models/bundle"
	"github.com/dhowfleet/dhow/models/tensor"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// engine is a model runtime that gives back what it is given, under the output's name.
type engine struct{}

func (engine) Version() string     { return "" }
func (engine) Providers() []string { return nil }
func (engine) Load(context.Context, string, inference.Options) (inference.Model, error) {
	return model{}, nil
}

type model struct{}

func (model) Inputs() []tensor.Spec {
	return []tensor.Spec{{Name: "x", Datatype: tensor.FP32, Shape: []int64{-1, 2}}}
}
func (model) Outputs() []tensor.Spec {
	return []tensor.Spec{{Name: "y", Datatype: tensor.FP32, Shape: []int64{-1, 2}}}
}
func (model) Unserved() []string { return nil }
func (model) Provider() string   { return "Test" }
func (model) Close() error       { return nil }
func (model) Run(_ context.Context, in []tensor.Tensor, _ []string) ([]tensor.Tensor, error) {
	return []tensor.Tensor{{Name: "y", Datatype: in[0].Datatype, Shape: in[0].Shape, Data: bytes.Clone(in[0].Data)}}, nil
}

// servedBefore leaves in dir what an agent leaves that served a model when the power went.
func servedBefore(t *testing.T, dir string) {
	t.Helper()
	ctx := context.Background()
	src := t.TempDir()
	must(t, os.WriteFile(filepath.Join(src, "model.onnx"), onnxtest.Negate(2).Model(), 0o600))
	must(t, os.WriteFile(filepath.Join(src, "bundle.yaml"), []byte(`apiVersion: dhow/v1
name: echo
version: "1"
variants: [{name: float32, file: model.onnx}]
inputs: [{name: x, datatype: FP32, shape: [-1, 2]}]
outputs: [{name: y, datatype: FP32, shape: [-1, 2]}]
`), 0o600))
	b, err := bundle.Load(os.DirFS(src))
	must(t, err)
	must(t, b.Hash(os.DirFS(src)))
	manifest, _, err := b.Manifest()
	must(t, err)
	blobs, err := blob.Open(filepath.Join(dir, "blobs"))
	must(t, err)
	for _, f := range b.Files {
		data, err := os.ReadFile(filepath.Join(src, f.Path))
		must(t, err)
		must(t, blobs.Put(ctx, bytes.NewReader(data), f.Digest, f.Size))
	}
	d := digest.FromBytes(manifest)
	must(t, blobs.Put(ctx, bytes.NewReader(manifest), d, int64(len(manifest))))
	s, err := store.Open(ctx, dir, store.Options{})
	must(t, err)
	must(t, s.PutCopy(ctx, deploy.Record{Key: deploy.Key{Model: "echo", Version: "1", Digest: d.String()}, State: deploy.Serving, Since: time.Now()}))
	state, err := proto.Marshal(&syncv1.DesiredState{Copies: []*syncv1.DesiredCopy{{
		Model: "echo", Version: "1", ManifestDigest: d.String(), Role: syncv1.Role_ROLE_BASELINE, TrafficMillionths: deploy.Whole}}})
	must(t, err)
	must(t, s.SetDesired(ctx, &syncv1.DesiredEnvelope{Generation: 4, State: state, Digest: digest.FromBytes(state).String()}))
	must(t, s.Close())
}

func settings(dir string) config.Config {
	c := config.Default()
	c.Data, c.Server, c.Listen, c.RetryMax, c.DeliverInterval = dir, "127.0.0.1:1", "127.0.0.1:0", 50*time.Millisecond, time.Hour
	c.GRPCListen, c.MetricsListen = config.Off, config.Off // another agent of this machine may have their addresses
	return c
}

func start(t *testing.T, c config.Config) (*Agent, func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	a, err := New(ctx, c, Deps{Logger: slog.New(slog.DiscardHandler), Engine: engine{}})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	stopped := false
	stop := func() error {
		stopped = true
		cancel()
		return <-ended
	}
	t.Cleanup(func() {
		if !stopped {
			_ = stop()
		}
	})
	return a, stop
}

const request = `{"id":"r1","inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[1.5,-2]}]}`

func infer(t *testing.T, a *Agent) string {
	t.Helper()
	resp, err := http.Post("http://"+a.Addr()+"/v2/models/echo/infer", "application/json", strings.NewReader(request))
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", resp.Status, body)
	}
	return string(body)
}

// TestServesWhatItServedBeforeWithNobodyToAsk: the first request after a start with no network is answered, is in the
// outbox after the stop, and is there after the next start.
func TestServesWhatItServedBeforeWithNobodyToAsk(t *testing.T) {
	dir := t.TempDir()
	servedBefore(t, dir)
	a, stop := start(t, settings(dir))
	if got := infer(t, a); !strings.Contains(got, `"data":[1.5,-2]`) || !strings.Contains(got, `"id":"r1"`) {
		t.Fatal(got)
	}
	resp, err := http.Get("http://" + a.Addr() + localapi.Path)
	must(t, err)
	d, err := localapi.Read(resp.Body)
	resp.Body.Close()
	must(t, err)
	if len(d.Models) != 1 || d.Models[0].State != "serving" || d.Models[0].Provider != "Test" || d.Uplink.Generation != 4 || d.Uplink.Enrolled || d.Uplink.Connected {
		t.Fatalf("%+v", d)
	}
	must(t, stop())
	s, err := store.Open(context.Background(), dir, store.Options{})
	must(t, err)
	waiting, err := s.Peek(context.Background(), 10, 1<<20)
	must(t, err)
	must(t, s.Close())
	if len(waiting) != 1 || waiting[0].GetRequests()[0].GetRequests() != 1 || waiting[0].GetRequests()[0].GetModel() != "echo" {
		t.Fatal(waiting)
	}
	a, stop = start(t, settings(dir))
	infer(t, a)
	must(t, stop())
}

func TestADamagedStateIsSaidAndBegunAnew(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "state.db"), bytes.Repeat([]byte("bad "), 4096), 0o600))
	a, err := New(context.Background(), settings(dir), Deps{Logger: slog.New(slog.DiscardHandler)})
	must(t, err)
	w := a.health.Warnings()
	if len(w) != 1 || w[0].GetCode() != "state-set-aside" || !strings.Contains(w[0].GetMessage(), "corrupt-1") {
		t.Fatal(w)
	}
	a.close()
}

// TestADamagedIdentityKeepsNobodyFromServing: the key is gone bad, the model is not.
func TestADamagedIdentityKeepsNobodyFromServing(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "identity"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "identity", "key.pem"), []byte("bad"), 0o600))
	if _, err := New(context.Background(), settings(dir), Deps{Logger: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), "key.pem") {
		t.Fatalf("with nothing to serve: %v", err)
	}
	servedBefore(t, dir)
	a, stop := start(t, settings(dir))
	infer(t, a)
	if w := a.health.Warnings(); len(w) != 1 || w[0].GetCode() != "identity-damaged" {
		t.Fatal(w)
	}
	must(t, stop())
}

func TestOneAgentAFolderAndAPort(t *testing.T) {
	dir := t.TempDir()
	servedBefore(t, dir)
	start(t, settings(dir))
	if _, err := New(context.Background(), settings(dir), Deps{Logger: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), "another agent") {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	c := settings(t.TempDir())
	c.Listen = l.Addr().String()
	if _, err := New(context.Background(), c, Deps{Logger: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Fatal(err)
	}
	// What a failed start opened is free again.
	c.Listen = "127.0.0.1:0"
	a, err := New(context.Background(), c, Deps{Logger: slog.New(slog.DiscardHandler)})
	must(t, err)
	a.close()
}

func TestWithNothingToLiveOnItSaysWhy(t *testing.T) {
	c := settings(t.TempDir())
	a, err := New(context.Background(), c, Deps{Logger: slog.New(slog.DiscardHandler)})
	must(t, err)
	if err := a.Run(context.Background()); !errors.Is(err, ErrTokenRefused) || !strings.Contains(err.Error(), "dhow node invite") {
		t.Fatal(err)
	}
	c.TokenFile = filepath.Join(t.TempDir(), "missing")
	if _, err := New(context.Background(), c, Deps{Logger: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), c.TokenFile) {
		t.Fatal(err)
	}
}

// TestPagesOfOthersAreKeptOut: a web page that resolves its own name to loopback does not reach the status page.
func TestPagesOfOthersAreKeptOut(t *testing.T) {
	dir := t.TempDir()
	servedBefore(t, dir)
	a, _ := start(t, settings(dir))
	req, err := http.NewRequest(http.MethodGet, "http://"+a.Addr()+localapi.Path, nil)
	must(t, err)
	req.Host = "evil.example.com"
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Fatal(resp.Status)
	}
}

func TestTheStatusIsJSON(t *testing.T) {
	dir := t.TempDir()
	servedBefore(t, dir)
	a, _ := start(t, settings(dir))
	resp, err := http.Get("http://" + a.Addr() + localapi.Path)
	must(t, err)
	defer resp.Body.Close()
	var any map[string]any
	must(t, json.NewDecoder(resp.Body).Decode(&any))
	for _, k := range []string{"version", "uplink", "models", "warnings", "outbox", "telemetry"} {
		if any[k] == nil {
			t.Errorf("the status has no %s", k)
		}
	}
}

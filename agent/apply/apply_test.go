package apply

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dhowfleet/dhow/agent/admission"
	"github.com/dhowfleet/dhow/agent/deploy"
	"github.com/dhowfleet/dhow/agent/health"
	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/inference/onnxtest"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/agent/store"
	"github.com/dhowfleet/dhow/models/blob"
	"github.com/dhowfleet/dhow/models/bundle"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/protocol/artifact"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
	"github.com/dhowfleet/dhow/wasm/host"
)

// registry is where bundles are fetched from.
type registry struct {
	mu    sync.Mutex
	blobs map[digest.Digest][]byte
	fail  error // instead of every answer
	store *blob.Store
	calls int
}

func (g *registry) set(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fail = err
}

func (g *registry) get(d digest.Digest) ([]byte, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls++
	if g.fail != nil {
		return nil, g.fail
	}
	data, ok := g.blobs[d]
	if !ok {
		return nil, artifact.ErrNotFound
	}
	return data, nil
}

func (g *registry) Manifest(ctx context.Context, _ string, d digest.Digest) ([]byte, error) {
	if data, err := g.store.Read(d, 1<<20); err == nil {
		return data, nil
	}
	data, err := g.get(d)
	if err != nil {
		return nil, err
	}
	return data, g.store.Put(ctx, strings.NewReader(string(data)), d, int64(len(data)))
}

func (g *registry) Blob(ctx context.Context, _ string, d digest.Digest, size int64, progress func(int64)) error {
	if g.store.Has(d) {
		return nil
	}
	data, err := g.get(d)
	if err != nil {
		return err
	}
	progress(size)
	return g.store.Put(ctx, strings.NewReader(string(data)), d, size)
}

// publish adds a bundle and returns its digest.
func (g *registry) publish(t *testing.T, model, version string, width int) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "model.onnx"), onnxtest.Negate(width).Model(), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "bundle.yaml"), fmt.Appendf(nil, `apiVersion: dhow/v1
name: %s
version: %q
variants: [{name: float32, file: model.onnx}]
inputs: [{name: x, datatype: FP32, shape: [-1, %d]}]
outputs: [{name: y, datatype: FP32, shape: [-1, %d]}]
counters: [seen]
`, model, version, width, width), 0o600))
	b, err := bundle.Load(os.DirFS(dir))
	must(t, err)
	must(t, b.Hash(os.DirFS(dir)))
	manifest, config, err := b.Manifest()
	must(t, err)
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, f := range b.Files {
		data, err := os.ReadFile(filepath.Join(dir, f.Path))
		must(t, err)
		g.blobs[f.Digest] = data
	}
	g.blobs[digest.FromBytes(config)] = config
	d := digest.FromBytes(manifest)
	g.blobs[d] = manifest
	return d.String()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// runner answers with the version that it was loaded as.
type runner struct {
	version string
	closed  bool
	mu      *sync.Mutex
}

func (r *runner) Infer(context.Context, []tensor.Tensor, []string, host.Sink) ([]tensor.Tensor, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, errors.New("asked after it was closed")
	}
	return []tensor.Tensor{tensor.FromStrings("version", r.version)}, nil
}
func (r *runner) Inputs() []tensor.Spec  { return nil }
func (r *runner) Outputs() []tensor.Spec { return nil }
func (r *runner) Provider() string       { return "Test" }
func (r *runner) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	return nil
}

// machine is a node around a Reconciler.
type machine struct {
	t       *testing.T
	dir     string
	store   *store.Store
	table   *serving.Table
	reg     *registry
	health  *health.Registry
	rec     *Reconciler
	cancel  context.CancelFunc
	ended   chan error
	mu      sync.Mutex
	verdict map[string]Verdict // by version; OK without
	loadErr map[string]error
	loads   []string
	runners []*runner
}

func newMachine(t *testing.T) *machine {
	m := &machine{t: t, dir: t.TempDir(), verdict: map[string]Verdict{}, loadErr: map[string]error{}, reg: &registry{blobs: map[digest.Digest][]byte{}}}
	m.start(nil)
	t.Cleanup(func() { m.stop() })
	return m
}

func (m *machine) start(d *deploy.Desired) {
	t := m.t
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	var err error
	m.store, err = store.Open(ctx, m.dir, store.Options{})
	must(t, err)
	m.reg.store, err = blob.Open(filepath.Join(m.dir, "blobs"))
	must(t, err)
	m.table = serving.NewTable(serving.Options{})
	m.health = health.New(time.Now)
	m.rec, err = New(ctx, Deps{
		Dir: m.dir, Records: m.store, Blobs: m.reg.store, Fetch: m.reg, Table: m.table, Health: m.health,
		Logger: slog.New(slog.DiscardHandler), Now: time.Now, RetryMax: 10 * time.Millisecond, Grace: time.Nanosecond,
		Declare: func(context.Context, string, string, []string) error { return nil },
		Probe: func(_ context.Context, dir string, spec *bundle.Spec) (Verdict, error) {
			m.mu.Lock()
			defer m.mu.Unlock()
			if v, ok := m.verdict[spec.Version]; ok {
				return v, nil
			}
			return Verdict{OK: true}, nil
		},
		Open: func(_ context.Context, dir string, spec *bundle.Spec, served bool) (Runner, error) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.loads = append(m.loads, spec.Version)
			if err := m.loadErr[spec.Version]; err != nil && !(served && errors.As(err, new(*admission.Refused))) {
				return nil, err
			}
			r := &runner{version: spec.Version, mu: &m.mu}
			m.runners = append(m.runners, r)
			return r, nil
		},
	})
	must(t, err)
	if d != nil {
		m.rec.SetDesired(d)
		m.rec.Restore(ctx, 10*time.Second)
	}
	m.ended = make(chan error, 1)
	go func() { m.ended <- m.rec.Run(ctx) }()
}

func (m *machine) stop() {
	if m.cancel == nil {
		return
	}
	m.cancel()
	m.cancel = nil
	must(m.t, <-m.ended)
	must(m.t, m.table.Close(context.Background()))
	must(m.t, m.store.Close())
}

func want(model, version, d string, retry uint32) *deploy.Desired {
	return &deploy.Desired{Copies: []deploy.DesiredCopy{{Key: deploy.Key{Model: model, Version: version, Digest: d}, Role: syncv1.Role_ROLE_BASELINE, Millionths: deploy.Whole, Retry: retry}}}
}

// until waits for a condition that steps in goroutines bring about.
func (m *machine) until(what string, holds func() bool) {
	m.t.Helper()
	deadline := time.After(20 * time.Second)
	for !holds() {
		select {
		case <-deadline:
			m.t.Fatalf("in vain waited so that %s; copies: %v; warnings: %v", what, m.rec.Status(), m.health.Warnings())
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func (m *machine) answers(model string) string {
	resp, err := m.table.Infer(context.Background(), serving.Request{Model: model})
	if err != nil {
		return err.Error()
	}
	return resp.Version
}

func (m *machine) status(version string) *syncv1.CopyStatus {
	for _, s := range m.rec.Status() {
		if s.GetVersion() == version {
			return s
		}
	}
	return &syncv1.CopyStatus{}
}

func TestFromNothingToServingToTheNextVersion(t *testing.T) {
	m := newMachine(t)
	one, two := m.reg.publish(t, "fashion", "1", 2), m.reg.publish(t, "fashion", "2", 3)
	m.rec.SetDesired(want("fashion", "1", one, 0))
	m.until("version 1 answers", func() bool { return m.answers("fashion") == "1" })
	s := m.status("1")
	if s.GetState() != deploy.Serving || s.GetBytesDone() != s.GetBytesTotal() || s.GetBytesTotal() == 0 || s.GetExecutionProvider() != "Test" {
		t.Fatal(s)
	}
	m.rec.SetDesired(want("fashion", "2", two, 0))
	failed := 0
	m.until("version 2 answers", func() bool {
		a := m.answers("fashion")
		if a != "1" && a != "2" {
			failed++
		}
		return a == "2"
	})
	m.until("version 1 is closed", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.runners[0].closed
	})
	m.until("version 1 has left", func() bool { return m.status("1").GetState() == deploy.Draining })
	if failed > 0 {
		t.Fatalf("%d requests failed", failed)
	}
	// Nothing is wanted any more: everything goes, blobs too.
	m.rec.SetDesired(&deploy.Desired{})
	m.until("nothing is left", func() bool {
		left, err := filepath.Glob(filepath.Join(m.dir, "models", "*", "*"))
		must(t, err)
		blobs := 0
		must(t, m.reg.store.Walk(func(blob.Info) error { blobs++; return nil }))
		return len(m.rec.Status()) == 0 && len(left) == 0 && blobs == 0
	})
}

func TestABadVersionFailsOnceAndTheOldOneServes(t *testing.T) {
	m := newMachine(t)
	one, two := m.reg.publish(t, "fashion", "1", 2), m.reg.publish(t, "fashion", "2", 3)
	m.rec.SetDesired(want("fashion", "1", one, 0))
	m.until("version 1 answers", func() bool { return m.answers("fashion") == "1" })
	m.mu.Lock()
	m.verdict["2"] = Verdict{Reason: "golden-mismatch", Message: "output 0 differs"}
	m.mu.Unlock()
	m.rec.SetDesired(want("fashion", "2", two, 0))
	m.until("version 2 failed", func() bool { return m.status("2").GetState() == deploy.Failed })
	if s := m.status("2"); s.GetReason() != "golden-mismatch" || s.GetMessage() != "output 0 differs" || m.answers("fashion") != "1" {
		t.Fatal(s, m.answers("fashion"))
	}
	// A restart remembers it, and loads version 1 before it returns from Restore.
	m.stop()
	m.start(want("fashion", "2", two, 0))
	if m.answers("fashion") != "1" || m.status("2").GetState() != deploy.Failed {
		t.Fatalf("%s answers after a restart; %v", m.answers("fashion"), m.rec.Status())
	}
	m.mu.Lock()
	delete(m.verdict, "2")
	m.mu.Unlock()
	m.rec.SetDesired(want("fashion", "2", two, 1))
	m.until("version 2 answers when asked for again", func() bool { return m.answers("fashion") == "2" })
}

func TestABundleThatIsNotWhatItIsCalledIsRefused(t *testing.T) {
	m := newMachine(t)
	d := m.reg.publish(t, "fashion", "1", 2)
	m.rec.SetDesired(want("fashion", "7", d, 0))
	m.until("it failed", func() bool { return m.status("7").GetState() == deploy.Failed })
	if s := m.status("7"); s.GetReason() != deploy.ReasonBundleInvalid || !strings.Contains(s.GetMessage(), "fashion:1") {
		t.Fatal(s)
	}
}

func TestOfflineIsNoFailure(t *testing.T) {
	m := newMachine(t)
	m.rec.RetryMax = time.Hour
	m.reg.set(artifact.ErrUnavailable)
	d := m.reg.publish(t, "fashion", "1", 2)
	m.rec.SetDesired(want("fashion", "1", d, 0))
	m.until("it waits", func() bool { return m.status("1").GetReason() == deploy.WaitOffline })
	if s := m.status("1"); s.GetState() != deploy.Downloading {
		t.Fatal(s)
	}
	m.reg.set(nil)
	m.rec.mu.Lock()
	for _, e := range m.rec.copies {
		e.NotBefore = time.Now().Add(time.Hour)
	}
	m.rec.mu.Unlock()
	m.rec.Nudge()
	m.until("it serves", func() bool { return m.answers("fashion") == "1" })
}

func TestAFullDiskIsNoFailureAndWarns(t *testing.T) {
	m := newMachine(t)
	m.reg.set(artifact.ErrNoSpace)
	d := m.reg.publish(t, "fashion", "1", 2)
	m.rec.SetDesired(want("fashion", "1", d, 0))
	m.until("it warns", func() bool {
		w := m.health.Warnings()
		return len(w) == 1 && w[0].GetCode() == string(health.DiskFull) && strings.Contains(w[0].GetMessage(), "fashion:1")
	})
	m.reg.set(nil)
	m.until("it serves and warns no more", func() bool { return m.answers("fashion") == "1" && len(m.health.Warnings()) == 0 })
}

func TestWhatIsMissingOrWrongFailsAfterSomeTries(t *testing.T) {
	for _, c := range []struct {
		err    error
		reason string
	}{{artifact.ErrNotFound, deploy.ReasonArtifactMissing}, {artifact.ErrDigestMismatch, deploy.ReasonDigestMismatch}} {
		m := newMachine(t)
		m.reg.set(c.err)
		d := m.reg.publish(t, "fashion", "1", 2)
		m.rec.SetDesired(want("fashion", "1", d, 0))
		m.until("it failed", func() bool { return m.status("1").GetState() == deploy.Failed })
		if s := m.status("1"); s.GetReason() != c.reason {
			t.Fatal(s)
		}
		m.stop()
	}
}

func TestAMissingRuntimeIsTheNodesFault(t *testing.T) {
	m := newMachine(t)
	m.mu.Lock()
	m.loadErr["1"] = &inference.RuntimeError{Code: "onnxruntime-missing", Message: "there is none", Remedy: "fetch it"}
	m.mu.Unlock()
	d := m.reg.publish(t, "fashion", "1", 2)
	m.rec.SetDesired(want("fashion", "1", d, 0))
	m.until("it warns", func() bool {
		for _, w := range m.health.Warnings() {
			if w.GetCode() == string(health.OnnxRuntimeMissing) && strings.Contains(w.GetMessage(), "fetch it") {
				return m.status("1").GetState() == deploy.Ready
			}
		}
		return false
	})
	m.mu.Lock()
	delete(m.loadErr, "1")
	m.mu.Unlock()
	m.until("it serves", func() bool { return m.answers("fashion") == "1" && len(m.health.Warnings()) == 0 })
}

// TestCorruptFilesAreFetchedAgain: bits that flipped while the agent was down are found after the start, and a session
// made from good files takes over.
func TestCorruptFilesAreFetchedAgain(t *testing.T) {
	m := newMachine(t)
	d := m.reg.publish(t, "fashion", "1", 2)
	m.rec.SetDesired(want("fashion", "1", d, 0))
	m.until("it serves", func() bool { return m.answers("fashion") == "1" })
	m.stop()
	file := filepath.Join(m.dir, "models", "fashion", "1-"+strings.TrimPrefix(d, "sha256:")[:16], "model.onnx")
	data, err := os.ReadFile(file)
	must(t, err)
	data[len(data)/2] ^= 1
	must(t, os.Chmod(file, 0o600))
	must(t, os.WriteFile(file, data, 0o600)) // the same inode as the blob
	before := m.reg.calls
	m.start(want("fashion", "1", d, 0))
	if m.answers("fashion") != "1" {
		t.Fatal("it does not serve after the start")
	}
	m.until("a fresh session took over", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return len(m.loads) == 3 && m.runners[1].closed && !m.runners[2].closed
	})
	m.until("all is well", func() bool { return m.status("1").GetReason() == "" && len(m.health.Warnings()) == 0 })
	good, err := os.ReadFile(file)
	must(t, err)
	if digest.FromBytes(good) == digest.FromBytes(data) || m.reg.calls == before || m.answers("fashion") != "1" {
		t.Fatal("the file was not fetched again")
	}
}

// TestATruncatedFileIsNotLoaded: the sizes are looked at before the load.
func TestATruncatedFileIsNotLoaded(t *testing.T) {
	m := newMachine(t)
	d := m.reg.publish(t, "fashion", "1", 2)
	m.rec.SetDesired(want("fashion", "1", d, 0))
	m.until("it serves", func() bool { return m.answers("fashion") == "1" })
	m.stop()
	file := filepath.Join(m.dir, "models", "fashion", "1-"+strings.TrimPrefix(d, "sha256:")[:16], "model.onnx")
	must(t, os.Chmod(file, 0o600))
	must(t, os.Truncate(file, 10))
	m.start(want("fashion", "1", d, 0))
	m.until("it serves again", func() bool { return m.answers("fashion") == "1" })
	info, err := os.Stat(file)
	must(t, err)
	if len(m.loads) != 2 || info.Size() == 10 {
		t.Fatalf("loaded %v, the file has %d bytes", m.loads, info.Size())
	}
}

func TestAFolderThatIsGoneIsLinkedAgainWithoutANetwork(t *testing.T) {
	m := newMachine(t)
	d := m.reg.publish(t, "fashion", "1", 2)
	m.rec.SetDesired(want("fashion", "1", d, 0))
	m.until("it serves", func() bool { return m.answers("fashion") == "1" })
	m.stop()
	must(t, os.RemoveAll(filepath.Join(m.dir, "models")))
	m.reg.set(artifact.ErrUnavailable)
	m.start(want("fashion", "1", d, 0))
	if m.answers("fashion") != "1" {
		t.Fatal(m.rec.Status())
	}
}

func TestTwoModelsAndAChangeOfMind(t *testing.T) {
	m := newMachine(t)
	a, b := m.reg.publish(t, "fashion", "1", 2), m.reg.publish(t, "motor", "1", 3)
	c := m.reg.publish(t, "fashion", "2", 4)
	both := want("fashion", "1", a, 0)
	both.Copies = append(both.Copies, want("motor", "1", b, 0).Copies...)
	m.rec.SetDesired(both)
	m.until("both answer", func() bool { return m.answers("fashion") == "1" && m.answers("motor") == "1" })
	split := want("motor", "1", b, 0)
	split.Copies = append(split.Copies,
		deploy.DesiredCopy{Key: deploy.Key{Model: "fashion", Version: "1", Digest: a}, Role: syncv1.Role_ROLE_BASELINE, Millionths: 500_000},
		deploy.DesiredCopy{Key: deploy.Key{Model: "fashion", Version: "2", Digest: c}, Role: syncv1.Role_ROLE_CANDIDATE, Millionths: 500_000})
	m.rec.SetDesired(split)
	seen := map[string]bool{}
	m.until("both versions answer", func() bool { seen[m.answers("fashion")] = true; return seen["1"] && seen["2"] })
	m.rec.SetDesired(both)
	m.until("the candidate leaves", func() bool { return m.status("2").GetState() == deploy.Draining })
	if m.answers("fashion") != "1" || m.answers("motor") != "1" {
		t.Fatal(m.answers("fashion"), m.answers("motor"))
	}
}

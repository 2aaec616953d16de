package modelrepository

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/agent/inference/inferencetest"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/models/tensor"
)

func TestVersionsThatThePolicyChooses(t *testing.T) {
	for _, c := range []struct{ policy, index string }{
		{"", "m 10 READY"},
		{"version_policy { latest { num_versions: 2 } }", "m 3 READY, m 10 READY"},
		{"version_policy { all {} }", "m 1 READY, m 3 READY, m 10 READY"},
		{"version_policy { specific { versions: [1, 3] } }", "m 1 READY, m 3 READY"},
	} {
		b := newBench(t, Config{})
		for _, v := range []int{1, 3, 10} {
			b.add("m", v)
		}
		b.write("m/config.pbtxt", c.policy)
		b.write("m/02/model.onnx", "no version's folder")
		b.write("m/readme.md", "nor this")
		b.write("stray.txt", "nor this")
		b.write(".git/config", "nor this")
		b.start()
		if got := b.index(false); got != c.index {
			t.Errorf("%q serves %s, want %s", c.policy, got, c.index)
		}
		if got := b.index(true); got != c.index {
			t.Errorf("%q has ready %s, want %s", c.policy, got, c.index)
		}
		highest := 10
		if strings.Contains(c.policy, "specific") {
			highest = 3
			b.serves("m", "1", 1)
		}
		b.serves("m", "", highest)
	}
}

func TestOtherModesTakeNoOrders(t *testing.T) {
	for _, mode := range []Mode{None, Poll} {
		b := newBench(t, Config{Mode: mode})
		b.add("m", 1)
		b.start()
		for _, err := range []error{b.repo.Load(context.Background(), "m", nil), b.repo.Unload(context.Background(), "m", false)} {
			if !errors.Is(err, ErrNotControlled) {
				t.Errorf("%v, want ErrNotControlled", err)
			}
		}
		b.serves("m", "", 1)
	}
	if _, err := Open(Config{Dir: t.TempDir(), LoadModels: []string{"m"}}); err == nil {
		t.Error("models to load were taken in a mode that loads all")
	}
	if _, err := Open(Config{Dir: filepath.Join(t.TempDir(), "no")}); err == nil {
		t.Error("a folder that is not there was opened")
	}
	if m, err := ParseMode("EXPLICIT"); m != Explicit || err != nil {
		t.Error(m, err)
	}
	if _, err := ParseMode("x"); err == nil {
		t.Error("an unknown mode was read")
	}
}

func TestLoadAndUnloadByRequest(t *testing.T) {
	ctx := context.Background()
	b := newBench(t, Config{Mode: Explicit, LoadModels: []string{"a"}})
	b.add("a", 1)
	b.add("b", 1)
	b.start()
	if got := b.index(false); got != "a 1 READY, b" {
		t.Fatal(got)
	}
	b.absent("b", "")
	b.load("b")
	b.serves("b", "", 1)
	b.add("b", 2)
	b.serves("b", "", 1)
	b.load("b")
	b.serves("b", "", 2)
	b.absent("b", "1")
	if err := b.repo.Unload(ctx, "b", false); err != nil {
		t.Fatal(err)
	}
	if got := b.index(false); got != "a 1 READY, b 1 UNAVAILABLE, b 2 UNAVAILABLE" || b.reason("b", "2") != "unloaded" {
		t.Fatal(got, b.reason("b", "2"))
	}
	loads := b.engine.Loads()
	b.load("a")
	if b.engine.Loads() != loads {
		t.Error("a model that has not changed was loaded again")
	}
	for _, name := range []string{"no", "", "..", ".", "../a", "a/1", ".git", "a\x00"} {
		if err := b.repo.Load(ctx, name, nil); !errors.As(err, new(*NotFoundError)) {
			t.Errorf("loading %q: %v, want a NotFoundError", name, err)
		}
		if err := b.repo.Unload(ctx, name, false); !errors.As(err, new(*NotFoundError)) {
			t.Errorf("unloading %q: %v, want a NotFoundError", name, err)
		}
	}
	wants(t, b.repo.Load(ctx, "a", map[string]string{"file:1/model.onnx": "x"}), "files are not taken")
	wants(t, b.repo.Load(ctx, "a", map[string]string{"frob": "x"}), "not known")
	b.serves("a", "", 1)
}

func TestAConfigurationInTheRequest(t *testing.T) {
	ctx := context.Background()
	b := newBench(t, Config{Mode: Explicit})
	b.add("m", 1)
	b.add("m", 2)
	b.load("m")
	b.absent("m", "1")
	if err := b.repo.Load(ctx, "m", map[string]string{"config": `{"version_policy":{"all":{}},"max_batch_size":7}`}); err != nil {
		t.Fatal(err)
	}
	b.serves("m", "1", 1)
	if info, err := b.table.Lookup("m", ""); err != nil || info.Config.MaxBatchSize != 7 {
		t.Fatal(info, err)
	}
	wants(t, b.repo.Load(ctx, "m", map[string]string{"config": `{"max_batch_size":"x"}`}), "no whole number", "in the request")
	wants(t, b.repo.Load(ctx, "m", map[string]string{"config": `{"name":"other"}`}), "must be the same")
	b.serves("m", "1", 1)
	b.load("m") // without it, the folder says again
	b.absent("m", "1")
}

func TestAFailedLoadKeepsWhatServed(t *testing.T) {
	ctx := context.Background()
	b := newBench(t, Config{Mode: Explicit})
	b.add("m", 1)
	b.load("m")
	b.write("m/2/model.onnx", "no model at all")
	wants(t, b.repo.Load(ctx, "m", nil), `cannot load model "m": version 2: cannot use model.onnx: `)
	b.serves("m", "", 1)
	if got := b.index(false); got != "m 1 READY, m 2 UNAVAILABLE" {
		t.Fatal(got)
	}
	if !strings.Contains(b.reason("m", "1"), "a change is not served") || !strings.Contains(b.reason("m", "2"), "version 2") {
		t.Error(b.reason("m", "1"), b.reason("m", "2"))
	}
	// The engine's own verdict counts as well, and opens nothing for good.
	b.add("m", 2)
	b.engine.Define(filepath.Join(b.repo.root, "m/2/model.onnx"), inferencetest.Definition{Err: errors.New("the runtime does not like it")})
	wants(t, b.repo.Load(ctx, "m", nil), "does not like it")
	b.serves("m", "", 1)
	b.define("m", 2)
	b.load("m")
	b.serves("m", "", 2)
	if b.reason("m", "2") != "" {
		t.Error("the reason stays:", b.reason("m", "2"))
	}
	b.write("m/config.pbtxt", "input { name: \"x\" data_type: TYPE_INT64 dims: 3 }")
	wants(t, b.repo.Load(ctx, "m", nil), "TYPE_INT64 in the configuration, the model has TYPE_FP32")
	b.serves("m", "", 2)
}

func TestModelsThatCannotBeServed(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "weights")
	if err := os.WriteFile(outside, make([]byte, 64), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		make func(b *bench)
		want string
	}{
		{"no version", func(b *bench) { b.write("m/model.onnx", "") }, "1/model.onnx"},
		{"no file", func(b *bench) { b.write("m/1/other.onnx", "") }, "no file model.onnx"},
		{"a folder", func(b *bench) { b.write("m/1/model.onnx/x", "") }, "no regular file"},
		{"pointer", func(b *bench) { b.write("m/1/model.onnx", "version https://git-lfs.github.com/spec/v1") }, "git lfs pull"},
		{"config", func(b *bench) { b.add("m", 1); b.write("m/config.pbtxt", "\nfoo") }, "config.pbtxt: line 2"},
		{"backend", func(b *bench) { b.add("m", 1); b.write("m/config.pbtxt", "backend: \"python\"") }, `"python" is not served`},
		{"name", func(b *bench) { b.add("m", 1); b.write("m/config.pbtxt", "name: \"n\"") }, "must be the same"},
		{"version that is not there", func(b *bench) {
			b.add("m", 1)
			b.write("m/config.pbtxt", "version_policy { specific { versions: 4 } }")
		}, "names version 4"},
		{"labels", func(b *bench) {
			b.add("m", 1)
			b.write("m/config.pbtxt", `output { name: "y" label_filename: "labels.txt" }`)
		}, "cannot read the labels"},
		{"warm-up", func(b *bench) {
			b.add("m", 1)
			b.write("m/config.pbtxt", `model_warmup { name: "w" inputs { key: "x" value { data_type: TYPE_FP32 dims: 3 input_data_file: "no" } } }`)
		}, "model_warmup \"w\": input \"x\""},
		{"threads", func(b *bench) {
			b.add("m", 1)
			b.write("m/config.pbtxt", `parameters { key: "intra_op_thread_count" value { string_value: "many" } }`)
		}, "no number of threads"},
		{"no wasm", func(b *bench) {
			b.write("m/1/model.wasm", "")
			b.write("m/config.pbtxt", `backend: "wasm" input { name: "x" data_type: TYPE_FP32 dims: 3 } output { name: "y" data_type: TYPE_FP32 dims: 3 }`)
		}, "no WASM runtime"},
		{"escaping weights", func(b *bench) { b.write("m/1/model.onnx", string(withExternal("../../../etc/passwd"))) }, "must lie beside the model file"},
		{"missing weights", func(b *bench) { b.write("m/1/model.onnx", string(withExternal("w.bin"))) }, "there is no w.bin"},
		{"linked weights", func(b *bench) {
			b.write("m/1/model.onnx", string(withExternal("w.bin")))
			if err := os.Symlink(outside, filepath.Join(b.dir, "m/1/w.bin")); err != nil {
				b.t.Fatal(err)
			}
		}, "w.bin is a symbolic link; put the file itself there"},
		{"short weights", func(b *bench) {
			b.write("m/1/model.onnx", string(withExternal("w.bin")))
			b.write("m/1/w.bin", "x")
		}, "cut off"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, Config{})
			c.make(b)
			b.add("good", 1)
			wants(t, b.repo.Start(context.Background()), c.want)
			b.serves("good", "", 1)
			b.absent("m", "")
			entries, err := b.repo.Index(context.Background(), false)
			if err != nil || len(entries) != 2 || entries[1].State != Unavailable || !strings.Contains(entries[1].Reason, c.want) {
				t.Errorf("%+v, %v", entries, err)
			}
		})
	}
}

func TestLinksThatOperatorsMake(t *testing.T) {
	b := newBench(t, Config{})
	elsewhere := newBench(t, Config{})
	elsewhere.add("m", 7)
	if err := os.MkdirAll(filepath.Join(b.dir, "m"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(elsewhere.dir, "m/7"), filepath.Join(b.dir, "m/1")); err != nil {
		t.Fatal(err)
	}
	b.engine.Define("", inferencetest.Definition{Inputs: []tensor.Spec{vectorX}, Outputs: []tensor.Spec{vectorY}})
	b.start()
	b.serves("m", "1", 0)
}

func TestAdmissionComesBeforeTheRuntime(t *testing.T) {
	ctx := context.Background()
	admitted, released := 0, 0
	var refuse error
	b := newBench(t, Config{
		Mode: Explicit,
		Admit: func(_ context.Context, c *Candidate) (func(), error) {
			if c.Graph == nil || c.Model != "m" || c.Version != 1 || c.Config == nil || c.Instances != 1 {
				t.Errorf("%+v", c)
			}
			if refuse != nil {
				return nil, refuse
			}
			admitted++
			return func() { released++ }, nil
		},
	})
	b.add("m", 1)
	refuse = errors.New("it needs 9 GiB, there are 2")
	wants(t, b.repo.Load(ctx, "m", nil), "9 GiB")
	if b.engine.Loads() != 0 {
		t.Error("what was not admitted was loaded")
	}
	refuse = nil
	b.load("m")
	if err := b.repo.Unload(ctx, "m", false); err != nil {
		t.Fatal(err)
	}
	if admitted != 1 || released != 1 {
		t.Errorf("admitted %d times and released %d times", admitted, released)
	}
	b.engine.Define(filepath.Join(b.repo.root, "m/1/model.onnx"), inferencetest.Definition{Err: errors.New("the runtime refuses it")})
	wants(t, b.repo.Load(ctx, "m", nil), "the runtime refuses it")
	if admitted != 2 || released != 2 {
		t.Errorf("what the runtime refuses keeps its memory: admitted %d times and released %d times", admitted, released)
	}
}

func TestUnloadWaitsForWhatRuns(t *testing.T) {
	b := newBench(t, Config{Mode: Explicit})
	b.add("m", 1)
	entered, leave := make(chan struct{}), make(chan struct{})
	b.write("m/config.pbtxt", "max_batch_size: 0")
	b.engine.Define(filepath.Join(b.repo.root, "m/1/model.onnx"), inferencetest.Definition{
		Inputs: []tensor.Spec{vectorX}, Outputs: []tensor.Spec{vectorY},
		Run: func(_ context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
			close(entered)
			<-leave
			return []tensor.Tensor{{Name: "y", Datatype: tensor.FP32, Shape: in[0].Shape, Data: in[0].Data}}, nil
		},
	})
	b.load("m")
	answered := make(chan error, 1)
	go func() {
		_, err := b.table.Infer(context.Background(), serving.Request{Model: "m", Inputs: []tensor.Tensor{tensor.FromFloat32("x", []int64{1, 3}, make([]float32, 3))}})
		answered <- err
	}()
	<-entered
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := b.repo.Unload(ctx, "m", false); !errors.Is(err, context.Canceled) {
		// A context that has ended may end it before it begins, which says the same.
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- b.repo.Unload(context.Background(), "m", false) }()
	for b.table.Has("m", "") == nil {
		time.Sleep(time.Millisecond)
	}
	if got := b.index(false); got != "m 1 UNLOADING" {
		t.Error(got)
	}
	close(leave)
	if err := <-answered; err != nil {
		t.Error("the request in flight:", err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestALoadUnderTrafficLosesNothing loads one version after the other, and between them ones that cannot be loaded,
// while clients ask. Who names no version is always answered, and never by an older version than before.
func TestALoadUnderTrafficLosesNothing(t *testing.T) {
	ctx := context.Background()
	b := newBench(t, Config{Mode: Explicit})
	b.add("m", 1)
	b.write("e/config.pbtxt", chain("m"))
	b.load("e")
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for _, model := range []string{"m", "m", "e"} {
		clients.Go(func() {
			last := 0
			for {
				select {
				case <-stop:
					return
				default:
				}
				added, by := b.ask(model, "")
				if by == "" || added < last {
					t.Errorf("%s was answered by version %q with %d after %d", model, by, added, last)
					return
				}
				last = added
			}
		})
	}
	for v := 2; v <= 20; v++ {
		if v%3 == 0 {
			b.write(fmt.Sprintf("m/%d/model.onnx", v), "bad")
			wants(t, b.repo.Load(ctx, "m", nil), "cannot load")
			if err := os.RemoveAll(filepath.Join(b.dir, fmt.Sprintf("m/%d", v))); err != nil {
				t.Fatal(err)
			}
			continue
		}
		b.add("m", v)
		b.load("m")
	}
	close(stop)
	clients.Wait()
	b.serves("m", "", 20)
	b.serves("e", "", 20)
}

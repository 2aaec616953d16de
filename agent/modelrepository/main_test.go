package modelrepository

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/inference/inferencetest"
	"github.com/dhowfleet/dhow/agent/inference/onnxtest"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/models/tensor"
)

// bench is a repository in a temporary folder with a fake engine, whose models say which file they are.
type bench struct {
	t      *testing.T
	dir    string
	engine *inferencetest.Engine
	table  *serving.Table
	repo   *Repository
}

func newBench(t *testing.T, c Config) *bench {
	t.Helper()
	b := &bench{t: t, dir: c.Dir, engine: &inferencetest.Engine{}}
	if b.dir == "" {
		b.dir = t.TempDir()
	}
	places := serving.NewPlaces(2)
	b.table = serving.NewTable(serving.Options{Concurrency: 2, Places: places, Timeout: 10 * time.Second})
	c.Dir, c.Table, c.Places = b.dir, b.table, places
	if c.Engine == nil {
		c.Engine = b.engine
	}
	var err error
	if b.repo, err = Open(c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := b.repo.Close(ctx); err != nil && !errors.Is(err, errClosed) {
			t.Error(err)
		}
		if n := b.engine.Open(); n != 0 {
			t.Errorf("%d models are still open", n)
		}
	})
	return b
}

// write writes a file of the repository.
func (b *bench) write(path, text string) {
	b.t.Helper()
	path = filepath.Join(b.dir, filepath.FromSlash(path))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// add writes a version of a model that negates, and defines what the fake engine answers with it: its version.
func (b *bench) add(model string, version int) {
	b.t.Helper()
	b.write(fmt.Sprintf("%s/%d/model.onnx", model, version), string(onnxtest.Negate(3).Model()))
	b.define(model, version)
}

var (
	vectorX = tensor.Spec{Name: "x", Datatype: tensor.FP32, Shape: []int64{-1, 3}}
	vectorY = tensor.Spec{Name: "y", Datatype: tensor.FP32, Shape: []int64{-1, 3}}
)

func (b *bench) define(model string, version int) {
	root, err := filepath.EvalSymlinks(b.dir)
	if err != nil {
		b.t.Fatal(err)
	}
	b.engine.Define(filepath.Join(root, model, fmt.Sprint(version), "model.onnx"), inferencetest.Definition{
		Inputs: []tensor.Spec{vectorX}, Outputs: []tensor.Spec{vectorY},
		Run: func(_ context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
			values := in[0].Float32s()
			for i := range values {
				values[i] += float32(version)
			}
			return []tensor.Tensor{tensor.FromFloat32("y", in[0].Shape, values)}, nil
		},
	})
}

// ask returns what a model adds to 0, and "" or the version that answered.
func (b *bench) ask(model, version string) (added int, by string) {
	b.t.Helper()
	in := tensor.FromFloat32("x", []int64{1, 3}, []float32{0, 0, 0})
	res, err := b.table.Infer(context.Background(), serving.Request{Model: model, Version: version, Inputs: []tensor.Tensor{in}})
	if err != nil {
		if !errors.As(err, new(*serving.NotFoundError)) {
			b.t.Errorf("model %s: %v", model, err)
		}
		return 0, ""
	}
	return int(res.Outputs[0].Float32s()[0]), res.Version
}

func (b *bench) serves(model, version string, want int) {
	b.t.Helper()
	if added, by := b.ask(model, version); by == "" || added != want {
		b.t.Errorf("model %s version %q adds %d (by version %q), want %d", model, version, added, by, want)
	}
}

func (b *bench) absent(model, version string) {
	b.t.Helper()
	if err := b.table.Has(model, version); err == nil {
		b.t.Errorf("model %s version %q is served", model, version)
	}
}

// index is the index as lines, without reasons.
func (b *bench) index(ready bool) string {
	b.t.Helper()
	entries, err := b.repo.Index(context.Background(), ready)
	if err != nil {
		b.t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s %s", e.Name, e.Version, e.State)))
	}
	return strings.Join(out, ", ")
}

func (b *bench) reason(model, version string) string {
	b.t.Helper()
	entries, err := b.repo.Index(context.Background(), false)
	if err != nil {
		b.t.Fatal(err)
	}
	at := slices.IndexFunc(entries, func(e Entry) bool { return e.Name == model && e.Version == version })
	if at < 0 {
		b.t.Fatalf("the index has no version %q of %s: %v", version, model, entries)
	}
	return entries[at].Reason
}

func (b *bench) start() {
	b.t.Helper()
	if err := b.repo.Start(context.Background()); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) load(model string) {
	b.t.Helper()
	if err := b.repo.Load(context.Background(), model, nil); err != nil {
		b.t.Fatal(err)
	}
}

// wants checks that an error says something.
func wants(t *testing.T, err error, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if err == nil || !strings.Contains(err.Error(), p) {
			t.Errorf("the error is %v, want %q in it", err, p)
		}
	}
}

// withExternal is a model whose one constant, of 64 bytes, lies in another file.
func withExternal(location string) []byte {
	text := func(b []byte, n protowire.Number, s string) []byte {
		return protowire.AppendString(protowire.AppendTag(b, n, protowire.BytesType), s)
	}
	number := func(b []byte, n protowire.Number, v uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), v)
	}
	weights := number(number(nil, 1, 16), 2, 1)
	weights = text(weights, 8, "w")
	weights = text(weights, 13, string(text(text(nil, 1, "location"), 2, location)))
	weights = number(weights, 14, 1)
	node := text(text(text(text(nil, 1, "x"), 1, "w"), 2, "y"), 4, "Add")
	port := func(name string) string {
		shape := text(nil, 1, string(number(nil, 1, 16)))
		return string(text(text(nil, 1, name), 2, string(text(nil, 1, string(text(number(nil, 1, 1), 2, string(shape)))))))
	}
	graph := text(text(text(text(nil, 1, string(node)), 5, string(weights)), 11, port("x")), 12, port("y"))
	return text(text(number(nil, 1, 8), 7, string(graph)), 8, string(number(nil, 2, 17)))
}

var _ Controller = (*Repository)(nil)
var _ inference.Engine = (*inferencetest.Engine)(nil)

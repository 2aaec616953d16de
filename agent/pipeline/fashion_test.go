package pipeline

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/inference/onnxruntime"
	"github.com/dhowfleet/dhow/models/tensor"
)

const example = "../../models/examples/fashion"

// demo opens the demo's bundle with ONNX Runtime.
func demo(t testing.TB) *Pipeline {
	t.Helper()
	dir := folder(t)
	for _, name := range []string{"model.onnx", "labels.txt"} {
		data, err := os.ReadFile(filepath.Join(example, name))
		if err != nil {
			t.Fatal(err)
		}
		write(t, dir, name, data)
	}
	p, err := Open(context.Background(), Deps{Engine: onnxruntime.New(""), Wasm: wasm(t)}, dir, fashion(), "")
	var missing *inference.RuntimeError
	if errors.As(err, &missing) && missing.Code == "onnxruntime-missing" {
		t.Skip(missing)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

type labelled struct {
	file  string
	class int
	in    []tensor.Tensor
}

// photos reads the example's real photos, whose names end in the class.
func photos(t testing.TB) []labelled {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(example, "photos", "*-*.*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no photos: %v", err)
	}
	var out []labelled
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(filepath.Base(f), filepath.Ext(f))
		class, err := strconv.Atoi(name[strings.LastIndexByte(name, '-')+1:])
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, labelled{filepath.Base(f), class, []tensor.Tensor{tensor.FromStrings("photo", string(data))}})
	}
	return out
}

// TestRealPhotos: the demo's whole pipeline names the garments on real photos, asked from several sides at once.
func TestRealPhotos(t *testing.T) {
	p := demo(t)
	data, err := os.ReadFile(filepath.Join(example, "labels.txt"))
	if err != nil {
		t.Fatal(err)
	}
	names := strings.Split(strings.TrimSpace(string(data)), "\n")
	all := photos(t)
	var next, right, wrongKind atomic.Int64
	var wg sync.WaitGroup
	took := make([]time.Duration, len(all))
	for range 4 {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(all) {
					return
				}
				s := newSink()
				start := time.Now()
				out, err := p.Infer(context.Background(), all[i].in, nil, s)
				took[i] = time.Since(start)
				if err != nil {
					t.Errorf("%s: %v", all[i].file, err)
					continue
				}
				labels, err := tensor.SplitBytes(out[0].Data)
				if err != nil || len(labels) != 3 {
					t.Errorf("%s: %s, %v", all[i].file, labels, err)
					continue
				}
				if string(labels[0]) == strings.TrimSpace(names[all[i].class]) {
					right.Add(1)
				}
				kind := map[string]string{".png": "photo_png", ".jpg": "photo_jpeg"}[filepath.Ext(all[i].file)]
				if s.counts[kind] != 1 || len(s.counts) != 1 {
					wrongKind.Add(1)
				}
			}
		})
	}
	wg.Wait()
	slices.Sort(took)
	accuracy := float64(right.Load()) / float64(len(all))
	t.Logf("accuracy %.4f of %d photos; p50 %s, p99 %s on %d cores", accuracy, len(all), took[len(took)/2], took[len(took)*99/100], runtime.GOMAXPROCS(0))
	if accuracy < 0.85 {
		t.Errorf("accuracy is %.4f", accuracy)
	}
	if n := wrongKind.Load(); n > 0 {
		t.Errorf("%d photos were counted as another kind", n)
	}
}

func benchmarkPhoto(b *testing.B, in []tensor.Tensor) {
	p := demo(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Infer(context.Background(), in, nil, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPNG28(b *testing.B)   { benchmarkPhoto(b, photos(b)[0].in) }
func BenchmarkJPEG112(b *testing.B) { benchmarkPhoto(b, photos(b)[1].in) }
func BenchmarkPNG1000(b *testing.B) { benchmarkPhoto(b, []tensor.Tensor{photo(b, 1000)}) }

func BenchmarkPostAlone(b *testing.B) {
	p := demo(b)
	in := []tensor.Tensor{tensor.FromFloat32("probabilities", []int64{1, 10}, make([]float32, 10))}
	for b.Loop() {
		if _, err := p.post.module.Process(context.Background(), in, nil); err != nil {
			b.Fatal(err)
		}
	}
}

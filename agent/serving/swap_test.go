package serving_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/inference/onnxruntime"
	"github.com/dhowfleet/dhow/agent/inference/onnxtest"
	"github.com/dhowfleet/dhow/agent/pipeline"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/agent/telemetry"
	"github.com/dhowfleet/dhow/models/bundle"
	"github.com/dhowfleet/dhow/models/tensor"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

// counter counts what is recorded by version and role.
type counter struct {
	mu   sync.Mutex
	seen map[string]int
}

func (c *counter) Record(o *telemetry.Observation) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen[fmt.Sprintf("%s role %d code %s", o.Version, o.Role, o.Code)]++
}

// TestRealModelsAreSwappedUnderLoad plays what rollouts do to a table, over models in ONNX Runtime, while clients ask
// without a pause: a canary, a shadow, a promotion, and a rollback. No request fails, and after Set has returned none
// that begins is answered by what was taken out.
func TestRealModelsAreSwappedUnderLoad(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "model.onnx"), onnxtest.Matrix(64, 2).Model(), 0o600); err != nil {
		t.Fatal(err)
	}
	shape := []int64{-1, 64}
	spec := bundle.Spec{
		Name: "m", Version: "1", Variants: []bundle.Variant{{Name: "float32", File: "model.onnx"}},
		Inputs:  []tensor.Spec{{Name: "x", Datatype: tensor.FP32, Shape: shape}},
		Outputs: []tensor.Spec{{Name: "y", Datatype: tensor.FP32, Shape: shape}},
	}
	open := func() serving.Runner {
		p, err := pipeline.Open(t.Context(), pipeline.Deps{Engine: onnxruntime.New(""), Model: inference.Options{}}, dir, spec, "")
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	const (
		baseline  = uint8(syncv1.Role_ROLE_BASELINE)
		candidate = uint8(syncv1.Role_ROLE_CANDIDATE)
		shadow    = uint8(syncv1.Role_ROLE_SHADOW)
	)
	records := &counter{seen: map[string]int{}}
	table := serving.NewTable(serving.Options{Recorder: records})
	old := open()
	table.Set("m", []serving.Variant{{Version: "0", Role: baseline, Runner: old}})

	// allowed holds the versions that a request which begins now may meet.
	var allowed atomic.Pointer[map[string]bool]
	allowed.Store(&map[string]bool{"0": true})
	stop := make(chan struct{})
	var clients sync.WaitGroup
	var answered atomic.Int64
	for c := range 6 {
		clients.Go(func() {
			in := []tensor.Tensor{tensor.FromFloat32("x", []int64{1, 64}, make([]float32, 64))}
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				may := *allowed.Load()
				res, err := table.Infer(context.Background(), serving.Request{Model: "m", ID: fmt.Sprintf("%d-%d", c, i), Inputs: in})
				if err != nil {
					t.Errorf("a request failed: %v", err)
					return
				}
				// What was allowed when it began, or has come since.
				if now := *allowed.Load(); !may[res.Version] && !now[res.Version] {
					t.Errorf("a request was answered by %s when %v was in service, then %v", res.Version, may, now)
				}
				answered.Add(1)
			}
		})
	}
	wait := func() {
		for target := answered.Load() + 60; answered.Load() < target && !t.Failed(); {
			select {
			case <-t.Context().Done():
				return
			default:
			}
		}
	}
	set := func(variants []serving.Variant) *serving.Drain {
		both := map[string]bool{}
		next := map[string]bool{}
		for v := range *allowed.Load() {
			both[v] = true
		}
		for _, v := range variants {
			if v.Role != shadow {
				both[v.Version], next[v.Version] = true, true
			}
		}
		allowed.Store(&both)
		d := table.Set("m", variants)
		allowed.Store(&next)
		return d
	}
	current := "0"
	for round := 1; round <= 4; round++ {
		version := fmt.Sprint(round)
		next := open()
		for _, share := range []uint32{100_000, 500_000} { // a canary that grows
			set([]serving.Variant{{Version: current, Role: baseline, Runner: old}, {Version: version, Role: candidate, ShareMillionths: share, Runner: next}})
			wait()
		}
		dark := open()
		drain := set([]serving.Variant{{Version: current, Role: baseline, Runner: old}, {Version: version, Role: candidate, ShareMillionths: 500_000, Runner: next}, {Version: "dark" + version, Role: shadow, ShareMillionths: 1_000_000, Runner: dark}})
		wait()
		if err := drain.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if round%2 == 0 { // worse: back to what was before
			drain = set([]serving.Variant{{Version: current, Role: baseline, Runner: old}})
		} else {
			drain = set([]serving.Variant{{Version: version, Role: baseline, Runner: next}})
			old, current = next, version
		}
		wait()
		if err := drain.Wait(t.Context()); err != nil {
			t.Fatalf("what left was not closed: %v", err)
		}
	}
	close(stop)
	clients.Wait()
	if err := table.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	total, copies := 0, 0
	for what, n := range records.seen {
		total += n
		if what[:4] == "dark" {
			copies += n
		}
	}
	if int64(total-copies) != answered.Load() || copies == 0 {
		t.Fatalf("%d requests were answered, %d recorded, %d of them copies: %v", answered.Load(), total, copies, records.seen)
	}
}

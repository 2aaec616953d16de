package batching

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/models/tensor"
)

// bad is a row that the fake refuses.
const bad = 1 << 30

var errBad = errors.New("a row is bad")

// fake is a model of which each row says whose it is: input "x" [-1, -1] of numbers, output "y" the same, output "s"
// [-1, 2] of two strings a row that spell the row's first number. It notes what it ran.
type fake struct {
	takes time.Duration // for a run
	fail  func(rows int) error
	spoil func(out []tensor.Tensor)

	mu     sync.Mutex
	runs   []ran
	at     int // runs that go on
	most   int
	closed bool
}

type ran struct {
	start time.Time
	tags  []uint32 // of the rows
	width int64
	ctx   error // of the context at the end
}

func (*fake) Inputs() []tensor.Spec {
	return []tensor.Spec{{Name: "x", Datatype: tensor.Uint32, Shape: []int64{-1, -1}}}
}

func (*fake) Outputs() []tensor.Spec {
	return []tensor.Spec{{Name: "y", Datatype: tensor.Uint32, Shape: []int64{-1, -1}}, {Name: "s", Datatype: tensor.Bytes, Shape: []int64{-1, 2}}}
}
func (*fake) Unserved() []string { return nil }
func (*fake) Provider() string   { return "fake" }

func (f *fake) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	return nil
}

func (f *fake) Run(ctx context.Context, in []tensor.Tensor, wanted []string) ([]tensor.Tensor, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if _, err := inference.Check(f.Inputs(), in, nil); err != nil {
		return nil, err
	}
	x := &in[0]
	r := ran{start: time.Now(), width: x.Shape[1]}
	failed := false
	for row := range x.Shape[0] {
		tag := binary.LittleEndian.Uint32(x.Data[4*row*x.Shape[1]:])
		failed = failed || tag >= bad
		r.tags = append(r.tags, tag)
	}
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return nil, inference.ErrClosed
	}
	f.at++
	f.most = max(f.most, f.at)
	f.mu.Unlock()
	timer := time.NewTimer(f.takes)
	select {
	case <-timer.C:
	case <-ctx.Done():
		timer.Stop()
	}
	r.ctx = ctx.Err()
	f.mu.Lock()
	f.at--
	f.runs = append(f.runs, r)
	f.mu.Unlock()
	if r.ctx != nil {
		return nil, r.ctx
	}
	if failed {
		return nil, errBad
	}
	if f.fail != nil {
		if err := f.fail(len(r.tags)); err != nil {
			return nil, err
		}
	}
	out := f.outputs(x, r.tags)
	if f.spoil != nil {
		f.spoil(out)
	}
	if len(wanted) > 0 {
		var some []tensor.Tensor
		for _, name := range wanted {
			some = append(some, out[slices.IndexFunc(out, func(t tensor.Tensor) bool { return t.Name == name })])
		}
		return some, nil
	}
	return out, nil
}

func (f *fake) outputs(x *tensor.Tensor, tags []uint32) []tensor.Tensor {
	s := tensor.Tensor{Name: "s", Datatype: tensor.Bytes, Shape: []int64{int64(len(tags)), 2}}
	for _, tag := range tags {
		s.Data = tensor.AppendBytes(s.Data, fmt.Append(nil, tag))
		s.Data = tensor.AppendBytes(s.Data, nil)
	}
	return []tensor.Tensor{{Name: "y", Datatype: tensor.Uint32, Shape: slices.Clone(x.Shape), Data: slices.Clone(x.Data)}, s}
}

// question is a request of so many rows, each of which begins with tag.
func question(tag uint32, rows, width int) []tensor.Tensor {
	x := tensor.Tensor{Name: "x", Datatype: tensor.Uint32, Shape: []int64{int64(rows), int64(width)}, Data: make([]byte, 4*rows*width)}
	for row := range rows {
		binary.LittleEndian.PutUint32(x.Data[4*row*width:], tag)
	}
	return []tensor.Tensor{x}
}

// check compares an answer with what the model would have said to the question alone.
func check(out []tensor.Tensor, in []tensor.Tensor, wanted []string) error {
	x := &in[0]
	tags := make([]uint32, x.Shape[0])
	for i := range tags {
		tags[i] = binary.LittleEndian.Uint32(x.Data)
	}
	want := (&fake{}).outputs(x, tags)
	if len(wanted) == 0 {
		wanted = []string{"y", "s"}
	}
	if len(out) != len(wanted) {
		return fmt.Errorf("%d outputs instead of %d", len(out), len(wanted))
	}
	for i, name := range wanted {
		w := &want[slices.Index([]string{"y", "s"}, name)]
		if out[i].Name != name || out[i].Datatype != w.Datatype || !slices.Equal(out[i].Shape, w.Shape) || !slices.Equal(out[i].Data, w.Data) {
			return fmt.Errorf("%v instead of %v", out[i], *w)
		}
	}
	return nil
}

// places are n places to compute, which know how many were taken at most and whether all came back.
type places struct {
	free chan struct{}
	mu   sync.Mutex
	n    int
	most int
}

func newPlaces(n int) *places { return &places{free: make(chan struct{}, n)} }

func (p *places) TryAcquire() bool {
	select {
	case p.free <- struct{}{}:
	default:
		return false
	}
	p.taken()
	return true
}

func (p *places) Acquire(ctx context.Context, _ uint64) error {
	select {
	case p.free <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	p.taken()
	return nil
}

func (p *places) taken() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n++
	p.most = max(p.most, p.n)
}

func (p *places) Release() {
	p.mu.Lock()
	p.n--
	p.mu.Unlock()
	<-p.free
}

// priorityKey finds the priority of a request of a test.
type priorityKey struct{}

func priorityOf(ctx context.Context) uint64 {
	p, _ := ctx.Value(priorityKey{}).(uint64)
	return p
}

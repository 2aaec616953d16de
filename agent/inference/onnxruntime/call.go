package onnxruntime

// #include "direct.h"
// #cgo nocallback dhow_run_call
// #cgo nocallback dhow_run_release
import "C"

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/statistics"
	"github.com/dhowfleet/dhow/models/tensor"
)

// watchEvery is how often a running call looks whether its context has ended. Most calls are over before the first look.
const watchEvery = 10 * time.Millisecond

const invalidArgument = 2 // OrtErrorCode ORT_INVALID_ARGUMENT

// call is the state of one request in the runtime, reused by the next.
type call struct {
	model    *model
	c        *C.dhow_run
	in, out  []C.dhow_slot // views of c's arrays
	outNames []*C.char
	specs    []*tensor.Spec // of the outputs in this call
	order    []int
	pin      runtime.Pinner
	aligned  [][]byte // a copy of each input that did not lie on its element's boundary

	// What is known of the call before: out has its outputs' shapes when it was learned, before says which outputs these
	// are. same is whether this call's inputs have the shapes that those had; asked and written are of this one's outputs.
	learned, same bool
	asked, before []int
	written       [][]byte

	size      int  // bytes of the inputs
	shrinking bool // memory is given back after this call

	mu      sync.Mutex
	ctx     context.Context // of the running call, nil between calls
	stopped bool
	timer   *time.Timer
}

func newCall(m *model) (*call, error) {
	c := C.dhow_run_new(C.size_t(len(m.inputs)), C.size_t(len(m.outputs)))
	if c == nil {
		return nil, errors.New("cannot prepare a call of the model: out of memory")
	}
	r := &call{
		model:    m,
		c:        c,
		in:       unsafe.Slice(c.in, len(m.inputs)),
		out:      unsafe.Slice(c.out, len(m.outputs)),
		outNames: unsafe.Slice((**C.char)(unsafe.Pointer(c.out_names)), len(m.outputs)),
		aligned:  make([][]byte, len(m.inputs)),
		written:  make([][]byte, len(m.outputs)),
	}
	copy(unsafe.Slice((**C.char)(unsafe.Pointer(c.in_names)), len(m.inputs)), m.inNames)
	r.timer = time.AfterFunc(time.Hour, r.watch)
	r.timer.Stop()
	return r, nil
}

func (r *call) free() {
	r.timer.Stop()
	C.dhow_run_free(r.c)
	r.c = nil
}

// forget drops what the last request left behind.
func (r *call) forget() {
	if r.shrinking {
		r.shrink(false)
	}
	r.pin.Unpin()
	clear(r.written)
	for i, b := range r.aligned {
		if cap(b) > 1<<20 {
			r.aligned[i] = nil
		}
	}
}

func (r *call) run(ctx context.Context, in []tensor.Tensor, wanted []string) ([]tensor.Tensor, error) {
	timing := statistics.Of(ctx)
	begun := stamp(timing)
	if err := r.setInputs(in); err != nil {
		return nil, err
	}
	if err := r.setOutputs(wanted); err != nil {
		return nil, err
	}
	bound := r.bind()
	if r.model.provider == cpuProvider && r.model.memory.note(r.size, bound == len(r.specs), time.Now) {
		r.shrink(true)
	}
	r.start(ctx)
	prepared := stamp(timing)
	failed := C.dhow_run_call(r.model.raw, r.c) != 0
	if failed && bound > 0 && ctx.Err() == nil {
		// Either the outputs have other shapes than foreseen, or it fails anyhow.
		r.unbind()
		if failed = C.dhow_run_call(r.model.raw, r.c) != 0; !failed {
			r.model.unforeseen.Store(true)
		}
	}
	computed := stamp(timing)
	stopped := r.end()
	runtime.KeepAlive(in)
	if failed {
		if stopped || bound > 0 {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
		}
		sentence := tidy(C.GoString(&r.c.error[0]))
		if r.c.code == invalidArgument {
			return nil, inference.Inputf("the model refuses the input: %s", sentence)
		}
		return nil, errors.New("the model failed: " + sentence)
	}
	defer C.dhow_run_release(r.c)
	out, err := r.outputs()
	if timing != nil {
		timing.Input += prepared.Sub(begun)
		timing.Infer += computed.Sub(prepared)
		timing.Output += time.Since(computed)
	}
	return out, err
}

// stamp is the time, where anybody wants to know.
func stamp(timing *statistics.Timing) time.Time {
	if timing == nil {
		return time.Time{}
	}
	return time.Now()
}

func (r *call) setInputs(in []tensor.Tensor) error {
	specs := r.model.inputs
	if r.model.anyShape != nil {
		specs = r.model.specsFor(in)
	}
	var err error
	if r.order, err = inference.Check(specs, in, r.order); err != nil {
		return err
	}
	r.same = r.learned
	r.learned, r.size = false, 0
	for i, j := range r.order {
		t, slot := &in[j], &r.in[i]
		slot._type = elementTypes[t.Datatype]
		r.same = r.same && slot.rank == C.int32_t(len(t.Shape))
		slot.rank = C.int32_t(len(t.Shape))
		for d, n := range t.Shape {
			r.same = r.same && slot.shape[d] == C.int64_t(n)
			slot.shape[d] = C.int64_t(n)
		}
		slot.size = C.size_t(len(t.Data))
		r.size += len(t.Data)
		slot.source = 0
		if len(t.Data) == 0 {
			continue
		}
		data := t.Data
		switch size := t.Datatype.Size(); {
		case t.Datatype == tensor.Bool:
			for _, b := range data {
				if b > 1 {
					return inference.Inputf("input %q has the byte %d, a BOOL is 0 or 1", t.Name, b)
				}
			}
		case size > 1 && uintptr(unsafe.Pointer(&data[0]))%uintptr(size) != 0:
			// The allocator aligns what is as large as a word.
			if cap(r.aligned[i]) < len(data) {
				r.aligned[i] = make([]byte, max(len(data), 16))
			}
			data = r.aligned[i][:len(data)]
			copy(data, t.Data)
		}
		r.pin.Pin(&data[0])
		// An address and not a pointer: C memory must not hold what the collector would take for a live reference.
		slot.source = C.uintptr_t(uintptr(unsafe.Pointer(&data[0])))
	}
	return nil
}

// specsFor gives the inputs without a declared rank the shape that the request has.
func (m *model) specsFor(in []tensor.Tensor) []tensor.Spec {
	specs := append([]tensor.Spec(nil), m.inputs...)
	for i := range specs {
		for j := range in {
			if m.anyShape[i] && in[j].Name == specs[i].Name {
				specs[i].Shape = in[j].Shape
			}
		}
	}
	return specs
}

func (r *call) setOutputs(wanted []string) error {
	r.specs, r.asked = r.specs[:0], r.asked[:0]
	if len(wanted) == 0 {
		for i := range r.model.outputs {
			r.addOutput(i)
		}
	}
	for w, name := range wanted {
		for _, earlier := range wanted[:w] {
			if earlier == name {
				return inference.Inputf("output %q is asked for twice", name)
			}
		}
		found := false
		for i := range r.model.outputs {
			if r.model.outputs[i].Name == name {
				r.addOutput(i)
				found = true
				break
			}
		}
		if !found {
			return r.model.noOutput(name)
		}
	}
	r.c.nout = C.size_t(len(r.specs))
	return nil
}

func (r *call) addOutput(i int) {
	r.outNames[len(r.specs)] = r.model.outNames[i]
	r.specs, r.asked = append(r.specs, &r.model.outputs[i]), append(r.asked, i)
}

func (m *model) noOutput(name string) error {
	for _, u := range m.unserved {
		if u == name {
			return inference.Inputf("output %q is no tensor (a sequence or map) and cannot be served; ask for the others", name)
		}
	}
	return inference.Inputf("the model has no output %q", name)
}

func (r *call) start(ctx context.Context) {
	// A context that has a deadline ends; asking that before Done spares contexts that make their channel on demand.
	if _, ends := ctx.Deadline(); !ends && ctx.Done() == nil {
		return
	}
	r.mu.Lock()
	r.ctx = ctx
	r.timer.Reset(watchEvery)
	r.mu.Unlock()
}

// end reports whether the call was told to stop.
func (r *call) end() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx == nil {
		return false
	}
	r.ctx = nil
	r.timer.Stop()
	stopped := r.stopped
	if stopped {
		C.dhow_run_unstop(r.c)
		r.stopped = false
	}
	return stopped
}

func (r *call) watch() {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.ctx == nil: // the call ended while the timer fired
	case r.ctx.Err() != nil:
		r.stopped = true
		C.dhow_run_stop(r.c)
	default:
		r.timer.Reset(watchEvery)
	}
}

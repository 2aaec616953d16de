package onnxruntime

// #include "direct.h"
import "C"

import (
	"errors"
	"slices"
	"strings"
	"unsafe"

	"github.com/dhowfleet/dhow/models/tensor"
)

// bind foresees the outputs: the same shapes in give the same shapes out, save for the few operators whose outputs depend
// on values. The runtime then writes them where they will be handed out, which saves its own allocation and a copy: an
// eighth of the smallest call, half of one that moves megabytes. It returns how many are bound: when there are any, a
// call that fails is made again without.
func (r *call) bind() (bound int) {
	r.same = r.same && slices.Equal(r.asked, r.before)
	for i := range r.specs {
		slot := &r.out[i]
		slot.source = 0
		r.written[i] = nil
		if !r.same || r.model.unforeseen.Load() || slot.size == 0 || r.specs[i].Datatype == tensor.Bytes {
			continue
		}
		memory := uncleared(int(slot.size))
		r.pin.Pin(&memory[0])
		slot.source = C.uintptr_t(uintptr(unsafe.Pointer(&memory[0])))
		r.written[i] = memory
		bound++
	}
	return bound
}

// unbind has the runtime use its own memory for the outputs.
func (r *call) unbind() {
	for i := range r.specs {
		r.out[i].source = 0
		r.written[i] = nil
	}
}

// uncleared returns memory that is about to be overwritten as a whole. Clearing it first, as make does, costs as much as
// the copy that is saved.
func uncleared(size int) []byte {
	var b strings.Builder
	b.Grow(size)
	_ = b.WriteByte(0) // for StringData to be the buffer
	return unsafe.Slice(unsafe.StringData(b.String()), size)
}

// outputs hands out what the runtime computed. What it did not write into memory of ours is copied.
func (r *call) outputs() ([]tensor.Tensor, error) {
	out := make([]tensor.Tensor, len(r.specs))
	ranks := 0
	for i := range out {
		ranks += int(r.out[i].rank)
	}
	shapes := make([]int64, ranks)
	for i := range out {
		slot := &r.out[i]
		t := &out[i]
		t.Name = r.specs[i].Name
		t.Datatype = datatype(slot._type)
		rank := int(slot.rank)
		t.Shape, shapes = shapes[:rank:rank], shapes[rank:]
		for d := range t.Shape {
			t.Shape[d] = int64(slot.shape[d])
		}
		if t.Data = r.written[i]; t.Data == nil {
			computed := unsafe.Slice((*byte)(slot.data), int(slot.size))
			data := make([]byte, len(computed)) // a variable of its own, which the compiler does not clear before the copy
			copy(data, computed)
			t.Data = data
		}
		r.written[i] = nil
		if !t.Datatype.Valid() {
			return nil, errors.New("the model failed: output " + t.Name + " has a type that cannot be served")
		}
	}
	r.learned = true
	r.before = append(r.before[:0], r.asked...)
	return out, nil
}

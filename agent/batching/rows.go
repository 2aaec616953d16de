package batching

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"sync"

	"github.com/dhowfleet/dhow/models/tensor"
)

// slab is a buffer for a batch's input. Slabs are pooled by size for all models; what is not used is collected.
type slab struct {
	memory []byte
	class  int
}

const (
	smallest = 12 // a page, so that every slab begins on a boundary that any element may want
	classes  = 40
)

var slabs [classes]sync.Pool

func newSlab(size int) *slab {
	class := max(bits.Len(uint(max(size, 1)-1)), smallest)
	if class >= classes {
		return &slab{memory: make([]byte, size), class: -1}
	}
	if s, ok := slabs[class].Get().(*slab); ok {
		return s
	}
	return &slab{memory: make([]byte, 1<<class), class: class}
}

func (s *slab) free() {
	if s.class >= 0 {
		slabs[s.class].Put(s)
	}
}

// join lays the requests' inputs one behind the other. The result is good until drop.
func (inst *instance) join(items []*item) []tensor.Tensor {
	first, ranks := items[0], 0
	for _, j := range first.order {
		ranks += len(first.in[j].Shape)
	}
	if cap(inst.shapes) < ranks {
		inst.shapes = make([]int64, ranks)
	}
	shapes := inst.shapes[:ranks]
	for i := range inst.inputs {
		like := &first.in[first.order[i]]
		size, rows := 0, int64(0)
		for _, it := range items {
			size += len(it.in[it.order[i]].Data)
			rows += int64(it.rows)
		}
		s := newSlab(size)
		inst.slabs = append(inst.slabs, s)
		data := s.memory[:0]
		for _, it := range items {
			data = append(data, it.in[it.order[i]].Data...)
		}
		rank := len(like.Shape)
		shape := shapes[:rank:rank]
		shapes = shapes[rank:]
		copy(shape, like.Shape)
		shape[0] = rows
		inst.inputs[i] = tensor.Tensor{Name: like.Name, Datatype: like.Datatype, Shape: shape, Data: data}
	}
	return inst.inputs
}

// drop gives the buffers of join back.
func (inst *instance) drop() {
	for i, s := range inst.slabs {
		s.free()
		inst.slabs[i] = nil
	}
	inst.slabs = inst.slabs[:0]
	clear(inst.inputs)
}

// part gives each request its rows of the outputs, as views.
func part(out []tensor.Tensor, items []*item, rows int) ([][]tensor.Tensor, error) {
	ranks := 0
	for i := range out {
		t := &out[i]
		if len(t.Shape) == 0 || t.Shape[0] != int64(rows) {
			return nil, fmt.Errorf("for a batch of %d rows the model returned its output %q with the shape %v, which cannot be parted by rows", rows, t.Name, t.Shape)
		}
		ranks += len(t.Shape)
	}
	answers := make([][]tensor.Tensor, len(items))
	tensors := make([]tensor.Tensor, len(items)*len(out))
	shapes := make([]int64, len(items)*ranks)
	for i := range answers {
		answers[i], tensors = tensors[:len(out):len(out)], tensors[len(out):]
	}
	for o := range out {
		t := &out[o]
		elements, err := tensor.Elements(t.Shape)
		if err != nil {
			return nil, fmt.Errorf("output %q: %w", t.Name, err)
		}
		elements /= int64(rows)
		rest := t.Data
		for i, it := range items {
			n, err := span(t, rest, int64(it.rows)*elements)
			if err != nil {
				return nil, err
			}
			rank := len(t.Shape)
			shape := shapes[:rank:rank]
			shapes = shapes[rank:]
			copy(shape, t.Shape)
			shape[0] = int64(it.rows)
			answers[i][o] = tensor.Tensor{Name: t.Name, Datatype: t.Datatype, Shape: shape, Data: rest[:n:n]}
			rest = rest[n:]
		}
		if len(rest) > 0 {
			return nil, fmt.Errorf("the model returned its output %q with %d bytes more than the shape %v has", t.Name, len(rest), t.Shape)
		}
	}
	return answers, nil
}

// span is how many bytes of rest so many elements take.
func span(t *tensor.Tensor, rest []byte, elements int64) (int, error) {
	short := func() error {
		return fmt.Errorf("the model returned its output %q with fewer bytes than the shape %v needs", t.Name, t.Shape)
	}
	if t.Datatype != tensor.Bytes {
		if n := elements * int64(t.Datatype.Size()); n <= int64(len(rest)) {
			return int(n), nil
		}
		return 0, short()
	}
	n := 0
	for range elements {
		if len(rest)-n < 4 {
			return 0, short()
		}
		length := binary.LittleEndian.Uint32(rest[n:])
		if uint64(length) > uint64(len(rest)-n-4) {
			return 0, short()
		}
		n += 4 + int(length)
	}
	return n, nil
}

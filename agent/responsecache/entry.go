package responsecache

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"slices"
	"sync"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/host"
)

// hasher writes the parts of a key, each with its length, so that no two requests are written alike.
type hasher struct {
	sum    hash.Hash
	number [8]byte
	text   []byte
	result []byte
	order  []int
}

var hashers = sync.Pool{New: func() any { return &hasher{sum: sha256.New()} }}

func (h *hasher) int(n uint64) {
	binary.LittleEndian.PutUint64(h.number[:], n)
	h.sum.Write(h.number[:])
}

func (h *hasher) string(s string) {
	h.int(uint64(len(s)))
	h.text = append(h.text[:0], s...)
	h.sum.Write(h.text)
}

// key is the same for inputs in another order.
func (w *cached) key(in []tensor.Tensor, wanted []string) key {
	h := hashers.Get().(*hasher)
	h.sum.Reset()
	h.int(w.owner)
	h.string(w.model)
	h.string(w.version)
	h.order = h.order[:0]
	for i := range in {
		at := len(h.order)
		for at > 0 && in[h.order[at-1]].Name > in[i].Name {
			at--
		}
		h.order = slices.Insert(h.order, at, i)
	}
	h.int(uint64(len(in)))
	for _, i := range h.order {
		t := &in[i]
		h.string(t.Name)
		h.int(uint64(t.Datatype))
		h.int(uint64(len(t.Shape)))
		for _, d := range t.Shape {
			h.int(uint64(d))
		}
		h.int(uint64(len(t.Data)))
		h.sum.Write(t.Data)
	}
	h.int(uint64(len(wanted)))
	for _, name := range wanted {
		h.string(name)
	}
	h.result = h.sum.Sum(h.result[:0])
	k := key(h.result)
	hashers.Put(h)
	return k
}

// What keeping things costs beside their bytes; roughly, and rather too much.
const (
	entryBytes  = 512
	tensorBytes = 128
	emitBytes   = 64
)

// keep copies an answer: what its caller does with the tensors does not reach the cache.
func keep(k key, owner uint64, out []tensor.Tensor, emitted emissions) *entry {
	e := &entry{key: k, owner: owner, outputs: make([]tensor.Tensor, len(out)), emitted: emitted, bytes: entryBytes}
	for i := range out {
		t := out[i]
		t.Shape, t.Data = slices.Clone(t.Shape), slices.Clone(t.Data)
		e.outputs[i] = t
		e.bytes += tensorBytes + int64(len(t.Name)+8*len(t.Shape)+len(t.Data))
	}
	e.bytes += int64(len(emitted)) * emitBytes
	return e
}

// emissions are what the WASM steps said while the answer was computed, in their order.
type emissions []emission

type emission struct {
	name    string
	value   float64
	n       uint64
	feature bool
}

func (e emissions) replay(sink host.Sink) {
	if sink == nil {
		return
	}
	for i := range e {
		if e[i].feature {
			sink.Feature(e[i].name, e[i].value)
		} else {
			sink.Count(e[i].name, e[i].n)
		}
	}
}

// maxEmissions bounds what is kept with an answer; package serving keeps less of each request.
const maxEmissions = 256

// recorder passes on what is emitted and keeps it.
type recorder struct {
	sink host.Sink
	emissions
}

func (r *recorder) add(e emission) {
	if len(r.emissions) < maxEmissions {
		r.emissions = append(r.emissions, e)
	}
}

func (r *recorder) Feature(name string, value float64) {
	r.add(emission{name: name, value: value, feature: true})
	if r.sink != nil {
		r.sink.Feature(name, value)
	}
}

func (r *recorder) Count(name string, n uint64) {
	r.add(emission{name: name, n: n})
	if r.sink != nil {
		r.sink.Count(name, n)
	}
}

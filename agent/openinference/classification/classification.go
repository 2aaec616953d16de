// Package classification turns a tensor of scores into the names of its highest ones: the Open Inference Protocol's
// classification extension.
//
// Scores become a BYTES tensor of "score:index" or, where there is a label for the index, "score:index:label", the
// highest first. REST and gRPC answer with it where a requested output has the parameter "classification": n.
//
// Everything is a function of its arguments; nothing blocks and nothing is kept. Work and memory are bounded by the
// tensor and by MaxResults.
package classification

import (
	"cmp"
	"encoding/binary"
	"math"
	"slices"
	"strconv"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/models/tensor"
)

// MaxResults bounds the elements of one answer: each is a text many times the size of its score.
const MaxResults = 1 << 20

// Apply returns the n highest scores of t, or all when there are fewer, as a tensor of t's name. With batched, the first
// dimension of t is the batch: each of its rows is ranked by itself and the shape is [rows, n], otherwise [n]. Equal
// scores keep the order of their index, and NaN ranks last. labels, which may be nil or too short, name the indices of
// a row. What cannot be ranked is an *inference.InputError; t is not changed.
func Apply(t tensor.Tensor, n int, batched bool, labels []string) (tensor.Tensor, error) {
	none := tensor.Tensor{}
	if n < 1 {
		return none, inference.Inputf("output %q: classification is %d; ask for at least 1 class", t.Name, n)
	}
	size := t.Datatype.Size()
	if size == 0 || t.Datatype == tensor.Bool {
		return none, inference.Inputf("output %q holds %s, which has no scores to classify by; ask for it without classification", t.Name, t.Datatype)
	}
	if err := t.Validate(); err != nil {
		return none, inference.Inputf("%v", err)
	}
	row := t.Shape
	rows := 1
	if batched {
		if len(t.Shape) == 0 {
			return none, inference.Inputf("output %q has no batch dimension; ask for it without classification", t.Name)
		}
		rows, row = int(t.Shape[0]), t.Shape[1:]
	}
	count, err := tensor.Elements(row)
	if err != nil {
		return none, inference.Inputf("output %q: %v", t.Name, err)
	}
	classes := int(count)
	n = min(n, classes)
	if rows > 0 && n > MaxResults/rows {
		return none, inference.Inputf("output %q: classification of %d rows into %d classes each is more than %d results; ask for fewer classes", t.Name, rows, n, MaxResults)
	}
	out := tensor.Tensor{Name: t.Name, Datatype: tensor.Bytes, Shape: []int64{int64(n)}}
	if batched {
		out.Shape = []int64{int64(rows), int64(n)}
	}
	if n == 0 {
		return out, nil
	}
	top := make([]ranked, 0, n)
	text := make([]byte, 0, 64)
	for r := range rows {
		scores := t.Data[r*classes*size : (r+1)*classes*size]
		top = highest(top[:0], n, t.Datatype, scores)
		for _, s := range top {
			text = appendScore(text[:0], t.Datatype, scores[s.index*size:])
			text = append(text, ':')
			text = strconv.AppendInt(text, int64(s.index), 10)
			if s.index < len(labels) {
				text = append(text, ':')
				text = append(text, labels[s.index]...)
			}
			out.Data = tensor.AppendBytes(out.Data, text)
		}
	}
	return out, nil
}

// ranked is an index by its score, as a number that orders scores of every type.
type ranked struct {
	key   uint64
	index int
}

// before says whether a stands before b in the answer.
func before(a, b ranked) int {
	if c := cmp.Compare(b.key, a.key); c != 0 {
		return c
	}
	return cmp.Compare(a.index, b.index)
}

// highest appends the n highest scores to top, in order. While it reads, top is a heap with the lowest first, so that
// few of many cost no sort of them all.
func highest(top []ranked, n int, d tensor.Datatype, scores []byte) []ranked {
	size := d.Size()
	for i := 0; i*size < len(scores); i++ {
		s := ranked{key(d, scores[i*size:]), i}
		switch {
		case len(top) < n:
			top = append(top, s)
			if len(top) == n {
				for j := n/2 - 1; j >= 0; j-- {
					sink(top, j)
				}
			}
		case before(s, top[0]) < 0:
			top[0] = s
			sink(top, 0)
		}
	}
	slices.SortFunc(top, before)
	return top
}

// sink moves the element at i down to where everything below it stands before it.
func sink(heap []ranked, i int) {
	for {
		child := 2*i + 1
		if child >= len(heap) {
			return
		}
		if child+1 < len(heap) && before(heap[child], heap[child+1]) < 0 {
			child++
		}
		if before(heap[i], heap[child]) >= 0 {
			return
		}
		heap[i], heap[child] = heap[child], heap[i]
		i = child
	}
}

// key maps a score to a number of the same order; NaN is the lowest.
func key(d tensor.Datatype, e []byte) uint64 {
	switch d {
	case tensor.FP16, tensor.BF16, tensor.FP32, tensor.FP64:
		v := float(d, e)
		if math.IsNaN(v) {
			return 0
		}
		if v == 0 {
			v = 0 // and not -0, which is no less
		}
		bits := math.Float64bits(v)
		if bits>>63 != 0 {
			return ^bits
		}
		return bits | 1<<63
	case tensor.Int8, tensor.Int16, tensor.Int32, tensor.Int64:
		return uint64(integer(d, e)) ^ 1<<63
	}
	return unsigned(d, e)
}

// appendScore writes a score as clients know it: six decimals, or an integer.
func appendScore(b []byte, d tensor.Datatype, e []byte) []byte {
	switch d {
	case tensor.FP16, tensor.BF16, tensor.FP32, tensor.FP64:
		switch v := float(d, e); {
		case math.IsNaN(v):
			return append(b, "nan"...)
		case math.IsInf(v, 1):
			return append(b, "inf"...)
		case math.IsInf(v, -1):
			return append(b, "-inf"...)
		default:
			return strconv.AppendFloat(b, v, 'f', 6, 64)
		}
	case tensor.Int8, tensor.Int16, tensor.Int32, tensor.Int64:
		return strconv.AppendInt(b, integer(d, e), 10)
	}
	return strconv.AppendUint(b, unsigned(d, e), 10)
}

func float(d tensor.Datatype, e []byte) float64 {
	switch d {
	case tensor.FP16:
		return half(binary.LittleEndian.Uint16(e))
	case tensor.BF16:
		return float64(math.Float32frombits(uint32(binary.LittleEndian.Uint16(e)) << 16))
	case tensor.FP32:
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(e)))
	}
	return math.Float64frombits(binary.LittleEndian.Uint64(e))
}

// half returns the value of an IEEE 754 binary16.
func half(h uint16) float64 {
	exponent, fraction := int(h>>10&31), float64(h&1023)
	sign := 1 - 2*float64(h>>15)
	switch {
	case exponent == 0:
		return sign * math.Ldexp(fraction, -24)
	case exponent < 31:
		return sign * math.Ldexp(1024+fraction, exponent-25)
	case fraction == 0:
		return math.Inf(int(sign))
	}
	return math.NaN()
}

func integer(d tensor.Datatype, e []byte) int64 {
	switch d {
	case tensor.Int8:
		return int64(int8(e[0]))
	case tensor.Int16:
		return int64(int16(binary.LittleEndian.Uint16(e)))
	case tensor.Int32:
		return int64(int32(binary.LittleEndian.Uint32(e)))
	}
	return int64(binary.LittleEndian.Uint64(e))
}

func unsigned(d tensor.Datatype, e []byte) uint64 {
	switch d {
	case tensor.Uint8:
		return uint64(e[0])
	case tensor.Uint16:
		return uint64(binary.LittleEndian.Uint16(e))
	case tensor.Uint32:
		return uint64(binary.LittleEndian.Uint32(e))
	}
	return binary.LittleEndian.Uint64(e)
}

package batching

import (
	"bytes"
	"testing"

	"github.com/dhowfleet/dhow/models/tensor"
)

// FuzzPart: whatever a model returns, the parts laid one behind the other are what it returned, each is a whole tensor, or
// there is an error.
func FuzzPart(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 'a', 0, 0, 0, 0, 2, 0, 0, 0, 'b', 'c'}, int64(3), int64(1), uint8(1), uint8(tensor.Bytes))
	f.Add([]byte{1, 2, 3, 4, 5, 6, 7, 8}, int64(2), int64(1), uint8(1), uint8(tensor.FP32))
	f.Add([]byte{255, 255, 255, 255}, int64(2), int64(1), uint8(1), uint8(tensor.Bytes))
	f.Add([]byte{}, int64(2), int64(0), uint8(1), uint8(tensor.Int64))
	f.Add([]byte{1}, int64(2), int64(1<<62), uint8(1), uint8(tensor.Bytes))
	f.Add([]byte{1}, int64(33), int64(1<<58), uint8(32), uint8(tensor.FP32))
	f.Fuzz(func(t *testing.T, data []byte, rows, width int64, first uint8, datatype uint8) {
		if rows < 2 || rows > 1000 || first == 0 || int64(first) >= rows {
			return
		}
		items := []*item{{rows: int(first)}, {rows: int(rows) - int(first)}}
		out := []tensor.Tensor{{Name: "y", Datatype: tensor.Datatype(datatype), Shape: []int64{rows, width}, Data: data}}
		answers, err := part(out, items, int(rows))
		if err != nil {
			return
		}
		var again []byte
		for i := range answers {
			a := &answers[i][0]
			if a.Shape[0] != int64(items[i].rows) || a.Shape[1] != width {
				t.Errorf("part %d has the shape %v", i, a.Shape)
			}
			if err := a.Validate(); err != nil && a.Datatype.Valid() {
				t.Errorf("part %d: %v", i, err)
			}
			again = append(again, a.Data...)
		}
		if !bytes.Equal(again, data) {
			t.Errorf("%x became %x", data, again)
		}
	})
}

func TestSlabsAreLargeEnough(t *testing.T) {
	for _, size := range []int{0, 1, 4095, 4096, 4097, 1 << 20, 1<<20 + 1} {
		s := newSlab(size)
		if len(s.memory) < size || size > 4096 && len(s.memory) > 2*size {
			t.Errorf("%d bytes for %d", len(s.memory), size)
		}
		s.free()
	}
}

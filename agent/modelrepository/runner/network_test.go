package runner

import (
	"reflect"
	"testing"
)

func TestReshapesKeepWhatVaries(t *testing.T) {
	r := reshape{from: []int64{-1, 2, -1}, to: []int64{1, -1, 2, -1, 1}}
	got, ok := r.apply([]int64{5, 7, 2, 9}, true)
	if !ok || !reflect.DeepEqual(got, []int64{5, 1, 7, 2, 9, 1}) {
		t.Error(got, ok)
	}
	for _, shape := range [][]int64{{}, {5}, {5, 7, 3, 9}, {5, 7, 2, 9, 1}} {
		if got, ok := r.apply(shape, true); ok {
			t.Errorf("%v became %v", shape, got)
		}
	}
}

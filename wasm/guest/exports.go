//go:build wasip1

package guest

import (
	"runtime"
	"unsafe"

	"github.com/dhowfleet/dhow/wasm/abi"
)

//go:wasmimport dhow emit_feature
func emitFeature(name string, value float64)

//go:wasmimport dhow emit_count
func emitCount(name string, n uint64)

//go:wasmimport dhow log
func emitLog(level uint32, line string)

var (
	room     []uint64 // what cabi_realloc hands out; 64-bit words, so that it is aligned to 8
	roomUsed bool
	result   []byte // what the last process returned, until cabi_post_process
	area     [abi.ReturnAreaSize / 4]uint32
)

//go:wasmexport dhow_abi_version
func exportVersion() uint32 { return abi.Version }

// exportRealloc gives room for one request; the contract lets the host ask for no more than one at a time.
//
//go:wasmexport cabi_realloc
func exportRealloc(old unsafe.Pointer, oldSize, align, newSize uint32) unsafe.Pointer {
	if old != nil || oldSize != 0 || align > abi.Align || roomUsed || newSize > abi.MaxList {
		return nil
	}
	words := (int(newSize) + 7) / 8
	if words == 0 {
		words = 1
	}
	if cap(room) < words {
		room = nil
		room = make([]uint64, words)
	}
	room = room[:cap(room)]
	roomUsed = true
	return unsafe.Pointer(unsafe.SliceData(room))
}

func freeRoom() {
	roomUsed = false
	if 8*cap(room) > keepRoom {
		room = nil
	}
}

//go:wasmexport configure
func exportConfigure(ptr unsafe.Pointer, n uint32) uint32 {
	c := append([]byte(nil), unsafe.Slice((*byte)(ptr), n)...)
	freeRoom()
	if setConfiguration(c) {
		return 0
	}
	return 1
}

//go:wasmexport process
func exportProcess(ptr unsafe.Pointer, n uint32) unsafe.Pointer {
	status, payload := answer(unsafe.Slice((*byte)(ptr), n))
	return hand(status, payload)
}

//go:wasmexport process_batch
func exportBatch(ptr unsafe.Pointer, n uint32) unsafe.Pointer {
	status, payload := answerBatch(unsafe.Slice((*byte)(ptr), n))
	return hand(status, payload)
}

// hand fills the return area. The request has been read to its end.
func hand(status abi.Status, payload []byte) unsafe.Pointer {
	freeRoom()
	result = payload
	area[0] = uint32(status)
	area[1] = uint32(uintptr(unsafe.Pointer(unsafe.SliceData(payload))))
	area[2] = uint32(len(payload))
	return unsafe.Pointer(&area)
}

//go:wasmexport cabi_post_process
func exportPostProcess(unsafe.Pointer) {
	result = nil
	// The collector's background worker runs only when something yields, and an export that returns is not enough: a
	// collection that had begun would stay half done while the heap grows to the limit.
	runtime.Gosched()
}

package abi

import (
	"encoding/binary"
	"errors"
	"slices"
	"strconv"

	"github.com/dhowfleet/dhow/models/tensor"
)

const (
	listHeader   = 8
	tensorHeader = 8
)

func pad(n int) int { return (n + Align - 1) &^ (Align - 1) }

// Size returns the bytes that the list of ts takes, or says which bound of the contract it breaks. It does not look
// into the data.
func Size(ts []tensor.Tensor) (int, error) {
	if len(ts) > MaxTensors {
		return 0, errors.New("list has " + strconv.Itoa(len(ts)) + " tensors, at most " + strconv.Itoa(MaxTensors) + " are allowed")
	}
	size := listHeader
	for i := range ts {
		t := &ts[i]
		switch {
		case !t.Datatype.Valid():
			return 0, errors.New("tensor " + strconv.Quote(t.Name) + " has no valid datatype")
		case len(t.Name) == 0 || len(t.Name) > MaxName:
			return 0, errors.New("tensor " + strconv.Itoa(i) + " has a name of " + strconv.Itoa(len(t.Name)) + " bytes, 1 to " + strconv.Itoa(MaxName) + " are allowed")
		case len(t.Shape) > MaxRank:
			return 0, errors.New("tensor " + strconv.Quote(t.Name) + " has " + strconv.Itoa(len(t.Shape)) + " dimensions, at most " + strconv.Itoa(MaxRank) + " are allowed")
		case len(t.Data) > MaxList:
			return 0, errTooLong
		}
		for j := range i {
			if ts[j].Name == t.Name {
				return 0, errors.New("tensor name " + strconv.Quote(t.Name) + " occurs twice")
			}
		}
		size += tensorHeader + 8*len(t.Shape) + pad(len(t.Name)) + pad(len(t.Data))
		if size > MaxList {
			return 0, errTooLong
		}
	}
	return size, nil
}

var errTooLong = errors.New("list is longer than " + strconv.Itoa(MaxList) + " bytes")

// Put writes the list of ts into dst, whose length must be what Size returned for the same tensors.
func Put(dst []byte, ts []tensor.Tensor) error {
	size, err := Size(ts)
	if err != nil {
		return err
	}
	if len(dst) != size {
		return errors.New("list takes " + strconv.Itoa(size) + " bytes, there is room for " + strconv.Itoa(len(dst)))
	}
	binary.LittleEndian.PutUint32(dst, uint32(len(ts)))
	binary.LittleEndian.PutUint32(dst[4:], uint32(size))
	at := dst[listHeader:]
	for i := range ts {
		t := &ts[i]
		at[0], at[1] = byte(t.Datatype), byte(len(t.Shape))
		binary.LittleEndian.PutUint16(at[2:], uint16(len(t.Name)))
		binary.LittleEndian.PutUint32(at[4:], uint32(len(t.Data)))
		at = at[tensorHeader:]
		for _, d := range t.Shape {
			binary.LittleEndian.PutUint64(at, uint64(d))
			at = at[8:]
		}
		n := copy(at, t.Name)
		clear(at[n:pad(n)])
		at = at[pad(n):]
		n = copyData(at, t.Data)
		clear(at[n:pad(n)])
		at = at[pad(n):]
	}
	return nil
}

// piece is how much is copied at once. The Go runtime cannot stop a goroutine within a copy, and a collection would wait
// for 64 MiB of it.
const piece = 256 << 10

func copyData(dst, data []byte) (n int) {
	for len(data)-n > piece {
		n += copyPiece(dst[n:], data[n:n+piece])
	}
	return n + copy(dst[n:], data[n:])
}

// copyPiece is a call of its own, since it is at a call that the runtime stops a goroutine at once.
//
//go:noinline
func copyPiece(dst, data []byte) int { return copy(dst, data) }

// Encode returns the list of ts in a new slice.
func Encode(ts []tensor.Tensor) ([]byte, error) {
	size, err := Size(ts)
	if err != nil {
		return nil, err
	}
	dst := make([]byte, size)
	return dst, Put(dst, ts)
}

// Decode reads a list and checks all of it, the data against the shapes included. The tensors' Data are views into
// list; their names and shapes are copies.
func Decode(list []byte) ([]tensor.Tensor, error) { return DecodeInto(nil, list) }

// DecodeInto is Decode into room: tensors of an earlier list, which are overwritten, their shapes too. Lists of the same
// form, one after the other, take no allocation.
func DecodeInto(room []tensor.Tensor, list []byte) ([]tensor.Tensor, error) {
	if len(list) < listHeader {
		return nil, errors.New("list of " + strconv.Itoa(len(list)) + " bytes is shorter than its header")
	}
	count, length := binary.LittleEndian.Uint32(list), binary.LittleEndian.Uint32(list[4:])
	if length != uint32(len(list)) || len(list) > MaxList {
		return nil, errors.New("list says that it has " + strconv.FormatUint(uint64(length), 10) + " bytes, it has " + strconv.Itoa(len(list)))
	}
	if count > MaxTensors {
		return nil, errors.New("list has " + strconv.FormatUint(uint64(count), 10) + " tensors, at most " + strconv.Itoa(MaxTensors) + " are allowed")
	}
	ts := slices.Grow(room[:0], int(count))[:count]
	at := list[listHeader:]
	for i := range ts {
		rest, err := decodeTensor(&ts[i], at)
		if err != nil {
			return nil, errors.New("tensor " + strconv.Itoa(i) + ": " + err.Error())
		}
		at = rest
		for j := range i {
			if ts[j].Name == ts[i].Name {
				return nil, errors.New("tensor name " + strconv.Quote(ts[i].Name) + " occurs twice")
			}
		}
	}
	if len(at) != 0 {
		return nil, errors.New(strconv.Itoa(len(at)) + " bytes follow the last tensor")
	}
	return ts, nil
}

var (
	errCutOff  = errors.New("the list ends inside it")
	errPadding = errors.New("padding is not zero")
)

func decodeTensor(t *tensor.Tensor, at []byte) (rest []byte, err error) {
	if len(at) < tensorHeader {
		return nil, errCutOff
	}
	rank, name, data := int(at[1]), int(binary.LittleEndian.Uint16(at[2:])), uint64(binary.LittleEndian.Uint32(at[4:]))
	t.Datatype = tensor.Datatype(at[0])
	if rank > MaxRank {
		return nil, errors.New("it has " + strconv.Itoa(rank) + " dimensions, at most " + strconv.Itoa(MaxRank) + " are allowed")
	}
	if name == 0 || name > MaxName {
		return nil, errors.New("its name has " + strconv.Itoa(name) + " bytes, 1 to " + strconv.Itoa(MaxName) + " are allowed")
	}
	at = at[tensorHeader:]
	if len(at) < 8*rank+pad(name) {
		return nil, errCutOff
	}
	t.Shape = slices.Grow(t.Shape[:0], rank)[:rank]
	for i := range t.Shape {
		t.Shape[i] = int64(binary.LittleEndian.Uint64(at[8*i:]))
	}
	at = at[8*rank:]
	if t.Name != string(at[:name]) {
		t.Name = string(at[:name])
	}
	if !zero(at[name:pad(name)]) {
		return nil, errPadding
	}
	at = at[pad(name):]
	if data > uint64(len(at)) || pad(int(data)) > len(at) {
		return nil, errCutOff
	}
	n := int(data)
	t.Data = at[:n:n]
	if !zero(at[n:pad(n)]) {
		return nil, errPadding
	}
	if err := t.Validate(); err != nil {
		return nil, err
	}
	return at[pad(n):], nil
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// ReturnArea is what process returns the address of.
type ReturnArea struct {
	Status Status
	Ptr    uint32
	Len    uint32
}

// PutReturnArea writes a into the first ReturnAreaSize bytes of dst.
func PutReturnArea(dst []byte, a ReturnArea) {
	_ = dst[ReturnAreaSize-1]
	binary.LittleEndian.PutUint32(dst, uint32(a.Status))
	binary.LittleEndian.PutUint32(dst[4:], a.Ptr)
	binary.LittleEndian.PutUint32(dst[8:], a.Len)
}

// ParseReturnArea reads the first ReturnAreaSize bytes of src and refuses unknown statuses.
func ParseReturnArea(src []byte) (ReturnArea, error) {
	if len(src) < ReturnAreaSize {
		return ReturnArea{}, errors.New("return area is cut off")
	}
	a := ReturnArea{
		Status: Status(binary.LittleEndian.Uint32(src)),
		Ptr:    binary.LittleEndian.Uint32(src[4:]),
		Len:    binary.LittleEndian.Uint32(src[8:]),
	}
	if a.Status > StatusGuestError {
		return ReturnArea{}, errors.New("return area has the unknown status " + strconv.FormatUint(uint64(a.Status), 10))
	}
	return a, nil
}

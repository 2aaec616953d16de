package abi

import (
	"encoding/binary"
	"errors"
	"strconv"

	"github.com/dhowfleet/dhow/models/tensor"
)

const (
	batchHeader = 8
	itemHeader  = 8
)

// Item is one answer of a batch: a tensor list, or a sentence, as its status says.
type Item struct {
	Status  Status
	Payload []byte
}

// BatchSize returns the bytes that a batch of requests takes, or says which bound of the contract it breaks.
func BatchSize(requests [][]tensor.Tensor) (int, error) {
	if err := batchCount(uint64(len(requests))); err != nil {
		return 0, err
	}
	size := batchHeader
	for i := range requests {
		n, err := Size(requests[i])
		if err != nil {
			return 0, errors.New("request " + strconv.Itoa(i) + ": " + err.Error())
		}
		if size += itemHeader + pad(n); size > MaxList {
			return 0, errTooLong
		}
	}
	return size, nil
}

// PutBatch writes requests into dst, whose length must be what BatchSize returned for them.
func PutBatch(dst []byte, requests [][]tensor.Tensor) error {
	size, err := BatchSize(requests)
	if err != nil {
		return err
	}
	if len(dst) != size {
		return errors.New("batch takes " + strconv.Itoa(size) + " bytes, there is room for " + strconv.Itoa(len(dst)))
	}
	binary.LittleEndian.PutUint32(dst, uint32(len(requests)))
	binary.LittleEndian.PutUint32(dst[4:], uint32(size))
	at := dst[batchHeader:]
	for i := range requests {
		n, err := Size(requests[i])
		if err != nil {
			return err
		}
		binary.LittleEndian.PutUint32(at, uint32(StatusTensors))
		binary.LittleEndian.PutUint32(at[4:], uint32(n))
		at = at[itemHeader:]
		if err := Put(at[:n], requests[i]); err != nil {
			return err
		}
		clear(at[n:pad(n)])
		at = at[pad(n):]
	}
	return nil
}

// EncodeAnswers returns the batch of items in a new slice.
func EncodeAnswers(items []Item) ([]byte, error) {
	if err := batchCount(uint64(len(items))); err != nil {
		return nil, err
	}
	size := batchHeader
	for i := range items {
		if items[i].Status > StatusGuestError {
			return nil, errors.New("item " + strconv.Itoa(i) + " has the unknown status " + strconv.FormatUint(uint64(items[i].Status), 10))
		}
		if len(items[i].Payload) > MaxList {
			return nil, errTooLong
		}
		if size += itemHeader + pad(len(items[i].Payload)); size > MaxList {
			return nil, errTooLong
		}
	}
	dst := make([]byte, size)
	binary.LittleEndian.PutUint32(dst, uint32(len(items)))
	binary.LittleEndian.PutUint32(dst[4:], uint32(size))
	at := dst[batchHeader:]
	for i := range items {
		binary.LittleEndian.PutUint32(at, uint32(items[i].Status))
		binary.LittleEndian.PutUint32(at[4:], uint32(len(items[i].Payload)))
		copy(at[itemHeader:], items[i].Payload)
		at = at[itemHeader+pad(len(items[i].Payload)):]
	}
	return dst, nil
}

// DecodeBatch reads a batch, of requests or of answers. The payloads are views into batch; what is in them, it does not
// look at: that is for Decode.
func DecodeBatch(batch []byte) ([]Item, error) {
	if len(batch) < batchHeader {
		return nil, errors.New("batch of " + strconv.Itoa(len(batch)) + " bytes is shorter than its header")
	}
	count, length := binary.LittleEndian.Uint32(batch), binary.LittleEndian.Uint32(batch[4:])
	if length != uint32(len(batch)) || len(batch) > MaxList {
		return nil, errors.New("batch says that it has " + strconv.FormatUint(uint64(length), 10) + " bytes, it has " + strconv.Itoa(len(batch)))
	}
	if err := batchCount(uint64(count)); err != nil {
		return nil, err
	}
	items := make([]Item, count)
	at := batch[batchHeader:]
	for i := range items {
		if len(at) < itemHeader {
			return nil, errors.New("item " + strconv.Itoa(i) + ": " + errCutOff.Error())
		}
		status, n := Status(binary.LittleEndian.Uint32(at)), uint64(binary.LittleEndian.Uint32(at[4:]))
		if status > StatusGuestError {
			return nil, errors.New("item " + strconv.Itoa(i) + " has the unknown status " + strconv.FormatUint(uint64(status), 10))
		}
		at = at[itemHeader:]
		if n > uint64(len(at)) || pad(int(n)) > len(at) {
			return nil, errors.New("item " + strconv.Itoa(i) + ": " + errCutOff.Error())
		}
		end := int(n)
		if !zero(at[end:pad(end)]) {
			return nil, errors.New("item " + strconv.Itoa(i) + ": " + errPadding.Error())
		}
		items[i] = Item{status, at[:end:end]}
		at = at[pad(end):]
	}
	if len(at) != 0 {
		return nil, errors.New(strconv.Itoa(len(at)) + " bytes follow the last item")
	}
	return items, nil
}

func batchCount(n uint64) error {
	if n < 1 || n > MaxBatch {
		return errors.New("batch has " + strconv.FormatUint(n, 10) + " items, 1 to " + strconv.Itoa(MaxBatch) + " are allowed")
	}
	return nil
}

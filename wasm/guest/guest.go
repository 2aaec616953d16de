// Package guest is the SDK for pre- and post-processing steps written in Go.
//
// A step is a package main whose init function calls Handle; main only calls Serve, which does nothing in a module, since
// the host calls the step again and again and never runs a program from end to end:
//
//	func init() { guest.Handle(process) }
//
//	func main() { guest.Serve() }
//
//	func process(in []tensor.Tensor) ([]tensor.Tensor, error) { ... }
//
// It is built with
//
//	GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -trimpath -ldflags='-s -w' -o pre.wasm .
//
// The contract underneath is package abi. The host calls an instance for one request at a time and keeps it for many;
// several instances run side by side and share nothing. There are no files, no network, no clock that tells the time
// and no randomness, unless the bundle asks for them and the node grants them. What a handler writes into variables is
// gone with the request: before the next one the host restores the instance as OnConfigure left it, so do there what
// is worth doing once. With `state: keep` in bundle.yaml an instance remembers; caches are welcome then, results must
// not depend on them.
//
// The requests of a batch go to the handler one after the other, in one call of the host.
//
// The package also compiles for other platforms, where Feature, Count and Log do nothing, so that a step's own
// functions can be unit-tested without a host, and where Serve answers requests on standard input, so that the same work
// can be timed without WASM.
package guest

import (
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/abi"
)

// Handler answers one request. The tensors handed in are valid until it returns; what it returns is copied by the host.
// An error from InputError says that the request is at fault, every other error and a panic that the step is.
type Handler func(in []tensor.Tensor) ([]tensor.Tensor, error)

var (
	handler       Handler
	configure     func(configuration []byte) error
	configuration []byte
)

// Handle sets the step's handler; call it from an init function.
func Handle(h Handler) { handler = h }

// OnConfigure sets a function that reads the configuration once, before the first request; call it from an init
// function. An error refuses the configuration, and with it the bundle.
func OnConfigure(f func(configuration []byte) error) { configure = f }

// Configuration is what the bundle hands to the step, its labels file as it is; nil if the bundle has none. It is set
// before the first request, and not yet during init.
func Configuration() []byte { return configuration }

type inputError struct{ message string }

func (e *inputError) Error() string { return e.message }

// InputError makes an error that says what is wrong with the request, for whoever sent it.
func InputError(message string) error { return &inputError{message} }

// Feature reports a number about this input, for drift. The name must be among the bundle's features.
func Feature(name string, value float64) { emitFeature(name, value) }

// Count adds n to a counter. The name must be among the bundle's counters.
func Count(name string, n uint64) { emitCount(name, n) }

// Log writes a line to the agent's log at one of abi's levels. Lines are cut at abi.MaxLogLine and limited in rate.
func Log(level uint32, line string) { emitLog(level, line) }

// setConfiguration is called once for each instance.
func setConfiguration(c []byte) (ok bool) {
	defer func() {
		if r := recover(); r != nil {
			Log(abi.LevelError, "panic: "+text(r))
			ok = false
		}
	}()
	configuration = c
	if configure != nil {
		if err := configure(c); err != nil {
			Log(abi.LevelError, err.Error())
			return false
		}
	}
	return true
}

// answer runs the handler on an encoded list and returns the payload that goes with the status.
func answer(list []byte) (status abi.Status, payload []byte) {
	defer func() {
		if r := recover(); r != nil {
			status, payload = abi.StatusGuestError, []byte("panic: "+text(r))
		}
	}()
	if handler == nil {
		return abi.StatusGuestError, []byte("the step set no handler: call guest.Handle from an init function")
	}
	in, err := abi.Decode(list)
	if err != nil {
		return abi.StatusGuestError, []byte("cannot read the request: " + err.Error())
	}
	out, err := handler(in)
	if err != nil {
		status = abi.StatusGuestError
		if _, ok := err.(*inputError); ok { //nolint:errorlint // a wrapped one is the step's own doing
			status = abi.StatusInputError
		}
		return status, []byte(err.Error())
	}
	payload, err = encode(out)
	if err != nil {
		return abi.StatusGuestError, []byte("cannot encode the result: " + err.Error())
	}
	return abi.StatusTensors, payload
}

// answerBatch runs the handler on each request of a batch. A request that fails does not keep others from their answer.
func answerBatch(batch []byte) (abi.Status, []byte) {
	requests, err := abi.DecodeBatch(batch)
	if err != nil {
		return abi.StatusGuestError, []byte("cannot read the batch: " + err.Error())
	}
	answers := make([]abi.Item, len(requests))
	for i := range requests {
		status, payload := answer(requests[i].Payload)
		// The buffer of a result is used again for the next one.
		answers[i] = abi.Item{Status: status, Payload: append([]byte(nil), payload...)}
	}
	encoded, err := abi.EncodeAnswers(answers)
	if err != nil {
		return abi.StatusGuestError, []byte("cannot encode the batch: " + err.Error())
	}
	return abi.StatusTensors, encoded
}

// keepRoom is how large a buffer for requests or results may be and still be kept for the next one.
const keepRoom = 1 << 20

var reply []byte

// encode writes the list into a buffer that is used again; the host has copied the one before.
func encode(out []tensor.Tensor) ([]byte, error) {
	size, err := abi.Size(out)
	if err != nil {
		return nil, err
	}
	list := reply
	if cap(list) < size {
		list = make([]byte, size)
		if size <= keepRoom {
			reply = list
		}
	}
	list = list[:size]
	return list, abi.Put(list, out)
}

func text(r any) string {
	switch v := r.(type) {
	case error:
		return v.Error()
	case string:
		return v
	}
	return "a value that is no text"
}

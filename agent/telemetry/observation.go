package telemetry

import "time"

// Code says how a request ended. The numbers are stored in telemetry.db and never change.
type Code uint8

// The codes. InvalidInput is the request's fault; every other code but OK counts as an error of the model copy, save
// Canceled, where the client went away.
const (
	OK           Code = 0
	InvalidInput Code = 1
	Overloaded   Code = 2
	Deadline     Code = 3
	Canceled     Code = 4
	ModelError   Code = 5
	WasmError    Code = 6
	Internal     Code = 7
)

var codeNames = [...]string{"ok", "invalid-input", "overloaded", "deadline", "canceled", "model-error", "wasm-error", "internal"}

// String returns the code's name in logs and on the local status page.
func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return "unknown"
}

// Observation is what is remembered of one request. It holds no value of the request itself: names, numbers and times
// only.
type Observation struct {
	At        time.Time     // when the request was routed
	Duration  time.Duration // by the monotonic clock
	Model     string
	Version   string
	Role      uint8 // syncv1.Role of the copy that answered
	RequestID string
	Code      Code
	Counts    []Count
	Features  []Feature
}

// Count is a counter that a WASM step emitted for this request; the name is one that the bundle declares.
type Count struct {
	Name string
	N    uint64
}

// Feature is a number that a WASM step computed of this request's input; the name is one that the bundle declares.
// Features stay on the node.
type Feature struct {
	Name  string
	Value float64
}

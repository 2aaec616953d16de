package onnxruntime

// #include <stdlib.h>
// #include "direct.h"
import "C"

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/models/tensor"
)

// datatypes maps ONNXTensorElementDataType to ours; what is missing has no form in the protocol.
var datatypes = [...]tensor.Datatype{
	1: tensor.FP32, 2: tensor.Uint8, 3: tensor.Int8, 4: tensor.Uint16, 5: tensor.Int16, 6: tensor.Int32, 7: tensor.Int64,
	8: tensor.Bytes, 9: tensor.Bool, 10: tensor.FP16, 11: tensor.FP64, 12: tensor.Uint32, 13: tensor.Uint64, 16: tensor.BF16,
}

var elementTypes = func() (out [tensor.BF16 + 1]C.int32_t) {
	for onnx, d := range datatypes {
		out[d] = C.int32_t(onnx)
	}
	return out
}()

func datatype(element C.int32_t) tensor.Datatype {
	if element < 0 || int(element) >= len(datatypes) {
		return tensor.Invalid
	}
	return datatypes[element]
}

// model implements inference.Model over one session.
type model struct {
	session  *ort.DynamicAdvancedSession
	raw      unsafe.Pointer // the session's OrtSession
	provider string
	inputs   []tensor.Spec
	anyShape []bool // inputs whose rank the model does not say; nil when it says all
	outputs  []tensor.Spec
	unserved []string
	inNames  []*C.char // by which the runtime is called
	outNames []*C.char
	// unforeseen is set when outputs had other shapes than the last ones for inputs of the same shapes.
	unforeseen atomic.Bool
	memory     memory

	// gate is held for reading by every call and for writing by Close.
	gate   sync.RWMutex
	closed bool

	mu   sync.Mutex
	idle []*call
}

func newModel(session *ort.DynamicAdvancedSession, provider string) (*model, error) {
	raw, err := pointerOf(session)
	if err != nil {
		return nil, err
	}
	m := &model{session: session, raw: raw, provider: provider}
	if err := m.describe(); err != nil {
		m.freeNames()
		return nil, err
	}
	return m, nil
}

// pointerOf reads the OrtSession out of the binding's session, which does not hand it out. Reflection instead of a
// guessed memory layout: should the binding rename its fields, every load fails with this sentence and so do the tests.
func pointerOf(session *ort.DynamicAdvancedSession) (unsafe.Pointer, error) {
	inner := reflect.ValueOf(session).Elem().FieldByName("s")
	if inner.Kind() == reflect.Pointer && !inner.IsNil() {
		if field := inner.Elem().FieldByName("ortSession"); field.Kind() == reflect.Pointer && !field.IsNil() {
			return field.UnsafePointer(), nil
		}
	}
	return nil, errors.New("this version of the ONNX Runtime binding keeps its sessions in a way that Dhow does not know")
}

func (m *model) describe() error {
	var nin, nout C.size_t
	sentence := make([]byte, C.DHOW_ERROR_BYTES)
	text := (*C.char)(unsafe.Pointer(&sentence[0]))
	if C.dhow_count(m.raw, &nin, &nout, text) != 0 {
		return errors.New(C.GoString(text))
	}
	for i := range nin + nout {
		output, index := C.int(0), i
		if i >= nin {
			output, index = 1, i-nin
		}
		var port C.dhow_port
		if C.dhow_describe(m.raw, output, index, &port, text) != 0 {
			return errors.New(C.GoString(text))
		}
		name := C.GoString(port.name)
		servable := port.kind == 1 && datatype(port._type).Valid()
		switch {
		case !servable && output == 0:
			C.free(unsafe.Pointer(port.name))
			return fmt.Errorf("its input %q is no tensor of a type that can be served", name)
		case !servable:
			C.free(unsafe.Pointer(port.name))
			m.unserved = append(m.unserved, name)
			continue
		}
		spec := tensor.Spec{Name: name, Datatype: datatype(port._type), Shape: make([]int64, max(port.rank, 0))}
		for d := range spec.Shape {
			spec.Shape[d] = int64(port.shape[d])
		}
		if output == 0 {
			m.inputs, m.inNames = append(m.inputs, spec), append(m.inNames, port.name)
			if port.rank < 0 && m.anyShape == nil {
				m.anyShape = make([]bool, nin)
			}
			if port.rank < 0 {
				m.anyShape[index] = true
			}
		} else {
			m.outputs, m.outNames = append(m.outputs, spec), append(m.outNames, port.name)
		}
	}
	if len(m.outputs) == 0 {
		return errors.New("none of its outputs is a tensor")
	}
	return nil
}

func (m *model) Inputs() []tensor.Spec  { return m.inputs }
func (m *model) Outputs() []tensor.Spec { return m.outputs }
func (m *model) Unserved() []string     { return m.unserved }
func (m *model) Provider() string       { return m.provider }

// Run implements inference.Model.
func (m *model) Run(ctx context.Context, in []tensor.Tensor, wanted []string) ([]tensor.Tensor, error) {
	if !m.gate.TryRLock() { // refused only while Close waits
		return nil, inference.ErrClosed
	}
	defer m.gate.RUnlock()
	if m.closed {
		return nil, inference.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c, err := m.take()
	if err != nil {
		return nil, err
	}
	defer m.giveBack(c)
	return c.run(ctx, in, wanted)
}

func (m *model) take() (*call, error) {
	m.mu.Lock()
	if n := len(m.idle); n > 0 {
		c := m.idle[n-1]
		m.idle = m.idle[:n-1]
		m.mu.Unlock()
		return c, nil
	}
	m.mu.Unlock()
	return newCall(m)
}

func (m *model) giveBack(c *call) {
	c.forget()
	m.mu.Lock()
	m.idle = append(m.idle, c)
	m.mu.Unlock()
}

// Close implements inference.Model.
func (m *model) Close() error {
	m.gate.Lock()
	defer m.gate.Unlock()
	if m.closed {
		return nil
	}
	m.closed = true
	for _, c := range m.idle {
		c.free()
	}
	m.idle = nil
	err := m.session.Destroy()
	m.freeNames()
	if err != nil {
		return fmt.Errorf("cannot close a model: %w", err)
	}
	return nil
}

func (m *model) freeNames() {
	for _, name := range append(m.inNames, m.outNames...) {
		C.free(unsafe.Pointer(name))
	}
	m.inNames, m.outNames = nil, nil
}

var sourcePlace = regexp.MustCompile(`(/[^\s:]*|[\w./]+)\.(cc|h|cpp):\d+ `)

// tidy shortens a sentence of the runtime: its own source files tell a reader of Dhow's messages nothing.
func tidy(sentence string) string {
	sentence = strings.Join(strings.Fields(sourcePlace.ReplaceAllString(sentence, "")), " ")
	if len(sentence) > 400 {
		sentence = strings.ToValidUTF8(sentence[:400], "") + "..."
	}
	return sentence
}

func loadError(path, sentence string) error {
	sentence = strings.TrimPrefix(sentence, "Error creating C session from file: ")
	sentence = strings.TrimPrefix(sentence, "Load model from "+path+" failed:")
	return &inference.LoadError{Message: fmt.Sprintf("cannot load %s: %s", filepath.Base(path), tidy(sentence))}
}

// Package onnxruntime runs ONNX models with ONNX Runtime, whose shared library is opened when the first model comes.
//
// The library, its environment, session options and sessions are managed by github.com/yalue/onnxruntime_go. Requests
// go to the session directly (direct.c): one call into C creates the inputs over the caller's bytes, runs, and says
// where the outputs lie, a second one gives them back. Outputs whose shapes can be foreseen are written straight into Go
// memory that is handed out, others are copied there once. The binding's
// own Run cannot be used for that: at v1.27.0 it fails on outputs without dimensions, returns half the bytes of FP16
// and BF16 outputs, ends strings at their first zero byte, and always computes every output.
//
// Engines and models are safe for concurrent use. A model with one thread computes on the thread that called Run and
// starts none of its own. Run notices a context's end within some 10 ms, between two operators of the graph.
//
// The library is process-wide: engines with different paths share the first one that was opened. It is told to keep and
// send nothing of what it runs before it is opened; see docs/decisions/0007.
package onnxruntime

// #cgo CFLAGS: -O2 -Wall
// #cgo LDFLAGS: -ldl
// #include <stdlib.h>
// #include "direct.h"
import "C"

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"unsafe"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/dhowfleet/dhow/agent/inference"
)

// Oldest is the oldest ONNX Runtime that has the interface used here.
const Oldest = "1.24"

// telemetryVariable is what the official builds of ONNX Runtime read when they begin: unless it is 1 they keep a file of
// what is run in the home folder and send it to their maker.
const telemetryVariable = "ORT_DISABLE_TELEMETRY"

// It is set before anything else runs, since C threads read the environment without a lock.
func init() {
	if err := os.Setenv(telemetryVariable, "1"); err != nil {
		panic("cannot set " + telemetryVariable + ": " + err.Error()) // it would be sent otherwise
	}
}

const cpuProvider = "CPUExecutionProvider"

// library is the process's one ONNX Runtime.
var library struct {
	mu        sync.Mutex
	open      bool
	version   string
	providers []string
}

// Engine implements inference.Engine.
type Engine struct{ path string }

// New returns an engine that opens the library at libraryPath when the first model is loaded. An empty path is looked
// for as Find says.
func New(libraryPath string) *Engine { return &Engine{libraryPath} }

// Version implements inference.Engine.
func (*Engine) Version() string {
	library.mu.Lock()
	defer library.mu.Unlock()
	return library.version
}

// Providers implements inference.Engine.
func (*Engine) Providers() []string {
	library.mu.Lock()
	defer library.mu.Unlock()
	return slices.Clone(library.providers)
}

// Open opens the library now instead of at the first Load. Opening it again does nothing.
func (e *Engine) Open() error {
	library.mu.Lock()
	defer library.mu.Unlock()
	if library.open {
		return nil
	}
	path, err := Find(e.path)
	if err != nil {
		return err
	}
	if err := openLibrary(path); err != nil {
		return err
	}
	ort.SetSharedLibraryPath(path)
	if err := ort.InitializeEnvironment(ort.WithLogLevelFatal()); err != nil {
		return broken(path, err.Error())
	}
	// For builds that do not know the variable.
	if err := ort.DisableTelemetry(); err != nil {
		return broken(path, err.Error())
	}
	buf := make([]byte, 4096)
	C.dhow_providers((*C.char)(unsafe.Pointer(&buf[0])), C.size_t(len(buf)))
	library.providers = strings.Fields(C.GoString((*C.char)(unsafe.Pointer(&buf[0]))))
	library.version = C.GoString(C.dhow_version())
	library.open = true
	return nil
}

// openLibrary opens the library for direct.c and checks its version before the binding relies on it.
func openLibrary(path string) error {
	name := C.CString(path)
	defer C.free(unsafe.Pointer(name))
	note := make([]byte, 512)
	result := C.dhow_open(name, (*C.char)(unsafe.Pointer(&note[0])), C.size_t(len(note)))
	sentence := C.GoString((*C.char)(unsafe.Pointer(&note[0])))
	switch result {
	case C.DHOW_OPENED:
		return nil
	case C.DHOW_TOO_OLD:
		return &inference.RuntimeError{
			Code:    "onnxruntime-too-old",
			Message: fmt.Sprintf("ONNX Runtime at %s is version %s, Dhow needs %s or newer", path, sentence, Oldest),
			Remedy:  remedy,
		}
	case C.DHOW_NO_RUNTIME:
		if sentence == "" {
			sentence = "it is a library, but not ONNX Runtime"
		}
	}
	return broken(path, sentence)
}

func broken(path, sentence string) error {
	return &inference.RuntimeError{
		Code:    "onnxruntime-broken",
		Message: fmt.Sprintf("cannot open ONNX Runtime at %s: %s", path, strings.TrimSpace(strings.TrimPrefix(sentence, path+": "))),
		Remedy:  remedy,
	}
}

// Load implements inference.Engine. It cannot be interrupted once the runtime reads the file.
func (e *Engine) Load(ctx context.Context, path string, options inference.Options) (inference.Model, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := e.Open(); err != nil {
		return nil, err
	}
	if options.Provider == "" {
		options.Provider = cpuProvider
	}
	so, err := e.sessionOptions(options)
	if err != nil {
		return nil, err
	}
	defer func() { _ = so.Destroy() }()
	session, err := ort.NewDynamicAdvancedSession(path, nil, nil, so)
	if err != nil {
		return nil, loadError(path, err.Error())
	}
	m, err := newModel(session, options.Provider)
	if err != nil {
		_ = session.Destroy()
		return nil, loadError(path, err.Error())
	}
	return m, nil
}

func (e *Engine) sessionOptions(options inference.Options) (*ort.SessionOptions, error) {
	so, err := ort.NewSessionOptions()
	if err != nil {
		return nil, &inference.LoadError{Message: "cannot prepare a session: " + err.Error()}
	}
	set := func(errs ...error) error {
		for _, err := range errs {
			if err != nil {
				return &inference.LoadError{Message: "cannot prepare a session: " + err.Error()}
			}
		}
		return nil
	}
	err = set(
		so.SetIntraOpNumThreads(max(options.Threads, 1)),
		so.SetInterOpNumThreads(1),
		// A waiting thread that spins takes the machine from whatever else the branch runs on it.
		so.AddSessionConfigEntry("session.intra_op.allow_spinning", "0"),
		so.SetLogSeverityLevel(ort.LoggingLevelFatal), // errors are returned
	)
	if err == nil {
		err = e.appendProvider(so, options.Provider)
	}
	if err != nil {
		_ = so.Destroy()
		return nil, err
	}
	return so, nil
}

func (e *Engine) appendProvider(so *ort.SessionOptions, provider string) error {
	switch {
	case provider == cpuProvider:
		return nil
	case provider == "CUDAExecutionProvider" && slices.Contains(e.Providers(), provider):
		cuda, err := ort.NewCUDAProviderOptions()
		if err == nil {
			err = so.AppendExecutionProviderCUDA(cuda)
			_ = cuda.Destroy()
		}
		if err == nil {
			return nil
		}
		return &inference.RuntimeError{
			Code:    "provider-missing",
			Message: "cannot use the execution provider " + provider + ": " + err.Error(),
			Remedy:  "check the NVIDIA driver and that cuDNN and CUDA match the ONNX Runtime in use, or let the model compute on the CPU",
		}
	}
	return &inference.RuntimeError{
		Code:    "provider-missing",
		Message: fmt.Sprintf("this ONNX Runtime (%s) cannot use the execution provider %q", e.Version(), provider),
		Remedy:  "use one of " + strings.Join(append(e.Providers(), "none (CPU)"), ", ") + ", or an ONNX Runtime that was built with it",
	}
}

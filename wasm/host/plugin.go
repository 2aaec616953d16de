package host

import (
	"bytes"
	"errors"
	"fmt"
	"unsafe"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/abi"
	"github.com/dhowfleet/dhow/wasm/extism"
	"github.com/dhowfleet/dhow/wasm/host/lines"
	"github.com/dhowfleet/dhow/wasm/payload"
)

// plugin is the kind of Extism plug-ins: each request is a call of the function, its input and output in the arena of
// wasm/extism, which may take Limits.Memory beside the plug-in's own memory. A function that returns 0, or nothing, and
// set no error has answered; the error's text is what went wrong. dataError, returned or as an exit code, says that the
// request is at fault. config_get knows Options.Configuration by the name "configuration".
type plugin struct {
	format   payload.Format
	function string
}

// Exports that make a plug-in ready, as Extism's own hosts call them.
const (
	exportConstructors = "__wasm_call_ctors"
	exportHaskell      = "hs_init" // (argc, argv: i32)
)

var errTooEarly = errors.New("it used Extism's functions in its start function, before they are there")

func (plugin) imports(module, name string) bool {
	return module == extism.Module && extism.Offers(name) || reactor{}.imports(module, name)
}

func (p plugin) check(compiled wazero.CompiledModule) error {
	f := compiled.ExportedFunctions()[p.function]
	if f == nil {
		return fmt.Errorf("it does not export the function %q that bundle.yaml names", p.function)
	}
	if results := f.ResultTypes(); len(f.ParamTypes()) > 0 || len(results) > 1 || len(results) == 1 && results[0] != i32 {
		return fmt.Errorf("it exports %q with another signature than an Extism function's: no parameters, and an i32 or nothing as result", p.function)
	}
	return nil
}

func (plugin) starts() []string { return nil }

func (p plugin) size(request []tensor.Tensor) (int, error) { return p.format.Size(request) }

func (p plugin) bind(in *instance) (speaker, error) {
	var err error
	in.plugin, err = extism.NewState(in.module.limits.Memory, map[string][]byte{"configuration": in.module.configuration})
	if err != nil {
		return nil, err
	}
	g := &pluginGuest{in: in, format: p.format, function: in.guest.ExportedFunction(p.function)}
	if p.function == exportStart {
		return g, nil // it initialises itself
	}
	first := in.guest.ExportedFunction(abi.ExportInitialize)
	if first == nil {
		first = in.guest.ExportedFunction(exportConstructors)
	}
	for _, f := range []api.Function{first, in.guest.ExportedFunction(exportHaskell)} {
		if f == nil || len(f.Definition().ParamTypes()) > len(g.stack) || len(f.Definition().ResultTypes()) > 0 {
			continue
		}
		g.stack = [2]uint64{}
		if _, err := in.run(f, g.stack[:]); err != nil {
			return nil, err
		}
	}
	return g, nil
}

type pluginGuest struct {
	in       *instance
	format   payload.Format
	function api.Function
	buffer
	stack [2]uint64
}

func (g *pluginGuest) ask(request []tensor.Tensor, size int) ([]tensor.Tensor, error) {
	if err := g.input(request, size); err != nil {
		return nil, err
	}
	g.stack = [2]uint64{}
	code, err := g.in.exit(g.function, g.stack[:])
	if errors.Is(err, extism.ErrMemory) {
		return nil, fmt.Errorf("%w: its input, output and other blocks take more than %s bytes; raise memory in bundle.yaml", ErrTrap, decimal(g.in.module.limits.Memory))
	}
	var left *GuestError
	if err != nil && !errors.As(err, &left) {
		return nil, err
	}
	text, failed := g.in.plugin.Failure()
	switch {
	case failed:
		return nil, &GuestError{Input: code == dataError || left != nil && left.Input, Message: lines.Sentence(text, abi.MaxMessage)}
	case left != nil:
		return nil, left
	case code != 0:
		return nil, &GuestError{Input: code == dataError, Message: fmt.Sprintf("it returned %d%s", code, g.in.output.Said())}
	}
	answer := g.in.plugin.Output()
	if len(answer) > 0 && uintptr(unsafe.Pointer(&answer[0]))%abi.Align != 0 {
		answer = bytes.Clone(answer) // so that numbers can be read in place
	}
	return g.in.decoded(g.format, answer, request)
}

// input writes the request where the plug-in reads it.
func (g *pluginGuest) input(request []tensor.Tensor, size int) error {
	if g.format == payload.JSON { // whose size is not known beforehand
		text, err := g.write(g.format, request, g.in.module.limits.Memory)
		if err != nil {
			return err
		}
		room, err := g.in.plugin.Input(len(text))
		if err != nil {
			return errNoRoom
		}
		copy(room, text)
		return nil
	}
	room, err := g.in.plugin.Input(size)
	if err != nil {
		return errNoRoom
	}
	if _, err := g.format.Append(room[:0], request); err != nil {
		return &GuestError{Input: true, Message: err.Error()}
	}
	return nil
}

// done has nothing to free: the instance goes back to its image.
func (g *pluginGuest) done() error { return nil }

package host

import (
	"errors"
	"fmt"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/sys"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/abi"
	"github.com/dhowfleet/dhow/wasm/payload"
	"github.com/dhowfleet/dhow/wasm/wasi"
)

// command is the kind of WASI programs: each request is a run of _start, from the image of a module that has not run
// yet. The request is standard input, the answer standard output, and what it writes to standard error goes to the log.
// A program that ends with 0, or returns, has answered; dataError says that the request is at fault, any other number
// that the program is, and the first line of standard error says why. Standard output is bounded by Limits.Memory, and
// memory of the host.
type command struct{ format payload.Format }

const exportStart = "_start"

func (command) imports(module, name string) bool { return reactor{}.imports(module, name) }

func (command) check(compiled wazero.CompiledModule) error {
	f := compiled.ExportedFunctions()[exportStart]
	if f == nil || len(f.ParamTypes()) > 0 || len(f.ResultTypes()) > 0 {
		return fmt.Errorf("it does not export %s without parameters and results, as a WASI command does", exportStart)
	}
	return nil
}

func (command) starts() []string { return nil }

func (c command) size(request []tensor.Tensor) (int, error) { return c.format.Size(request) }

func (c command) bind(in *instance) (speaker, error) {
	return &commandGuest{in: in, format: c.format, start: in.guest.ExportedFunction(exportStart)}, nil
}

type commandGuest struct {
	in     *instance
	format payload.Format
	start  api.Function
	buffer
	stack [1]uint64
}

// buffer is where requests are written down for programs.
type buffer struct{ room []byte }

// keptRoom is how much of a buffer stays with an instance from one call to the next.
const keptRoom = 1 << 20

// write returns a request in a format. It is the buffer's until the next write.
func (b *buffer) write(format payload.Format, request []tensor.Tensor, limit int64) ([]byte, error) {
	if cap(b.room) > keptRoom {
		b.room = nil
	}
	var err error
	b.room, err = format.Append(b.room[:0], request)
	if err != nil {
		return nil, &GuestError{Input: true, Message: err.Error()}
	}
	if int64(len(b.room)) > limit {
		return nil, errNoRoom
	}
	return b.room, nil
}

var arguments = []string{"guest"}

func (g *commandGuest) ask(request []tensor.Tensor, _ int) ([]tensor.Tensor, error) {
	limit := g.in.module.limits.Memory
	stdin, err := g.write(g.format, request, limit)
	if err != nil {
		return nil, err
	}
	g.in.world.Command(arguments, stdin, int(limit))
	if _, err := g.in.exit(g.start, g.stack[:]); err != nil {
		if errors.Is(err, wasi.ErrOutput) {
			return nil, fmt.Errorf("%w: it wrote more than %s bytes to standard output; raise memory in bundle.yaml or let it write less", ErrTrap, decimal(limit))
		}
		return nil, err
	}
	return g.in.decoded(g.format, g.in.world.Output(), request)
}

// done has nothing to free: the instance goes back to its image.
func (g *commandGuest) done() error { return nil }

// exit runs an export of a program, which may end it by leaving. A number other than 0 with which it leaves is a
// *GuestError.
func (in *instance) exit(f api.Function, stack []uint64) (uint32, error) {
	result, err := in.run(f, stack)
	var exit *sys.ExitError
	if err == nil || in.call.over != nil || !errors.As(err, &exit) {
		return result, err
	}
	if exit.ExitCode() == 0 {
		return 0, nil
	}
	return 0, &GuestError{Input: exit.ExitCode() == dataError, Message: fmt.Sprintf("it left with exit code %d%s", exit.ExitCode(), in.output.Said())}
}

// decoded reads a program's answer.
func (in *instance) decoded(format payload.Format, answer []byte, request []tensor.Tensor) ([]tensor.Tensor, error) {
	out, err := format.Decode(answer, request, min(in.module.limits.Memory, abi.MaxList))
	if err != nil {
		return nil, fmt.Errorf("%w: its answer is not of the format %s: %v", ErrTrap, format, err)
	}
	return out, nil
}

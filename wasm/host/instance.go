package host

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
	"github.com/tetratelabs/wazero/sys"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/abi"
	"github.com/dhowfleet/dhow/wasm/host/memory"
)

// instance is one running guest. One call at a time uses it.
type instance struct {
	module *Module
	guest  api.Module
	memory *memory.Linear

	realloc, process, post api.Function
	stack                  [4]uint64

	emitted []emit // of the call in flight
	dropped uint64
	output  output
}

type emit struct {
	name    string
	feature bool
	value   float64
	count   uint64
}

// instanceKey finds the instance in the context that wazero hands to host functions.
type instanceKey struct{}

// start makes an instance, lets it initialise and hands it its configuration.
func (m *Module) start(ctx context.Context) (*instance, error) {
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	memory, err := memory.New(m.limits.Memory)
	if err != nil {
		return nil, err
	}
	in := &instance{module: m, memory: memory}
	in.output.lines = m.lines
	m.mu.Lock()
	m.stats.Started++
	m.stats.MappedBytes += m.limits.Memory
	m.mu.Unlock()
	ctx = context.WithValue(ctx, instanceKey{}, in)
	config := wazero.NewModuleConfig().WithName("").WithStartFunctions(abi.ExportInitialize).
		WithStdout(&in.output).WithStderr(&in.output)
	allocate := experimental.MemoryAllocatorFunc(func(_, _ uint64) experimental.LinearMemory { return memory })
	in.guest, err = m.runtime.InstantiateModule(experimental.WithMemoryAllocator(ctx, allocate), m.compiled, config)
	if err != nil {
		in.discard()
		return nil, in.failure(caller, ctx, err)
	}
	in.realloc = in.guest.ExportedFunction(abi.ExportRealloc)
	in.process = in.guest.ExportedFunction(abi.ExportProcess)
	in.post = in.guest.ExportedFunction(abi.ExportPostProcess)
	if err := in.prepare(ctx); err != nil {
		in.discard()
		return nil, in.failure(caller, ctx, err)
	}
	in.emitted, in.dropped = in.emitted[:0], 0 // there is no request to which they could belong
	return in, nil
}

func (in *instance) prepare(ctx context.Context) error {
	version, err := in.call(ctx, in.guest.ExportedFunction(abi.ExportVersion))
	if err != nil {
		return err
	}
	if version != abi.Version {
		return fmt.Errorf("%w: it speaks version %d of the contract, this agent version %d", ErrTrap, version, abi.Version)
	}
	configure := in.guest.ExportedFunction(abi.ExportConfigure)
	if configure == nil {
		return nil
	}
	room, err := in.room(ctx, len(in.module.configuration))
	if err != nil {
		return err
	}
	if room == 0 || !in.guest.Memory().Write(room, in.module.configuration) {
		return fmt.Errorf("%w: it has no room for %d bytes of configuration", ErrTrap, len(in.module.configuration))
	}
	answer, err := in.call(ctx, configure, uint64(room), uint64(len(in.module.configuration)))
	if err != nil {
		return err
	}
	if answer != 0 {
		return fmt.Errorf("%w: it refuses its configuration%s", ErrTrap, in.output.said())
	}
	return nil
}

// room asks the guest for n bytes; 0 means that it has none.
func (in *instance) room(ctx context.Context, n int) (uint32, error) {
	ptr, err := in.call(ctx, in.realloc, 0, 0, abi.Align, uint64(n))
	if err == nil && ptr%abi.Align != 0 {
		return 0, fmt.Errorf("%w: %s returned an address that is no multiple of %d", ErrTrap, abi.ExportRealloc, abi.Align)
	}
	return ptr, err
}

// call runs an export and returns its i32, if it has one.
func (in *instance) call(ctx context.Context, f api.Function, params ...uint64) (uint32, error) {
	in.stack = [4]uint64{}
	copy(in.stack[:], params)
	if err := f.CallWithStack(ctx, in.stack[:]); err != nil {
		return 0, err
	}
	return uint32(in.stack[0]), nil
}

// run answers one request. Every error but a *GuestError means that the instance is not to be used again.
func (in *instance) run(ctx context.Context, list []tensor.Tensor, size int) ([]tensor.Tensor, error) {
	room, err := in.room(ctx, size)
	if err != nil {
		if isTrap(err) && !errors.Is(err, ErrTrap) {
			// Only the allocator ran, so it is the request's size that the guest could not take.
			return nil, errNoRoom
		}
		return nil, err
	}
	if room == 0 {
		return nil, errNoRoom
	}
	view, ok := in.guest.Memory().Read(room, uint32(size))
	if !ok {
		return nil, fmt.Errorf("%w: %s returned an address outside its memory", ErrTrap, abi.ExportRealloc)
	}
	if err := abi.Put(view, list); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrTrap, err)
	}
	ret, err := in.call(ctx, in.process, uint64(room), uint64(size))
	if err != nil {
		return nil, err
	}
	out, err := in.result(ret)
	var guestErr *GuestError
	if err != nil && !errors.As(err, &guestErr) {
		return nil, err
	}
	if _, postErr := in.call(ctx, in.post, uint64(ret)); postErr != nil {
		return nil, postErr
	}
	return out, err
}

// errNoRoom stays inside the package.
var errNoRoom = errors.New("no room for the request")

// result copies what process returned out of the guest's memory.
func (in *instance) result(ret uint32) ([]tensor.Tensor, error) {
	raw, ok := in.guest.Memory().Read(ret, abi.ReturnAreaSize)
	if !ok {
		return nil, fmt.Errorf("%w: it returned an address outside its memory", ErrTrap)
	}
	area, err := abi.ParseReturnArea(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrTrap, err)
	}
	view, ok := in.guest.Memory().Read(area.Ptr, area.Len)
	if !ok {
		return nil, fmt.Errorf("%w: it returned a result outside its memory", ErrTrap)
	}
	if area.Status != abi.StatusTensors {
		return nil, &GuestError{Input: area.Status == abi.StatusInputError, Message: sentence(view, abi.MaxMessage)}
	}
	out, err := abi.Decode(append([]byte(nil), view...))
	if err != nil {
		return nil, fmt.Errorf("%w: it returned a broken tensor list: %v", ErrTrap, err)
	}
	return out, nil
}

// sentence makes a guest's bytes fit for logs and answers.
func sentence(b []byte, limit int) string {
	s := strings.ToValidUTF8(string(b[:min(len(b), limit)]), "\uFFFD")
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if s = strings.TrimSpace(s); s == "" {
		return "the guest gave no reason"
	}
	return s
}

// discard ends the instance and gives its memory back.
func (in *instance) discard() {
	if in.guest != nil {
		_ = in.guest.Close(context.Background())
	}
	in.memory.Free()
	m := in.module
	m.mu.Lock()
	m.stats.Discarded++
	m.stats.MappedBytes -= m.limits.Memory
	m.mu.Unlock()
}

// isTrap reports whether a call failed because of what the guest did, not because it was told to stop.
func isTrap(err error) bool {
	var exit *sys.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode() != sys.ExitCodeContextCanceled && exit.ExitCode() != sys.ExitCodeDeadlineExceeded
	}
	return true
}

// failure turns what wazero returned into the package's errors. caller is the request's own context, ctx the one with
// the time limit.
func (in *instance) failure(caller, ctx context.Context, err error) error {
	var guestErr *GuestError
	switch {
	case errors.As(err, &guestErr), errors.Is(err, ErrTrap):
		return err
	case !isTrap(err):
		if caller.Err() != nil {
			return caller.Err()
		}
		if ctx.Err() != nil {
			return ErrDeadline
		}
		return errStale
	}
	var exit *sys.ExitError
	if errors.As(err, &exit) {
		return fmt.Errorf("%w: it left with exit code %d%s", ErrTrap, exit.ExitCode(), in.output.said())
	}
	// wazero's text is the reason in the first line and the guest's stack in those that follow.
	reason, trace, _ := strings.Cut(err.Error(), "\n")
	if trace != "" {
		in.module.lines.trace(reason, trace)
	}
	return fmt.Errorf("%w: %s%s", ErrTrap, strings.TrimPrefix(reason, "wasm error: "), in.output.said())
}

// errStale stays inside the package: an earlier call's deadline reached the instance after that call had ended.
var errStale = errors.New("the instance was closed by an earlier call's deadline")

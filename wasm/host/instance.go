package host

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
	"github.com/tetratelabs/wazero/sys"

	"github.com/dhowfleet/dhow/wasm/extism"
	"github.com/dhowfleet/dhow/wasm/host/lines"
	"github.com/dhowfleet/dhow/wasm/host/memory"
	"github.com/dhowfleet/dhow/wasm/metering"
	"github.com/dhowfleet/dhow/wasm/wasi"
)

// instance is one running guest. One call at a time uses it.
type instance struct {
	module *Module
	guest  api.Module
	memory *memory.Linear
	mapped int64 // bytes of address space
	call   call
	speaks speaker

	globals []api.MutableGlobal // all that the guest may have changed, and what they are reset to
	values  []uint64
	world   wasi.State
	plugin  *extism.State // of an Extism plug-in

	emitted []emit // of the call in flight
	dropped uint64
	output  lines.Output
}

type emit struct {
	name    string
	feature bool
	value   float64
	count   uint64
}

// start makes an instance, lets it initialise, hands it its configuration and takes the image that calls start from.
func (m *Module) start(ctx context.Context) (*instance, error) {
	began := time.Now()
	mapped := min(m.limits.Memory, int64(m.info.MemoryMax)*pageSize)
	linear, err := memory.New(mapped, int64(m.info.MemoryMin)*pageSize)
	if err != nil {
		return nil, err
	}
	in := &instance{module: m, memory: linear, mapped: mapped}
	in.call.in, in.call.quantum = in, min(firstQuantum, m.limits.Quantum)
	in.output.Log = m.lines
	m.mu.Lock()
	m.stats.Started++
	m.stats.MappedBytes += mapped
	m.mu.Unlock()
	in.call.begin(ctx, startTimeout, math.MaxInt64)
	if err := in.boot(); err != nil {
		in.call.end()
		err = in.failure(err)
		in.discard()
		return nil, err
	}
	in.call.end()
	in.emitted, in.dropped = in.emitted[:0], 0 // there is no request to which they could belong
	m.mu.Lock()
	m.image = linear.Capture(in.guest.Memory().Size(), m.image)
	m.info.InstanceTime = time.Since(began)
	m.mu.Unlock()
	for i, g := range in.globals {
		in.values[i] = g.Get()
	}
	in.world.Mark()
	return in, nil
}

// boot runs everything of a guest that comes before its first request.
func (in *instance) boot() error {
	m := in.module
	config := wazero.NewModuleConfig().WithName("").WithStartFunctions(m.kind.starts()...)
	allocate := experimental.MemoryAllocatorFunc(func(_, _ uint64) experimental.LinearMemory { return in.memory })
	var err error
	in.guest, err = m.code.Runtime.InstantiateModule(experimental.WithMemoryAllocator(&in.call, allocate), m.code.Module, config)
	if err != nil {
		return err
	}
	global := func(name string) api.MutableGlobal {
		g, ok := in.guest.ExportedGlobal(name).(api.MutableGlobal)
		if !ok {
			err = fmt.Errorf("%w: the metered module has no global %s", ErrTrap, name)
		}
		return g
	}
	in.call.fuel, in.call.stack = global(metering.ExportFuel), global(metering.ExportStack)
	for _, i := range m.info.Globals {
		in.globals = append(in.globals, global(metering.ExportGlobalPrefix+strconv.FormatUint(uint64(i), 10)))
	}
	in.values = make([]uint64, len(in.globals))
	if err != nil {
		return err
	}
	in.speaks, err = m.kind.bind(in)
	return err
}

// reset puts the instance back to its image. It reports false if the instance is not to be used again.
func (in *instance) reset() bool {
	if !in.module.restorable || in.guest.IsClosed() {
		return false
	}
	for i, g := range in.globals {
		g.Set(in.values[i])
	}
	in.world.Reset()
	if in.plugin != nil {
		in.plugin.Reset()
	}
	return in.memory.Restore(in.guest.Memory())
}

// run calls an export with the stack's values as parameters and returns its i32, if it has one.
func (in *instance) run(f api.Function, stack []uint64) (uint32, error) {
	if err := f.CallWithStack(&in.call, stack); err != nil {
		return 0, err
	}
	return uint32(stack[0]), nil
}

// discard ends the instance and gives its memory back.
func (in *instance) discard() {
	if in.guest != nil {
		_ = in.guest.Close(context.Background())
	}
	in.world.Close()
	if in.plugin != nil {
		in.plugin.Close()
	}
	in.memory.Free()
	m := in.module
	m.mu.Lock()
	m.stats.Discarded++
	m.stats.MappedBytes -= in.mapped
	m.mu.Unlock()
}

// flush hands what the guest emitted to sink.
func (in *instance) flush(sink Sink) {
	if in.dropped > 0 {
		in.module.mu.Lock()
		in.module.stats.DroppedEmits += in.dropped
		in.module.mu.Unlock()
	}
	if sink != nil {
		for i := range in.emitted {
			if e := &in.emitted[i]; e.feature {
				sink.Feature(e.name, e.value)
			} else {
				sink.Count(e.name, e.count)
			}
		}
	}
	in.emitted, in.dropped = in.emitted[:0], 0
}

// failure turns what ended a call into the package's errors. What the meter ended has its own; the rest is what wazero
// returned, or the package's already.
func (in *instance) failure(err error) error {
	var guestErr *GuestError
	var exit *sys.ExitError
	switch {
	case in.call.over != nil:
		return in.call.over
	case errors.As(err, &guestErr), errors.Is(err, ErrTrap):
		return err
	case errors.As(err, &exit):
		return fmt.Errorf("%w: it left with exit code %d%s", ErrTrap, exit.ExitCode(), in.output.Said())
	}
	// wazero's text is the reason in the first line and the guest's stack in those that follow.
	reason, trace, _ := strings.Cut(err.Error(), "\n")
	if trace != "" {
		in.module.lines.Trace(reason, trace)
	}
	reason = strings.TrimSuffix(strings.TrimPrefix(reason, "wasm error: "), " (recovered by wazero)")
	return fmt.Errorf("%w: %s%s", ErrTrap, reason, in.output.Said())
}

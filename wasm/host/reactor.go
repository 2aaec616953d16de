package host

import (
	"errors"
	"fmt"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/abi"
	"github.com/dhowfleet/dhow/wasm/host/lines"
)

// reactor is the kind of modules that keep the contract of wasm/abi.
type reactor struct{}

// signature is what the contract says of an export, in wasm's own value types.
type signature struct {
	name            string
	params, results []api.ValueType
	optional        bool
}

var i32 = api.ValueTypeI32

var signatures = []signature{
	{name: abi.ExportVersion, results: []api.ValueType{i32}},
	{name: abi.ExportRealloc, params: []api.ValueType{i32, i32, i32, i32}, results: []api.ValueType{i32}},
	{name: abi.ExportConfigure, params: []api.ValueType{i32, i32}, results: []api.ValueType{i32}, optional: true},
	{name: abi.ExportProcess, params: []api.ValueType{i32, i32}, results: []api.ValueType{i32}},
	{name: abi.ExportBatch, params: []api.ValueType{i32, i32}, results: []api.ValueType{i32}, optional: true},
	{name: abi.ExportPostProcess, params: []api.ValueType{i32}},
	{name: abi.ExportInitialize, optional: true},
}

func (reactor) check(compiled wazero.CompiledModule) error {
	if compiled.ExportedMemories()[abi.ExportMemory] == nil {
		return fmt.Errorf("it does not export its memory as %q", abi.ExportMemory)
	}
	functions := compiled.ExportedFunctions()
	for _, s := range signatures {
		f := functions[s.name]
		if f == nil {
			if s.optional {
				continue
			}
			return fmt.Errorf("it does not export the function %s, which version %d of the contract asks for", s.name, abi.Version)
		}
		if !equal(f.ParamTypes(), s.params) || !equal(f.ResultTypes(), s.results) {
			return fmt.Errorf("it exports %s with another signature than the contract's", s.name)
		}
	}
	return nil
}

func equal(a, b []api.ValueType) bool { return string(a) == string(b) }

func (reactor) imports(module, name string) bool {
	return module == abi.WASIModule ||
		module == abi.HostModule && (name == abi.ImportEmitCount || name == abi.ImportEmitFeature || name == abi.ImportLog)
}

func (reactor) starts() []string { return []string{abi.ExportInitialize} }

func (reactor) size(request []tensor.Tensor) (int, error) { return abi.Size(request) }

// reactorGuest speaks with one instance.
type reactorGuest struct {
	in                            *instance
	realloc, process, batch, post api.Function // batch may be nil
	stack                         [4]uint64
	ret                           uint32          // what is to be freed
	room                          []tensor.Tensor // of the latest answer
}

func (reactor) bind(in *instance) (speaker, error) {
	g := &reactorGuest{in: in, realloc: in.guest.ExportedFunction(abi.ExportRealloc), process: in.guest.ExportedFunction(abi.ExportProcess),
		batch: in.guest.ExportedFunction(abi.ExportBatch), post: in.guest.ExportedFunction(abi.ExportPostProcess)}
	version, err := g.run(in.guest.ExportedFunction(abi.ExportVersion), 0, 0)
	if err != nil {
		return nil, err
	}
	if version != abi.Version {
		return nil, fmt.Errorf("%w: it speaks version %d of the contract, this agent version %d", ErrTrap, version, abi.Version)
	}
	return g, g.configure(in.module.configuration)
}

func (g *reactorGuest) configure(configuration []byte) error {
	configure := g.in.guest.ExportedFunction(abi.ExportConfigure)
	if configure == nil {
		return nil
	}
	room, err := g.allocate(len(configuration))
	if err != nil {
		return err
	}
	if room == 0 || !g.in.guest.Memory().Write(room, configuration) {
		return fmt.Errorf("%w: it has no room for %d bytes of configuration", ErrTrap, len(configuration))
	}
	answer, err := g.run(configure, uint64(room), uint64(len(configuration)))
	if err != nil {
		return err
	}
	if answer != 0 {
		return fmt.Errorf("%w: it refuses its configuration%s", ErrTrap, g.in.output.Said())
	}
	return nil
}

func (g *reactorGuest) run(f api.Function, a, b uint64) (uint32, error) {
	g.stack[0], g.stack[1] = a, b
	return g.in.run(f, g.stack[:])
}

// allocate asks the guest for n bytes; 0 means that it has none.
func (g *reactorGuest) allocate(n int) (uint32, error) {
	g.stack = [4]uint64{0, 0, abi.Align, uint64(n)}
	ptr, err := g.in.run(g.realloc, g.stack[:])
	if err == nil && ptr%abi.Align != 0 {
		return 0, fmt.Errorf("%w: %s returned an address that is no multiple of %d", ErrTrap, abi.ExportRealloc, abi.Align)
	}
	return ptr, err
}

// place returns room for a request in the guest's memory.
func (g *reactorGuest) place(size int) (uint32, []byte, error) {
	room, err := g.allocate(size)
	switch {
	case err != nil && g.in.call.over == nil && !errors.Is(err, ErrTrap):
		return 0, nil, errNoRoom // only the allocator ran, so it is the request's size that the guest could not take
	case err != nil:
		return 0, nil, err
	case room == 0:
		return 0, nil, errNoRoom
	}
	view, ok := g.in.guest.Memory().Read(room, uint32(size))
	if !ok {
		return 0, nil, fmt.Errorf("%w: %s returned an address outside its memory", ErrTrap, abi.ExportRealloc)
	}
	return room, view, nil
}

func (g *reactorGuest) ask(request []tensor.Tensor, size int) ([]tensor.Tensor, error) {
	room, view, err := g.place(size)
	if err != nil {
		return nil, err
	}
	if err := abi.Put(view, request); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrTrap, err)
	}
	if g.ret, err = g.run(g.process, uint64(room), uint64(size)); err != nil {
		return nil, err
	}
	payload, err := g.result()
	if err != nil {
		return nil, err
	}
	out, err := abi.DecodeInto(g.room, payload)
	if err != nil {
		return nil, fmt.Errorf("%w: it returned a broken tensor list: %v", ErrTrap, err)
	}
	g.room = out
	return out, nil
}

func (g *reactorGuest) batches() bool { return g.batch != nil }

func (g *reactorGuest) askAll(requests [][]tensor.Tensor, size int, answers []Answer) error {
	room, view, err := g.place(size)
	if err != nil {
		return err
	}
	if err := abi.PutBatch(view, requests); err != nil {
		return fmt.Errorf("%w: %v", ErrTrap, err)
	}
	if g.ret, err = g.run(g.batch, uint64(room), uint64(size)); err != nil {
		return err
	}
	payload, err := g.result()
	if err != nil {
		return err
	}
	items, err := abi.DecodeBatch(payload)
	if err != nil {
		return fmt.Errorf("%w: it returned a broken batch: %v", ErrTrap, err)
	}
	if len(items) != len(requests) {
		return fmt.Errorf("%w: it returned %d answers to %d requests", ErrTrap, len(items), len(requests))
	}
	for i := range items {
		if err := refusal(items[i].Status, items[i].Payload); err != nil {
			answers[i].Err = err
			continue
		}
		out, err := abi.Decode(append([]byte(nil), items[i].Payload...))
		if err != nil {
			return fmt.Errorf("%w: it returned a broken tensor list as answer %d: %v", ErrTrap, i, err)
		}
		answers[i].Tensors = out
	}
	return nil
}

func (g *reactorGuest) done() error {
	_, err := g.run(g.post, uint64(g.ret), 0)
	return err
}

// result finds what the guest returned in its memory.
func (g *reactorGuest) result() ([]byte, error) {
	raw, ok := g.in.guest.Memory().Read(g.ret, abi.ReturnAreaSize)
	if !ok {
		return nil, fmt.Errorf("%w: it returned an address outside its memory", ErrTrap)
	}
	area, err := abi.ParseReturnArea(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrTrap, err)
	}
	view, ok := g.in.guest.Memory().Read(area.Ptr, area.Len)
	if !ok {
		return nil, fmt.Errorf("%w: it returned a result outside its memory", ErrTrap)
	}
	return view, refusal(area.Status, view)
}

// refusal is the guest's own error, if the status says that the payload is one.
func refusal(status abi.Status, payload []byte) error {
	if status == abi.StatusTensors {
		return nil
	}
	return &GuestError{Input: status == abi.StatusInputError, Message: lines.Sentence(payload, abi.MaxMessage)}
}

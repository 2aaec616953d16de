package kittest

import (
	"context"
	"fmt"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/dhowfleet/dhow/wasm/abi"
)

// Bare is one instance of a guest without the host around it, so that a test can hand it any bytes.
type Bare struct {
	Said string // the latest line that the guest logged

	runtime wazero.Runtime
	guest   api.Module
}

// NewBare starts an instance with a configuration; it is closed with the test.
func NewBare(t testing.TB, code, configuration []byte) *Bare {
	t.Helper()
	ctx := context.Background()
	b := &Bare{runtime: wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig().WithMemoryLimitPages(256))}
	t.Cleanup(func() { _ = b.runtime.Close(ctx) })
	i32, i64, f64 := api.ValueTypeI32, api.ValueTypeI64, api.ValueTypeF64
	nothing := api.GoModuleFunc(func(context.Context, api.Module, []uint64) {})
	log := api.GoModuleFunc(func(_ context.Context, m api.Module, stack []uint64) {
		line, _ := m.Memory().Read(uint32(stack[1]), uint32(stack[2]))
		b.Said = string(line)
	})
	_, err := b.runtime.NewHostModuleBuilder(abi.HostModule).
		NewFunctionBuilder().WithGoModuleFunction(nothing, []api.ValueType{i32, i32, f64}, nil).Export(abi.ImportEmitFeature).
		NewFunctionBuilder().WithGoModuleFunction(nothing, []api.ValueType{i32, i32, i64}, nil).Export(abi.ImportEmitCount).
		NewFunctionBuilder().WithGoModuleFunction(log, []api.ValueType{i32, i32, i32}, nil).Export(abi.ImportLog).
		Instantiate(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if b.guest, err = b.runtime.InstantiateWithConfig(ctx, code, wazero.NewModuleConfig().WithStartFunctions(abi.ExportInitialize)); err != nil {
		t.Fatal(err)
	}
	if version, err := b.call(abi.ExportVersion); err != nil || version != abi.Version {
		t.Fatalf("version %d, %v", version, err)
	}
	if ok, err := b.Configure(configuration); err != nil || !ok {
		t.Fatalf("configure: %v, %s", err, b.Said)
	}
	return b
}

// Configure hands a configuration to the guest, also to one that has another already, and returns whether it took it.
func (b *Bare) Configure(configuration []byte) (bool, error) {
	ptr, err := b.hand(configuration)
	if err != nil {
		return false, err
	}
	answer, err := b.call(abi.ExportConfigure, uint64(ptr), uint64(len(configuration)))
	return answer == 0, err
}

func (b *Bare) call(export string, params ...uint64) (uint32, error) {
	f := b.guest.ExportedFunction(export)
	if f == nil {
		return 0, fmt.Errorf("there is no export %s", export)
	}
	results, err := f.Call(context.Background(), params...)
	if err != nil || len(results) == 0 {
		return 0, err
	}
	return uint32(results[0]), nil
}

// hand writes bytes into room that the guest gives.
func (b *Bare) hand(content []byte) (uint32, error) {
	ptr, err := b.call(abi.ExportRealloc, 0, 0, abi.Align, uint64(len(content)))
	switch {
	case err != nil:
		return 0, err
	case ptr == 0 || ptr%abi.Align != 0:
		return 0, fmt.Errorf("%s returned %d for %d bytes", abi.ExportRealloc, ptr, len(content))
	case !b.guest.Memory().Write(ptr, content):
		return 0, fmt.Errorf("%s returned room outside the memory", abi.ExportRealloc)
	}
	return ptr, nil
}

// Answer hands content to export, process or process_batch, and returns a copy of the answer. An error is a trap, after
// which the instance is not to be used again, or a broken answer.
func (b *Bare) Answer(export string, content []byte) (abi.Item, error) {
	ptr, err := b.hand(content)
	if err != nil {
		return abi.Item{}, err
	}
	ret, err := b.call(export, uint64(ptr), uint64(len(content)))
	if err != nil {
		return abi.Item{}, err
	}
	raw, ok := b.guest.Memory().Read(ret, abi.ReturnAreaSize)
	if !ok || ret%4 != 0 {
		return abi.Item{}, fmt.Errorf("%s returned the address %d", export, ret)
	}
	area, err := abi.ParseReturnArea(raw)
	if err != nil {
		return abi.Item{}, err
	}
	payload, ok := b.guest.Memory().Read(area.Ptr, area.Len)
	if !ok {
		return abi.Item{}, fmt.Errorf("%s returned a payload outside the memory", export)
	}
	item := abi.Item{Status: area.Status, Payload: append([]byte(nil), payload...)}
	_, err = b.call(abi.ExportPostProcess, uint64(ret))
	return item, err
}

// Memory is the size of the instance's memory in bytes.
func (b *Bare) Memory() uint32 { return b.guest.Memory().Size() }

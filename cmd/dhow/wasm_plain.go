package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/abi"
)

// plainGuest runs a module by wazero alone, without any bound but its memory's: what an agent's bounds cost is measured
// against it.
type plainGuest struct {
	ctx     context.Context
	cancel  context.CancelFunc
	runtime wazero.Runtime
	guest   api.Module

	realloc, process, post api.Function
	stack                  [4]uint64
}

// startPlain starts an instance. closing has wazero watch the context at every loop, with a deadline as a request has.
func startPlain(ctx context.Context, m *wasmModule, closing bool) (*plainGuest, error) {
	p := &plainGuest{ctx: ctx, cancel: func() {}}
	if closing {
		p.ctx, p.cancel = context.WithTimeout(ctx, time.Hour)
	}
	config := wazero.NewRuntimeConfig().WithCoreFeatures(api.CoreFeaturesV2).WithCloseOnContextDone(closing).WithDebugInfoEnabled(false)
	if pages := m.options.Limits.Memory >> 16; pages > 0 && pages < 1<<16 {
		config = config.WithMemoryLimitPages(uint32(pages))
	}
	p.runtime = wazero.NewRuntimeWithConfig(ctx, config)
	if err := p.start(m); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *plainGuest) start(m *wasmModule) error {
	if _, err := wasi_snapshot_preview1.Instantiate(p.ctx, p.runtime); err != nil {
		return err
	}
	i32, i64, f64 := api.ValueTypeI32, api.ValueTypeI64, api.ValueTypeF64
	ignore := api.GoModuleFunc(func(context.Context, api.Module, []uint64) {})
	if _, err := p.runtime.NewHostModuleBuilder(abi.HostModule).
		NewFunctionBuilder().WithGoModuleFunction(ignore, []api.ValueType{i32, i32, f64}, nil).Export(abi.ImportEmitFeature).
		NewFunctionBuilder().WithGoModuleFunction(ignore, []api.ValueType{i32, i32, i64}, nil).Export(abi.ImportEmitCount).
		NewFunctionBuilder().WithGoModuleFunction(ignore, []api.ValueType{i32, i32, i32}, nil).Export(abi.ImportLog).
		Instantiate(p.ctx); err != nil {
		return err
	}
	var err error
	p.guest, err = p.runtime.InstantiateWithConfig(p.ctx, m.code, wazero.NewModuleConfig().WithName("").WithStartFunctions(abi.ExportInitialize))
	if err != nil {
		return err
	}
	for name, f := range map[string]*api.Function{abi.ExportRealloc: &p.realloc, abi.ExportProcess: &p.process, abi.ExportPostProcess: &p.post} {
		if *f = p.guest.ExportedFunction(name); *f == nil {
			return fmt.Errorf("it does not export %s", name)
		}
	}
	configure := p.guest.ExportedFunction(abi.ExportConfigure)
	if configure == nil {
		return nil
	}
	at, err := p.write(len(m.options.Configuration), func(room []byte) error {
		copy(room, m.options.Configuration)
		return nil
	})
	if err != nil {
		return err
	}
	result, err := configure.Call(p.ctx, uint64(at), uint64(len(m.options.Configuration)))
	if err == nil && len(result) == 1 && uint32(result[0]) != 0 {
		err = errors.New("it refuses its configuration")
	}
	return err
}

// write lets fill write into memory that the guest gives.
func (p *plainGuest) write(n int, fill func([]byte) error) (uint32, error) {
	p.stack = [4]uint64{0, 0, abi.Align, uint64(n)}
	if err := p.realloc.CallWithStack(p.ctx, p.stack[:]); err != nil {
		return 0, err
	}
	at := uint32(p.stack[0])
	room, ok := p.guest.Memory().Read(at, uint32(n))
	if at == 0 || !ok {
		return 0, errors.New("it gives no room for a request")
	}
	return at, fill(room)
}

// call answers one request. use is handed the tensor list in the guest's memory.
func (p *plainGuest) call(in []tensor.Tensor, size int, use func(list []byte) error) error {
	at, err := p.write(size, func(room []byte) error { return abi.Put(room, in) })
	if err != nil {
		return err
	}
	p.stack[0], p.stack[1] = uint64(at), uint64(size)
	if err := p.process.CallWithStack(p.ctx, p.stack[:]); err != nil {
		return err
	}
	ret := p.stack[0]
	raw, ok := p.guest.Memory().Read(uint32(ret), abi.ReturnAreaSize)
	if !ok {
		return errors.New("it returns an address outside its memory")
	}
	area, err := abi.ParseReturnArea(raw)
	if err != nil {
		return err
	}
	list, ok := p.guest.Memory().Read(area.Ptr, area.Len)
	if !ok {
		return errors.New("it returns a result outside its memory")
	}
	if area.Status != abi.StatusTensors {
		return fmt.Errorf("it answers: %s", list[:min(len(list), abi.MaxMessage)])
	}
	if err := use(list); err != nil {
		return err
	}
	p.stack[0] = ret
	return p.post.CallWithStack(p.ctx, p.stack[:])
}

func (p *plainGuest) close() {
	_ = p.runtime.Close(context.WithoutCancel(p.ctx))
	p.cancel()
}

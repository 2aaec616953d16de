package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	extism "github.com/extism/go-sdk"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/abi"
	"github.com/dhowfleet/dhow/wasm/host"
	"github.com/dhowfleet/dhow/wasm/payload"
)

const (
	tollBound    = 500 * time.Nanosecond // at 4 KiB
	extismFactor = 50                    // at 602 KB
	small        = 4 << 10
	large        = 3 * 224 * 224 * 4 // a picture in FP32
)

// tollTable measures an echo: what it takes to hand bytes to a guest that does nothing, and to get them back.
func (b *bench) tollTable(ctx context.Context) error {
	var names []string
	var took [2][]time.Duration
	for i, size := range []int{small, large} {
		echoes, err := b.echoes(ctx, size)
		if err != nil {
			return err
		}
		contenders := make([]contender, len(echoes))
		names = nil
		for j, e := range echoes {
			names = append(names, e.name)
			contenders[j] = contender{e.name, func(n int) error {
				for range n {
					if err := e.call(); err != nil {
						return err
					}
				}
				return nil
			}}
		}
		took[i], err = compare(ctx, b.rounds(25), contenders)
		for _, e := range echoes {
			e.close()
		}
		if err != nil {
			return err
		}
	}
	var sdk time.Duration
	for j, name := range names {
		if name == extismSDK {
			sdk = took[1][j]
		}
	}
	s := b.report.sheet("echo", "4 KiB", "602 KB", "Extism over it")
	for j, name := range names {
		var g goals
		if name == ownBorrowed {
			g = goals{within("4 KiB", took[0][j], tollBound), atLeast("602 KB", ratio(sdk, took[1][j]), extismFactor)}
		}
		s.row(g, name, span(took[0][j]), span(took[1][j]), fmt.Sprintf("%.0fx", ratio(sdk, took[1][j])))
	}
	return s.flush()
}

// echo is one way to hand bytes over.
type echo struct {
	name  string
	call  func() error
	close func()
}

const (
	ownBorrowed = "own contract, result borrowed"
	extismSDK   = "Extism's SDK"
)

func (b *bench) echoes(ctx context.Context, size int) ([]echo, error) {
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i * 7)
	}
	var all []echo
	for _, make := range []func(context.Context, []byte) ([]echo, error){b.ownEchoes, wazeroEcho, b.foreignEchoes, extismEchoes, commandEchoes} {
		some, err := make(ctx, data)
		if err != nil {
			for _, e := range all {
				e.close()
			}
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

var errOther = errors.New("what comes back is not what was sent")

func (b *bench) ownEchoes(ctx context.Context, data []byte) ([]echo, error) {
	code, err := b.goEcho(ctx)
	if err != nil {
		return nil, err
	}
	byHand := echoGuest(pagesFor(len(data)))
	var modules []*host.Module
	for _, c := range []struct {
		code  []byte
		state host.State
	}{{byHand, host.Keep}, {byHand, host.Reset}, {code, host.Reset}} {
		m, err := b.compile(ctx, c.code, host.Options{Name: "echo", State: c.state, Limits: host.Limits{Timeout: time.Minute}})
		if err != nil {
			return nil, err
		}
		modules = append(modules, m)
	}
	in := []tensor.Tensor{{Name: "x", Datatype: tensor.Uint8, Shape: []int64{int64(len(data))}, Data: data}}
	check := func(out []tensor.Tensor) error {
		if len(out) != 1 || len(out[0].Data) != len(data) {
			return errOther
		}
		return nil
	}
	kept, reset, inGo := modules[0], modules[1], modules[2]
	closeAll := func() {
		for _, m := range modules {
			_ = m.Close()
		}
	}
	view := func(m *host.Module) func() error {
		return func() error { return m.View(ctx, in, nil, check) }
	}
	return []echo{
		{ownBorrowed, view(kept), closeAll},
		{"own contract, result copied", func() error {
			out, err := kept.Process(ctx, in, nil)
			if err != nil {
				return err
			}
			return check(out)
		}, func() {}},
		{"own contract, result borrowed, reset", view(reset), func() {}},
		{"own contract, result borrowed, reset, guest in Go", view(inGo), func() {}},
	}, nil
}

// pagesFor is how many pages an echo guest needs for a request.
func pagesFor(size int) uint64 { return uint64(size+2*4096+pageSize-1) / pageSize }

// wazeroEcho makes the calls of the contract with wazero alone, as the least that there can be.
func wazeroEcho(ctx context.Context, data []byte) ([]echo, error) {
	r, err := start(ctx, echoGuest(pagesFor(len(data))), false)
	if err != nil {
		return nil, err
	}
	in := []tensor.Tensor{{Name: "x", Datatype: tensor.Uint8, Shape: []int64{int64(len(data))}, Data: data}}
	call := contractCall(r, in, func(view []byte) error {
		if len(view) < len(data) {
			return errOther
		}
		return nil
	})
	return []echo{{"the same calls by wazero alone", call, r.close}}, nil
}

// contractCall answers a request as package host does, as far as a guest that keeps the contract needs it: no bound, no
// reset, no check.
func contractCall(r *running, in []tensor.Tensor, use func(list []byte) error) func() error {
	realloc, process, post := r.function(abi.ExportRealloc), r.function(abi.ExportProcess), r.function(abi.ExportPostProcess)
	memory := r.module.Memory()
	size, sizeErr := abi.Size(in)
	var stack [4]uint64
	return func() error {
		stack = [4]uint64{0, 0, abi.Align, uint64(size)}
		if err := errors.Join(sizeErr, realloc(stack[:])); err != nil {
			return err
		}
		at := uint32(stack[0])
		room, ok := memory.Read(at, uint32(size))
		if !ok {
			return errors.New("it gives no room")
		}
		if err := abi.Put(room, in); err != nil {
			return err
		}
		stack[0], stack[1] = uint64(at), uint64(size)
		if err := process(stack[:]); err != nil {
			return err
		}
		ret := uint32(stack[0])
		raw, ok := memory.Read(ret, abi.ReturnAreaSize)
		if !ok {
			return errOther
		}
		area, err := abi.ParseReturnArea(raw)
		if err != nil {
			return err
		}
		list, ok := memory.Read(area.Ptr, area.Len)
		if !ok || area.Status != abi.StatusTensors {
			return errOther
		}
		if err := use(list); err != nil {
			return err
		}
		stack[0] = uint64(ret)
		return post(stack[:])
	}
}

// foreignEchoes are programs without the contract, run by package host under the bounds of all others.
func (b *bench) foreignEchoes(ctx context.Context, data []byte) ([]echo, error) {
	in := []tensor.Tensor{{Name: "x", Datatype: tensor.Bytes, Shape: []int64{1}, Data: tensor.AppendBytes(nil, data)}}
	var all []echo
	for _, c := range []struct {
		name string
		code []byte
		kind host.Kind
	}{
		{"a plug-in of Extism's, in our host, reset", extismEcho(), host.Extism},
		{"a WASI command, in our host, reset", commandEcho(), host.Command},
	} {
		m, err := b.compile(ctx, c.code, host.Options{Name: "echo", Kind: c.kind, Function: "echo", Format: payload.Raw, Limits: host.Limits{Timeout: time.Minute}})
		if err != nil {
			for _, e := range all {
				e.close()
			}
			return nil, err
		}
		all = append(all, echo{c.name, func() error {
			return m.View(ctx, in, nil, func(out []tensor.Tensor) error {
				if len(out) != 1 || !bytes.Equal(out[0].Data, in[0].Data) {
					return errOther
				}
				return nil
			})
		}, func() { _ = m.Close() }})
	}
	return all, nil
}

func extismEchoes(ctx context.Context, data []byte) ([]echo, error) {
	manifest := extism.Manifest{Wasm: []extism.Wasm{extism.WasmData{Data: extismEcho()}}}
	plugin, err := extism.NewPlugin(ctx, manifest, extism.PluginConfig{}, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot start Extism: %w", err)
	}
	return []echo{{extismSDK, func() error {
		code, out, err := plugin.CallWithContext(ctx, "echo", data)
		if err == nil && (code != 0 || len(out) != len(data) || out[len(out)-1] != data[len(data)-1]) {
			err = errOther
		}
		return err
	}, func() { _ = plugin.Close(ctx) }}}, nil
}

// commandEchoes runs a command for each request, as WASI's commands are meant to be run.
func commandEchoes(ctx context.Context, data []byte) ([]echo, error) {
	runtime := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig().WithDebugInfoEnabled(false))
	if _, err := wasi_snapshot_preview1.Instantiate(ctx, runtime); err != nil {
		return nil, err
	}
	compiled, err := runtime.CompileModule(ctx, commandEcho())
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	return []echo{{"WASI's streams, wazero alone", func() error {
		out.Reset()
		config := wazero.NewModuleConfig().WithName("").WithStdin(io.Reader(bytes.NewReader(data))).WithStdout(&out)
		m, err := runtime.InstantiateModule(ctx, compiled, config)
		if err != nil {
			return err
		}
		if !bytes.Equal(out.Bytes(), data) {
			return errOther
		}
		return m.Close(ctx)
	}, func() { _ = runtime.Close(ctx) }}}, nil
}

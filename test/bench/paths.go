package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/dhowfleet/dhow/agent/health"
	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/inference/onnxruntime"
	"github.com/dhowfleet/dhow/agent/inference/onnxtest"
	"github.com/dhowfleet/dhow/agent/openinference"
	"github.com/dhowfleet/dhow/agent/openinference/conns"
	"github.com/dhowfleet/dhow/agent/openinference/express"
	"github.com/dhowfleet/dhow/agent/pipeline"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/agent/telemetry"
	"github.com/dhowfleet/dhow/models/bundle"
	"github.com/dhowfleet/dhow/models/tensor"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
	"github.com/dhowfleet/dhow/wasm/host"
)

const (
	width = 1024
	file  = "model.onnx"
	id    = "7e57d004-2b97-0e7a-b45f-5387367791cd"
)

// bench is an agent's serving parts, put together as the agent does, and the bare session beside them.
type bench struct {
	version  string
	bare     *ort.DynamicAdvancedSession
	in, out  *ort.Tensor[float32]
	model    inference.Model
	recorder *telemetry.Recorder
	table    *serving.Table
	server   *http.Server
	quick    *express.Listener // which answers what server need not, as in the agent
	binary   *caller
	json     *caller
}

// outbox takes the place of state.db: nothing is added up while the recorder is measured.
type outbox struct{}

func (outbox) Checkpoint(context.Context) (uint64, bool, error) { return 0, false, nil }
func (outbox) SetCheckpoint(context.Context, uint64) error      { return nil }

func (outbox) RollUp(context.Context, uint64, uint64, *syncv1.Aggregate) error { return nil }

func newBench(ctx context.Context, dir string) (b *bench, err error) {
	b = &bench{}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	if err := os.WriteFile(filepath.Join(dir, file), onnxtest.Negate(width).Model(), 0o600); err != nil {
		return nil, err
	}
	engine := onnxruntime.New("")
	if err := engine.Open(); err != nil {
		return nil, err
	}
	b.version = engine.Version()
	if err := b.openBare(filepath.Join(dir, file)); err != nil {
		return nil, err
	}
	if b.model, err = engine.Load(ctx, filepath.Join(dir, file), inference.Options{}); err != nil {
		return nil, err
	}
	if b.recorder, err = telemetry.Open(ctx, dir, outbox{}, telemetry.Options{Logger: slog.New(slog.DiscardHandler), Health: health.New(time.Now)}); err != nil {
		return nil, err
	}
	b.table = serving.NewTable(serving.Options{Recorder: b.recorder})
	var variants []serving.Variant
	for i, version := range []string{"1", "2"} {
		p, err := pipeline.Open(ctx, pipeline.Deps{Engine: engine}, dir, spec(), "")
		if err != nil {
			return nil, err
		}
		variants = append(variants, serving.Variant{Version: version, Role: uint8(i + 1), ShareMillionths: 500_000, Runner: p})
	}
	b.table.Set("negate", variants)
	return b, b.listen(ctx)
}

func spec() bundle.Spec {
	shape := []int64{-1, width}
	return bundle.Spec{
		Name: "negate", Version: "1",
		Variants: []bundle.Variant{{Name: "float32", File: file}},
		Inputs:   []tensor.Spec{{Name: "x", Datatype: tensor.FP32, Shape: shape}},
		Outputs:  []tensor.Spec{{Name: "y", Datatype: tensor.FP32, Shape: shape}},
	}
}

// openBare opens the same model with the binding alone, with the options that matter for speed as Dhow sets them.
func (b *bench) openBare(path string) error {
	options, err := ort.NewSessionOptions()
	if err != nil {
		return err
	}
	defer func() { _ = options.Destroy() }()
	if err := options.SetIntraOpNumThreads(1); err != nil {
		return err
	}
	if err := options.SetInterOpNumThreads(1); err != nil {
		return err
	}
	if b.bare, err = ort.NewDynamicAdvancedSession(path, []string{"x"}, []string{"y"}, options); err != nil {
		return err
	}
	shape := ort.NewShape(1, width)
	if b.in, err = ort.NewTensor(shape, make([]float32, width)); err != nil {
		return err
	}
	b.out, err = ort.NewEmptyTensor[float32](shape)
	return err
}

func (b *bench) listen(ctx context.Context) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	handler := openinference.New(b.table, openinference.Options{Plain: true})
	b.server = &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	b.quick = express.New(listener, express.Options{
		Handler: handler, HeaderTimeout: time.Minute, IdleTimeout: time.Hour, Limit: 16, Logger: slog.New(slog.DiscardHandler),
	})
	wrapped := conns.Wrap(b.server, b.quick)
	go func() { _ = b.server.Serve(wrapped) }() // ends with close
	address := listener.Addr().String()
	if b.binary, err = newCaller(ctx, address, binaryRequest(address)); err != nil {
		return err
	}
	b.json, err = newCaller(ctx, address, jsonRequest(address))
	return err
}

func (b *bench) close() {
	if b.binary != nil {
		b.binary.close()
	}
	if b.json != nil {
		b.json.close()
	}
	if b.quick != nil {
		b.quick.Abort()
	}
	if b.server != nil {
		_ = b.server.Close()
	}
	if b.table != nil {
		_ = b.table.Close(context.Background())
	}
	if b.recorder != nil {
		_ = b.recorder.Close()
	}
	if b.model != nil {
		_ = b.model.Close()
	}
	if b.bare != nil {
		_ = b.bare.Destroy()
	}
}

// quick is a runner that costs nothing, so that only the table's own way remains.
type quick struct{ out []tensor.Tensor }

func (q *quick) Infer(context.Context, []tensor.Tensor, []string, host.Sink) ([]tensor.Tensor, error) {
	return q.out, nil
}
func (*quick) Inputs() []tensor.Spec  { return nil }
func (*quick) Outputs() []tensor.Spec { return nil }
func (*quick) Close() error           { return nil }

func (b *bench) paths() []path {
	// A request of a server has a context that can end.
	ctx, cancel := context.WithCancel(context.Background())
	_ = cancel // for as long as the program runs
	in := []tensor.Tensor{tensor.FromFloat32("x", []int64{1, width}, make([]float32, width))}
	bareIn, bareOut := []ort.Value{b.in}, []ort.Value{b.out}
	b.table.Set("quick", []serving.Variant{
		{Version: "1", Role: 1, ShareMillionths: 500_000, Runner: &quick{in}},
		{Version: "2", Role: 2, ShareMillionths: 500_000, Runner: &quick{in}},
	})
	infer := func(model string) func() error {
		return func() error {
			_, err := b.table.Infer(ctx, serving.Request{Model: model, ID: id, Inputs: in})
			return err
		}
	}
	return []path{
		{name: "bare ONNX Runtime", goal: "-", countable: true, call: func() error { return b.bare.Run(bareIn, bareOut) }},
		{name: "agent/inference alone", goal: "-", countable: true, call: func() error {
			_, err := b.model.Run(ctx, in, nil)
			return err
		}},
		{name: "in process: route, admit, run, record", goal: "<= 2.5 us over bare", countable: true, call: infer("negate")},
		{name: "route, admit, record, without a model", goal: "0 allocations", countable: true, call: infer("quick")},
		{name: "REST, binary", goal: "<= 40 us over bare", call: b.binary.call},
		{name: "REST, JSON", goal: "-", call: b.json.call},
		{name: "REST, health (the transport alone)", goal: "-", call: func() error { return b.binary.get() }},
	}
}

func body(extra string) string {
	return fmt.Sprintf(`{"id":%q,"inputs":[{"name":"x","shape":[1,%d],"datatype":"FP32",%s`, id, width, extra)
}

package step

import (
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/models/bundle"
	"github.com/dhowfleet/dhow/wasm/host"
	"github.com/dhowfleet/dhow/wasm/payload"
	"github.com/dhowfleet/dhow/wasm/wasi"
)

// TestAModuleIsRunAsItsBundleSays: what bundle.yaml says of a module reaches the host, each key by itself.
func TestAModuleIsRunAsItsBundleSays(t *testing.T) {
	const around = "apiVersion: dhow/v1\nname: m\nversion: '1'\nvariants: [{name: a, file: m.onnx}]\ncounters: [seen]\nfeatures: [size]\n" +
		"inputs: [{name: x, datatype: FP32, shape: [-1]}]\noutputs: [{name: y, datatype: FP32, shape: [-1]}]\npipeline: {pre: {module: p.wasm"
	of := func(keys string) host.Options {
		spec, err := bundle.ParseSpec([]byte(around + keys + "}}\n"))
		if err != nil {
			t.Fatal(err)
		}
		return Options("/bundles/m", &spec, spec.Pre)
	}
	plain := of("")
	if plain.Name != "p.wasm" || !reflect.DeepEqual(plain.Counters, []string{"seen"}) || !reflect.DeepEqual(plain.Features, []string{"size"}) {
		t.Errorf("%+v", plain)
	}
	for keys, change := range map[string]func(*host.Options){
		", timeout: 7ms":      func(o *host.Options) { o.Limits.Timeout = 7 * time.Millisecond },
		", memory: 3MiB":      func(o *host.Options) { o.Limits.Memory = 3 << 20 },
		", stack: 32KiB":      func(o *host.Options) { o.Limits.Stack = 32 << 10 },
		", table: 77":         func(o *host.Options) { o.Limits.Table = 77 },
		", fuel: 12345":       func(o *host.Options) { o.Limits.Fuel = 12345 },
		", state: keep":       func(o *host.Options) { o.State = host.Keep },
		", allow: [clock]":    func(o *host.Options) { o.Grants = wasi.Grants{Clock: true} },
		", allow: [random]":   func(o *host.Options) { o.Grants = wasi.Grants{Random: true} },
		", files: words/more": func(o *host.Options) { o.Grants.Files = filepath.FromSlash("/bundles/m/words/more") },
		", kind: command":     func(o *host.Options) { o.Kind, o.Format = host.Command, payload.Tensors },
		", kind: command, format: json": func(o *host.Options) {
			o.Kind, o.Format = host.Command, payload.JSON
		},
		", kind: extism, function: f, format: raw": func(o *host.Options) {
			o.Kind, o.Function, o.Format = host.Extism, "f", payload.Raw
		},
	} {
		want := plain
		change(&want)
		if got := of(keys); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", keys, got, want)
		}
	}
}

package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/inference/onnxtest"
	"github.com/dhowfleet/dhow/wasm/wasmtest"
)

// This test's binary is its own child: with a verb as its first argument it plays a probe, a good or a bad one.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 {
		os.Exit(m.Run())
	}
	switch os.Args[1] {
	case "probe":
		os.Exit(Main(os.Stdin, os.Stdout))
	case "weigh":
		os.Exit(weigh(os.Args[2]))
	case "abort":
		_ = syscall.Kill(os.Getpid(), syscall.SIGABRT)
		select {}
	case "killed":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case "hang":
		_, _ = io.Copy(io.Discard, os.Stdin)
		time.Sleep(time.Hour)
	case "swell":
		var all [][]byte
		for len(all) < 1<<16 {
			all = append(all, bytes.Repeat([]byte{1}, 8<<20))
			time.Sleep(time.Millisecond)
		}
	case "spin":
		_ = limit(&Request{CPUSeconds: 1})
		for n := uint64(1); n != 0; {
			n += 2 // stays odd
		}
	case "babble":
		for range 100 {
			fmt.Println(strings.Repeat("noise ", 1000))
			fmt.Fprintln(os.Stderr, strings.Repeat("noise ", 1000))
		}
		fmt.Println(`{"ok":true,"provider":"babble"}`)
		os.Exit(0)
	case "mute":
		os.Exit(3)
	case "environment":
		fmt.Printf("{\"ok\":true,\"provider\":%q}\n", strings.Join(os.Environ(), " "))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func command(verb string) []string { return []string{os.Args[0], verb} }

const spec = `apiVersion: dhow/v1
name: negate
version: "1"
variants: [{name: float32, file: model.onnx}]
inputs: [{name: x, datatype: FP32, shape: [-1, 3]}]
outputs: [{name: y, datatype: FP32, shape: [-1, 3]}]
`

const golden = `{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":[1,2,3]}],"outputs":[{"name":"y","datatype":"FP32","shape":[1,3],"data":[-1,-2,-3]}],"tolerance":0.001}`

// folder writes a bundle; files replace or add to those of a good one, an empty one is left out.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	all := map[string]string{"bundle.yaml": spec + "golden: golden\n", "model.onnx": string(onnxtest.Negate(3).Model()), "golden/one.json": golden}
	for name, content := range files {
		all[name] = content
	}
	for name, content := range all {
		if content == "" {
			continue
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func try(t *testing.T, r Request) Result {
	t.Helper()
	if r.Command == nil {
		r.Command = command("probe")
	}
	if r.Wall == 0 {
		r.Wall = time.Minute
	}
	res, err := Run(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if res.OK == (res.Reason != "") || res.OK == (res.Message != "") {
		t.Errorf("%+v", res)
	}
	return res
}

func TestAGoodBundle(t *testing.T) {
	res := try(t, Request{Dir: folder(t, nil)})
	if !res.OK || res.Provider != "CPUExecutionProvider" || res.MedianMicros <= 0 || res.PeakBytes < 1<<20 {
		t.Errorf("%+v", res)
	}
	res = try(t, Request{Dir: folder(t, map[string]string{"bundle.yaml": spec, "golden/one.json": ""})})
	if !res.OK || res.MedianMicros <= 0 {
		t.Errorf("without samples: %+v", res)
	}
}

// bomb is a WASM module of 25 KB that takes half a minute to compile.
func bomb() string {
	g := wasmtest.NewGuest()
	f := g.Func(wasmtest.Sig{})
	f.LocalGroup(1000, wasmtest.I32)
	var body []wasmtest.Code
	for i := range uint32(2000) {
		body = append(body, wasmtest.Loop(wasmtest.Empty, wasmtest.LocalGet(i%1000), wasmtest.LocalSet((i*7+1)%1000), wasmtest.LocalGet(i%1000), wasmtest.BrIf(0)))
	}
	f.Body(body...)
	return string(g.Bytes())
}

func TestBadBundles(t *testing.T) {
	model := onnxtest.Negate(3)
	model.Nodes[0].Op = "NoSuchOperator"
	for _, c := range []struct {
		name          string
		files         map[string]string
		reason, words string
	}{
		{"no model", map[string]string{"model.onnx": ""}, BundleInvalid, "model.onnx"},
		{"truncated model", map[string]string{"model.onnx": string(onnxtest.Negate(3).Model()[:60])}, BundleInvalid, "model.onnx"},
		{"unknown operator", map[string]string{"model.onnx": string(model.Model())}, LoadFailed, "cannot load model.onnx: "},
		{"wrong answer", map[string]string{"golden/one.json": strings.Replace(golden, "-2", "-2.1", 1)}, GoldenMismatch, `golden sample one: `},
		{"no WASM module", map[string]string{"bundle.yaml": spec + "golden: golden\npipeline: {pre: {module: pre.wasm}}\n", "pre.wasm": "\x00asm\x01\x00\x00\x00garbage"}, WasmFailed, "pre.wasm cannot be loaded"},
		{"a WASM module that explodes when it is compiled", map[string]string{"bundle.yaml": spec + "golden: golden\npipeline: {pre: {module: pre.wasm}}\n", "pre.wasm": bomb()}, WasmFailed, "pre.wasm cannot be loaded"},
	} {
		t.Run(c.name, func(t *testing.T) {
			res := try(t, Request{Dir: folder(t, c.files), WasmCache: t.TempDir()})
			if res.OK || res.Reason != c.reason || !strings.Contains(res.Message, c.words) {
				t.Errorf("%+v, want %s with %q", res, c.reason, c.words)
			}
			t.Log(res.Message)
		})
	}
}

func TestBadChildren(t *testing.T) {
	for _, c := range []struct {
		verb          string
		request       Request
		reason, words string
	}{
		{"abort", Request{}, Crashed, "crashed the process that tried it (SIGABRT)"},
		{"mute", Request{}, Crashed, "(exit status 3)"},
		{"killed", Request{}, MemoryLimit, "most likely for lack of memory"},
		{"swell", Request{MemoryBytes: 64 << 20}, MemoryLimit, "its budget is 64MiB"},
		{"hang", Request{Wall: 300 * time.Millisecond}, TimeLimit, "not ready after 300ms"},
		{"spin", Request{CPUSeconds: 1}, TimeLimit, "took 1 s of processor time"},
	} {
		t.Run(c.verb, func(t *testing.T) {
			c.request.Dir, c.request.Command = "/", command(c.verb)
			res := try(t, c.request)
			if res.OK || res.Reason != c.reason || !strings.Contains(res.Message, c.words) {
				t.Errorf("%+v, want %s with %q", res, c.reason, c.words)
			}
			if len(res.Detail) > 3*maxStderr {
				t.Errorf("%d bytes of detail", len(res.Detail))
			}
		})
	}
}

// TestAnAnswerIsFoundBehindNoise: a library may print what it likes before.
func TestAnAnswerIsFoundBehindNoise(t *testing.T) {
	if res := try(t, Request{Command: command("babble")}); !res.OK || res.Provider != "babble" {
		t.Errorf("%+v", res)
	}
}

func TestTheChildGetsNoSecrets(t *testing.T) {
	t.Setenv("DHOW_AGENT_TOKEN", "secret")
	t.Setenv("LC_ALL", "C.UTF-8")
	if res := try(t, Request{Command: command("environment")}); strings.Contains(res.Provider, "secret") || !strings.Contains(res.Provider, "LC_ALL=C.UTF-8") {
		t.Errorf("%+v", res)
	}
}

func TestTheMachinesFaultIsNoFailure(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "libonnxruntime.so")
	t.Setenv("DHOW_ONNXRUNTIME", "")
	_, err := Run(t.Context(), Request{Dir: folder(t, nil), Library: missing, Command: command("probe")})
	var runtime *inference.RuntimeError
	if !errors.As(err, &runtime) || runtime.Code != "onnxruntime-missing" || !strings.Contains(err.Error(), missing) {
		t.Error(err)
	}
	if _, err = Run(t.Context(), Request{Command: []string{"/nowhere/dhow-agent", "probe"}}); err == nil || !strings.Contains(err.Error(), "cannot start a probe") {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err = Run(ctx, Request{Command: command("hang")}); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestMainRefusesWhatIsNoRequest(t *testing.T) {
	var out bytes.Buffer
	if code := Main(strings.NewReader("hello"), &out); code == 0 || out.Len() != 0 {
		t.Errorf("%d, %q", code, out.String())
	}
}

// Package ckit builds steps written in C for tests, with the kit in the folder above, and asks them without the host in
// between, so that a test can hand them bytes that no host would write.
//
// Where the tool chain is missing a test is skipped and says so. A build is kept for the tests of one process. Build
// blocks for about a second; a Guest is for one goroutine and is closed with its test.
package ckit

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/dhowfleet/dhow/wasm/abi"
)

// exitMissing is how the build script says that there is no tool chain.
const exitMissing = 69

var built struct {
	mu      sync.Mutex
	modules map[string][]byte
}

// Build returns the module of a step. Its arguments are those of the build script after the output's name.
func Build(t testing.TB, arguments ...string) []byte {
	t.Helper()
	built.mu.Lock()
	defer built.mu.Unlock()
	key := strings.Join(arguments, "\x00")
	if code := built.modules[key]; code != nil {
		return code
	}
	out := filepath.Join(t.TempDir(), "step.wasm")
	text, err := exec.Command(script(t), append([]string{out}, arguments...)...).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == exitMissing {
		t.Skip(strings.TrimSpace(string(text)))
	}
	if err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	if len(text) > 0 {
		t.Errorf("the compiler warns: %s", text)
	}
	code, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if built.modules == nil {
		built.modules = map[string][]byte{}
	}
	built.modules[key] = code
	return code
}

// script finds the build script from any folder of the module.
func script(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if path := filepath.Join(dir, "wasm", "guest", "c", "build"); exists(path) {
			return path
		}
	}
	t.Fatal("wasm/guest/c/build is in no folder above this one")
	return ""
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Guest is an instance that is spoken to in bytes.
type Guest struct {
	t      testing.TB
	module api.Module
}

// Start makes an instance; what it emits and logs goes nowhere.
func Start(t testing.TB, code []byte) *Guest {
	t.Helper()
	ctx := context.Background()
	r := wazero.NewRuntime(ctx)
	t.Cleanup(func() { _ = r.Close(ctx) })
	host := r.NewHostModuleBuilder(abi.HostModule)
	host.NewFunctionBuilder().WithFunc(func(uint32, uint32, float64) {}).Export(abi.ImportEmitFeature)
	host.NewFunctionBuilder().WithFunc(func(uint32, uint32, uint64) {}).Export(abi.ImportEmitCount)
	host.NewFunctionBuilder().WithFunc(func(uint32, uint32, uint32) {}).Export(abi.ImportLog)
	if _, err := host.Instantiate(ctx); err != nil {
		t.Fatal(err)
	}
	m, err := r.InstantiateWithConfig(ctx, code, wazero.NewModuleConfig().WithStartFunctions(abi.ExportInitialize))
	if err != nil {
		t.Fatal(err)
	}
	return &Guest{t, m}
}

// For is the same instance in the name of another test.
func (g *Guest) For(t testing.TB) *Guest { return &Guest{t, g.module} }

// Memory returns the bytes of memory that the instance has.
func (g *Guest) Memory() uint32 { return g.module.Memory().Size() }

// Call calls an export with numbers and returns its result; 0 if it has none.
func (g *Guest) Call(name string, params ...uint64) uint32 {
	g.t.Helper()
	out, err := g.module.ExportedFunction(name).Call(context.Background(), params...)
	if err != nil {
		g.t.Fatalf("%s: %v", name, err)
	}
	if len(out) == 0 {
		return 0
	}
	return uint32(out[0])
}

// Put hands bytes to the guest and returns their address.
func (g *Guest) Put(b []byte) uint32 {
	g.t.Helper()
	at := g.Call(abi.ExportRealloc, 0, 0, abi.Align, uint64(len(b)))
	if at == 0 || at%abi.Align != 0 || !g.module.Memory().Write(at, b) {
		g.t.Fatalf("%d bytes of room at %d", len(b), at)
	}
	return at
}

// Ask hands b to process or process_batch and returns the status and a copy of what goes with it.
func (g *Guest) Ask(export string, b []byte) (abi.Status, []byte) {
	g.t.Helper()
	ret := g.Call(export, uint64(g.Put(b)), uint64(len(b)))
	raw, ok := g.module.Memory().Read(ret, abi.ReturnAreaSize)
	if !ok {
		g.t.Fatalf("the return area is at %d", ret)
	}
	area, err := abi.ParseReturnArea(raw)
	if err != nil {
		g.t.Fatal(err)
	}
	payload, ok := g.module.Memory().Read(area.Ptr, area.Len)
	if !ok {
		g.t.Fatalf("the result is %d bytes at %d", area.Len, area.Ptr)
	}
	payload = append([]byte(nil), payload...)
	g.Call(abi.ExportPostProcess, uint64(ret))
	return area.Status, payload
}

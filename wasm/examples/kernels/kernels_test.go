package kernels

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
)

// build runs the script and returns what it said.
func build(t *testing.T, dir string, environment ...string) string {
	t.Helper()
	cmd := exec.Command("./build", dir)
	cmd.Env = append(os.Environ(), environment...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

var built struct {
	once sync.Once
	dir  string
	said string
}

// shared builds once for all tests that only read.
func shared(t *testing.T) (dir, said string) {
	t.Helper()
	built.once.Do(func() { built.said = build(t, built.dir) })
	if built.said == "" {
		t.Fatal("the kernels cannot be built")
	}
	return built.dir, built.said
}

func TestMain(m *testing.M) {
	var err error
	if built.dir, err = os.MkdirTemp("", "dhow-kernels-"); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(built.dir)
	os.Exit(code)
}

// TestEveryFormDoesTheSameWork: a kernel that a compiler had emptied, or that metering had changed, would show the
// wrong cost.
func TestEveryFormDoesTheSameWork(t *testing.T) {
	dir, said := shared(t)
	ctx := context.Background()
	r := wazero.NewRuntime(ctx)
	defer r.Close(ctx)
	wasi_snapshot_preview1.MustInstantiate(ctx, r)
	modules := map[string]api.Module{}
	for _, k := range All {
		t.Run(k.Name, func(t *testing.T) {
			code, err := os.ReadFile(filepath.Join(dir, k.File))
			if os.IsNotExist(err) && strings.Contains(said, "no C kernels") && strings.HasPrefix(k.File, "c-") {
				t.Skip(said)
			}
			if err != nil {
				t.Fatal(err)
			}
			m := modules[k.File]
			if m == nil {
				if m, err = r.InstantiateWithConfig(ctx, code, wazero.NewModuleConfig().WithName("").WithStartFunctions("_initialize")); err != nil {
					t.Fatal(err)
				}
				modules[k.File] = m
			}
			f := m.ExportedFunction(k.Export)
			if f == nil {
				t.Fatalf("%s does not export %s", k.File, k.Export)
			}
			for _, n := range []int32{k.Check, 0, k.Check + 1, k.Check} {
				got, err := f.Call(ctx, api.EncodeI32(n))
				if err != nil {
					t.Fatal(err)
				}
				if want := k.Native(n); int64(got[0]) != want {
					t.Errorf("%s(%d) is %d, in Go %d", k.Export, n, int64(got[0]), want)
				}
			}
		})
	}
}

// TestBuildsAgree: a build is the same whenever it is made, since the bench's figures belong to code that others can
// build; and without a compiler the Go kernels are built all the same, and what is missing is said.
func TestBuildsAgree(t *testing.T) {
	again, without := t.TempDir(), t.TempDir()
	first, said := shared(t)
	if strings.Contains(said, "no C kernels") {
		t.Log(said)
	} else {
		build(t, again, "GO=true") // the C kernels alone
		same(t, first, again, "c-*")
	}
	said = build(t, without, "CLANG=clang-that-is-not-there")
	if !strings.Contains(said, "no C kernels: clang-that-is-not-there is missing (apt install clang lld)") {
		t.Errorf("it says %s", said)
	}
	if c, _ := filepath.Glob(filepath.Join(without, "c-*")); c != nil {
		t.Errorf("there is %v", c)
	}
	same(t, first, without, "go.wasm")
}

func same(t *testing.T, first, second, pattern string) {
	t.Helper()
	a, _ := filepath.Glob(filepath.Join(first, pattern))
	b, _ := filepath.Glob(filepath.Join(second, pattern))
	if len(a) == 0 || len(a) != len(b) {
		t.Fatalf("%v and %v", a, b)
	}
	for i := range a {
		x, _ := os.ReadFile(a[i])
		y, _ := os.ReadFile(b[i])
		if !bytes.Equal(x, y) {
			t.Errorf("%s differs from one build to the next", filepath.Base(a[i]))
		}
	}
}

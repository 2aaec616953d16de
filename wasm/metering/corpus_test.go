package metering

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// wazero is where the module that compiles guests lies, with the WebAssembly specification's tests in it.
var wazeroDir = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/tetratelabs/wazero").Output()
	return strings.TrimSpace(string(out)), err
})

// corpus returns the paths of all modules there.
func corpus(t testing.TB) []string {
	t.Helper()
	dir, err := wazeroDir()
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	err = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".wasm") {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(paths) < 5000 {
		t.Fatalf("only %d modules found below %s: the test would say nothing", len(paths), dir)
	}
	return paths
}

// long reports whether the longer form of a test was asked for.
func long() bool { return os.Getenv("DHOW_FAULTS") == "long" }

// judge tells whether a configuration compiles a module.
type judge struct {
	wazero.Runtime
}

func newJudge(t testing.TB, config wazero.RuntimeConfig) judge {
	// Without line tables, whose sections are dropped: with them wazero refuses an empty one at the module's end.
	rt := wazero.NewRuntimeWithConfig(context.Background(), config.WithCoreFeatures(api.CoreFeaturesV2).WithDebugInfoEnabled(false))
	t.Cleanup(func() { _ = rt.Close(context.Background()) })
	return judge{rt}
}

func (j judge) compiles(code []byte) error {
	c, err := j.CompileModule(context.Background(), code)
	if err == nil {
		_ = c.Close(context.Background())
	}
	return err
}

// TestCorpus: every module of the corpus that compiles is accepted and compiles when it is metered, or is refused by a
// named reason; one that does not compile does not compile metered either. The long form compiles to machine code too.
func TestCorpus(t *testing.T) {
	check := newJudge(t, interpreter())
	native := newJudge(t, compiler())
	reasons := map[Reason]int{}
	examples := map[Reason]string{}
	var valid, accepted, invalid, refused int
	for _, path := range corpus(t) {
		code, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		plain := check.compiles(code)
		for _, o := range []Options{{}, {Mode: Trap, MemoryPages: 1 << 16}} {
			m, err := Rewrite(code, o)
			if o.Mode == Yield {
				if plain == nil {
					valid++
				} else {
					invalid++
				}
			}
			if err != nil {
				var why *Error
				if !errors.As(err, &why) || !slices.Contains(Reasons(), why.Reason) || why.Text == "" {
					t.Fatalf("%s: refused without a named reason: %v", path, err)
				}
				switch {
				case o.Mode != Yield:
				case plain == nil:
					reasons[why.Reason]++
					examples[why.Reason] = filepath.Base(path) + ": " + err.Error()
				default:
					refused++
				}
				continue
			}
			metered := check.compiles(m.Code)
			if (plain == nil) != (metered == nil) {
				t.Errorf("%s: plain %v, metered %v", path, plain, metered)
			}
			if o.Mode == Yield && plain == nil {
				accepted++
				if long() {
					if err := native.compiles(m.Code); err != nil {
						t.Errorf("%s: %v", path, err)
					}
				}
			}
		}
	}
	t.Logf("%d modules compile: %d accepted; %d do not compile: %d refused before the compiler saw them", valid, accepted, invalid, refused)
	var names []string
	for r := range reasons {
		names = append(names, string(r))
	}
	sort.Strings(names)
	for _, r := range names {
		t.Logf("  %d refused: %s, such as %s", reasons[Reason(r)], r, examples[Reason(r)])
	}
	if accepted < valid*97/100 {
		t.Errorf("only %d of %d valid modules are accepted", accepted, valid)
	}
}

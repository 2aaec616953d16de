package onnxruntime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/inference/onnxtest"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/test/failpoint/killtest"
)

func compile(t *testing.T, source string) string {
	t.Helper()
	dir := t.TempDir()
	file, library := filepath.Join(dir, "a.c"), filepath.Join(dir, "a.so")
	if err := os.WriteFile(file, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cc", "-shared", "-fPIC", file, "-o", library).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return library
}

// TestMain is also the processes that tests start since the library is process-wide. They say on their output what they
// found.
func TestMain(m *testing.M) {
	var err error
	switch os.Getenv("DHOW_TEST_CHILD") {
	case "":
		os.Exit(m.Run())
	case "bad library":
		err = loadWithABadLibrary(os.Getenv("DHOW_TEST_DIR"))
	case "quiet":
		_, err = negate(os.Getenv("DHOW_TEST_DIR"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// negate loads a model that is written into dir and runs it.
func negate(dir string) (*tensor.Tensor, error) {
	path := filepath.Join(dir, "model.onnx")
	if err := os.WriteFile(path, onnxtest.Negate(3).Model(), 0o600); err != nil {
		return nil, err
	}
	m, err := New("").Load(context.Background(), path, inference.Options{})
	if err != nil {
		return nil, err
	}
	defer m.Close()
	out, err := m.Run(context.Background(), []tensor.Tensor{f32("x", 1, 2, 3)}, nil)
	if err != nil {
		return nil, err
	}
	return &out[0], nil
}

func loadWithABadLibrary(dir string) error {
	bad := os.Getenv(Variable)
	_, err := negate(dir)
	var runtime *inference.RuntimeError
	if !errors.As(err, &runtime) {
		return fmt.Errorf("no error of the runtime: %w", err)
	}
	fmt.Printf("code=%s %v\n", runtime.Code, err)
	if e := New(""); e.Version() != "" || e.Providers() != nil {
		return errors.New("a library that was not opened has a version")
	}
	if runtime.Code != "onnxruntime-too-old" {
		return nil
	}
	// What was mended is found without a restart.
	if err := os.Setenv(Variable, os.Getenv("DHOW_TEST_GOOD")); err != nil {
		return err
	}
	if _, err := negate(dir); err != nil {
		return fmt.Errorf("after %s: %w", bad, err)
	}
	return nil
}

func TestLibrariesThatCannotBeUsed(t *testing.T) {
	text := filepath.Join(t.TempDir(), "text.so")
	if err := os.WriteFile(text, []byte("no library"), 0o600); err != nil {
		t.Fatal(err)
	}
	old := compile(t, `#include <stddef.h>
#include <stdint.h>
static const void *api(uint32_t v) { return NULL; }
static const char *version(void) { return "1.17.3"; }
static struct { const void *(*a)(uint32_t); const char *(*v)(void); } base = {api, version};
void *OrtGetApiBase(void) { return &base; }`)
	good, err := Find("")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ path, code, want string }{
		{"/nowhere/libonnxruntime.so", "onnxruntime-missing", "which $DHOW_ONNXRUNTIME names"},
		{t.TempDir(), "onnxruntime-missing", "it is no file"},
		{text, "onnxruntime-broken", "cannot open ONNX Runtime at " + text},
		{compile(t, "int something;"), "onnxruntime-broken", "not ONNX Runtime"},
		{old, "onnxruntime-too-old", "is version 1.17.3, Dhow needs 1.24 or newer"},
	} {
		out := killtest.Lives(t, []string{"DHOW_TEST_CHILD=bad library", "DHOW_TEST_DIR=" + t.TempDir(), "DHOW_TEST_GOOD=" + good, Variable + "=" + c.path})
		if !strings.Contains(out, "code="+c.code+" ") || !strings.Contains(out, c.want) || !strings.Contains(out, "make onnxruntime") {
			t.Errorf("%s: %s", c.path, out)
		}
	}
}

// TestTheRuntimeTellsNobody: the official builds count what is run, keep that in the home folder and send it to their
// maker. A process of its own loads and runs a model with folders that are watched, and without the variables by which
// the runtime recognises a test run and keeps quiet.
func TestTheRuntimeTellsNobody(t *testing.T) {
	path, err := Find("")
	if err != nil {
		t.Fatal(err)
	}
	watched := t.TempDir()
	env := []string{"DHOW_TEST_CHILD=quiet", "DHOW_TEST_DIR=" + t.TempDir(), Variable + "=" + path, "CI=", "ORT_RUNNING_UNIT_TESTS=", telemetryVariable + "="}
	for _, name := range []string{"HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"} {
		dir := filepath.Join(watched, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		env = append(env, name+"="+dir)
	}
	killtest.Lives(t, env)
	if err := filepath.WalkDir(watched, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			t.Errorf("the runtime left %s", strings.TrimPrefix(path, watched))
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

func TestProviderThatIsNotThere(t *testing.T) {
	e := engine(t)
	if p := e.Providers(); len(p) == 0 || p[len(p)-1] != cpuProvider {
		t.Errorf("providers %q", p)
	}
	for _, name := range []string{"CUDAExecutionProvider", "cuda"} {
		_, err := e.Load(t.Context(), write(t, onnxtest.Negate(3)), inference.Options{Provider: name})
		var runtime *inference.RuntimeError
		if !errors.As(err, &runtime) || runtime.Code != "provider-missing" || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFindPrefersWhatWasNamed(t *testing.T) {
	library := filepath.Join(t.TempDir(), libraryName)
	if err := os.WriteFile(library, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(Variable, "")
	if got, err := Find(library); got != library || err != nil {
		t.Error(got, err)
	}
	if _, err := Find("/nowhere"); err == nil || !strings.Contains(err.Error(), "the configuration names") {
		t.Error(err)
	}
	t.Setenv(Variable, library)
	if got, err := Find("/nowhere"); got != library || err != nil {
		t.Error(got, err)
	}
}

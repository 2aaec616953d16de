package onnxruntime

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/inference/onnxtest"
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

// child runs one test of this binary in a process of its own, since the library is process-wide.
func child(t *testing.T, test string, env ...string) string {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+test+"$", "-test.v")
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return string(out)
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
		out := child(t, "TestChildLoadsWithABadLibrary", "DHOW_TEST_GOOD="+good, Variable+"="+c.path)
		if !strings.Contains(out, "code="+c.code+" ") || !strings.Contains(out, c.want) || !strings.Contains(out, "make onnxruntime") {
			t.Errorf("%s: %s", c.path, out)
		}
	}
}

func TestChildLoadsWithABadLibrary(t *testing.T) {
	if os.Getenv("DHOW_TEST_GOOD") == "" {
		t.Skip("runs in a process that TestLibrariesThatCannotBeUsed starts")
	}
	path, bad := write(t, onnxtest.Negate(3)), os.Getenv(Variable)
	_, err := New("").Load(t.Context(), path, inference.Options{})
	var runtime *inference.RuntimeError
	if !errors.As(err, &runtime) {
		t.Fatalf("%v", err)
	}
	t.Logf("code=%s %v", runtime.Code, err)
	if e := New(""); e.Version() != "" || e.Providers() != nil {
		t.Error("a library that was not opened has a version")
	}
	if runtime.Code != "onnxruntime-too-old" {
		return
	}
	// What was mended is found without a restart.
	t.Setenv(Variable, os.Getenv("DHOW_TEST_GOOD"))
	if m, err := New("").Load(t.Context(), path, inference.Options{}); err != nil {
		t.Errorf("after %s: %v", bad, err)
	} else {
		_ = m.Close()
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

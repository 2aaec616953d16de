package main

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/dhowfleet/dhow/wasm/host"
	"github.com/dhowfleet/dhow/wasm/wasmtest"
)

// With the verb of the compiler this test's binary is the program.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == wasmCompile {
		os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

func TestTheProgramCompilesInAChildOfItsOwn(t *testing.T) {
	r, err := host.NewRuntime(t.Context(), host.Config{CacheDir: t.TempDir(), Compiler: wasmCompiler(slog.New(slog.DiscardHandler))})
	if err != nil {
		t.Fatal(err)
	}
	m, err := r.Compile(t.Context(), wasmtest.NewGuest().Bytes(), host.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Process(t.Context(), nil, nil); err != nil {
		t.Error(err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

func TestTheCompilersVerbIsForThePrograms(t *testing.T) {
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{wasmCompile}, strings.NewReader("hello\n"), &out, &errs); code != 64 || out.Len() != 0 {
		t.Errorf("%d, %q", code, out.String())
	}
	if code := run(t.Context(), []string{"--help"}, strings.NewReader(""), &out, &errs); code != 0 || strings.Contains(out.String(), wasmCompile) {
		t.Errorf("%d, %s", code, out.String())
	}
}

package compiler

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/dhowfleet/dhow/wasm/host"
	"github.com/dhowfleet/dhow/wasm/host/compiled"
	"github.com/dhowfleet/dhow/wasm/metering"
)

// unmetered is the Go guest of package host's tests, 2.3 MB.
func unmetered(b *testing.B) []byte {
	b.Helper()
	out := filepath.Join(b.TempDir(), "guest.wasm")
	cmd := exec.Command("go", "build", "-buildmode=c-shared", "-trimpath", "-ldflags=-s -w", "-o", out, "../host/testdata/guest")
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
	if text, err := cmd.CombinedOutput(); err != nil {
		b.Skipf("no Go guest: %v: %s", err, text)
	}
	code, err := os.ReadFile(out)
	if err != nil {
		b.Fatal(err)
	}
	return code
}

// guest is the same as it is compiled.
func guest(b *testing.B) []byte {
	b.Helper()
	m, err := metering.Rewrite(unmetered(b), metering.Options{})
	if err != nil {
		b.Fatal(err)
	}
	return m.Code
}

// processor returns what this process and the children that have ended took of processor time.
func processor(who int) (seconds float64) {
	var u syscall.Rusage
	if err := syscall.Getrusage(who, &u); err != nil {
		return 0
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

// BenchmarkCompile: a Go guest of 2.3 MB in this process and in a child; processor time beside the clock's.
func BenchmarkCompile(b *testing.B) {
	code := guest(b)
	for _, c := range []struct {
		name string
		who  int
		fill func(dir string) error
	}{
		{"here", syscall.RUSAGE_SELF, func(dir string) error { return compiled.Fill(context.Background(), code, dir, 1024) }},
		{"child", syscall.RUSAGE_CHILDREN, func(dir string) error {
			return New(Limits{}, self()...).Compile(context.Background(), code, dir, 1024)
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			before, n := processor(c.who), 0
			for b.Loop() {
				if err := c.fill(b.TempDir()); err != nil {
					b.Fatal(err)
				}
				n++
			}
			b.ReportMetric((processor(c.who)-before)/float64(n), "cpu-s/op")
		})
	}
}

// BenchmarkTinyModule is what a child costs beside the compiling.
func BenchmarkTinyModule(b *testing.B) {
	before, n := processor(syscall.RUSAGE_CHILDREN), 0
	code := many(1, 1)
	for b.Loop() {
		if err := New(Limits{}, self()...).Compile(context.Background(), code, b.TempDir(), 1024); err != nil {
			b.Fatal(err)
		}
		n++
	}
	b.ReportMetric((processor(syscall.RUSAGE_CHILDREN)-before)/float64(n)*1e3, "cpu-ms/op")
}

// BenchmarkLoad is a Go guest of 2.3 MB that lies in the cache, with its seal verified; the start of a first instance
// is in it.
func BenchmarkLoad(b *testing.B) {
	path := filepath.Join(b.TempDir(), "cache")
	r, err := host.NewRuntime(b.Context(), host.Config{CacheDir: path, Compiler: New(Limits{}, self()...)})
	if err != nil {
		b.Fatal(err)
	}
	code := unmetered(b)
	m, err := r.Compile(b.Context(), code, host.Options{})
	if err != nil {
		b.Fatal(err)
	}
	_ = m.Close()
	var loading float64
	n := 0
	before := processor(syscall.RUSAGE_SELF)
	for b.Loop() {
		m, err := r.Compile(b.Context(), code, host.Options{})
		if err != nil {
			b.Fatal(err)
		}
		if !m.Info().Cached {
			b.Fatal("it was compiled")
		}
		loading += m.Info().CompileTime.Seconds()
		_ = m.Close()
		n++
	}
	b.ReportMetric((processor(syscall.RUSAGE_SELF)-before)/float64(n)*1e3, "cpu-ms/op")
	b.ReportMetric(loading/float64(n)*1e3, "load-ms/op")
}

package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/host/lines"
)

// scratch holds the Go guest and its compiled code, for all tests of the package.
var scratch string

func TestMain(m *testing.M) {
	var err error
	if scratch, err = os.MkdirTemp("", "dhow-wasm-host-"); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(scratch)
	os.Exit(code)
}

var built struct {
	once sync.Once
	code []byte
	err  error
}

// goGuest builds testdata/guest once.
func goGuest(t testing.TB) []byte {
	t.Helper()
	built.once.Do(func() {
		out := filepath.Join(scratch, "guest.wasm")
		cmd := exec.Command("go", "build", "-buildmode=c-shared", "-trimpath", "-ldflags=-s -w", "-o", out, "./testdata/guest")
		cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
		if text, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("%v: %s", err, text)
			return
		}
		built.code, built.err = os.ReadFile(out)
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.code
}

var ready struct {
	once    sync.Once
	module  *Module
	logged  bytes.Buffer
	runtime *Runtime
	err     error
}

// goModule is the Go guest, compiled once for all tests that do not need a module of their own.
func goModule(t testing.TB) *Module {
	t.Helper()
	code := goGuest(t)
	ready.once.Do(func() {
		ready.runtime, ready.err = NewRuntime(context.Background(), Config{CacheDir: filepath.Join(scratch, "cache"), Logger: slog.New(slog.NewTextHandler(&ready.logged, nil))})
		if ready.err != nil {
			return
		}
		ready.module, ready.err = ready.runtime.Compile(context.Background(), code, Options{
			Name: "test.wasm", Limits: Limits{Timeout: time.Minute, Memory: 32 << 20}, Configuration: []byte("a\nb\n"),
			Counters: []string{"known"}, Features: []string{"bright"}, Instances: 2, State: Reset,
		})
	})
	if ready.err != nil {
		t.Fatal(ready.err)
	}
	return ready.module
}

// sink keeps what a guest emitted.
type sink struct{ got []string }

func (s *sink) Feature(name string, v float64) { s.got = append(s.got, fmt.Sprint(name, "=", v)) }
func (s *sink) Count(name string, n uint64)    { s.got = append(s.got, fmt.Sprint(name, "+", n)) }

func request(mode string) []tensor.Tensor { return []tensor.Tensor{tensor.FromStrings(mode, "x")} }

func TestResultsAndEmitsComeBack(t *testing.T) {
	m := goModule(t)
	before := m.Stats().DroppedEmits
	s := &sink{}
	in := append(request("emit"), tensor.FromFloat32("y", []int64{2, 1}, []float32{1, 2}))
	out, err := m.Process(context.Background(), in, s)
	if err != nil || fmt.Sprint(out) != fmt.Sprint(in) {
		t.Fatalf("%v, %v", out, err)
	}
	if got := strings.Join(s.got, " "); got != "known+3 bright=0.5" {
		t.Errorf("emitted %q", got)
	}
	if d := m.Stats().DroppedEmits - before; d != 2 {
		t.Errorf("%d emits of names that are not declared were dropped, want 2", d)
	}
	if out, err = m.Process(context.Background(), request("configuration"), nil); err != nil || string(out[0].Data[4:]) != "a\nb\n" {
		t.Errorf("configuration is %v, %v", out, err)
	}
}

func TestWhoseFaultItIs(t *testing.T) {
	m := goModule(t)
	s := &sink{}
	_, err := m.Process(context.Background(), request("emit then fail"), s)
	var guestErr *GuestError
	if !errors.As(err, &guestErr) || !guestErr.Input || guestErr.Message != "no  \uFFFDphoto here" {
		t.Errorf("%#v", err)
	}
	if len(s.got) != 1 {
		t.Errorf("a failed request emitted %v, want one count", s.got)
	}
	if _, err = m.Process(context.Background(), request("panic"), nil); !errors.As(err, &guestErr) || guestErr.Input || guestErr.Message != "panic: so be it" {
		t.Errorf("%#v", err)
	}
}

// TestAGuestSeesNothingOfTheMachine: no files, no environment, and a clock that stands where it always begins.
func TestAGuestSeesNothingOfTheMachine(t *testing.T) {
	r, err := NewRuntime(context.Background(), Config{CacheDir: filepath.Join(scratch, "cache")})
	if err != nil {
		t.Fatal(err)
	}
	var first []byte
	for range 2 {
		m, err := r.Compile(context.Background(), goGuest(t), Options{Instances: 1, Limits: Limits{Timeout: time.Minute}})
		if err != nil {
			t.Fatal(err)
		}
		out, err := m.Process(context.Background(), request("world"), nil)
		if err != nil {
			t.Fatal(err)
		}
		elements, err := tensor.SplitBytes(out[0].Data)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(elements[0], []byte("open /etc/passwd")) || !bytes.HasPrefix(elements[1], []byte("2022-01-01")) || len(elements[3]) != 0 {
			t.Errorf("the guest saw %q", elements)
		}
		if first == nil {
			first = out[0].Data
		} else if !bytes.Equal(first, out[0].Data) {
			t.Errorf("two instances saw different worlds: %q and %q", first, out[0].Data)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestABrokenInstanceIsAsGoodAsNew: the request that broke it fails by the right name, the next one is answered by the
// same instance, put back to the image; one that remembers forgets.
func TestABrokenInstanceIsAsGoodAsNew(t *testing.T) {
	for _, m := range []*Module{goModule(t), keeping(t)} {
		for mode, want := range map[string]string{
			"exit":  "the guest failed: it left with exit code 7",
			"hoard": "out of memory",
		} {
			t.Run(mode, func(t *testing.T) {
				before := m.Stats()
				_, err := m.Process(context.Background(), request(mode), nil)
				if !errors.Is(err, ErrTrap) || !strings.Contains(err.Error(), want) {
					t.Errorf("%v, want %q", err, want)
				}
				if out, err := m.Process(context.Background(), request("calls"), nil); err != nil || out[0].Data[0] != 1 {
					t.Errorf("the next request: %v, %v", out, err)
				}
				if after := m.Stats(); after.Discarded != before.Discarded || after.Started != before.Started || after.Traps != before.Traps+1 {
					t.Errorf("before %+v, after %+v", before, after)
				}
			})
		}
	}
}

// keeping is the Go guest with instances that remember.
func keeping(t testing.TB) *Module {
	t.Helper()
	goModule(t)
	m, err := ready.runtime.Compile(context.Background(), goGuest(t), Options{State: Keep, Instances: 1, Limits: Limits{Timeout: time.Minute}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

func TestDeadlines(t *testing.T) {
	r, err := NewRuntime(context.Background(), Config{CacheDir: filepath.Join(scratch, "cache")})
	if err != nil {
		t.Fatal(err)
	}
	m, err := r.Compile(context.Background(), goGuest(t), Options{Limits: Limits{Timeout: 500 * time.Millisecond}, Instances: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	if _, err := m.Process(context.Background(), request("spin"), nil); !errors.Is(err, ErrDeadline) {
		t.Errorf("a guest that spins: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
	defer cancel()
	if _, err := m.Process(ctx, request("spin"), nil); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrDeadline) {
		t.Errorf("a request whose time is up: %v", err)
	}
	ctx, cancel = context.WithCancel(context.Background())
	time.AfterFunc(5*time.Millisecond, cancel)
	if _, err := m.Process(ctx, request("spin"), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a request whose client left: %v", err)
	}
	started := m.Stats().Started
	if _, err := m.Process(ctx, request("echo"), nil); !errors.Is(err, context.Canceled) || m.Stats().Started != started {
		t.Errorf("a request that was over before: %v, and it started an instance", err)
	}
	if _, err := m.Process(context.Background(), request("echo"), nil); err != nil {
		t.Errorf("the next request: %v", err)
	}
	if s := m.Stats(); s.DeadlineTraps != 1 {
		t.Errorf("%+v", s)
	}
}

// TestWhatAnInstanceRemembers: nothing, unless it is told to keep its state.
func TestWhatAnInstanceRemembers(t *testing.T) {
	keeps := keeping(t)
	for i := range 5 {
		out, err := keeps.Process(context.Background(), request("calls"), nil)
		if err != nil || out[0].Data[0] != byte(i)+1 {
			t.Fatalf("call %d of an instance that remembers: %v, %v", i, out, err)
		}
		if out, err = goModule(t).Process(context.Background(), request("calls"), nil); err != nil || out[0].Data[0] != 1 {
			t.Fatalf("call %d of an instance that does not: %v, %v", i, out, err)
		}
	}
}

// TestManyCallersAndFaults: requests side by side, some of which break their instance or leave; every healthy one is
// answered with its own tensors.
func TestManyCallersAndFaults(t *testing.T) {
	r, err := NewRuntime(context.Background(), Config{CacheDir: filepath.Join(scratch, "cache")})
	if err != nil {
		t.Fatal(err)
	}
	m, err := r.Compile(context.Background(), goGuest(t), Options{Instances: 3, Limits: Limits{Timeout: time.Minute}})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 20 {
				ctx, cancel := context.WithCancel(context.Background())
				mode := fmt.Sprintf("%d/%d", g, i)
				switch {
				case g == 0 && i%5 == 0:
					mode = "exit"
				case g == 1 && i%5 == 0:
					mode = "spin"
					time.AfterFunc(time.Millisecond, cancel)
				}
				out, err := m.Process(ctx, request(mode), nil)
				switch mode {
				case "exit":
					if !errors.Is(err, ErrTrap) {
						t.Errorf("exit: %v", err)
					}
				case "spin":
					if !errors.Is(err, context.Canceled) {
						t.Errorf("spin: %v", err)
					}
				default:
					if err != nil || len(out) != 1 || out[0].Name != mode {
						t.Errorf("%s: %v, %v", mode, out, err)
					}
				}
				cancel()
			}
		})
	}
	wg.Wait()
	if s := m.Stats(); s.Idle > 3 || s.MappedBytes != int64(s.Idle)*defaultMemory {
		t.Errorf("%+v", s)
	}
	// Close while requests come in: each is answered or told that the module is closed.
	for range 4 {
		wg.Go(func() {
			for {
				if _, err := m.Process(context.Background(), request("echo"), nil); err != nil {
					if !errors.Is(err, ErrClosed) {
						t.Errorf("while closing: %v", err)
					}
					return
				}
			}
		})
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if s := m.Stats(); s.Idle != 0 || s.MappedBytes != 0 {
		t.Errorf("after closing: %+v", s)
	}
	if err := m.Close(); err != nil {
		t.Errorf("closing again: %v", err)
	}
}

// TestAGoGuestCollectsItsGarbage: an instance that keeps its state answers thousands of requests in a few megabytes. Its
// collector needs the SDK to yield; without that, memory grew to the limit after some hundred requests.
func TestAGoGuestCollectsItsGarbage(t *testing.T) {
	m := keeping(t)
	for i := range 1500 {
		if _, err := m.Process(context.Background(), request("litter"), nil); err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
	}
	if size := m.idle[0].guest.Memory().Size(); size > 24<<20 {
		t.Errorf("after 1,500 requests that make a megabyte of garbage each, the instance has %d MiB of memory", size>>20)
	}
}

func TestAConfigurationThatIsRefused(t *testing.T) {
	r, err := NewRuntime(context.Background(), Config{CacheDir: filepath.Join(scratch, "cache")})
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Compile(context.Background(), goGuest(t), Options{Name: "post.wasm", Configuration: []byte("refuse me")})
	if !errors.Is(err, ErrTrap) || !strings.Contains(err.Error(), "cannot start post.wasm") || !strings.Contains(err.Error(), "refuses its configuration: invalid argument") {
		t.Errorf("%v", err)
	}
}

func TestLogLinesAreLimited(t *testing.T) {
	m := goModule(t)
	before := m.Stats().DroppedLines
	if _, err := m.Process(context.Background(), request("shout"), nil); err != nil {
		t.Fatal(err)
	}
	if d := m.Stats().DroppedLines - before; d < 10_000-lines.Burst-lines.Rate*60 {
		t.Errorf("%d of 10,000 lines were dropped", d)
	}
	if n := strings.Count(ready.logged.String(), "line=again"); n == 0 {
		t.Error("no line got through")
	}
}

// TestARequestBeyondTheMemoryIsTheRequestsFault, whether the host sees it coming or the guest's allocator gives up.
func TestARequestBeyondTheMemoryIsTheRequestsFault(t *testing.T) {
	m := goModule(t)
	for _, size := range []int{33 << 20, 31 << 20} {
		big := []tensor.Tensor{{Name: "x", Datatype: tensor.Uint8, Shape: []int64{int64(size)}, Data: make([]byte, size)}}
		_, err := m.Process(context.Background(), big, nil)
		var guestErr *GuestError
		if !errors.As(err, &guestErr) || !guestErr.Input || !strings.Contains(err.Error(), "memory of test.wasm") {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	if _, err := m.Process(context.Background(), request("echo"), nil); err != nil {
		t.Errorf("the next request: %v", err)
	}
}

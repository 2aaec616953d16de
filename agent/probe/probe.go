// Package probe tries a bundle, or a model file alone, out in a process of its own before it may serve.
//
// Run starts a child, which checks the bundle's folder, loads it as the agent would, answers the golden samples, and
// measures. A model file alone is loaded and answers a request of zeros. The child limits itself (memory, CPU time,
// file sizes, open files, no core dump) before it touches the bundle, and runs below the agent's priority; Run watches its anonymous memory and the clock and ends it when a budget
// is spent, so that a bundle that loops, swells or crashes the model runtime costs the agent nothing but a Result that
// says so. The child's own limit on memory is on what it may have mapped, which is more than what it uses: it stops one
// big step at once, where the watch would see it when it is done; the watch stops many small ones.
//
// What goes in is a Request as JSON on the child's standard input; what comes out is one line of JSON on its standard
// output, bounded like its standard error. The child is Main, which a program calls under a verb of its own.
//
// Run blocks until the child has ended, within Request.Wall; it is safe for concurrent use. A Result's Message is made
// of names of files, samples and outputs and of numbers and may be shown anywhere; Detail may quote the runtime, or
// text of a WASM step, and stays on the node.
package probe

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/models/bundle"
)

// The reasons of a Result that is not OK.
const (
	BundleInvalid  = "bundle-invalid"  // the folder breaks a rule of package bundle
	LoadFailed     = "load-failed"     // the model runtime refuses the model
	WasmFailed     = "wasm-failed"     // a WASM step cannot be compiled or fails
	GoldenMismatch = "golden-mismatch" // a golden sample is answered otherwise, or not at all
	MemoryLimit    = "memory-limit"
	TimeLimit      = "time-limit"
	Crashed        = "crashed"
)

// Request says what to try and what it may cost.
type Request struct {
	Dir     string `json:"dir,omitempty"`     // the bundle's folder
	Variant string `json:"variant,omitempty"` // "" is the bundle's default
	// Model is the path of a model file, which is tried in place of a bundle. The caller has looked at it (agent/modelfile).
	// With Rows, two invented rows are tried too, alone and together.
	Model string `json:"model,omitempty"`
	Rows  bool   `json:"rows,omitempty"`
	// MemoryBytes of anonymous memory; 0 means the default budget of a bundle.
	MemoryBytes int64 `json:"memoryBytes"`
	// CPUSeconds of processor time; 0 means twice Wall.
	CPUSeconds uint64 `json:"cpuSeconds"`
	// Wall is how long it may take in all; 0 means two minutes.
	Wall    time.Duration `json:"wall"`
	Threads int           `json:"threads,omitempty"` // of a model file; 0: one
	// Library is the path of ONNX Runtime, "" to be looked for; WasmCache is the folder of compiled WASM code that is
	// shared with the agent, "" for none.
	Library   string `json:"library,omitempty"`
	WasmCache string `json:"wasmCache,omitempty"`
	// Command starts the child; empty means this program with the argument "probe".
	Command []string `json:"-"`
}

// Result is what came of it.
type Result struct {
	OK      bool   `json:"ok"`
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	Detail  string `json:"detail,omitempty"`

	LoadMillis   int64  `json:"loadMillis,omitempty"`
	MedianMicros int64  `json:"medianMicros,omitempty"` // of one request; 0 when there was no sample to measure with
	PeakBytes    int64  `json:"peakBytes,omitempty"`    // of anonymous memory, of the whole process
	HeldBytes    int64  `json:"heldBytes,omitempty"`    // what of it came with the bundle and stayed after the last request
	Provider     string `json:"provider,omitempty"`
}

// answer is what the child writes.
type answer struct {
	Result
	// Runtime is set when the machine and not the bundle is at fault.
	Runtime *inference.RuntimeError `json:"runtime,omitempty"`
}

const (
	maxAnswer  = 64 << 10
	maxStderr  = 16 << 10
	watchEvery = 5 * time.Millisecond // memory fills at some megabytes a millisecond
)

// Run tries a bundle. The error is for what says nothing about the bundle: a child that cannot be started, a model
// runtime that cannot be used (an *inference.RuntimeError), or ctx's end.
func Run(ctx context.Context, r Request) (Result, error) {
	if r.MemoryBytes <= 0 {
		r.MemoryBytes = bundle.DefaultMemory
	}
	if r.Wall <= 0 {
		r.Wall = 2 * time.Minute
	}
	if r.CPUSeconds == 0 {
		r.CPUSeconds = uint64(2*r.Wall/time.Second) + 1
	}
	if len(r.Command) == 0 {
		program, err := os.Executable()
		if err != nil {
			return Result{}, fmt.Errorf("cannot start a probe: %w", err)
		}
		r.Command = []string{program, "probe"}
	}
	input, err := json.Marshal(r)
	if err != nil {
		return Result{}, fmt.Errorf("cannot start a probe: %w", err)
	}
	c := &child{request: r, stdout: tail{max: maxAnswer}, stderr: tail{max: maxStderr}}
	if err := c.run(ctx, input); err != nil {
		return Result{}, err
	}
	return c.result()
}

// what names in messages what was tried.
func (r *Request) what() string {
	if r.Model != "" {
		return "the model"
	}
	return "the bundle"
}

// child is a probe's process as its parent sees it.
type child struct {
	request        Request
	stdout, stderr tail
	state          *os.ProcessState
	peak           int64
	killed         string // the reason for which it was ended
}

func (c *child) run(ctx context.Context, input []byte) error {
	// The child dies with the thread that started it (Pdeathsig), so that thread is kept until the child has ended.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.Command(c.request.Command[0], c.request.Command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &c.stdout, &c.stderr
	cmd.Env = environment()
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 2 * time.Second
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start a probe: %w", err)
	}
	done := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		c.watch(ctx, cmd.Process, done)
	}()
	err := cmd.Wait()
	close(done)
	<-watched
	c.state = cmd.ProcessState
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil && !errors.As(err, &exit) && c.state == nil:
		return fmt.Errorf("cannot run a probe: %w", err)
	}
	return nil
}

// watch ends the process when it exceeds memory or time.
func (c *child) watch(ctx context.Context, p *os.Process, done <-chan struct{}) {
	wall := time.NewTimer(c.request.Wall)
	defer wall.Stop()
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	kill := func(reason string) {
		c.killed = reason
		_ = syscall.Kill(-p.Pid, syscall.SIGKILL) // its process group; gone already is as good
	}
	for {
		select {
		case <-done:
			return
		case <-ctx.Done():
			kill("canceled")
			return
		case <-wall.C:
			kill(TimeLimit)
			return
		case <-tick.C:
			if c.peak = max(c.peak, anonymous(p.Pid)); c.peak > c.request.MemoryBytes {
				kill(MemoryLimit)
				return
			}
		}
	}
}

// result says what the end of the process and its answer mean.
func (c *child) result() (Result, error) {
	failed := func(reason, format string, args ...any) (Result, error) {
		return Result{Reason: reason, Message: fmt.Sprintf(format, args...), Detail: c.stderr.String(), PeakBytes: c.peak}, nil
	}
	what := c.request.what()
	cpu := c.state.UserTime() + c.state.SystemTime()
	var a answer
	if line := lastLine(c.stdout.buf); c.killed == "" && c.state.Success() && json.Unmarshal(line, &a) == nil {
		if a.Runtime != nil {
			return Result{}, a.Runtime
		}
		a.PeakBytes = max(a.PeakBytes, c.peak)
		// Between two looks of the watch memory can come and go; the child looks after every step.
		if a.OK && a.PeakBytes > c.request.MemoryBytes {
			c.peak, c.killed = a.PeakBytes, MemoryLimit
		} else {
			return a.Result, nil
		}
	}
	status, _ := c.state.Sys().(syscall.WaitStatus)
	switch {
	case c.killed == MemoryLimit:
		return failed(MemoryLimit, "%s takes %s of memory, its budget is %s", what, bundle.FormatSize(c.peak), bundle.FormatSize(c.request.MemoryBytes))
	case c.killed == TimeLimit:
		return failed(TimeLimit, "%s was not ready after %v", what, c.request.Wall)
	case status.Signaled() && status.Signal() == syscall.SIGKILL && cpu >= time.Duration(c.request.CPUSeconds)*time.Second-time.Second/2:
		return failed(TimeLimit, "%s took %d s of processor time without being ready", what, c.request.CPUSeconds)
	case c.starved():
		return failed(MemoryLimit, "%s asked for more memory than its budget of %s", what, bundle.FormatSize(c.request.MemoryBytes))
	case status.Signaled() && status.Signal() == syscall.SIGKILL:
		return failed(MemoryLimit, "the system ended the probe, most likely for lack of memory, while %s had %s", what, bundle.FormatSize(c.peak))
	}
	return failed(Crashed, "%s crashed the process that tried it (%s)", what, c.crash(status))
}

// starved is whether the process ended itself since it was refused memory, as the Go runtime and C++ put it.
func (c *child) starved() bool {
	for _, words := range []string{"runtime: out of memory", "cannot allocate memory", "std::bad_alloc"} {
		if bytes.Contains(c.stderr.buf, []byte(words)) {
			return true
		}
	}
	return false
}

// crash names the signal of a crash. The Go runtime turns most of them into exit status 2 and a trace.
func (c *child) crash(status syscall.WaitStatus) string {
	if status.Signaled() {
		return status.Signal().String()
	}
	for _, name := range []string{"SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE", "SIGXFSZ"} {
		if bytes.Contains(c.stderr.buf, []byte(name)) {
			return name
		}
	}
	return fmt.Sprintf("exit status %d", status.ExitStatus())
}

// environment is what a child gets of the agent's, which may hold secrets.
func environment() []string {
	var out []string
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		switch {
		case name == "PATH", name == "HOME", name == "TMPDIR", name == "LANG", strings.HasPrefix(name, "LC_"),
			name == "LD_LIBRARY_PATH", name == "DHOW_ONNXRUNTIME", name == "GOCOVERDIR":
			out = append(out, entry)
		}
	}
	return append(out, "GOTRACEBACK=single")
}

// tail keeps the last max bytes that were written to it.
type tail struct {
	max int
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	if len(p) >= t.max {
		t.buf = append(t.buf[:0], p[len(p)-t.max:]...)
		return len(p), nil
	}
	if over := len(t.buf) + len(p) - t.max; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	t.buf = append(t.buf, p...)
	return len(p), nil
}

func (t *tail) String() string { return strings.ToValidUTF8(string(t.buf), "\ufffd") }

func lastLine(b []byte) []byte {
	b = bytes.TrimSpace(b)
	return b[bytes.LastIndexByte(b, '\n')+1:]
}

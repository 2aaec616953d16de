// Package confine runs a child process on what strangers wrote, so that it costs the parent no more than was agreed.
//
// The child is a program that bounds itself with Limits.Apply before it touches anything: processor time, memory, size
// of files, open files, no core dump, low priority, and first in line when the machine runs out of memory. Process.Run
// starts it with its input on standard input and watches from outside what the kernel has no limit for: the anonymous
// memory that it really uses, the processor time since its start, and the clock. What comes back is an Outcome: the end
// of what it wrote, and how it ended.
//
// Limits.Apply bounds what a process may have mapped, which is more than what it uses: it stops one big step at once,
// where the watch would see it when it is done. The watch stops many small ones.
//
// Run blocks until the child has ended, within Process.Wall and a moment; it is safe for concurrent use. The child ends
// when the parent does, whatever ended it. Linux alone.
package confine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// running is the program that runs, as the kernel names it for every process.
const running = "/proc/self/exe"

// Self returns the command that runs this program again with other arguments: the same one that runs now, also when its
// file was replaced or removed since.
func Self(args ...string) []string {
	if _, err := os.Stat(running); err == nil {
		return append([]string{running}, args...)
	}
	program, err := os.Executable()
	if err != nil {
		program = os.Args[0]
	}
	return append([]string{program}, args...)
}

// Process is a child to be run once.
type Process struct {
	Command []string
	Stdin   io.Reader
	Memory  int64         // bytes of anonymous memory
	CPU     time.Duration // of processor time since its start
	Wall    time.Duration
	Stdout  int // how many bytes of what it writes last are kept
	Stderr  int
}

// End is how a child ended.
type End int

// The ends.
const (
	Exited     End = iota // by itself; Outcome.Code says how
	OverMemory            // it used more than Process.Memory
	Starved               // it was refused memory, and gave up
	OverCPU
	OverTime
	Killed  // by the system or by someone, most likely for lack of memory
	Crashed // Outcome.Crash says by what
)

// Outcome is what came of a child.
type Outcome struct {
	End    End
	Code   int    // exit status
	Crash  string // the name of a signal or "exit status N"
	Stdout []byte
	Stderr string        // as valid UTF-8; what the child printed is not to be trusted
	Peak   int64         // of anonymous memory, as far as it was seen
	CPU    time.Duration // of processor time
}

// watchEvery is how often the watch looks: memory fills at some megabytes a millisecond.
const watchEvery = 5 * time.Millisecond

// Run runs the child. The error is for what says nothing about its work: it cannot be started, or ctx ended.
func (p *Process) Run(ctx context.Context) (*Outcome, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// The child dies with the thread that started it (Pdeathsig), so that thread is kept until the child has ended.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	stdout, stderr := tail{max: p.Stdout}, tail{max: p.Stderr}
	cmd := exec.Command(p.Command[0], p.Command[1:]...)
	if p.Command[0] == running {
		cmd.Args[0] = os.Args[0] // as ps shows it
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.Stdin, &stdout, &stderr
	cmd.Env = Environment(os.Environ())
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 2 * time.Second // for pipes that a grandchild holds open
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	w := watcher{process: p, pid: cmd.Process.Pid, done: make(chan struct{}), ended: make(chan struct{})}
	go w.watch(ctx)
	err := cmd.Wait()
	close(w.done)
	<-w.ended
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if cmd.ProcessState == nil {
		return nil, err
	}
	o := &Outcome{Stdout: stdout.buf, Stderr: stderr.String(), Peak: w.peak, CPU: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
	status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
	o.end(w.killed, status, p.CPU)
	return o, nil
}

// end says how it ended. killed is why the watch ended it, or Exited.
func (o *Outcome) end(killed End, status syscall.WaitStatus, cpu time.Duration) {
	shot := status.Signaled() && status.Signal() == syscall.SIGKILL
	switch {
	case killed != Exited:
		o.End = killed
	case shot && cpu > 0 && o.CPU >= cpu-time.Second/2: // by the kernel, which counts in seconds
		o.End = OverCPU
	case status.Exited() && status.ExitStatus() == 0:
		o.End = Exited
	case o.starved():
		o.End = Starved
	case shot:
		o.End = Killed
	default:
		o.End, o.Code, o.Crash = Crashed, status.ExitStatus(), o.crash(status)
	}
}

// starved is whether the process ended itself since it was refused memory, as the Go runtime and C++ put it.
func (o *Outcome) starved() bool {
	for _, words := range []string{"runtime: out of memory", "cannot allocate memory", "std::bad_alloc"} {
		if strings.Contains(o.Stderr, words) {
			return true
		}
	}
	return false
}

// crash names the signal of a crash. The Go runtime turns most of them into exit status 2 and a trace.
func (o *Outcome) crash(status syscall.WaitStatus) string {
	if status.Signaled() {
		return status.Signal().String()
	}
	for _, name := range []string{"SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE", "SIGXFSZ"} {
		if strings.Contains(o.Stderr, name) {
			return name
		}
	}
	return fmt.Sprintf("exit status %d", status.ExitStatus())
}

// LastLine is the last line that the child wrote: libraries may print what they like before.
func (o *Outcome) LastLine() []byte {
	b := bytes.TrimSpace(o.Stdout)
	return b[bytes.LastIndexByte(b, '\n')+1:]
}

type watcher struct {
	process     *Process
	pid         int
	done, ended chan struct{}
	peak        int64
	killed      End
}

// watch ends the child when it exceeds what it was given.
func (w *watcher) watch(ctx context.Context) {
	defer close(w.ended)
	wall := time.NewTimer(w.process.Wall)
	defer wall.Stop()
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	g := newGauge(w.pid)
	defer g.close()
	kill := func(why End) {
		w.killed = why
		_ = syscall.Kill(-w.pid, syscall.SIGKILL) // its process group; gone already is as good
	}
	for {
		select {
		case <-w.done:
			return
		case <-ctx.Done():
			kill(Killed)
			return
		case <-wall.C:
			kill(OverTime)
			return
		case <-tick.C:
			if w.peak = max(w.peak, g.memory()); w.peak > w.process.Memory {
				kill(OverMemory)
				return
			}
			if cpu := w.process.CPU; cpu > 0 && g.processor() > cpu {
				kill(OverCPU)
				return
			}
		}
	}
}

// Environment is what a child gets of a parent's environment, which may hold secrets.
func Environment(of []string) []string {
	var out []string
	for _, entry := range of {
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

// ErrLimit is wrapped by Apply's error.
var ErrLimit = errors.New("cannot limit this process")

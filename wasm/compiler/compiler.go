// Package compiler compiles WASM modules in a child process with limits, for package host.
//
// What compiling costs is not in proportion to a module, and it cannot be interrupted: modules of some kilobytes are
// known that keep a core busy for half a minute and take gigabytes. So a process that serves starts a child for it, this
// program itself under a verb of its own, which a program maps to Main. Into the child go a line of JSON and the module,
// on its standard input; the machine code goes into a folder of the cache, which compiled.Fill fills and seals; a line of
// JSON comes back. The parent reads the folder when the child has ended, and only if its seal is right. The child knows
// nothing, opens nothing else, and is ended at its limits of time and memory (package confine).
//
// A child compiles one module and ends, so that no module meets what another left behind. Starting one takes some 30 ms
// of processor time, a Go guest of 2.3 MB more than a second. What was compiled before is in the cache, and takes none.
//
// Compile blocks until the child has ended, within Limits.Wall; it is safe for concurrent use, and every call has a
// child of its own.
package compiler

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/dhowfleet/dhow/wasm/confine"
	"github.com/dhowfleet/dhow/wasm/host/compiled"
)

// Limits of compiling one module. A zero field means its default.
type Limits struct {
	CPU    time.Duration // of processor time, the child's start included; 30 s, in whole seconds
	Wall   time.Duration // twice CPU and 10 s
	Memory int64         // bytes that the child may use at most, less for a small module; 1 GiB
	Output int64         // bytes of machine code; compiled.MaxCompiled
}

// The defaults: a Go guest of 2.3 MB takes 1.6 s of a fast core and 70 MB.
const (
	DefaultCPU    = 30 * time.Second
	DefaultMemory = 1 << 30
	// What a module needs grows with its size, 24 times for a Go guest.
	baseMemory    = 256 << 20
	memoryPerByte = 32
)

// Reason is why a module was not compiled.
type Reason string

// The reasons. All but Unavailable count against the module.
const (
	Refused     Reason = "refused"     // it is not valid
	TimeLimit   Reason = "time-limit"  // processor time, or the clock
	MemoryLimit Reason = "memory"      // of the child
	SizeLimit   Reason = "size"        // of the machine code
	Crashed     Reason = "crashed"     // the compiler did
	Unavailable Reason = "unavailable" // the child cannot be started, or is not of this program's version
)

// Error is a module that was not compiled. Message is fit for logs and operators; Detail is the end of what the child
// printed, which may quote the module.
type Error struct {
	Reason  Reason
	Message string
	Detail  string
}

func (e *Error) Error() string { return e.Message }

// Child is a compiled.Compiler that starts a child for each module.
type Child struct {
	limits  Limits
	command []string
	// Logger gets what a child printed that crashed or cannot be used; nil: nobody does. Set it before the first Compile.
	Logger *slog.Logger
}

// New makes a Child. command starts this program so that it calls Main, such as confine.Self("wasm-compile").
func New(limits Limits, command ...string) *Child {
	if limits.CPU <= 0 {
		limits.CPU = DefaultCPU
	}
	limits.CPU = (limits.CPU + time.Second - 1).Truncate(time.Second)
	if limits.Wall <= 0 {
		limits.Wall = 2*limits.CPU + 10*time.Second
	}
	if limits.Memory <= 0 {
		limits.Memory = DefaultMemory
	}
	if limits.Output <= 0 {
		limits.Output = compiled.MaxCompiled
	}
	return &Child{limits: limits, command: command}
}

const (
	maxHeader = 16 << 10
	maxCode   = 128 << 20 // what the host admits is smaller
	maxAnswer = 16 << 10
	maxStderr = 16 << 10
)

// header is the first line of what the child reads; the module follows.
type header struct {
	Build      string `json:"build"`
	Dir        string `json:"dir"`
	Pages      uint32 `json:"pages"`
	Bytes      int    `json:"bytes"`
	CPUSeconds uint64 `json:"cpuSeconds"`
	Memory     int64  `json:"memory"`
	Output     int64  `json:"output"`
}

// answer is the line that the child writes. Without a reason it has compiled the module.
type answer struct {
	Done       bool   `json:"done"`
	Unwritable bool   `json:"unwritable,omitempty"`
	Reason     Reason `json:"reason,omitempty"`
	Message    string `json:"message,omitempty"`
}

// Compile implements compiled.Compiler. Its errors are an *Error, one that wraps compiled.ErrUnwritable, or ctx's.
func (c *Child) Compile(ctx context.Context, code []byte, dir string, pages uint32) error {
	if len(code) > maxCode {
		return &Error{Reason: Refused, Message: fmt.Sprintf("it has %d bytes, at most %d are compiled", len(code), maxCode)}
	}
	limits := c.limits
	limits.Memory = min(limits.Memory, baseMemory+memoryPerByte*int64(len(code)))
	head, err := json.Marshal(header{
		Build: build(), Dir: dir, Pages: pages, Bytes: len(code),
		CPUSeconds: uint64(limits.CPU / time.Second), Memory: limits.Memory, Output: limits.Output,
	})
	if err != nil {
		return unavailable(err)
	}
	p := confine.Process{
		Command: c.command, Stdin: io.MultiReader(bytes.NewReader(append(head, '\n')), bytes.NewReader(code)),
		Memory: limits.Memory, CPU: limits.CPU, Wall: limits.Wall, Stdout: maxAnswer, Stderr: maxStderr,
	}
	if len(c.command) == 0 {
		return unavailable(errors.New("no command is set"))
	}
	o, err := p.Run(ctx)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return unavailable(err)
	}
	err = limits.judge(o)
	var failed *Error
	if errors.As(err, &failed) && (failed.Reason == Crashed || failed.Reason == Unavailable) && c.Logger != nil {
		c.Logger.Warn("the compiler of wasm modules failed", slog.String("reason", string(failed.Reason)), slog.Any("error", err), slog.String("detail", failed.Detail))
	}
	return err
}

func unavailable(err error) error {
	return &Error{Reason: Unavailable, Message: fmt.Sprintf("the compiler's process cannot be used: %v; check that the program's file is in place and that processes may be started", err)}
}

// judge says what the end of a child and its answer mean.
func (l Limits) judge(o *confine.Outcome) error {
	failed := func(reason Reason, format string, args ...any) error {
		return &Error{Reason: reason, Message: fmt.Sprintf(format, args...), Detail: o.Stderr}
	}
	switch o.End {
	case confine.Exited:
	case confine.OverCPU:
		return failed(TimeLimit, "compiling it took more than %v of processor time: it is far more complex than its size lets expect; split its largest functions, or build it with less inlining", l.CPU)
	case confine.OverTime:
		return failed(TimeLimit, "compiling it was not done after %v: it is far more complex than its size lets expect, or this machine is overloaded", l.Wall)
	case confine.OverMemory, confine.Starved:
		return failed(MemoryLimit, "compiling it took more than %d MiB of memory: it is far more complex than its size lets expect; split its largest functions", l.Memory>>20)
	case confine.Killed:
		return failed(MemoryLimit, "the system ended the compiler at %d MiB, most likely for lack of memory", o.Peak>>20)
	default:
		return failed(Crashed, "compiling it crashed the compiler (%s)", o.Crash)
	}
	var a answer
	if json.Unmarshal(o.LastLine(), &a) != nil || a.Done == (a.Reason != "" || a.Unwritable) {
		return failed(Unavailable, "the compiler's process gave no answer that this version understands; restart the agent if it was updated")
	}
	switch {
	case a.Unwritable:
		return fmt.Errorf("%w: %s", compiled.ErrUnwritable, a.Message)
	case !a.Done:
		return failed(a.Reason, "%s", a.Message)
	}
	return nil
}

// build names what this program was built from: a child of another version might compile what cannot be loaded.
var build = sync.OnceValue(func() string {
	h := sha256.New()
	_, _ = io.WriteString(h, runtime.Version())
	if info, ok := debug.ReadBuildInfo(); ok {
		_, _ = io.WriteString(h, info.String())
	}
	return hex.EncodeToString(h.Sum(nil))
})

package confine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// This test's binary is its own child: with a verb as its first argument it plays one, a good or a bad one.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 {
		os.Exit(m.Run())
	}
	switch os.Args[1] {
	case "hang":
		_, _ = io.Copy(io.Discard, os.Stdin)
		time.Sleep(time.Hour)
	case "abort":
		_ = syscall.Kill(os.Getpid(), syscall.SIGABRT)
		select {}
	case "killed":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case "leave":
		os.Exit(3)
	case "creep": // many small steps
		swell(4<<20, nil)
	case "leap": // one big step, beyond the limit on what may be mapped
		apply(Limits{Memory: 64 << 20, CPUSeconds: 60})
		swell(8<<30, nil)
	case "spin":
		spin()
	case "spin limited": // the parent does not look at the processor time
		apply(Limits{CPUSeconds: 1})
		spin()
	case "write":
		apply(Limits{CPUSeconds: 60, FileBytes: 1000})
		err := os.WriteFile(os.Args[2], make([]byte, 2000), 0o600)
		fmt.Println(err)
		os.Exit(0)
	case "babble":
		for range 100 {
			fmt.Println(strings.Repeat("noise ", 1000))
			fmt.Fprintln(os.Stderr, strings.Repeat("noise\xff", 1000))
		}
		fmt.Println("answer")
		os.Exit(0)
	case "echo":
		_, _ = io.Copy(os.Stdout, os.Stdin)
		os.Exit(0)
	case "parent": // starts a child and dies
		p := Process{Command: Self("report", os.Args[2]), Stdin: strings.NewReader(""), Memory: 1 << 30, Wall: time.Hour}
		go func() {
			for {
				if _, err := os.Stat(os.Args[2]); err == nil {
					_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				}
				time.Sleep(time.Millisecond)
			}
		}()
		_, _ = p.Run(context.Background())
	case "report": // says who it is and stays
		if err := os.WriteFile(os.Args[2]+".new", []byte(fmt.Sprint(os.Getpid())), 0o600); err == nil {
			_ = os.Rename(os.Args[2]+".new", os.Args[2])
		}
		time.Sleep(time.Hour)
	}
	os.Exit(m.Run())
}

func apply(l Limits) {
	if err := l.Apply(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(9)
	}
}

func swell(step int, all [][]byte) {
	for len(all) < 1<<16 {
		all = append(all, bytes.Repeat([]byte{1}, step))
		time.Sleep(time.Millisecond)
	}
}

func spin() {
	for n := uint64(1); n != 0; {
		n += 2 // stays odd
	}
}

func child(verb ...string) Process {
	return Process{Command: Self(verb...), Stdin: strings.NewReader(""), Memory: 1 << 30, CPU: time.Minute, Wall: time.Minute, Stdout: 4 << 10, Stderr: 16 << 10}
}

func TestHowChildrenEnd(t *testing.T) {
	for _, c := range []struct {
		verb  string
		limit func(p *Process)
		end   End
		crash string
	}{
		{"babble", nil, Exited, ""},
		{"leave", nil, Crashed, "exit status 3"},
		{"abort", nil, Crashed, "SIGABRT"},
		{"killed", nil, Killed, ""},
		{"hang", func(p *Process) { p.Wall = 200 * time.Millisecond }, OverTime, ""},
		{"creep", func(p *Process) { p.Memory = 64 << 20 }, OverMemory, ""},
		{"leap", nil, Starved, ""},
		{"spin", func(p *Process) { p.CPU = 100 * time.Millisecond }, OverCPU, ""},
		{"spin limited", func(p *Process) { p.CPU = 1100 * time.Millisecond }, OverCPU, ""},
	} {
		t.Run(c.verb, func(t *testing.T) {
			p := child(c.verb)
			if c.limit != nil {
				c.limit(&p)
			}
			o, err := p.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if o.End != c.end || o.Crash != c.crash {
				t.Errorf("it ended as %d %q: %s", o.End, o.Crash, o.Stderr)
			}
			if len(o.Stdout) > p.Stdout || len(o.Stderr) > 3*p.Stderr {
				t.Errorf("%d and %d bytes were kept", len(o.Stdout), len(o.Stderr))
			}
			if c.end == OverMemory && (o.Peak < p.Memory || o.Peak > 4*p.Memory) {
				t.Errorf("it had %d bytes", o.Peak)
			}
		})
	}
}

func TestTheAnswerIsBehindTheNoise(t *testing.T) {
	p := child("babble")
	o, err := p.Run(t.Context())
	if err != nil || string(o.LastLine()) != "answer" {
		t.Errorf("%s, %v", o.LastLine(), err)
	}
	p = child("echo")
	p.Stdin = strings.NewReader("one\ntwo")
	if o, err = p.Run(t.Context()); err != nil || string(o.Stdout) != "one\ntwo" || string(o.LastLine()) != "two" {
		t.Errorf("%s, %v", o.Stdout, err)
	}
}

func TestWhatIsNotTheChildsFault(t *testing.T) {
	p := child("hang")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	for range 2 { // in time, and before it began
		if _, err := p.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	}
	p.Command = []string{"/nowhere/program"}
	if _, err := p.Run(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestAFileThatIsTooLarge(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	p := child("write", path)
	o, err := p.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() > 1000 {
		t.Errorf("%v, %v; %s %s", info, err, o.Stdout, o.Stderr)
	}
}

// TestTheChildGoesWithItsParent also when that one is killed.
func TestTheChildGoesWithItsParent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pid")
	p := child("parent", path)
	o, err := p.Run(t.Context())
	if err != nil || o.End != Killed {
		t.Fatalf("%+v, %v", o, err)
	}
	pid, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for range 2000 {
		stat, err := os.ReadFile(procFile(int(number(pid)), "stat"))
		if err != nil || bytes.Contains(stat, []byte(") Z ")) {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Error("the child lives on")
}

func TestTheEnvironmentHoldsNoSecrets(t *testing.T) {
	got := Environment([]string{"DHOW_AGENT_TOKEN=secret", "LC_ALL=C.UTF-8", "PATH=/bin", "AWS_SECRET_KEY=x", "PATHS=y", "GOGC=off", "LD_PRELOAD=z"})
	if want := []string{"LC_ALL=C.UTF-8", "PATH=/bin", "GOTRACEBACK=single"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestWhatRunsOutOfMemorySaysSo(t *testing.T) {
	for line, want := range map[string]bool{
		"fatal error: runtime: out of memory": true, "terminate called after throwing an instance of 'std::bad_alloc'": true,
		"runtime: cannot allocate memory": true, "panic: nil map": false, "": false,
	} {
		if o := (Outcome{Stderr: "noise\n" + line + "\nmore"}); o.starved() != want {
			t.Errorf("%q: %v", line, !want)
		}
	}
}

func TestTail(t *testing.T) {
	tl := tail{max: 10}
	for _, s := range []string{"abc", "defgh", "ijkl", "0123456789abc", "x"} {
		if n, err := tl.Write([]byte(s)); n != len(s) || err != nil {
			t.Fatal(n, err)
		}
	}
	if tl.String() != "456789abcx" {
		t.Errorf("%q", tl.String())
	}
}

func TestWhatTheKernelSays(t *testing.T) {
	if got := processorTime([]byte("12 (a) b) 9 9) S 1 2 3 4 5 6 7 8 9 10 150 50 3 4 5")); got != 2*time.Second {
		t.Errorf("%v", got)
	}
	if got := size([]byte("Name:\tx\nRssAnon:\t    1234 kB\nRssFile: 5 kB\n"), "RssAnon:"); got != 1234<<10 {
		t.Errorf("%d", got)
	}
	for _, broken := range []string{"", "12", ")", "1 (x) S 1"} {
		if got := processorTime([]byte(broken)); got != 0 {
			t.Errorf("%q: %v", broken, got)
		}
		if got := size([]byte(broken), "RssAnon:"); got != 0 {
			t.Errorf("%q: %d", broken, got)
		}
	}
	g := newGauge(os.Getpid())
	defer g.close()
	if m := g.memory(); m < 1<<20 || m != Anonymous(os.Getpid()) && m > 1<<32 {
		t.Errorf("%d", m)
	}
	if allocs := testing.AllocsPerRun(100, func() { g.memory(); g.processor() }); allocs > 0 {
		t.Errorf("a look allocates %v times", allocs)
	}
	gone := newGauge(-1)
	defer gone.close()
	if gone.memory() != 0 || gone.processor() != 0 {
		t.Error("a process that is not there takes something")
	}
}

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/dhowfleet/dhow/agent/inference/onnxruntime"
	"github.com/dhowfleet/dhow/agent/inference/onnxtest"
)

// A server of its own process is measured beside a peer: Dhow's agent, which reads a folder of models, and fastify with
// onnxruntime-node, which is how a Node.js team would serve the same file (peer/server.mjs). Both get the same bytes from
// the same client in turn, with 1 to 32 connections that each send the next request when they have the answer.
//
// The CPU time that a server takes for a request hardly depends on what else the machine does, as rates do: it is that of
// the run whose throughput counts.
//
// "At equal p99" is read so: the peer's best throughput has some p99; Dhow's is the best one among those of its runs
// whose p99 is not above it.

// pressed is one run of a number of connections.
type pressed struct {
	connections int
	rate        float64 // requests a second
	p50, p99    time.Duration
	cpu         time.Duration // of the server, for a request
}

var connections = []int{1, 2, 4, 8, 16, 32}

// peerModels are what is served: one that costs nothing, and one whose weights are a megabyte.
var peerModels = []struct {
	name  string
	width int
	graph *onnxtest.Graph
	// config is the model's configuration for Dhow. Weights that are read once for several requests are what batches are
	// for; where there are none, there is nothing to share.
	config string
}{
	{"tiny", width, onnxtest.Negate(width), "max_batch_size: 0\n"},
	{"onemegabyte", 512, onnxtest.Matrix(512, 1), "max_batch_size: 32\ndynamic_batching { }\n"},
}

func peersTable(ctx context.Context, window time.Duration, rounds int) error {
	dir, err := os.MkdirTemp("", "dhow-bench-peers-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	for _, m := range peerModels {
		folder := filepath.Join(dir, "models", m.name, "1")
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(folder, file), m.graph.Model(), 0o600); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "models", m.name, "config.pbtxt"), []byte(m.config), 0o600); err != nil {
			return err
		}
	}
	dhow, err := startDhow(ctx, dir)
	if err != nil {
		return err
	}
	defer dhow.stop()
	peer, err := startPeer(ctx, dir)
	if err != nil {
		return err
	}
	defer peer.stop()

	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "\nmodel\tform\tfastify requests/s\tat p99\tDhow requests/s at no higher p99\tat p99\tratio\tCPU a request: fastify\tDhow\tone connection, p50: fastify\tDhow\tgoal\t\n")
	for _, m := range peerModels {
		for _, form := range []string{"binary", "JSON"} {
			theirs, ours, err := compare(ctx, peer, dhow, m.name, m.width, form == "binary", window, rounds)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", m.name, form, err)
			}
			best := slices.MaxFunc(theirs, func(a, b pressed) int { return int(a.rate - b.rate) })
			equal := pressed{}
			for _, l := range ours {
				if l.p99 <= best.p99 && l.rate > equal.rate {
					equal = l
				}
			}
			fmt.Fprintf(w, "%s\t%s\t%.0f\t%s\t%.0f\t%s\t%.2f\t%s\t%s\t%s\t%s\t>= 3\t\n", m.name, form, best.rate, micros(best.p99), equal.rate, micros(equal.p99),
				equal.rate/best.rate, micros(best.cpu), micros(equal.cpu), micros(theirs[0].p50), micros(ours[0].p50))
		}
	}
	return w.Flush()
}

// compare measures both servers in turn and returns, for each number of connections, the run with the median rate.
func compare(ctx context.Context, peer, dhow *server, model string, width int, binary bool, window time.Duration, rounds int) (theirs, ours []pressed, err error) {
	for _, n := range connections {
		var a, b []pressed
		for range rounds {
			for _, side := range []struct {
				server *server
				to     *[]pressed
			}{{peer, &a}, {dhow, &b}} {
				l, err := side.server.press(ctx, requestTo(side.server.address, model, width, binary), n, window)
				if err != nil {
					return nil, nil, err
				}
				*side.to = append(*side.to, l)
			}
		}
		theirs, ours = append(theirs, middle(a)), append(ours, middle(b))
	}
	return theirs, ours, nil
}

func middle(l []pressed) pressed {
	slices.SortFunc(l, func(a, b pressed) int { return int(a.rate - b.rate) })
	return l[(len(l)-1)/2]
}

// press presses a server and adds what that took of the processor.
func (s *server) press(ctx context.Context, request []byte, n int, window time.Duration) (pressed, error) {
	before, err := cpuTime(s.cmd.Process.Pid)
	if err != nil {
		return pressed{}, err
	}
	l, err := press(ctx, s.address, request, n, window)
	if err != nil {
		return pressed{}, err
	}
	after, err := cpuTime(s.cmd.Process.Pid)
	l.cpu = time.Duration(float64(after-before) / max(l.rate*window.Seconds(), 1))
	return l, err
}

// cpuTime is the time that a process has had of the processors, to a hundredth of a second.
func cpuTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, err
	}
	// The name before may hold blanks; user and system time are the 14th and 15th field in all, in hundredths.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("cannot read the CPU time of process %d", pid)
	}
	var ticks int
	for _, field := range fields[11:13] {
		n, err := strconv.Atoi(field)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}

func requestTo(address, model string, width int, binary bool) []byte {
	head := fmt.Sprintf(`{"id":%q,"inputs":[{"name":"x","shape":[1,%d],"datatype":"FP32",`, id, width)
	var body []byte
	extra := "Content-Type: application/json\r\n"
	if binary {
		text := head + fmt.Sprintf(`"parameters":{"binary_data_size":%d}}],"parameters":{"binary_data_output":true}}`, 4*width)
		// The peer takes tensors where they lie when they lie on a boundary of four bytes.
		text += strings.Repeat(" ", (4-len(text)%4)%4)
		body = append([]byte(text), make([]byte, 4*width)...)
		extra = fmt.Sprintf("Content-Type: application/octet-stream\r\nInference-Header-Content-Length: %d\r\n", len(text))
	} else {
		body = []byte(head + `"data":[` + strings.TrimSuffix(strings.Repeat("0.12345679,", width), ",") + `]}]}`)
	}
	return append([]byte(fmt.Sprintf("POST /v2/models/%s/infer HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n%s\r\n", model, address, len(body), extra)), body...)
}

// server is a process that serves.
type server struct {
	address string
	cmd     *exec.Cmd
}

func (s *server) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	_ = s.cmd.Wait()
}

func startDhow(ctx context.Context, dir string) (*server, error) {
	program := filepath.Join("bin", "dhow-agent")
	if _, err := os.Stat(program); err != nil {
		return nil, fmt.Errorf("cannot measure the agent beside its peer: %w; run make binaries", err)
	}
	library, err := onnxruntime.Find("")
	if err != nil {
		return nil, err
	}
	address, err := free(ctx)
	if err != nil {
		return nil, err
	}
	return startServer(ctx, address, program, "serve", "--model-repository", filepath.Join(dir, "models"), "--listen", address,
		"--grpc-listen", "off", "--metrics-listen", "off", "--onnxruntime", library, "--log-level", "warn")
}

func startPeer(ctx context.Context, dir string) (*server, error) {
	fetch := exec.CommandContext(ctx, filepath.Join("test", "bench", "peer", "fetch"))
	fetch.Stderr = os.Stderr
	if err := fetch.Run(); err != nil {
		return nil, fmt.Errorf("cannot fetch the peer: %w", err)
	}
	address, err := free(ctx)
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(address) // it was joined
	args := []string{filepath.Join(".cache", "bench-peer", "server.mjs"), port}
	for _, m := range peerModels {
		args = append(args, m.name+"="+filepath.Join(dir, "models", m.name, "1", file))
	}
	return startServer(ctx, address, "node", args...)
}

func startServer(ctx context.Context, address, program string, args ...string) (*server, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &server{address: address, cmd: cmd}
	for range 200 {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/v2/health/ready", nil)
		if err != nil {
			return nil, err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body) // only the status counts
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return s, nil
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	s.stop()
	return nil, fmt.Errorf("%s was not ready within 10 s", program)
}

func free(ctx context.Context) (string, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer func() { _ = l.Close() }()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(l.Addr().(*net.TCPAddr).Port)), nil
}

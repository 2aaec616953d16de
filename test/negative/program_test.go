package negative

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/agent/inference/onnxruntime"
)

// program runs dhow-agent serve on a folder with the models, and returns its REST and gRPC addresses.
func program(t *testing.T) (rest, rpc string) {
	t.Helper()
	if testing.Short() {
		t.Skip("the program is built for this, which -short leaves out")
	}
	binary := filepath.Join(t.TempDir(), "dhow-agent")
	build := exec.Command("go", "build", "-trimpath", "-o", binary, "./cmd/dhow-agent")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build the program: %v\n%s", err, out)
	}
	models := filepath.Join(t.TempDir(), "models")
	write := func(path string, data []byte) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	graphs := graphs()
	delete(graphs, oddName) // a folder's name has no slash
	for name, g := range graphs {
		write(filepath.Join(models, name, "1", "model.onnx"), g.Model())
		write(filepath.Join(models, name, "config.pbtxt"), []byte("max_batch_size: 0"))
	}
	rest, rpc = free(t), free(t)
	var log bytes.Buffer
	cmd := exec.Command(binary, "serve", "--model-repository", models, "--listen", rest, "--grpc-listen", rpc, "--metrics-listen", "off", "--max-body", fmt.Sprint(maxBody))
	cmd.Stderr = &log
	if os.Getenv("DHOW_ONNXRUNTIME") == "" { // it is looked for beside the program, which lies elsewhere here
		library, err := filepath.Abs(filepath.Join("..", "..", ".cache", "onnxruntime", onnxruntime.Pinned, runtime.GOOS+"-"+runtime.GOARCH, "libonnxruntime.so"))
		if err != nil {
			t.Fatal(err)
		}
		cmd.Env = append(os.Environ(), "DHOW_ONNXRUNTIME="+library)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the program ended with %v", err)
		}
		if strings.Contains(log.String(), "panic") {
			t.Errorf("the program panicked:\n%s", log.String())
		}
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if resp, err := http.Get("http://" + rest + "/v2/health/ready"); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return rest, rpc
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("the program does not become ready")
		}
	}
}

// free is an address that nothing listens on now.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// staged are the models that only a table made for the tests has, and the one that no folder can hold.
var staged = regexp.MustCompile(`slow|busy|closed|buggy|shadow|a%20model|a model`)

// TestTheProgramRefusesTheSame sends the cases to the program as it is shipped, but for those that need its patience of
// half a minute or models that fail on purpose, and for the path of its page.
func TestTheProgramRefusesTheSame(t *testing.T) {
	rest, rpc := program(t)
	for name, cases := range map[string][]restCase{
		"bodies": bodies(), "routes": routes(), "browsers": browsers(), "syntax": syntax(), "kinds": kinds(),
		"shapes": shapes(), "data": data(), "models": models(), "binaries": binaries(), "predictions": predictions(),
	} {
		t.Run(name, func(t *testing.T) {
			run(t, &server{T: t, addr: rest}, slices.DeleteFunc(cases, func(c restCase) bool {
				return c.status == http.StatusRequestTimeout || staged.MatchString(c.path) || c.path == "/"
			}))
		})
	}
	for name, cases := range map[string][]rpcCase{"rpc requests": rpcRequests(), "rpc frames": rpcFrames()} {
		t.Run(name, func(t *testing.T) {
			s := &rpcServer{server: &server{T: t, addr: rpc}, client: overHTTP2(t)}
			runRPC(t, s, slices.DeleteFunc(cases, func(c rpcCase) bool { return c.stops || staged.MatchString(c.body) }))
		})
	}
}

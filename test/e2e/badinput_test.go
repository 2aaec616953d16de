package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/cmd/dhow/localfleet"
)

// serving starts a fleet of one node that serves the plain model's version 1.
func serving(t *testing.T) (*localfleet.Fleet, *localfleet.Node) {
	t.Helper()
	f := newFleet(t, "n1")
	n := f.Nodes[0]
	must(t, f.Invite(t.Context(), n))
	must(t, f.StartAgent(n))
	_, err := f.CLI.Run(t.Context(), "model", "push", plainBundle(t, "1"))
	must(t, err)
	must(t, rollOut(t.Context(), f, "plain", "1"))
	settle(t, f, n, "1")
	awaitPhase(t, f, "plain-v1", "Complete")
	return f, n
}

// awaitPhase waits until a rollout has reached a phase and returns its sentence.
func awaitPhase(t *testing.T, f *localfleet.Fleet, name, phase string) string {
	t.Helper()
	var message string
	must(t, localfleet.Until(t.Context(), 2*time.Minute, func(ctx context.Context) error { // WASM is compiled, beside other tests
		s, err := f.CLI.Rollout(ctx, name)
		if err != nil {
			return err
		}
		message = s.GetMessage()
		if s.GetPhase() != phase {
			return fmt.Errorf("rollout %s is %s, want %s: %s", name, s.GetPhase(), phase, s.GetMessage())
		}
		return nil
	}))
	return message
}

// TestBadBundlesAreRefusedAtPush shows what a publisher sees of a bundle that cannot be right.
func TestBadBundlesAreRefusedAtPush(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	for _, c := range []struct {
		name   string
		spoil  func(dir string) error
		wanted string
	}{
		{"truncated model", func(dir string) error {
			return os.Truncate(filepath.Join(dir, "model.onnx"), 100_000)
		}, "model.onnx"},
		{"no model", func(dir string) error { return os.Remove(filepath.Join(dir, "model.onnx")) }, "model.onnx"},
		{"not a model", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "model.onnx"), []byte("<html>404</html>"), 0o600)
		}, "model.onnx"},
		{"unknown key", func(dir string) error { return edit(dir, "budgets:", "allowance:") }, "allowance"},
		{"wrong input name", func(dir string) error { return edit(dir, "name: image", "name: picture") }, "picture"},
		{"wrong datatype", func(dir string) error {
			return edit(dir, "datatype: FP32, shape: [-1, 1, 28, 28]", "datatype: INT64, shape: [-1, 1, 28, 28]")
		}, "image"},
		{"wrong shape", func(dir string) error { return edit(dir, "[-1, 1, 28, 28]", "[-1, 3, 28, 28]") }, "image"},
		{"file outside", func(dir string) error { return edit(dir, "file: model.onnx", "file: ../../../etc/passwd") }, "../../../etc/passwd"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := plainBundle(t, "1")
			must(t, c.spoil(dir))
			_, err := f.CLI.Quiet(t.Context(), "model", "push", dir)
			if err == nil || !strings.Contains(err.Error(), c.wanted) {
				t.Fatalf("push said %v, want an error that names %s", err, c.wanted)
			}
			t.Log(err)
		})
	}
}

func edit(dir, from, to string) error {
	file := filepath.Join(dir, "bundle.yaml")
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if !strings.Contains(string(data), from) {
		return fmt.Errorf("bundle.yaml has no %q", from)
	}
	return os.WriteFile(file, []byte(strings.ReplaceAll(string(data), from, to)), 0o600)
}

// TestBadRequestsAreTheSendersFault: each is answered with what is wrong, and both models go on.
func TestBadRequestsAreTheSendersFault(t *testing.T) {
	t.Parallel()
	f, n := serving(t)
	_, err := f.CLI.Run(t.Context(), "model", "push", bundle(t))
	must(t, err)
	must(t, rollOut(t.Context(), f, "fashion", "1"))
	awaitPhase(t, f, "fashion-v1", "Complete")
	photo, err := localfleet.ReadPhotos(photos())
	must(t, err)
	input := func(name, datatype, shape, data string) string {
		return fmt.Sprintf(`{"inputs":[{"name":%q,"datatype":%q,"shape":%s,"data":%s}]}`, name, datatype, shape, data)
	}
	for _, c := range []struct {
		name, model, body string
		status            int
		want              string
	}{
		{"no such model", "nothing", "{}", 404, `there is no model`},
		{"no JSON", "plain", `{"inputs":`, 400, "the JSON is broken at byte 10"},
		{"JSON of another kind", "plain", `[]`, 400, "a list at byte 0, where an object should be"},
		{"no input", "plain", `{"inputs":[]}`, 400, `input \"image\" is missing`},
		{"wrong name", "plain", input("picture", "FP32", "[1]", "[0]"), 400, `no input \"picture\"; it wants \"image\"`},
		{"wrong type", "plain", input("image", "INT64", "[1,1,28,28]", "["+strings.TrimSuffix(strings.Repeat("0,", 784), ",")+"]"), 400, "INT64"},
		{"wrong shape", "plain", input("image", "FP32", "[1,3,1,1]", "[0,0,0]"), 400, "[1 3 1 1]"},
		{"data that does not fill the shape", "plain", input("image", "FP32", "[1,1,28,28]", "[0]"), 400, "784"},
		{"an output that is not there", "plain", strings.Replace(string(image), "{", `{"outputs":[{"name":"soul"}],`, 1), 400, `no output \"soul\"`},
		{"a photo that is none", "fashion", input("photo", "BYTES", "[1]", `["hello"]`), 400, "is neither PNG nor JPEG"},
		{"half a photo", "fashion", input("photo", "BYTES", "[1]", `["`+base64.StdEncoding.EncodeToString(photo[0].Data[:len(photo[0].Data)/2])+`"],"parameters":{"content_type":"base64"}`), 400, "cannot be read"},
		{"a body over the limit", "plain", strings.Repeat(" ", 64<<20+1), 413, "larger than 67108864 bytes"},
	} {
		resp, err := http.Post(n.URL()+"/v2/models/"+c.model+"/infer", "application/json", strings.NewReader(c.body))
		must(t, err)
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != c.status || !strings.HasPrefix(string(text), `{"error":`) || !strings.Contains(string(text), c.want) {
			t.Errorf("%s: %s, %s (%v), want %d and %s", c.name, resp.Status, text, err, c.status, c.want)
		}
		if _, err := localfleet.PostInfer(t.Context(), n.URL(), "plain", image); err != nil {
			t.Errorf("after %s: %v", c.name, err)
		}
		if answer, err := localfleet.Infer(t.Context(), n.URL(), "fashion", "ok", photo[0].Data); err != nil || answer.Label == "" {
			t.Errorf("after %s: %v", c.name, err)
		}
	}
	settle(t, f, n, "1")
}

// TestABadVersionRollsBack: a version whose golden sample does not come out never serves, the one before goes on, and
// the rollout says which node found what.
func TestABadVersionRollsBack(t *testing.T) {
	t.Parallel()
	f, n := serving(t)
	dir := plainBundle(t, "2")
	must(t, os.Mkdir(filepath.Join(dir, "golden"), 0o700))
	golden, err := json.Marshal(map[string]any{
		"inputs":    []any{map[string]any{"name": "image", "datatype": "FP32", "shape": []int{1, 1, 28, 28}, "data": make([]float32, 784)}},
		"outputs":   []any{map[string]any{"name": plainOutput, "datatype": "FP32", "shape": []int{1, 10}, "data": []float32{9, 9, 9, 9, 9, 9, 9, 9, 9, 9}}},
		"tolerance": 0.001,
	})
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "golden", "zero.json"), golden, 0o600))
	must(t, edit(dir, "budgets:", "golden: golden\nbudgets:"))
	_, err = f.CLI.Run(t.Context(), "model", "push", dir)
	must(t, err)
	must(t, rollOut(t.Context(), f, "plain", "2"))
	message := awaitPhase(t, f, "plain-v2", "RolledBack")
	t.Log(message)
	for _, wanted := range []string{"n1", "golden-mismatch", "zero", plainOutput} {
		if !strings.Contains(message, wanted) {
			t.Errorf("the rollout says %q, which does not name %q", message, wanted)
		}
	}
	settle(t, f, n, "1")
}

// TestACorruptBlobIsFetchedAgain flips a byte of the model on the node's disk while the agent is down.
func TestACorruptBlobIsFetchedAgain(t *testing.T) {
	t.Parallel()
	f, n := serving(t)
	must(t, n.Agent.Stop(10*time.Second))
	spoiled := 0
	must(t, filepath.WalkDir(n.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil || info.Size() < 400_000 || strings.HasSuffix(path, ".db") || strings.Contains(path, "wal") {
			return err
		}
		must(t, os.Chmod(path, 0o600))
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer file.Close()
		if spoiled == 0 { // the copy and the blob are one file with two names
			spoiled++
			b := make([]byte, 1)
			if _, err := file.ReadAt(b, info.Size()/2); err != nil {
				return err
			}
			b[0] ^= 0x40
			_, err = file.WriteAt(b, info.Size()/2)
		}
		return err
	}))
	if spoiled == 0 {
		t.Fatal("found no model file to spoil")
	}
	// The first time the agent dies just when it has put the spoilt file aside.
	must(t, f.StartAgent(n, "DHOW_FAILPOINT=blob/quarantined"))
	must(t, localfleet.Until(t.Context(), 20*time.Second, func(context.Context) error {
		if n.Agent.Running() {
			return fmt.Errorf("the agent has not found the spoilt file")
		}
		return nil
	}))
	must(t, f.StartAgent(n))
	settle(t, f, n, "1")
	must(t, localfleet.Until(t.Context(), 20*time.Second, func(context.Context) error {
		log, err := os.ReadFile(n.Dir + ".log")
		if err == nil && !strings.Contains(string(log), "corrupt") {
			err = fmt.Errorf("the agent's log does not speak of the corrupt blob")
		}
		return err
	}))
}

// TestAFullDiskStopsNothing rolls out a version that does not fit on the node's disk.
func TestAFullDiskStopsNothing(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a small tmpfs")
	}
	f := newFleet(t, "n1")
	n := f.Nodes[0]
	must(t, os.Mkdir(n.Dir, 0o700))
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", n.Dir).CombinedOutput(); err != nil {
		t.Skipf("cannot mount a tmpfs here: %s", out)
	}
	t.Cleanup(func() {
		_ = n.Agent.Stop(10 * time.Second)
		if out, err := exec.Command("umount", n.Dir).CombinedOutput(); err != nil {
			t.Errorf("cannot unmount: %s", out)
		}
	})
	must(t, f.Invite(t.Context(), n))
	must(t, f.StartAgent(n))
	_, err := f.CLI.Run(t.Context(), "model", "push", plainBundle(t, "1"))
	must(t, err)
	must(t, rollOut(t.Context(), f, "plain", "1"))
	settle(t, f, n, "1")
	// Version 2 carries a document larger than the disk.
	dir := plainBundle(t, "2")
	must(t, os.WriteFile(filepath.Join(dir, "card.md"), make([]byte, 12<<20), 0o600))
	_, err = f.CLI.Run(t.Context(), "model", "push", dir)
	must(t, err)
	must(t, rollOut(t.Context(), f, "plain", "2"))
	must(t, localfleet.Until(t.Context(), 30*time.Second, func(ctx context.Context) error {
		nodes, err := f.CLI.Nodes(ctx)
		if err != nil {
			return err
		}
		for _, w := range nodes["n1"].GetReport().GetWarnings() {
			if w.GetCode() == "disk-full" && w.GetRemedy() != "" {
				t.Logf("%s: %s", w.GetMessage(), w.GetRemedy())
				return nil
			}
		}
		return fmt.Errorf("the node does not warn of its full disk: %v", nodes["n1"].GetReport().GetWarnings())
	}))
	settle(t, f, n, "1")
}

// TestADeletedModelIsPublishedAgain: the registry still has the bundle when its Model is gone, and a push brings the
// version back.
func TestADeletedModelIsPublishedAgain(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	dir := plainBundle(t, "1")
	for _, args := range [][]string{{"model", "push", dir}, {"delete", "model", "plain"}, {"model", "push", dir}} {
		_, err := f.CLI.Run(t.Context(), args...)
		must(t, err)
	}
	out, err := f.CLI.Quiet(t.Context(), "get", "model", "plain", "-o", "yaml")
	must(t, err)
	if !strings.Contains(out, "manifestDigest: sha256:") {
		t.Errorf("the version is not there again:\n%s", out)
	}
}

package skew

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/agent/inference/onnxruntime"
	"github.com/dhowfleet/dhow/cmd/dhow/localfleet"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

var root = func() string {
	_, here, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(here)))
}()

// releases returns the folders of the programs of the last release and of this checkout.
func releases(t *testing.T) (before, now string) {
	t.Helper()
	before, now = os.Getenv("DHOW_SKEW_OLD"), os.Getenv("DHOW_SKEW_NEW")
	if before == "" || now == "" {
		t.Skip("needs the programs of the last release beside those of this checkout; test/skew/run builds both")
	}
	return before, now
}

func TestMain(m *testing.M) {
	// The programs lie in folders where no agent would look for the checkout's library.
	if os.Getenv("DHOW_ONNXRUNTIME") == "" {
		library := filepath.Join(root, ".cache", "onnxruntime", onnxruntime.Pinned, runtime.GOOS+"-"+runtime.GOARCH, "libonnxruntime.so")
		if err := os.Setenv("DHOW_ONNXRUNTIME", library); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// mix makes a folder with each program from the folder named.
func mix(t *testing.T, agent, fleet, cli string) string {
	t.Helper()
	dir := t.TempDir()
	for name, from := range map[string]string{"dhow-agent": agent, "dhow-fleet": fleet, "dhow": cli} {
		use(t, dir, name, from)
	}
	return dir
}

// use makes a program of the folder that of another.
func use(t *testing.T, dir, name, from string) {
	t.Helper()
	link := filepath.Join(dir, name)
	if err := os.Remove(link); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(from, name), link); err != nil {
		t.Fatal(err)
	}
}

// TestTheMainJobWithMixedPrograms is the whole demo: publish, roll out, serve, lose the manager, restart, count once.
func TestTheMainJobWithMixedPrograms(t *testing.T) {
	t.Parallel()
	before, now := releases(t)
	for name, bin := range map[string]string{
		"agents of the last release": mix(t, before, now, now),
		"agents of this checkout":    mix(t, now, before, before),
		"its command line":           mix(t, now, now, before),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, filepath.Join(now, "dhow"), "demo", "--bin", bin, "--bundle", filepath.Join(root, "build", "fashion"),
				"--photos", filepath.Join(root, "models", "examples", "fashion", "photos"), "--photos-per-branch", "40")
			cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
			cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
			cmd.WaitDelay = 20 * time.Second
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), "All held.") {
				t.Fatalf("%v\n%s", err, out)
			}
		})
	}
}

// TestUpgradeInPlace takes a fleet of the last release, with what it has stored, to this checkout's: the manager first,
// then its agent, and then the agent back. What was served is served, and every request is counted once.
func TestUpgradeInPlace(t *testing.T) {
	t.Parallel()
	before, now := releases(t)
	bin := mix(t, before, before, before)
	node := &localfleet.Node{Name: "till-1", Region: "ae-dubai", Site: "deira"}
	f, err := localfleet.New(bin, t.TempDir(), func(s string) { t.Log(s) }, node)
	must(t, err)
	t.Cleanup(func() {
		if err := f.Stop(); err != nil {
			t.Error(err)
		}
	})
	must(t, f.Init(t.Context()))
	must(t, f.Apply(t.Context(), "fleet", `kind: Region
metadata: {name: ae-dubai}
spec: {jurisdiction: uae-mainland, egress: [health, metrics]}
---
kind: Site
metadata: {name: deira}
spec: {region: ae-dubai}
`))
	must(t, f.Invite(t.Context(), node))
	must(t, f.StartAgent(node))
	_, err = f.CLI.Run(t.Context(), "model", "push", filepath.Join(root, "build", "fashion"))
	must(t, err)
	must(t, f.Apply(t.Context(), "rollout", "kind: Rollout\nmetadata: {name: fashion-v1}\nspec: {model: fashion, version: \"1\", stages: [{name: all}]}\n"))
	photos, err := localfleet.ReadPhotos(filepath.Join(root, "models", "examples", "fashion", "photos"))
	must(t, err)

	sent := uint64(0)
	works := func(what string) {
		t.Helper()
		must(t, localfleet.Until(t.Context(), time.Minute, func(ctx context.Context) error { return localfleet.Ready(ctx, node.URL(), "fashion") }))
		for i := range 5 {
			answer, err := localfleet.Infer(t.Context(), node.URL(), "fashion", fmt.Sprintf("%s-%d", what, i), photos[i].Data)
			if err != nil || answer.Label == "" {
				t.Fatalf("%s: %+v, %v", what, answer, err)
			}
			sent++
		}
		must(t, localfleet.Until(t.Context(), time.Minute, func(ctx context.Context) error {
			counted, err := f.CLI.RequestsByNode(ctx)
			if err != nil {
				return err
			}
			if counted["till-1"] != sent {
				return fmt.Errorf("%s: %d requests were sent, %d counted", what, sent, counted["till-1"])
			}
			nodes, err := f.CLI.Nodes(ctx)
			if err != nil {
				return err
			}
			if n := nodes["till-1"]; len(n.GetReport().GetCopies()) != 1 || n.GetReport().GetCopies()[0].GetState() != syncv1.CopyState_COPY_STATE_SERVING {
				return fmt.Errorf("%s: the node is shown as %v", what, n)
			}
			return nil
		}))
	}
	works("released")

	must(t, f.Manager.Stop(10*time.Second))
	use(t, bin, "dhow-fleet", now)
	must(t, f.StartManager(t.Context()))
	works("new manager")

	use(t, bin, "dhow", now)
	for _, step := range []struct{ what, agent string }{{"new agent", now}, {"agent of before", before}} {
		must(t, node.Agent.Stop(20*time.Second))
		use(t, bin, "dhow-agent", step.agent)
		must(t, f.StartAgent(node))
		works(step.what)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

package e2e

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	_ "github.com/mattn/go-sqlite3"

	"github.com/dhowfleet/dhow/cmd/dhow/localfleet"
)

const regions = `kind: Region
metadata: {name: ae-dubai}
spec: {jurisdiction: uae-mainland, egress: [health, metrics]}
---
kind: Site
metadata: {name: deira}
spec: {region: ae-dubai}
---
kind: Site
metadata: {name: marina}
spec: {region: ae-dubai}
`

// newFleet starts a manager with one region and two sites, and lays out nodes.
func newFleet(t *testing.T, names ...string) *localfleet.Fleet {
	t.Helper()
	dir := t.TempDir()
	var nodes []*localfleet.Node
	for _, name := range names {
		nodes = append(nodes, &localfleet.Node{Name: name, Region: "ae-dubai", Site: "deira"})
	}
	f, err := localfleet.New(built(t), dir, func(s string) { t.Log(s) }, nodes...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			for _, log := range []string{"fleet.log"} {
				dumpTail(t, filepath.Join(dir, log))
			}
			for _, n := range f.Nodes {
				dumpTail(t, n.Dir+".log")
			}
		}
	})
	must(t, f.Init(t.Context()))
	must(t, f.Apply(t.Context(), "regions", regions))
	return f
}

func dumpTail(t *testing.T, file string) {
	data, err := os.ReadFile(file)
	if err != nil {
		return
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	t.Logf("%s ends:\n%s", filepath.Base(file), strings.Join(lines[max(0, len(lines)-25):], "\n"))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// plainBundle writes a bundle of the fashion model without WASM steps: small and quick to load.
func plainBundle(t *testing.T, version string) string {
	t.Helper()
	dir := t.TempDir()
	model, err := os.ReadFile(filepath.Join(bundle(t), "model.onnx"))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "model.onnx"), model, 0o600))
	// A document large enough for a download to be interrupted between two of its checkpoints.
	card := make([]byte, 3<<19)
	// Of its own for each version: what the registry has already is not sent again.
	_, _ = rand.NewChaCha8(sha256.Sum256([]byte(version))).Read(card) // never fails
	must(t, os.WriteFile(filepath.Join(dir, "card.md"), card, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "bundle.yaml"), []byte(fmt.Sprintf(`apiVersion: dhow/v1
name: plain
version: %q
variants: [{name: float32, file: model.onnx}]
inputs: [{name: image, datatype: FP32, shape: [-1, 1, 28, 28]}]
outputs: [{name: %s, datatype: FP32, shape: [-1, 10]}]
budgets: {memory: 512MiB, load: 60s, infer: 2s}
`, version, plainOutput)), 0o600))
	return dir
}

// rollOut applies a rollout of a version to every node.
func rollOut(ctx context.Context, f *localfleet.Fleet, model, version string) error {
	return f.Apply(ctx, "rollout-"+version, rolloutAt(model, version, ""))
}

// rolloutAt is a rollout to the nodes of a site, or to all.
func rolloutAt(model, version, site string) string {
	selected := ""
	if site != "" {
		selected = ", select: {site: " + site + "}"
	}
	return fmt.Sprintf(`kind: Rollout
metadata: {name: %s-v%s}
spec: {model: %s, version: %q, stages: [{name: all%s}]}
`, model, version, model, version, selected)
}

// rowsOf counts the requests that a node's telemetry holds. The node must have been stopped or be idle.
func rowsOf(t *testing.T, n *localfleet.Node) uint64 {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(n.Dir, "telemetry.db")+"?mode=ro&_busy_timeout=5000")
	must(t, err)
	defer db.Close()
	var rows uint64
	must(t, db.QueryRow("SELECT count(*) FROM "+telemetryTable).Scan(&rows))
	return rows
}

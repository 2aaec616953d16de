package e2e

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/cmd/dhow/localfleet"
)

// The model's own names, and the telemetry table that holds one row a request.
const (
	plainOutput    = "probabilities"
	telemetryTable = "rows"
)

// points returns the failpoints named in the product's source under the given folders, so that a new write point is
// killed at from the day it is written.
func points(t *testing.T, dirs ...string) []string {
	t.Helper()
	found := map[string]bool{}
	for _, dir := range dirs {
		must(t, filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(f, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok || len(call.Args) != 1 {
					return true
				}
				sel, ok := call.Fun.(*ast.SelectorExpr)
				if !ok || sel.Sel.Name != "Here" {
					return true
				}
				if lit, ok := call.Args[0].(*ast.BasicLit); ok {
					if name, err := strconv.Unquote(lit.Value); err == nil {
						found[name] = true
					}
				}
				return true
			})
			return nil
		}))
	}
	if len(found) == 0 {
		t.Fatalf("no failpoints found in %v", dirs)
	}
	out := make([]string, 0, len(found))
	for name := range found {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// long tells whether the long form of the fault tests was asked for.
func long() bool { return os.Getenv("DHOW_FAULTS") == "long" }

func contains(err error, text string) bool { return err != nil && strings.Contains(err.Error(), text) }

// image is a request to the plain model: one zero image, as JSON.
var image = []byte(`{"inputs":[{"name":"image","datatype":"FP32","shape":[1,1,28,28],"data":[` + strings.TrimSuffix(strings.Repeat("0,", 784), ",") + `]}]}`)

// traffic sends requests until the context ends or the node is gone, and returns how many were answered.
func traffic(ctx context.Context, n *localfleet.Node) int {
	answered := 0
	for ctx.Err() == nil && n.Agent.Running() {
		if _, err := localfleet.PostInfer(ctx, n.URL(), "plain", image); err == nil {
			answered++
		} else {
			time.Sleep(20 * time.Millisecond)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return answered
}

// steady asks a node that serves until the context ends, and fails the test for each request that is not answered. The
// returned function waits for that.
func steady(ctx context.Context, t *testing.T, n *localfleet.Node) (wait func()) {
	var asking sync.WaitGroup
	asking.Go(func() {
		for asked := 0; ctx.Err() == nil; asked++ {
			if _, err := localfleet.PostInfer(ctx, n.URL(), "plain", image); err != nil && ctx.Err() == nil {
				t.Errorf("request %d was not answered: %v", asked, err)
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
	return asking.Wait
}

// errEnded says that an agent ended while it was to settle.
var errEnded = errors.New("the agent ended")

// settle waits until the node serves the version and the manager has counted exactly the rows of its telemetry.
func settle(t *testing.T, f *localfleet.Fleet, n *localfleet.Node, version string) {
	t.Helper()
	if err := settled(t, f, n, version); errors.Is(err, errEnded) {
		t.Fatalf("%v: %s", err, n.Agent.Tail())
	} else if err != nil {
		t.Fatal(err)
	}
}

func settled(t *testing.T, f *localfleet.Fleet, n *localfleet.Node, version string) error {
	t.Helper()
	if err := localfleet.Until(t.Context(), 45*time.Second, func(ctx context.Context) error {
		if !n.Agent.Running() {
			return localfleet.Final(errEnded)
		}
		answer, err := localfleet.PostInfer(ctx, n.URL(), "plain", image)
		if err != nil {
			return err
		}
		if answer.Version != version {
			return fmt.Errorf("version %q answers, want %q", answer.Version, version)
		}
		return nil
	}); err != nil {
		return err
	}
	return localfleet.Until(t.Context(), 30*time.Second, func(ctx context.Context) error {
		if !n.Agent.Running() {
			return localfleet.Final(errEnded)
		}
		nodes, err := f.CLI.RequestsByNode(ctx)
		if err != nil {
			return err
		}
		rows, counted := rowsOf(t, n), nodes[n.Name]
		if counted > rows {
			return localfleet.Final(fmt.Errorf("%s: the manager counts %d requests, telemetry has only %d", n.Name, counted, rows))
		}
		if counted < rows {
			return fmt.Errorf("%s: the manager counts %d of %d requests", n.Name, counted, rows)
		}
		return nil
	})
}

// TestAgentKilledAtEveryWritePoint kills an agent at each place where it writes state, from enrolment to the delivery
// of what it counted, and wants the old or the new state after a restart: it serves what it should, and no request is
// lost or counted twice.
func TestAgentKilledAtEveryWritePoint(t *testing.T) {
	t.Parallel()
	for i, half := range halves(points(t, "agent", "models/blob", "protocol")) {
		t.Run(fmt.Sprint("half ", i+1), func(t *testing.T) {
			t.Parallel()
			killAgentAt(t, half)
		})
	}
}

// halves deals names to two fleets side by side: most of the time is spent waiting.
func halves(names []string) (out [2][]string) {
	for i, name := range names {
		out[i%2] = append(out[i%2], name)
	}
	return out
}

func killAgentAt(t *testing.T, names []string) {
	f := newFleet(t)
	for _, version := range []string{"1", "2"} {
		_, err := f.CLI.Run(t.Context(), "model", "push", plainBundle(t, version))
		must(t, err)
	}
	must(t, rollOut(t.Context(), f, "plain", "1"))
	var missed []*localfleet.Node
	for i, point := range names {
		t.Run(point, func(t *testing.T) {
			n, err := f.Add(&localfleet.Node{Name: fmt.Sprintf("k%d", i), Region: "ae-dubai", Site: "deira"})
			must(t, err)
			must(t, f.Invite(t.Context(), n))
			must(t, f.StartAgent(n, "DHOW_FAILPOINT="+point))
			if !run(t, n, 3*time.Second) {
				// On a busy machine it may pass the point later.
				err := settled(t, f, n, "1")
				if !errors.Is(err, errEnded) {
					must(t, err)
					must(t, n.Agent.Stop(10*time.Second))
					missed = append(missed, n)
					return
				}
			}
			must(t, f.StartAgent(n))
			settle(t, f, n, "1")
			must(t, n.Agent.Stop(10*time.Second))
		})
	}
	// What was not passed on the way up is passed on the way down: the rollout goes, and the copy with it.
	for _, n := range missed {
		i, err := strconv.Atoi(n.Name[1:])
		must(t, err)
		t.Run("down "+names[i], func(t *testing.T) {
			if where, ok := elsewhere[names[i]]; ok {
				t.Skip("killed there by " + where)
			}
			must(t, f.StartAgent(n, "DHOW_FAILPOINT="+names[i]))
			if err := settled(t, f, n, "1"); !errors.Is(err, errEnded) {
				must(t, err)
				_, err := f.CLI.Quiet(t.Context(), "delete", "rollout", "plain-v1")
				must(t, err)
				if !run(t, n, 8*time.Second) {
					t.Errorf("the agent never passed %s", names[i])
					must(t, n.Agent.Stop(10*time.Second))
				}
			}
			must(t, f.StartAgent(n))
			must(t, rollOut(t.Context(), f, "plain", "1"))
			settle(t, f, n, "1")
			must(t, n.Agent.Stop(10*time.Second))
		})
	}
}

// elsewhere are the points that need a fault of their own to be passed, with the test that kills there.
var elsewhere = map[string]string{
	"blob/quarantined": "TestACorruptBlobIsFetchedAgain",
	"telemetry/trim":   "agent/telemetry's TestKilledWhileItTrims",
	"blob/deleted":     "models/blob's kill test; the agent collects files an hour after nothing needs them",
}

// run sends traffic until the agent has killed itself or the time is over.
func run(t *testing.T, n *localfleet.Node, patience time.Duration) (killed bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	traffic(ctx, n)
	return !n.Agent.Running()
}

// elsewhereManager are the write points that a rollout does not pass, with the test that kills there.
var elsewhereManager = map[string]string{
	"blob/deleted": "models/blob's kill test", "blob/quarantined": "models/blob's kill test",
	"blob/tree-built": "TestAgentKilledAtEveryWritePoint", "blob/tree-placed": "TestAgentKilledAtEveryWritePoint",
	"registry/blob-mounted": registryTest, "registry/blob-unlinked": registryTest, "registry/chunk-kept": registryTest,
	"registry/collected": registryTest, "registry/links-collected": registryTest, "registry/manifest-deleted": registryTest,
	"registry/session-expired": registryTest,
	"operators/create":         operatorsTest, "operators/create-committed": operatorsTest,
	"operators/revoke": operatorsTest, "operators/revoke-committed": operatorsTest,
}

const (
	registryTest  = "fleet/registry's kill test"
	operatorsTest = "fleet/store/operators' kill test; the manager does not pass them, dhow-fleet token does"
)

// TestManagerKilledAtEveryWritePoint kills the manager at each place where it writes state while nodes join, models are
// pushed, rollouts change and counts arrive. The authority writes at init only and has a kill test of its own.
func TestManagerKilledAtEveryWritePoint(t *testing.T) {
	t.Parallel()
	names := points(t, "fleet/store", "fleet/nodes", "fleet/control", "fleet/registry")
	if long() {
		names = append(names, points(t, "models/blob")...)
	}
	for i, half := range halves(names) {
		t.Run(fmt.Sprint("half ", i+1), func(t *testing.T) {
			t.Parallel()
			killManagerAt(t, half)
		})
	}
}

func killManagerAt(t *testing.T, names []string) {
	f := newFleet(t, "n1")
	n := f.Nodes[0]
	must(t, f.Invite(t.Context(), n))
	must(t, f.StartAgent(n))
	serves := false
	for i, point := range names {
		t.Run(point, func(t *testing.T) {
			if where, ok := elsewhereManager[point]; ok {
				t.Skip("killed there by " + where)
			}
			version := strconv.Itoa(i + 1)
			dir := plainBundle(t, version)
			must(t, f.Manager.Stop(10*time.Second))
			// The manager may die while it starts: that is a point like another.
			if err := f.StartManager(t.Context(), "DHOW_FAILPOINT="+point); err != nil && f.Manager.Running() {
				t.Fatal(err)
			}
			joiner, err := f.Add(&localfleet.Node{Name: fmt.Sprintf("j%d", i), Region: "ae-dubai", Site: "marina"})
			must(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
			defer cancel()
			asked := func() {}
			if serves { // it goes on, whatever becomes of the manager
				asked = steady(ctx, t, n)
			} else {
				go traffic(ctx, n)
			}
			dying, died := context.WithCancel(ctx)
			manager := f.Manager
			go func() {
				<-manager.Done()
				died()
			}()
			// Errors are what a dying manager gives; what must hold is checked after its restart.
			invited := f.Invite(dying, joiner) == nil
			if invited {
				must(t, f.StartAgent(joiner))
			}
			_, _ = f.CLI.Quiet(dying, "model", "push", dir)
			_ = f.Apply(dying, "rollout-"+version, rolloutAt("plain", version, "deira"))
			<-dying.Done() // dead, or never passed in all that time
			if f.Manager.Running() {
				t.Errorf("the manager never passed %s", point)
			} else {
				must(t, f.StartManager(t.Context()))
			}
			cancel()
			asked()
			// What the dying manager may not have taken is said again, as an operator would.
			must(t, localfleet.Until(t.Context(), 20*time.Second, func(ctx context.Context) error {
				_, err := f.CLI.Quiet(ctx, "model", "push", dir)
				return err
			}))
			must(t, f.Apply(t.Context(), "rollout-"+version, rolloutAt("plain", version, "deira")))
			if !invited {
				must(t, f.Invite(t.Context(), joiner))
				must(t, f.StartAgent(joiner))
			}
			settle(t, f, n, version)
			serves = true
			must(t, localfleet.Until(t.Context(), 20*time.Second, func(ctx context.Context) error {
				nodes, err := f.CLI.Nodes(ctx)
				if err == nil && nodes[joiner.Name].GetConnection() != "Connected" {
					err = fmt.Errorf("%s is %q: %s", joiner.Name, nodes[joiner.Name].GetConnection(), joiner.Agent.Tail())
				}
				return err
			}))
			must(t, joiner.Agent.Stop(10*time.Second))
		})
	}
}

// TestKilledAtRandomMoments kills agent and manager in turn during rollouts and deliveries. The seed is printed.
func TestKilledAtRandomMoments(t *testing.T) {
	t.Parallel()
	rounds := 12
	if long() {
		rounds = 200
	}
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("DHOW_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("DHOW_SEED=%d, %d kills", seed, rounds)
	random := rand.New(rand.NewPCG(seed, 0))
	f := newFleet(t, "n1")
	n := f.Nodes[0]
	must(t, f.Invite(t.Context(), n))
	must(t, f.StartAgent(n))
	for _, version := range []string{"1", "2"} {
		_, err := f.CLI.Run(t.Context(), "model", "push", plainBundle(t, version))
		must(t, err)
	}
	version := "1"
	must(t, rollOut(t.Context(), f, "plain", version))
	for i := range rounds {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(random.Int64N(int64(1500*time.Millisecond))))
		traffic(ctx, n)
		cancel()
		if random.IntN(2) == 0 {
			n.Agent.Kill()
			must(t, f.StartAgent(n))
		} else {
			f.Manager.Kill()
			must(t, f.StartManager(t.Context()))
			version = map[string]string{"1": "2", "2": "1"}[version]
			_, err := f.CLI.Quiet(t.Context(), "delete", "rollout", "plain-v"+map[string]string{"1": "2", "2": "1"}[version])
			if err != nil && !contains(err, "not found") {
				t.Fatal(err)
			}
			must(t, rollOut(t.Context(), f, "plain", version))
		}
		if i%20 == 19 {
			settle(t, f, n, version)
		}
	}
	settle(t, f, n, version)
}

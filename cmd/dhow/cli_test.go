package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/dhowfleet/dhow/fleet/access"
	"github.com/dhowfleet/dhow/fleet/client/clienttest"
	"github.com/dhowfleet/dhow/fleet/store"
	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
	"github.com/dhowfleet/dhow/protocol/identity"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// cli runs command lines as a shell would, with an environment of its own.
type cli struct {
	t   *testing.T
	m   *clienttest.Manager
	env map[string]string
	dir string
}

// start runs a manager and a command line that is logged in to it by its environment.
func start(t *testing.T, more ...access.Route) *cli {
	t.Helper()
	m := clienttest.Start(t, more...)
	c := &cli{t: t, m: m, dir: t.TempDir()}
	c.env = map[string]string{"HOME": c.dir, "DHOW_SERVER": m.Address, "DHOW_TOKEN": m.Token, "DHOW_CA_SHA256": m.CASHA256()}
	return c
}

func (c *cli) exec(ctx context.Context, stdin string, args ...string) (stdout, stderr string, code int) {
	c.t.Helper()
	var out, errs bytes.Buffer
	code = run(ctx, args, streams{in: strings.NewReader(stdin), out: &out, err: &errs}, func(k string) string { return c.env[k] })
	return out.String(), errs.String(), code
}

// ok runs a command that must succeed and returns what it printed.
func (c *cli) ok(args ...string) string {
	c.t.Helper()
	out, errs, code := c.exec(c.t.Context(), "", args...)
	if code != exitOK {
		c.t.Fatalf("dhow %v: exit %d: %s", args, code, errs)
	}
	return out
}

// fails runs a command that must fail with a code and say something.
func (c *cli) fails(code int, want string, args ...string) {
	c.t.Helper()
	out, errs, got := c.exec(c.t.Context(), "", args...)
	if got != code || !strings.Contains(errs, want) {
		c.t.Errorf("dhow %v: exit %d, %q; want %d and %q (printed %q)", args, got, errs, code, want, out)
	}
	if !strings.HasPrefix(errs[strings.LastIndex(errs, "dhow: "):], "dhow: ") {
		c.t.Errorf("dhow %v: %q does not say who speaks", args, errs)
	}
}

func (c *cli) file(name, content string) string {
	c.t.Helper()
	path := filepath.Join(c.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return path
}

func contains(t *testing.T, text string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
}

const fleetYAML = `kind: Region
metadata: {name: ae-dubai}
spec: {jurisdiction: uae-mainland, egress: [health, metrics]}
---
kind: Site
metadata: {name: deira, labels: {tier: gold}}
spec: {region: ae-dubai, latitude: 25.27, longitude: 55.31}
---
kind: Site
metadata: {name: marina}
spec: {region: ae-dubai}
`

const rolloutYAML = `kind: Rollout
metadata: {name: fashion-v1}
spec: {model: fashion, version: "1", stages: [{name: all, select: {region: ae-dubai}, traffic: 10%}]}
`

func TestLoginRemembersWhatWorks(t *testing.T) {
	c := start(t)
	server, token, pin := c.m.Address, c.m.Token, c.m.CASHA256()
	c.env = map[string]string{"HOME": c.dir}
	c.fails(exitFailed, "not logged in: run\n  dhow login --server HOST:PORT", "get", "nodes")
	path := filepath.Join(c.dir, ".config", "dhow", "config.yaml")

	for want, args := range map[string][]string{
		"needs --server and --ca-sha256":           {"login", "--token-stdin"},
		"either --token-file or --token-stdin":     {"login", "--server", server, "--ca-sha256", pin},
		"not 64 hex digits":                        {"login", "--server", server, "--ca-sha256", "abc", "--token-file", c.file("t", token)},
		"no HOST:PORT":                             {"login", "--server", "fleet", "--ca-sha256", pin, "--token-file", c.file("t", token)},
		"written without a scheme, as HOST:PORT":   {"login", "--server", "https://" + server, "--ca-sha256", pin, "--token-file", c.file("t", token)},
		"takes no arguments":                       {"login", "now"},
		`unknown flag: --tokn; see dhow login --h`: {"login", "--tokn", "x"},
	} {
		c.fails(exitUsage, want, args...)
	}
	for want, args := range map[string][]string{
		"it is empty":             {"login", "--server", server, "--ca-sha256", pin, "--token-file", c.file("empty", "\n")},
		"no token (one word":      {"login", "--server", server, "--ca-sha256", pin, "--token-file", c.file("two", "a b")},
		"no such file":            {"login", "--server", server, "--ca-sha256", pin, "--token-file", filepath.Join(c.dir, "none")},
		"not known to this":       {"login", "--server", server, "--ca-sha256", pin, "--token-file", c.file("wrong", "dhow-op-x")},
		"pinned authority":        {"login", "--server", server, "--ca-sha256", strings.Repeat("ab", 32), "--token-file", c.file("t", token)},
		"log in with --server-na": {"login", "--server", server, "--server-name", "fleet.example.com", "--ca-sha256", pin, "--token-file", c.file("t", token)},
	} {
		c.fails(exitFailed, want, args...)
	}
	if _, err := os.Stat(path); err == nil {
		t.Fatal("a login that does not work is remembered")
	}

	out, errs, code := c.exec(t.Context(), token+"\n", "login", "--server", server, "--ca-sha256", strings.ToUpper(pin), "--token-stdin")
	if code != exitOK || !strings.Contains(out, "Logged in to "+server+" (fleet fleet.example") {
		t.Fatalf("exit %d: %s%s", code, out, errs)
	}
	if strings.Contains(out+errs, token) {
		t.Error("the token is printed")
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the login is kept as %v, %v", info, err)
	}
	c.ok("get", "regions")

	// Each part may come from the environment.
	c.env["DHOW_TOKEN"] = "wrong"
	c.fails(exitFailed, "the token is not known", "get", "regions")
	delete(c.env, "DHOW_TOKEN")

	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, errs, _ := c.exec(t.Context(), "", "get", "regions"); !strings.Contains(errs, "chmod 600") {
		t.Errorf("a login that others can read is not warned of: %q", errs)
	}
	c.env["XDG_CONFIG_HOME"] = c.dir
	c.file("dhow/config.yaml", "token: [secret-part\n")
	c.fails(exitFailed, "it is damaged; log in again", "get", "regions")
	if _, errs, _ := c.exec(t.Context(), "", "get", "regions"); strings.Contains(errs, "secret-part") {
		t.Errorf("the token is told in an error: %s", errs)
	}
}

func TestApplyFromFilesFoldersAndStandardInput(t *testing.T) {
	c := start(t)
	fleet := c.file("fleet/a.yaml", fleetYAML)
	c.file("fleet/notes.txt", "no resource")
	out := c.ok("apply", "-f", filepath.Join(c.dir, "fleet"), "--dry-run")
	contains(t, out, "region/ae-dubai created (dry run)\n", "  +kind: Site\n  +metadata:\n  +  name: deira\n")
	if out := c.ok("get", "sites", "-o", "name"); out != "" {
		t.Fatalf("a dry run made %q", out)
	}
	if got, want := c.ok("apply", "-f", fleet), "region/ae-dubai created\nsite/deira created\nsite/marina created\n"; got != want {
		t.Errorf("printed %q, want %q", got, want)
	}
	changed := strings.Replace(fleetYAML, "uae-mainland", "uae-difc", 1)
	out, _, code := c.exec(t.Context(), changed, "apply", "-f", "-", "--dry-run")
	if code != exitOK {
		t.Fatal(out)
	}
	contains(t, out, "region/ae-dubai configured (dry run)\n", "  -  jurisdiction: uae-mainland\n  +  jurisdiction: uae-difc\n", "site/deira unchanged (dry run)\nsite/marina unchanged (dry run)\n")

	// What get prints can be applied, in both forms.
	for _, format := range []string{"yaml", "json"} {
		printed := c.ok("get", "sites", "-o", format)
		if out, errs, _ := c.exec(t.Context(), printed, "apply", "-f", "-"); out != "site/deira unchanged\nsite/marina unchanged\n" {
			t.Errorf("%s does not come back: %q %s", format, out, errs)
		}
	}
	stale := c.ok("get", "site", "marina", "-o", "yaml")
	c.file("marina.yaml", strings.Replace(stale, "region: ae-dubai", "region: ae-dubai\n  latitude: 25\n  longitude: 55", 1))
	c.ok("apply", "-f", filepath.Join(c.dir, "marina.yaml"))
	c.fails(exitFailed, "it has changed since the file was made", "apply", "-f", filepath.Join(c.dir, "marina.yaml"))

	c.fails(exitFailed, "nothing was applied:\n"+c.dir+"/bad.yaml: document 1, line 2: spec: \"region\" is not a field of RegionSpec", "apply", "-f", c.file("bad.yaml", "kind: Region\nspec: {region: x}\n"))
	c.fails(exitFailed, "region/ae-dubai is in "+fleet+", line 1 and again in "+fleet, "apply", "-f", fleet, "-f", fleet)
	c.fails(exitFailed, "no such file", "apply", "-f", filepath.Join(c.dir, "none.yaml"))
	c.fails(exitFailed, "there are no *.yaml", "apply", "-f", t.TempDir())
	c.fails(exitFailed, "there are no resources in", "apply", "-f", c.file("empty.yaml", "# nothing\n"))
	c.fails(exitFailed, `rollout fashion-v1: spec.model: there is no model "fashion"`, "apply", "-f", c.file("r.yaml", rolloutYAML))
	c.fails(exitUsage, "needs -f FILE", "apply")
}

func TestPruneDeletesOnlyOfTheKindsInTheFiles(t *testing.T) {
	c := start(t)
	c.push("fashion", "1")
	c.ok("apply", "-f", c.file("f.yaml", fleetYAML), "-f", c.file("r.yaml", rolloutYAML))
	less := c.file("less.yaml", strings.Split(fleetYAML, "---\n")[0]+"---\n"+strings.Split(fleetYAML, "---\n")[1])
	contains(t, c.ok("apply", "-f", less, "--prune", "--dry-run"), "site/marina pruned (dry run)\n", "  -kind: Site\n")
	if got, want := c.ok("apply", "-f", less, "--prune"), "region/ae-dubai unchanged\nsite/deira unchanged\nsite/marina pruned\n"; got != want {
		t.Errorf("printed %q, want %q", got, want)
	}
	contains(t, c.ok("get", "rollouts", "-o", "name"), "rollout/fashion-v1")
	contains(t, c.ok("get", "models", "-o", "name"), "model/fashion")
}

func (c *cli) push(model, version string) {
	c.t.Helper()
	if err := c.m.Store.RecordVersion(c.t.Context(), model, version, "sha256:"+strings.Repeat("a", 64), 5<<20); err != nil {
		c.t.Fatal(err)
	}
}

// fleet makes a fleet with a node that has reported.
func (c *cli) fleet() {
	c.t.Helper()
	c.push("fashion", "1")
	c.ok("apply", "-f", c.file("f.yaml", fleetYAML), "-f", c.file("r.yaml", rolloutYAML))
	name := c.m.Enrol("ae-dubai", "deira", "deira-1", false)
	c.m.Enrol("ae-dubai", "marina", "marina-1", true)
	now := time.Now()
	if err := c.m.Store.RecordCertificate(c.t.Context(), "n-"+name, "1", now.Add(20*24*time.Hour), 1); err != nil {
		c.t.Fatal(err)
	}
	report := &syncv1.ReportRequest{
		AgentVersion: "1.2.3", StartedAt: timestamppb.New(now.Add(-3 * time.Hour)), OutboxPending: 7,
		Copies: []*syncv1.CopyStatus{
			{Model: "fashion", Version: "1", State: syncv1.CopyState_COPY_STATE_SERVING, ExecutionProvider: "CPU", Since: timestamppb.New(now.Add(-time.Hour))},
			{Model: "fashion", Version: "2", State: syncv1.CopyState_COPY_STATE_FAILED, Reason: "golden-mismatch", Message: "output \x1b[31mlabel differs"},
			{Model: "fashion", Version: "3", State: syncv1.CopyState_COPY_STATE_DOWNLOADING, BytesDone: 1, BytesTotal: 4},
		},
		Warnings: []*syncv1.Warning{{Code: "disk-low", Message: "the disk has 1 GiB left", Remedy: "free some space", Since: timestamppb.New(now.Add(-time.Hour))}},
		Hardware: &syncv1.Hardware{Os: "linux", Arch: "amd64", Kernel: "6.1", MemoryBytes: 16 << 30, MemoryLimitBytes: 4 << 30, DiskBytes: 1 << 40, DiskFreeBytes: 1 << 39,
			Cpu:     &syncv1.Cpu{Model: "Xeon", PhysicalCores: 2, LogicalCores: 4, LimitCores: 1.5, Extensions: []string{"AVX2", "AVX"}},
			GpuNote: "there is no NVIDIA driver"},
	}
	if err := c.m.Store.RecordSightings(c.t.Context(), []store.Sighting{{NodeID: "n-" + name, SeenAt: now, Connection: "Connected", Transport: "HTTP/3", Report: report}}); err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.m.Store.SetDesired(c.t.Context(), map[string][]byte{"n-" + name: []byte("state")}); err != nil {
		c.t.Fatal(err)
	}
	histogram := &syncv1.LatencyHistogram{Scale: 3, Offset: 160, Buckets: []uint64{90, 0, 0, 0, 0, 0, 0, 10}}
	if _, _, err := c.m.Store.Deliver(c.t.Context(), "n-"+name, []*syncv1.Aggregate{{Sequence: 1, WindowStart: timestamppb.New(now), WindowEnd: timestamppb.New(now), Requests: []*syncv1.RequestTotals{
		{Model: "fashion", Version: "1", Role: syncv1.Role_ROLE_BASELINE, Requests: 100, Errors: 1, LatencySumNs: 150_000_000, Latency: histogram, Counts: []*syncv1.NamedCount{{Name: "photo_png", Value: 60}}},
	}}}); err != nil {
		c.t.Fatal(err)
	}
}

func TestGetPrintsTables(t *testing.T) {
	c := start(t)
	if _, errs, code := c.exec(t.Context(), "", "get", "nodes"); code != exitOK || !strings.Contains(errs, "There are no nodes yet: invite one with dhow node invite") {
		t.Errorf("of no nodes it says %q", errs)
	}
	c.fleet()
	for want, args := range map[string][]string{
		"NAME       JURISDICTION   SITES   NODES   AGE\nae-dubai   uae-mainland   ":                                           {"get", "rg"},
		"NAME     REGION     NODES   AGE\ndeira    ae-dubai":                                                                  {"get", "Sites"},
		"NAME      VERSIONS   NEWEST   SIZE      PUSHED   AGE\nfashion   1          1        5.0 MiB   0s       0s\n":         {"get", "model", "fashion"},
		"NAME         MODEL     VERSION   PHASE   SERVING   WAITING   FAILED   AGE\nfashion-v1   fashion   1         -      ": {"get", "ro"},
		"10%":                                   {"get", "rollouts", "-o", "wide"},
		"deira-1    ae-dubai   deira    Active": {"get", "nodes"},
		"fashion:1   1":                         {"get", "no"},
		"node/deira-1\nnode/marina-1\n":         {"get", "nodes", "-o", "name"},
		"1.5     4.0 GiB   0      7":            {"get", "nodes", "-o", "wide"},
		"sites match":                           {"get", "sites", "-l", "tier=lead"},
		"kind: Site\nmetadata:\n  name: deira":  {"get", "site/deira", "-o", "yaml"},
		"NAME    REGION     NODES   LATITUDE   LONGITUDE   AGE\ndeira   ae-dubai   0       25.27      55.31": {"get", "sites", "-l", "tier=gold", "-o", "wide"},
	} {
		out, errs, code := c.exec(t.Context(), "", args...)
		if code != exitOK || !strings.Contains(out+errs, want) {
			t.Errorf("dhow %v: exit %d, want\n%s\nin\n%s%s", args, code, want, out, errs)
		}
	}
	var list fleetv1.ListResponse
	if err := protojson.Unmarshal([]byte(c.ok("get", "nodes", "-o", "json")), &list); err != nil || len(list.GetResources()) != 2 {
		t.Errorf("a list in JSON: %v, %v", &list, err)
	}
	var one fleetv1.Resource
	if err := protojson.Unmarshal([]byte(c.ok("get", "rollout", "fashion-v1", "-o", "json")), &one); err != nil || one.GetRollout().GetSpec().GetModel() != "fashion" {
		t.Errorf("one in JSON: %v, %v", &one, err)
	}
	c.fails(exitFailed, `"nobody"`, "get", "node", "nobody")
	c.fails(exitUsage, `there is no kind "noeds": did you mean nodes?`, "get", "noeds")
	c.fails(exitUsage, `--output "xml" is not one of table, wide, json, yaml, name`, "get", "nodes", "-o", "xml")
	c.fails(exitUsage, "is no selector", "get", "nodes", "-l", "gold")
	c.fails(exitUsage, "cannot both be given", "get", "nodes", "a", "-l", "a=b")
	c.fails(exitUsage, "KIND is missing", "get")
}

func TestDescribe(t *testing.T) {
	c := start(t)
	c.fleet()
	contains(t, c.ok("describe", "node", "deira-1"),
		"Name:           deira-1\n", "State:          Active\n", "over HTTP/3, heard from 0s ago\n", "Certificate:    good for 19d (until ",
		"Agent:          version 1.2.3, running for 3h\n", "Desired:        generation 1, which the node has not taken yet\n", "Outbox:         7 aggregates wait for delivery\n",
		"  fashion   1         serving           60m     CPU", "golden-mismatch   output ?[31mlabel differs\n", "downloading 25%",
		"  disk-low: the disk has 1 GiB left (for 60m)\n      -> free some space\n",
		"  CPU:        Xeon, 2 cores, 4 threads, of which it may use 1.5\n", "  Extensions: AVX AVX2\n", "  Memory:     16 GiB, of which it may use 4.0 GiB\n", "  Disk:       1.0 TiB, 512 GiB free\n", "  GPU:        there is no NVIDIA driver\n",
		"  fashion   1         baseline   100        1        1.50ms   1.09ms")
	contains(t, c.ok("describe", "node", "marina-1"), "Pending (let it in with dhow node approve marina-1)", "Certificate:    none yet", "nothing was decided yet", "none delivered yet")
	contains(t, c.ok("describe", "rollout", "fashion-v1"), "Selects:        region ae-dubai\n", "Traffic:        10%\n", "On failure:     rollback\n", "  deira-1    deira ", "serving", "  marina-1   marina")
	contains(t, c.ok("describe", "region", "ae-dubai"), "May leave:      health, metrics\n", "\nSites\n", "  deira    ae-dubai")
	contains(t, c.ok("describe", "site", "deira"), "Labels:         tier=gold\n", "Place:          25.27, 55.31\n", "  deira-1   ae-dubai   deira")
	contains(t, c.ok("describe", "model", "fashion"), "  1         5.0 MiB", "sha256:aaaa", "  fashion-v1   fashion")
	c.fails(exitUsage, "takes a kind and one name", "describe", "node")
	c.fails(exitFailed, "there is no Region", "describe", "region", "mars")
}

func TestTotals(t *testing.T) {
	c := start(t)
	if _, errs, _ := c.exec(t.Context(), "", "totals"); !strings.Contains(errs, "No requests were delivered yet.") {
		t.Errorf("of no totals it says %q", errs)
	}
	c.fleet()
	contains(t, c.ok("totals"), "NODE      REGION     SITE    MODEL     VERSION   ROLE       REQUESTS   ERRORS   MEAN     P50      P95      P99\n",
		"deira-1   ae-dubai   deira   fashion   1         baseline   100        1        1.50ms   1.09ms   2.01ms   2.01ms\n", "\n100 requests, 1 error\n")
	contains(t, c.ok("totals", "-o", "wide", "-l", "site=deira,model=fashion"), "photo_png=60")
	if _, errs, code := c.exec(t.Context(), "", "totals", "-l", "site=marina"); code != exitOK || !strings.Contains(errs, "No requests") {
		t.Errorf("exit %d, %q", code, errs)
	}
	var totals fleetv1.GetTotalsResponse
	if err := protojson.Unmarshal([]byte(c.ok("totals", "-o", "json")), &totals); err != nil || totals.GetTotals()[0].GetTotals().GetRequests() != 100 {
		t.Errorf("%v, %v", &totals, err)
	}
	c.fails(exitUsage, `not by "tier"`, "totals", "-l", "tier=gold")

	// What was counted outlives the node, and is not another's of the same name.
	c.ok("node", "revoke", "deira-1")
	c.ok("delete", "node", "deira-1")
	contains(t, c.ok("totals"), "deira-1 (deleted)   ae-dubai   deira   fashion   1         baseline   100", "\n100 requests, 1 error\n")
	secret, info, err := c.m.Store.CreateJoinToken(t.Context(), store.JoinTokenSpec{Region: "ae-dubai", Site: "deira", ExpiresAt: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.m.Store.UseJoinToken(t.Context(), store.Enrolment{TokenID: info.GetId(), Secret: secret, Name: "deira-1", ID: "n-second", Protocol: 1, Now: time.Now()}); err != nil {
		t.Fatal(err)
	}
	contains(t, c.ok("describe", "node", "deira-1"), "none delivered yet")
	contains(t, c.ok("totals", "-l", "node=deira-1"), "deira-1 (deleted)")
}

func TestQuantilesOfHistograms(t *testing.T) {
	one := func(offset int32, buckets ...uint64) *syncv1.LatencyHistogram {
		return &syncv1.LatencyHistogram{Scale: 3, Offset: offset, Buckets: buckets}
	}
	for _, c := range []struct {
		h    *syncv1.LatencyHistogram
		q    float64
		want string
	}{
		{nil, .5, ""}, {one(0), .5, ""}, {one(80, 1), .5, "1.07us"}, {one(80, 1), 1, "1.07us"},
		{one(160, 1, 1), .5, "1.09ms"}, {one(160, 1, 1), .51, "1.19ms"}, {one(-8, 1), .5, "0ns"}, {one(2000, 1), .5, ""},
		{&syncv1.LatencyHistogram{Scale: 0, Offset: 29, Buckets: []uint64{5}}, .9, "759ms"},
	} {
		if got := quantile(c.h, c.q); got != c.want {
			t.Errorf("quantile %v of %v is %q, want %q", c.q, c.h, got, c.want)
		}
	}
}

func TestInviteApproveRevoke(t *testing.T) {
	c := start(t)
	c.ok("apply", "-f", c.file("f.yaml", fleetYAML))
	out := c.ok("node", "invite", "--region", "ae-dubai", "--site", "deira", "--uses", "3", "--expires", "36h", "--approve")
	contains(t, out, "lets 3 machines join site deira of region ae-dubai until ", "dhow-agent run --server "+c.m.Address+" --token-file join-token\n", "dhow node approve NAME")
	alone := c.ok("node", "invite", "--region", "ae-dubai", "--site", "deira", "-o", "token")
	token, err := identity.ParseJoinToken(alone)
	if err != nil || token.RootPin != c.m.RootPin {
		t.Fatalf("the token alone reads as %+v, %v", token, err)
	}
	var made fleetv1.CreateJoinTokenResponse
	if err := protojson.Unmarshal([]byte(c.ok("node", "invite", "--region", "ae-dubai", "--site", "deira", "-o", "json")), &made); err != nil || made.GetToken() == "" {
		t.Errorf("%v, %v", &made, err)
	}
	list := c.ok("token", "list")
	contains(t, list, "ID ", token.ID, "0/3", "good for 3", "good for 1")
	if strings.Contains(list, token.Secret) {
		t.Error("the list tells a secret")
	}
	if got := c.ok("token", "revoke", token.ID); got != "token "+token.ID+" revoked\n" {
		t.Errorf("printed %q", got)
	}
	contains(t, c.ok("token", "list"), "revoked")
	contains(t, c.ok("token", "list", "-o", "json"), `"revoked": true`)

	node := c.m.Enrol("ae-dubai", "deira", "deira-1", true)
	if got := c.ok("node", "approve", node); got != "node/deira-1 approved\n" {
		t.Errorf("printed %q", got)
	}
	c.fails(exitFailed, "cannot delete site deira: it is used by 1 node (deira-1)", "delete", "site", "deira")
	c.fails(exitFailed, "revoke it first with dhow node revoke deira-1", "delete", "node", "deira-1")
	// A name that is wrong does not keep the others from being revoked.
	c.fails(exitFailed, "nope", "node", "revoke", "nope", node, "--reason", "stolen")
	contains(t, c.ok("describe", "node", node), "State:          Revoked\n", "Note:           revoked: stolen\n")
	c.fails(exitFailed, "revoked for good", "node", "approve", node)
	if got := c.ok("delete", "node", node); got != "node/deira-1 deleted\n" {
		t.Errorf("printed %q", got)
	}
	if got := c.ok("delete", "site", "deira", "marina"); got != "site/deira deleted\nsite/marina deleted\n" {
		t.Errorf("printed %q", got)
	}
	c.fails(exitFailed, `there is no Site "deira"`, "delete", "site", "deira")
	c.ok("delete", "site", "deira", "--ignore-not-found")
	c.fails(exitFailed, `there is no site "deira"`, "node", "invite", "--region", "ae-dubai", "--site", "deira")
	for want, args := range map[string][]string{
		"needs --region and --site":                                {"node", "invite", "--site", "deira"},
		"--uses must be at least 1":                                {"node", "invite", "--region", "a", "--site", "b", "--uses", "0"},
		"at least a second":                                        {"node", "invite", "--region", "a", "--site", "b", "--expires", "0s"},
		"NAME is missing; usage: dhow delete":                      {"delete", "site"},
		"NAME is missing; usage: dhow node approve":                {"node", "approve"},
		"ID is missing":                                            {"token", "revoke"},
		`dhow node has no command "aprove": did you mean approve?`: {"node", "aprove"},
		`dhow has no command "aply": did you mean apply?`:          {"aply"},
	} {
		c.fails(exitUsage, want, args...)
	}
}

// TestTimeoutMustLeaveTime: a call that may take no time fails before it begins, and asking a model would wait for ever.
func TestTimeoutMustLeaveTime(t *testing.T) {
	c := &cli{t: t, env: map[string]string{"HOME": t.TempDir()}}
	for _, value := range []string{"0", "0s", "-1ns", "-5m"} {
		for _, command := range [][]string{{"get", "nodes"}, {"infer", "--model", "m", "photo.png"}, {"node", "approve", "x"}, {"version"}} {
			c.fails(exitUsage, "--timeout must be above zero, such as 30s", append([]string{"--timeout=" + value}, command...)...)
		}
	}
	c.ok("version", "--timeout", "1ns")
}

func TestVersionAndHelp(t *testing.T) {
	c := &cli{t: t, env: map[string]string{}}
	contains(t, c.ok("version"), "dhow dev (protocol ")
	contains(t, c.ok("version", "--json"), `"protocol": `, `"version": "dev"`)
	contains(t, c.ok(), "Usage:", "apply", "describe", "model")
	contains(t, c.ok("node"), "invite")
	c.fails(exitFailed, "neither XDG_CONFIG_HOME nor HOME", "get", "nodes")
}

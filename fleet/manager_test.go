package fleet

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/dhowfleet/dhow/fleet/access"
	"github.com/dhowfleet/dhow/fleet/access/accesstest"
	"github.com/dhowfleet/dhow/fleet/config"
	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
	"github.com/dhowfleet/dhow/protocol/identity"
	"github.com/dhowfleet/dhow/protocol/nodekey"
	"github.com/dhowfleet/dhow/protocol/syncclient"
)

// outbox is a node's, in memory.
type outbox []*syncv1.Aggregate

func (o *outbox) Peek(context.Context, int, int) ([]*syncv1.Aggregate, error) { return *o, nil }

func (o *outbox) Acknowledge(_ context.Context, sequence uint64) (bool, error) {
	var left outbox
	for _, a := range *o {
		if a.GetSequence() > sequence {
			left = append(left, a)
		}
	}
	*o = left
	return false, nil
}

func counted(sequence uint64) *syncv1.Aggregate {
	return &syncv1.Aggregate{Sequence: sequence, Requests: []*syncv1.RequestTotals{{Model: "fashion", Version: "1", Role: syncv1.Role_ROLE_BASELINE, Requests: 10}}}
}

// TestNodeLivesThroughARestartOfTheManager is the whole path over real sockets: enrol, publish, roll out, pull, report,
// deliver, lose the manager in between, and count once.
func TestNodeLivesThroughARestartOfTheManager(t *testing.T) {
	for name, disable := range map[string]bool{"HTTP/3": false, "HTTP/2": true} {
		t.Run(strings.ReplaceAll(name, "/", ""), func(t *testing.T) {
			t.Parallel()
			h := start(t, func(c *config.Config) { c.DisableQUIC = disable })
			live(t, h, name)
		})
	}
}

func live(t *testing.T, h *harness, spoken string) {
	h.declare(place("eu-west", "rotterdam")...)
	n, err := h.enrol(h.invite(), "Till-1.branch")
	if err != nil {
		t.Fatal(err)
	}
	if got := h.get("Node", "till-1").GetNode().GetStatus(); got.GetConnection() != "Enrolling" || got.GetRegion() != "eu-west" {
		t.Fatalf("the node is %v", got)
	}
	var mu sync.Mutex
	var has *syncv1.DesiredEnvelope
	held := func() *syncv1.DesiredEnvelope {
		mu.Lock()
		defer mu.Unlock()
		return has
	}
	copies := func() []*syncv1.DesiredCopy {
		state := &syncv1.DesiredState{}
		if err := proto.Unmarshal(held().GetState(), state); err != nil {
			t.Error(err)
		}
		return state.GetCopies()
	}
	took := func(e *syncv1.DesiredEnvelope) {
		mu.Lock()
		defer mu.Unlock()
		has = e
	}
	_, stop := n.follow(nil, took)
	h.until("the node is connected", func() bool {
		s := h.get("Node", "till-1").GetNode().GetStatus()
		return s.GetConnection() == "Connected" && s.GetTransport() == spoken
	})

	manifest, weights, err := h.push("fashion", "1", "1")
	if err != nil {
		t.Fatal(err)
	}
	h.declare(rollOut("fashion-v1", "fashion", "1"))
	h.until("the node is told", func() bool { return len(copies()) == 1 })
	c := copies()[0]
	if c.GetManifestDigest() != manifest.String() || c.GetTrafficMillionths() != 1_000_000 {
		t.Fatalf("the node is told %v", c)
	}
	pull := "https://" + identity.NodeServerName + "/v2/models/fashion/"
	if status, body := request(t, n.http, http.MethodGet, pull+"blobs/"+weights.String(), nil, "Range", "bytes=0-6"); status != http.StatusPartialContent || body != "weights" {
		t.Fatalf("a pull is answered %d %q", status, body)
	}
	report := func() {
		t.Helper()
		if err := n.Report(t.Context(), &syncv1.ReportRequest{Generation: held().GetGeneration(), Digest: held().GetDigest(), Copies: []*syncv1.CopyStatus{
			{Model: "fashion", Version: "1", ManifestDigest: manifest.String(), State: syncv1.CopyState_COPY_STATE_SERVING}}}); err != nil {
			t.Fatal(err)
		}
	}
	report()
	h.until("the rollout is complete", func() bool { return h.get("Rollout", "fashion-v1").GetRollout().GetStatus().GetPhase() == "Complete" })
	h.until("the node's copy is the baseline", func() bool { return copies()[0].GetRole() == syncv1.Role_ROLE_BASELINE })
	box := outbox{counted(1), counted(2)}
	if delivered, err := n.Deliver(t.Context(), 1, &box); err != nil || delivered != 2 || len(box) != 0 {
		t.Fatalf("delivered %d (%v)", delivered, err)
	}
	report() // is not yet written when the manager stops

	generation := held().GetGeneration()
	h.stop()
	h.start()
	// The answer to the last delivery was lost: it comes again, with one more.
	box = outbox{counted(1), counted(2), counted(3)}
	h.until("the node reaches the manager again", func() bool {
		_, err := n.Deliver(t.Context(), 1, &box)
		return err == nil
	})
	totals, err := h.operator().GetTotals(t.Context(), connect.NewRequest(&fleetv1.GetTotalsRequest{Site: "rotterdam"}))
	if err != nil || len(totals.Msg.GetTotals()) != 1 || totals.Msg.GetTotals()[0].GetTotals().GetRequests() != 30 {
		t.Fatalf("the totals are %v (%v)", totals, err)
	}
	if got := h.get("Node", "till-1").GetNode().GetStatus().GetReport(); len(got.GetCopies()) != 1 {
		t.Errorf("the last report is lost: %v", got)
	}
	if _, _, err := h.push("fashion", "2", "2"); err != nil {
		t.Fatal(err)
	}
	h.declare(rollOut("fashion-v2", "fashion", "2"))
	h.until("the watch goes on after the restart", func() bool { return len(copies()) == 1 && copies()[0].GetVersion() == "2" })
	if held().GetGeneration() <= generation {
		t.Errorf("generation %d came after %d", held().GetGeneration(), generation)
	}
	stop()
}

func TestTokenIsGoodOnce(t *testing.T) {
	h := start(t)
	h.declare(place("eu-west", "rotterdam")...)
	token := h.invite()
	if _, err := h.enrol(token, "a"); err != nil {
		t.Fatal(err)
	}
	_, err := h.enrol(token, "b")
	if err == nil || !strings.Contains(syncclient.Sentence(err), "used by another machine already") {
		t.Errorf("the second machine is told: %v", err)
	}
}

func TestRevokedNodeIsOut(t *testing.T) {
	h := start(t)
	h.declare(place("eu-west", "rotterdam")...)
	n, err := h.enrol(h.invite(), "till")
	if err != nil {
		t.Fatal(err)
	}
	_, weights, err := h.push("fashion", "1", "1")
	if err != nil {
		t.Fatal(err)
	}
	took := make(chan struct{}, 16)
	ended, _ := n.follow(nil, func(*syncv1.DesiredEnvelope) { took <- struct{}{} })
	<-took
	if _, err := h.operator().RevokeNode(t.Context(), connect.NewRequest(&fleetv1.RevokeNodeRequest{Name: "till", Reason: "stolen"})); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; syncclient.ClassOf(err) != syncclient.Revoked || !strings.Contains(syncclient.Sentence(err), "stolen") {
		t.Errorf("the watch ended with %v", err)
	}
	h.until("its connections are cut and it stays out", func() bool {
		return syncclient.ClassOf(n.Report(t.Context(), &syncv1.ReportRequest{})) == syncclient.Revoked
	})
	h.until("it cannot pull", func() bool {
		status, _ := request(t, n.http, http.MethodGet, "https://"+identity.NodeServerName+"/v2/models/fashion/blobs/"+weights.String(), nil)
		return status == http.StatusForbidden
	})
}

func TestWhatNodesMayDoAtTheRegistry(t *testing.T) {
	h := start(t)
	h.declare(place("eu-west", "rotterdam")...)
	n, err := h.enrol(h.invite(), "till")
	if err != nil {
		t.Fatal(err)
	}
	manifest, _, err := h.push("fashion", "1", "1")
	if err != nil {
		t.Fatal(err)
	}
	base := "https://" + identity.NodeServerName
	for _, c := range []struct {
		method, path string
		want         int
	}{
		{http.MethodGet, "/v2/models/fashion/manifests/" + manifest.String(), http.StatusOK},
		{http.MethodHead, "/v2/models/fashion/manifests/1", http.StatusOK},
		{http.MethodPost, "/v2/models/fashion/blobs/uploads/", http.StatusForbidden},
		{http.MethodPut, "/v2/models/fashion/manifests/9", http.StatusForbidden},
		{http.MethodDelete, "/v2/models/fashion/manifests/" + manifest.String(), http.StatusForbidden},
		{http.MethodGet, "/v2/secrets/manifests/1", http.StatusForbidden},
		{http.MethodGet, "/v2/_catalog", http.StatusForbidden},
		{http.MethodPost, "/dhow.fleet.v1.FleetService/List", http.StatusForbidden},
		{http.MethodPost, "/dhow.sync.v1.EnrolmentService/Enrol", http.StatusForbidden},
	} {
		if status, body := request(t, n.http, c.method, base+c.path, nil); status != c.want {
			t.Errorf("%s %s: %d %s, want %d", c.method, c.path, status, body, c.want)
		}
	}
}

func TestExpiredNodeRenewsAndGoesOn(t *testing.T) {
	h := start(t)
	h.declare(place("eu-west", "rotterdam")...)
	n, err := h.enrol(h.invite(), "till")
	if err != nil {
		t.Fatal(err)
	}
	n.transport.Close()
	h.stop()
	h.now.Store(int64(40 * 24 * time.Hour)) // a month in the dark, and the manager's own certificate is new
	h.start()
	n.connect()
	if err := n.Report(t.Context(), &syncv1.ReportRequest{}); syncclient.ClassOf(err) != syncclient.Unauthorised {
		t.Fatalf("an expired node reports: %v", err)
	}
	csr, err := nodekey.Request(n.key)
	if err != nil {
		t.Fatal(err)
	}
	out, err := n.Renew(t.Context(), &syncv1.RenewRequest{CertificateRequest: csr})
	if err != nil {
		t.Fatal(err)
	}
	n.id = out.GetIdentity()
	n.transport.Close()
	n.connect()
	if err := n.Report(t.Context(), &syncv1.ReportRequest{}); err != nil {
		t.Fatalf("after renewal: %v", err)
	}
}

func TestOnlyBundlesBecomeVersions(t *testing.T) {
	h := start(t)
	if _, _, err := h.push("fashion", "1", "2"); err == nil || !strings.Contains(err.Error(), "is that of fashion version 1") {
		t.Errorf("a bundle under another version: %v", err)
	}
	if _, _, err := h.push("fashion", "1", "1"); err != nil {
		t.Fatal(err)
	}
	manifest, _, err := h.push("fashion", "1", "1")
	if err != nil {
		t.Fatalf("the same again: %v", err)
	}
	if got := h.get("Model", "fashion").GetModel().GetStatus().GetVersions(); len(got) != 1 || got[0].GetManifestDigest() != manifest.String() || got[0].GetSizeBytes() == 0 {
		t.Errorf("the versions are %v", got)
	}
	operator := h.operator()
	url := operator.BaseURL() + "/v2/models/fashion/manifests/"
	if status, body := request(t, operator.HTTP(), http.MethodPut, url+"3", []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}`),
		"Content-Type", "application/vnd.oci.image.manifest.v1+json"); status/100 != 4 {
		t.Errorf("what is no bundle is taken as a version: %d %s", status, body)
	}
	for _, reference := range []string{"1", manifest.String()} {
		if status, body := request(t, operator.HTTP(), http.MethodDelete, url+reference, nil); status/100 != 4 || !strings.Contains(body, "delete the model first") {
			t.Errorf("a version is deleted from under the nodes: %d %s", status, body)
		}
	}
}

func TestStrangersAreRefused(t *testing.T) {
	h := start(t)
	check := access.Config{Check: h.manager.checkOperator, Logger: h.manager.deps.Logger}
	accesstest.Walk(t, check, h.manager.routes(), "GET /healthz", "GET /readyz")
}

func TestHealth(t *testing.T) {
	h := start(t)
	operator := h.operator()
	for _, path := range []string{"/healthz", "/readyz"} {
		if status, body := request(t, operator.HTTP(), http.MethodGet, operator.BaseURL()+path, nil); status != http.StatusOK {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
}

func TestSetup(t *testing.T) {
	h := start(t)
	if _, err := New(t.Context(), h.config, Deps{Logger: h.manager.deps.Logger}); err == nil || !strings.Contains(err.Error(), "another dhow-fleet") {
		t.Errorf("two managers on one folder: %v", err)
	}
	h.stop()
	if _, err := Initialise(t.Context(), h.config); err == nil || !strings.Contains(err.Error(), "set up already") {
		t.Errorf("set up twice: %v", err)
	}
	token, err := NewOperatorToken(t.Context(), h.config, "second")
	if err != nil {
		t.Fatal(err)
	}
	h.setup.Token = token
	h.start()
	h.declare(place("eu-west", "rotterdam")...)

	for _, file := range []string{databaseFile, lockFile, config.FileName, authorityFolder} {
		info, err := os.Stat(filepath.Join(h.config.Data, file))
		if err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is open to others: %v (%v)", file, info.Mode(), err)
		}
	}
	c := h.config
	c.Data = t.TempDir()
	if _, err := New(t.Context(), c, Deps{Logger: h.manager.deps.Logger}); err == nil || !strings.Contains(err.Error(), "dhow-fleet init") {
		t.Errorf("a manager on an empty folder: %v", err)
	}
	if _, err := NewOperatorToken(t.Context(), c, "x"); err == nil || !strings.Contains(err.Error(), "dhow-fleet init") {
		t.Errorf("a token for an empty folder: %v", err)
	}
}

// TestARevokedOperatorIsOut revokes the token of an operator who has a watch open, beside the manager that runs.
func TestARevokedOperatorIsOut(t *testing.T) {
	h := start(t)
	ana := h.operator()
	synced := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- ana.Watch(t.Context(), &fleetv1.WatchRequest{Kind: "Region"}, func(e *fleetv1.WatchResponse) error {
			if e.GetType() == "synced" {
				close(synced)
			}
			return nil
		})
	}()
	<-synced
	if err := RevokeOperatorToken(t.Context(), h.config, BootstrapToken, false); err == nil || !strings.Contains(err.Error(), "--force") || !strings.Contains(err.Error(), "nobody can operate") {
		t.Errorf("the last administrator's token: %v", err)
	}
	h.declare(place("eu-west", "rotterdam")...)
	second, err := NewOperatorToken(t.Context(), h.config, "ben")
	if err != nil {
		t.Fatal(err)
	}
	if err := RevokeOperatorToken(t.Context(), h.config, BootstrapToken, false); err != nil {
		t.Fatal(err)
	}
	_, err = ana.List(t.Context(), connect.NewRequest(&fleetv1.ListRequest{Kind: "Region"}))
	if connect.CodeOf(err) != connect.CodeUnauthenticated || !strings.Contains(err.Error(), `"bootstrap" was revoked`) {
		t.Errorf("the next request after the revocation: %v", err)
	}
	if err := <-ended; connect.CodeOf(err) != connect.CodeUnauthenticated || !strings.Contains(err.Error(), "was revoked") {
		t.Errorf("the open watch ended with %v", err)
	}
	h.setup.Token = second
	h.get("Region", "eu-west")
	if err := RevokeOperatorToken(t.Context(), h.config, "ben", true); err != nil {
		t.Errorf("by force: %v", err)
	}
	if err := RevokeOperatorToken(t.Context(), h.config, "nobody", true); err == nil || !strings.Contains(err.Error(), "dhow-fleet token list") {
		t.Errorf("one that never was: %v", err)
	}
	h.stop()
	if _, err := Initialise(t.Context(), h.config); err == nil || !strings.Contains(err.Error(), "set up already") {
		t.Errorf("a folder whose tokens are revoked is set up again: %v", err)
	}
}

package api_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/dhowfleet/dhow/fleet/access"
	"github.com/dhowfleet/dhow/fleet/access/accesstest"
	"github.com/dhowfleet/dhow/fleet/api"
	"github.com/dhowfleet/dhow/fleet/resource"
	"github.com/dhowfleet/dhow/fleet/store"
	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
	"github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1/fleetv1connect"
	"github.com/dhowfleet/dhow/protocol/identity"
)

const operatorToken = "dhow-op-test"

type fixture struct {
	fleetv1connect.FleetServiceClient
	t     *testing.T
	store *store.Store
	http  *http.Client
	url   string
}

func checkToken(_ context.Context, token string) (string, access.Role, error) {
	if token == operatorToken {
		return "ana", access.Admin, nil
	}
	return "", "", access.ErrUnknownToken
}

func serve(t *testing.T, change func(*api.Config)) *fixture {
	t.Helper()
	s, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "fleet.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	config := api.Config{Resources: s, Tokens: s, Nodes: s, Totals: s, RootPin: [32]byte{7}, TrustDomain: "fleet.example",
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), WatchPause: time.Millisecond}
	if change != nil {
		change(&config)
	}
	service, err := api.New(config)
	if err != nil {
		t.Fatal(err)
	}
	gate, err := access.New(access.Config{Check: checkToken, Logger: config.Logger}, service.Routes())
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(gate)
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	client := server.Client()
	client.Transport = &withToken{client.Transport}
	return &fixture{fleetv1connect.NewFleetServiceClient(client, server.URL), t, s, client, server.URL}
}

type withToken struct{ next http.RoundTripper }

func (w *withToken) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+operatorToken)
	return w.next.RoundTrip(r)
}

func read(t *testing.T, yaml string) []*fleetv1.Resource {
	t.Helper()
	docs, err := resource.Read("test", []byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	var out []*fleetv1.Resource
	for _, d := range docs {
		out = append(out, d.Resource)
	}
	return out
}

// apply returns the actions as "Kind name action".
func (f *fixture) apply(req *fleetv1.ApplyRequest) (string, error) {
	f.t.Helper()
	resp, err := f.Apply(f.t.Context(), connect.NewRequest(req))
	if err != nil {
		return "", err
	}
	var out []string
	for _, r := range resp.Msg.GetResults() {
		out = append(out, fmt.Sprintf("%s %s %s", r.GetKind(), r.GetName(), r.GetAction()))
	}
	return strings.Join(out, ", "), nil
}

func (f *fixture) mustApply(yaml string) {
	f.t.Helper()
	if _, err := f.apply(&fleetv1.ApplyRequest{Resources: read(f.t, yaml)}); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) get(kind, name string) *fleetv1.Resource {
	f.t.Helper()
	resp, err := f.Get(f.t.Context(), connect.NewRequest(&fleetv1.GetRequest{Kind: kind, Name: name}))
	if err != nil {
		f.t.Fatal(err)
	}
	return resp.Msg.GetResource()
}

// enrol makes a node in a site and returns its name.
func (f *fixture) enrol(region, site, name string, approval bool) string {
	f.t.Helper()
	secret, info, err := f.store.CreateJoinToken(f.t.Context(), store.JoinTokenSpec{Region: region, Site: site, Uses: 1, ExpiresAt: time.Now().Add(time.Hour), RequireApproval: approval})
	if err != nil {
		f.t.Fatal(err)
	}
	node, err := f.store.UseJoinToken(f.t.Context(), store.Enrolment{TokenID: info.GetId(), Secret: secret, Name: name, ID: "n-" + name, Protocol: 1, Now: time.Now(), KeyHash: [32]byte{byte(len(name))}})
	if err != nil {
		f.t.Fatal(err)
	}
	return node.Name
}

// refused checks an error's code and text.
func refused(t *testing.T, err error, code connect.Code, wants ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want %v %q", code, wants)
		return
	}
	if connect.CodeOf(err) != code {
		t.Errorf("%v, want the code %v", err, code)
	}
	for _, want := range wants {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not say %q", err, want)
		}
	}
}

const dubai = `kind: Region
metadata: {name: ae-dubai}
spec: {jurisdiction: uae-mainland}
---
kind: Site
metadata: {name: deira}
spec: {region: ae-dubai}
`

const rollout = `kind: Rollout
metadata: {name: fashion-v1}
spec: {model: fashion, version: "1", stages: [{name: all, select: {region: ae-dubai}}]}
`

func (f *fixture) push(model, version string) {
	f.t.Helper()
	if err := f.store.RecordVersion(f.t.Context(), model, version, "sha256:"+strings.Repeat("a", 64), 10); err != nil {
		f.t.Fatal(err)
	}
}

func TestEveryProcedureHasARuleAndRefusesStrangers(t *testing.T) {
	service, err := api.New(api.Config{Resources: &store.Store{}, Tokens: &store.Store{}, Nodes: &store.Store{}, Totals: &store.Store{}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	served := map[string]bool{}
	for _, r := range service.Routes() {
		served[r.Pattern] = true
	}
	methods := fleetv1.File_dhow_fleet_v1_fleet_proto.Services().ByName("FleetService").Methods()
	for i := range methods.Len() {
		if pattern := fmt.Sprintf("POST /%s/%s", methods.Get(i).Parent().FullName(), methods.Get(i).Name()); !served[pattern] {
			t.Errorf("%s is not in the route table", pattern)
		}
	}
	accesstest.Walk(t, access.Config{Check: checkToken, Logger: slog.New(slog.DiscardHandler)}, service.Routes())
}

func TestApplyCreatesChangesAndLeaves(t *testing.T) {
	f := serve(t, nil)
	got, err := f.apply(&fleetv1.ApplyRequest{Resources: read(t, dubai), DryRun: true})
	if err != nil || got != "Region ae-dubai created, Site deira created" {
		t.Fatalf("dry run: %q, %v", got, err)
	}
	_, err = f.Get(t.Context(), connect.NewRequest(&fleetv1.GetRequest{Kind: "Region", Name: "ae-dubai"}))
	refused(t, err, connect.CodeNotFound, `there is no Region "ae-dubai"`)
	f.mustApply(dubai)
	before := f.get("Region", "ae-dubai")
	if got, err := f.apply(&fleetv1.ApplyRequest{Resources: read(t, dubai)}); err != nil || got != "Region ae-dubai unchanged, Site deira unchanged" {
		t.Fatalf("again: %q, %v", got, err)
	}
	if after := f.get("Region", "ae-dubai"); !proto.Equal(before, after) {
		t.Errorf("an apply that changes nothing changed %v to %v", before, after)
	}
	resp, err := f.Apply(t.Context(), connect.NewRequest(&fleetv1.ApplyRequest{Resources: read(t, strings.Replace(dubai, "uae-mainland", "uae-difc", 1))}))
	if err != nil {
		t.Fatal(err)
	}
	r := resp.Msg.GetResults()[0]
	if r.GetAction() != api.Configured || r.GetBefore().GetRegion().GetSpec().GetJurisdiction() != "uae-mainland" || r.GetAfter().GetRegion().GetSpec().GetJurisdiction() != "uae-difc" || r.GetAfter().GetMetadata().GetGeneration() != 2 {
		t.Errorf("a change is told as %v", r)
	}
}

func TestApplyIsAllOrNothing(t *testing.T) {
	f := serve(t, nil)
	_, err := f.apply(&fleetv1.ApplyRequest{Resources: read(t, dubai+"---\n"+rollout)})
	refused(t, err, connect.CodeFailedPrecondition, `rollout fashion-v1: spec.model: there is no model "fashion"`)
	list, _, err := f.store.List(t.Context(), "")
	if err != nil || len(list) != 0 {
		t.Errorf("%d resources are left of a refused apply, %v", len(list), err)
	}
	f.push("fashion", "1")
	f.mustApply(dubai + "---\n" + rollout)
	// A model that is declared again keeps what was pushed.
	f.mustApply("kind: Model\nmetadata: {name: fashion}\nspec: {description: photos}\n---\n" + rollout)
	if n := len(f.get("Model", "fashion").GetModel().GetStatus().GetVersions()); n != 1 {
		t.Errorf("the model has %d versions", n)
	}
}

func TestApplyRefuses(t *testing.T) {
	f := serve(t, nil)
	f.mustApply(dubai)
	version := f.get("Region", "ae-dubai").GetMetadata().GetResourceVersion()
	region := func(change func(*fleetv1.Resource)) []*fleetv1.Resource {
		r := read(t, dubai)[0]
		change(r)
		return []*fleetv1.Resource{r}
	}
	for name, c := range map[string]struct {
		req  *fleetv1.ApplyRequest
		code connect.Code
		want string
	}{
		"nothing":        {&fleetv1.ApplyRequest{}, connect.CodeInvalidArgument, "nothing to apply"},
		"invalid":        {&fleetv1.ApplyRequest{Resources: region(func(r *fleetv1.Resource) { r.GetRegion().Spec.Egress = []string{"rows"} })}, connect.CodeInvalidArgument, `region ae-dubai: spec.egress[0]: there is no data class "rows"`},
		"no body":        {&fleetv1.ApplyRequest{Resources: region(func(r *fleetv1.Resource) { r.Body = nil })}, connect.CodeInvalidArgument, "region ae-dubai: spec: missing"},
		"other body":     {&fleetv1.ApplyRequest{Resources: region(func(r *fleetv1.Resource) { r.Kind = "Site" })}, connect.CodeInvalidArgument, "not that of a Site"},
		"no name":        {&fleetv1.ApplyRequest{Resources: region(func(r *fleetv1.Resource) { r.Metadata = nil })}, connect.CodeInvalidArgument, "resource 1 (Region): metadata.name: missing"},
		"empty":          {&fleetv1.ApplyRequest{Resources: []*fleetv1.Resource{{}}}, connect.CodeInvalidArgument, "there is no kind"},
		"node":           {&fleetv1.ApplyRequest{Resources: []*fleetv1.Resource{resource.New("Node", "n")}}, connect.CodeInvalidArgument, "cannot be applied"},
		"twice":          {&fleetv1.ApplyRequest{Resources: append(read(t, dubai), read(t, dubai)...)}, connect.CodeInvalidArgument, "here a second time"},
		"prunes nodes":   {&fleetv1.ApplyRequest{PruneKinds: []string{"Node"}}, connect.CodeInvalidArgument, `"Node" cannot be pruned`},
		"prunes unknown": {&fleetv1.ApplyRequest{PruneKinds: []string{"sites"}}, connect.CodeInvalidArgument, `"sites" cannot be pruned`},
		"stale":          {&fleetv1.ApplyRequest{Resources: region(func(r *fleetv1.Resource) { r.Metadata.ResourceVersion = version + 1 })}, connect.CodeAborted, "it has changed since"},
		"gone":           {&fleetv1.ApplyRequest{Resources: region(func(r *fleetv1.Resource) { r.Metadata.Name, r.Metadata.ResourceVersion = "eu", 1 })}, connect.CodeAborted, "does not exist"},
		"too many":       {&fleetv1.ApplyRequest{Resources: make([]*fleetv1.Resource, resource.MaxDocuments+1)}, connect.CodeInvalidArgument, "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := f.apply(c.req)
			refused(t, err, c.code, c.want)
		})
	}
	if _, err := f.apply(&fleetv1.ApplyRequest{Resources: region(func(r *fleetv1.Resource) { r.Metadata.ResourceVersion = version })}); err != nil {
		t.Errorf("with the right resource version: %v", err)
	}
}

func TestPrune(t *testing.T) {
	f := serve(t, nil)
	f.push("fashion", "1")
	f.mustApply(dubai + "---\n" + rollout + "---\nkind: Site\nmetadata: {name: marina}\nspec: {region: ae-dubai}\n")
	_, err := f.apply(&fleetv1.ApplyRequest{PruneKinds: []string{"Region"}})
	refused(t, err, connect.CodeFailedPrecondition, "region ae-dubai cannot be pruned: it is used by 2 sites (deira, marina) and 1 rollout (fashion-v1)")
	req := &fleetv1.ApplyRequest{Resources: read(t, dubai), PruneKinds: []string{"Region", "Site", "Rollout"}, DryRun: true}
	want := "Region ae-dubai unchanged, Site deira unchanged, Rollout fashion-v1 pruned, Site marina pruned"
	if got, err := f.apply(req); err != nil || got != want {
		t.Errorf("dry run: %q, %v; want %q", got, err, want)
	}
	f.get("Site", "marina")
	req.DryRun = false
	if got, err := f.apply(req); err != nil || got != want {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	if _, err := f.store.Get(t.Context(), "Site", "marina"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("marina is still there: %v", err)
	}
	// All at once, in an order in which nothing is left dangling.
	if got, err := f.apply(&fleetv1.ApplyRequest{PruneKinds: []string{"Region", "Site"}}); err != nil || got != "Site deira pruned, Region ae-dubai pruned" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestDelete(t *testing.T) {
	f := serve(t, nil)
	f.push("fashion", "1")
	f.mustApply(dubai + "---\n" + rollout)
	node := f.enrol("ae-dubai", "deira", "deira-1", false)
	del := func(kind, name string) error {
		_, err := f.Delete(t.Context(), connect.NewRequest(&fleetv1.DeleteRequest{Kind: kind, Name: name}))
		return err
	}
	refused(t, del("Region", "ae-dubai"), connect.CodeFailedPrecondition, "cannot delete region ae-dubai: it is used by 1 site (deira) and 1 rollout (fashion-v1) and 1 node (deira-1)")
	refused(t, del("Site", "deira"), connect.CodeFailedPrecondition, "it is used by 1 node (deira-1)")
	refused(t, del("Model", "fashion"), connect.CodeFailedPrecondition, "it is used by 1 rollout (fashion-v1)")
	refused(t, del("Node", node), connect.CodeFailedPrecondition, "revoke it first with dhow node revoke deira-1")
	refused(t, del("Site", "other"), connect.CodeNotFound, `there is no Site "other"`)
	refused(t, del("site", "deira"), connect.CodeInvalidArgument, "written Site")
	refused(t, del("Deployment", "deira"), connect.CodeInvalidArgument, "there is no kind")

	if _, err := f.RevokeNode(t.Context(), connect.NewRequest(&fleetv1.RevokeNodeRequest{Name: node, Reason: "stolen"})); err != nil {
		t.Fatal(err)
	}
	for _, key := range []store.Key{{Kind: "Rollout", Name: "fashion-v1"}, {Kind: "Model", Name: "fashion"}, {Kind: "Node", Name: node}, {Kind: "Site", Name: "deira"}, {Kind: "Region", Name: "ae-dubai"}} {
		if err := del(key.Kind, key.Name); err != nil {
			t.Errorf("delete %v: %v", key, err)
		}
	}
	list, _, err := f.store.List(t.Context(), "")
	if err != nil || len(list) != 0 {
		t.Errorf("%v is left, %v", list, err)
	}
}

func TestListSelects(t *testing.T) {
	f := serve(t, nil)
	f.mustApply(dubai + "---\nkind: Region\nmetadata: {name: eu, labels: {tier: gold}}\nspec: {jurisdiction: eu}\n---\nkind: Site\nmetadata: {name: berlin}\nspec: {region: eu}\n")
	f.enrol("ae-dubai", "deira", "deira-1", false)
	f.enrol("eu", "berlin", "berlin-01", false)
	for want, req := range map[string]*fleetv1.ListRequest{
		"ae-dubai eu":       {Kind: "Region"},
		"eu":                {Kind: "Region", Selector: map[string]string{"tier": "gold"}},
		"berlin-01 deira-1": {Kind: "Node"},
		"deira-1":           {Kind: "Node", Selector: map[string]string{"region": "ae-dubai", "site": "deira"}},
		"berlin":            {Kind: "Site", Selector: map[string]string{"region": "eu"}},
		"":                  {Kind: "Rollout"},
		"ae-dubai eu berlin deira berlin-01 deira-1": {},
	} {
		resp, err := f.List(t.Context(), connect.NewRequest(req))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range resp.Msg.GetResources() {
			got = append(got, r.GetMetadata().GetName())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%v lists %v, want %q", req, got, want)
		}
		if resp.Msg.GetResourceVersion() == 0 {
			t.Errorf("%v says no resource version", req)
		}
	}
	_, err := f.List(t.Context(), connect.NewRequest(&fleetv1.ListRequest{Kind: "nodes"}))
	refused(t, err, connect.CodeInvalidArgument, "written Node")
}

func TestJoinTokens(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	f := serve(t, func(c *api.Config) { c.Now = func() time.Time { return now } })
	f.mustApply(dubai)
	create := func(m *fleetv1.CreateJoinTokenRequest) (*fleetv1.CreateJoinTokenResponse, error) {
		resp, err := f.CreateJoinToken(t.Context(), connect.NewRequest(m))
		if err != nil {
			return nil, err
		}
		return resp.Msg, nil
	}
	made, err := create(&fleetv1.CreateJoinTokenRequest{Region: "ae-dubai", Site: "deira"})
	if err != nil {
		t.Fatal(err)
	}
	token, err := identity.ParseJoinToken(made.GetToken())
	if err != nil || token.ID != made.GetInfo().GetId() || token.RootPin != [32]byte{7} {
		t.Fatalf("the token reads as %+v, %v", token, err)
	}
	if i := made.GetInfo(); i.GetUses() != 1 || !i.GetExpiresAt().AsTime().Equal(now.Add(time.Hour)) || i.GetRequireApproval() {
		t.Errorf("a token without wishes is %v", i)
	}
	if _, err := f.store.UseJoinToken(t.Context(), store.Enrolment{TokenID: token.ID, Secret: token.Secret, Name: "n", ID: "n-1", Now: now}); err != nil {
		t.Errorf("the token does not enrol: %v", err)
	}
	for _, c := range []struct {
		req  *fleetv1.CreateJoinTokenRequest
		code connect.Code
		want string
	}{
		{&fleetv1.CreateJoinTokenRequest{Region: "ae-dubai"}, connect.CodeInvalidArgument, "name its region and the site"},
		{&fleetv1.CreateJoinTokenRequest{Region: "ae-dubai", Site: "diera"}, connect.CodeFailedPrecondition, `there is no site "diera": did you mean deira?`},
		{&fleetv1.CreateJoinTokenRequest{Region: "eu", Site: "deira"}, connect.CodeFailedPrecondition, `there is no region "eu"`},
		{&fleetv1.CreateJoinTokenRequest{Region: "ae-dubai", Site: "deira", ExpiresSeconds: 1 << 63}, connect.CodeInvalidArgument, "at most 366 days"},
		{&fleetv1.CreateJoinTokenRequest{Region: "ae-dubai", Site: "deira", Uses: 1 << 31}, connect.CodeInvalidArgument, "at most 1000000 times"},
	} {
		_, err := create(c.req)
		refused(t, err, c.code, c.want)
	}
	if _, err := f.RevokeJoinToken(t.Context(), connect.NewRequest(&fleetv1.RevokeJoinTokenRequest{Id: token.ID})); err != nil {
		t.Fatal(err)
	}
	_, err = f.RevokeJoinToken(t.Context(), connect.NewRequest(&fleetv1.RevokeJoinTokenRequest{Id: "nope"}))
	refused(t, err, connect.CodeNotFound, "nope")
	list, err := f.ListJoinTokens(t.Context(), connect.NewRequest(&fleetv1.ListJoinTokensRequest{}))
	if err != nil || len(list.Msg.GetTokens()) != 1 || !list.Msg.GetTokens()[0].GetRevoked() || list.Msg.GetTokens()[0].GetUsed() != 1 {
		t.Errorf("tokens are %v, %v", list, err)
	}
}

func TestApproveAndRevoke(t *testing.T) {
	f := serve(t, nil)
	f.mustApply(dubai)
	node := f.enrol("ae-dubai", "deira", "deira-1", true)
	state := func() string { return f.get("Node", node).GetNode().GetStatus().GetState() }
	if state() != "Pending" {
		t.Fatalf("the node is %s", state())
	}
	if _, err := f.ApproveNode(t.Context(), connect.NewRequest(&fleetv1.ApproveNodeRequest{Name: node})); err != nil || state() != "Active" {
		t.Fatalf("approved: %v, it is %s", err, state())
	}
	_, err := f.RevokeNode(t.Context(), connect.NewRequest(&fleetv1.RevokeNodeRequest{Name: node, Reason: strings.Repeat("x", 257)}))
	refused(t, err, connect.CodeInvalidArgument, "257 bytes")
	if _, err := f.RevokeNode(t.Context(), connect.NewRequest(&fleetv1.RevokeNodeRequest{Name: node, Reason: "stolen"})); err != nil || state() != "Revoked" {
		t.Fatalf("revoked: %v, it is %s", err, state())
	}
	_, err = f.ApproveNode(t.Context(), connect.NewRequest(&fleetv1.ApproveNodeRequest{Name: node}))
	refused(t, err, connect.CodeFailedPrecondition, "revoked for good")
	_, err = f.ApproveNode(t.Context(), connect.NewRequest(&fleetv1.ApproveNodeRequest{Name: "other"}))
	refused(t, err, connect.CodeNotFound, "other")
}

func TestServerInfo(t *testing.T) {
	f := serve(t, nil)
	info, err := f.GetServerInfo(t.Context(), connect.NewRequest(&fleetv1.GetServerInfoRequest{}))
	if err != nil || info.Msg.GetTrustDomain() != "fleet.example" || info.Msg.GetProtocol() == 0 || info.Msg.GetVersion() == "" {
		t.Errorf("%v, %v", info, err)
	}
}

// broken fails in ways that only the manager's log should tell.
type broken struct{ api.Resources }

func (broken) List(context.Context, string) ([]*fleetv1.Resource, uint64, error) {
	return nil, 0, errors.New("disk I/O error at /var/lib/dhow-fleet")
}

func TestWhatFailsInsideIsLoggedAndNotTold(t *testing.T) {
	log, written := io.Pipe()
	f := serve(t, func(c *api.Config) {
		c.Resources = broken{c.Resources}
		c.Logger = slog.New(slog.NewTextHandler(written, nil))
	})
	line := make(chan string, 1)
	go func() {
		buf := make([]byte, 4096)
		n, _ := log.Read(buf)
		line <- string(buf[:n])
	}()
	_, err := f.List(t.Context(), connect.NewRequest(&fleetv1.ListRequest{}))
	refused(t, err, connect.CodeInternal, "its log says why")
	if strings.Contains(err.Error(), "disk") {
		t.Errorf("the inside is told: %v", err)
	}
	if told := <-line; !strings.Contains(told, "disk I/O error") {
		t.Errorf("the log does not say why: %s", told)
	}
}

func TestRequestsAreBounded(t *testing.T) {
	f := serve(t, nil)
	_, err := f.Get(t.Context(), connect.NewRequest(&fleetv1.GetRequest{Kind: "Region", Name: strings.Repeat("x", 9<<20)}))
	refused(t, err, connect.CodeResourceExhausted)
}

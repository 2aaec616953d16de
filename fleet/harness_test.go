package fleet

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/opencontainers/go-digest"

	"github.com/dhowfleet/dhow/fleet/client"
	"github.com/dhowfleet/dhow/fleet/config"
	"github.com/dhowfleet/dhow/models/bundle"
	"github.com/dhowfleet/dhow/protocol/backoff"
	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
	"github.com/dhowfleet/dhow/protocol/identity"
	"github.com/dhowfleet/dhow/protocol/nodekey"
	"github.com/dhowfleet/dhow/protocol/syncclient"
	"github.com/dhowfleet/dhow/protocol/transport"
	"github.com/dhowfleet/dhow/protocol/version"
)

// harness is a manager on loopback that can be stopped and started on the same folder and port.
type harness struct {
	t       *testing.T
	config  config.Config
	setup   Setup
	now     atomic.Int64 // how far the clocks are ahead
	manager *Manager
	stop    func()
}

func (h *harness) clock() time.Time { return time.Now().Add(time.Duration(h.now.Load())) }

func start(t *testing.T, change ...func(*config.Config)) *harness {
	t.Helper()
	h := &harness{t: t, config: config.Default()}
	h.config.Data = filepath.Join(t.TempDir(), "fleet")
	h.config.Listen, h.config.TrustDomain, h.config.SignOfLife = "127.0.0.1:0", "fleet.test", time.Second
	for _, c := range change {
		c(&h.config)
	}
	var err error
	if h.setup, err = Initialise(t.Context(), h.config); err != nil {
		t.Fatal(err)
	}
	h.start()
	t.Cleanup(func() { h.stop() })
	return h
}

func (h *harness) start() {
	h.t.Helper()
	logger := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		logger = slog.New(slog.NewTextHandler(h.t.Output(), nil))
	}
	m, err := New(context.Background(), h.config, Deps{Logger: logger, Now: h.clock})
	if err != nil {
		h.t.Fatal(err)
	}
	h.manager = m
	h.config.Listen = m.Addr() // the same port after a restart
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	h.stop = func() {
		cancel()
		if err := <-done; err != nil {
			h.t.Error(err)
		}
		h.stop = func() {}
	}
}

func (h *harness) pin() (pin [32]byte) {
	h.t.Helper()
	if n, err := hex.Decode(pin[:], []byte(h.setup.CASHA256)); err != nil || n != len(pin) {
		h.t.Fatalf("the pin is %q", h.setup.CASHA256)
	}
	return pin
}

func (h *harness) operator() *client.Client {
	h.t.Helper()
	c, err := client.New(client.Config{Server: h.manager.Addr(), Token: h.setup.Token, CASHA256: h.pin(), DisableQUIC: h.config.DisableQUIC, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(c.Close)
	return c
}

func (h *harness) declare(resources ...*fleetv1.Resource) {
	h.t.Helper()
	if _, err := h.operator().Apply(h.t.Context(), connect.NewRequest(&fleetv1.ApplyRequest{Resources: resources})); err != nil {
		h.t.Fatal(err)
	}
}

func (h *harness) get(kind, name string) *fleetv1.Resource {
	h.t.Helper()
	out, err := h.operator().Get(h.t.Context(), connect.NewRequest(&fleetv1.GetRequest{Kind: kind, Name: name}))
	if err != nil {
		h.t.Fatal(err)
	}
	return out.Msg.GetResource()
}

// until waits for something that other goroutines bring about.
func (h *harness) until(what string, done func() bool) {
	h.t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			h.t.Fatalf("in vain waited for: %s", what)
		}
	}
}

func place(region, site string) []*fleetv1.Resource {
	return []*fleetv1.Resource{
		{Kind: "Region", Metadata: &fleetv1.Metadata{Name: region}, Body: &fleetv1.Resource_Region{Region: &fleetv1.Region{Spec: &fleetv1.RegionSpec{Jurisdiction: "eu", Egress: []string{"health", "metrics"}}}}},
		{Kind: "Site", Metadata: &fleetv1.Metadata{Name: site}, Body: &fleetv1.Resource_Site{Site: &fleetv1.Site{Spec: &fleetv1.SiteSpec{Region: region}}}},
	}
}

func rollOut(name, model, version string) *fleetv1.Resource {
	return &fleetv1.Resource{Kind: "Rollout", Metadata: &fleetv1.Metadata{Name: name}, Body: &fleetv1.Resource_Rollout{Rollout: &fleetv1.Rollout{
		Spec: &fleetv1.RolloutSpec{Model: model, Version: version, Stages: []*fleetv1.RolloutStage{{Name: "all", Traffic: "100%"}}}}}}
}

// node is a machine with the client's side of the protocol and no agent.
type node struct {
	h    *harness
	key  *ecdsa.PrivateKey
	id   *syncv1.Identity
	http *http.Client
	*syncclient.Client
	transport *transport.Client
}

func (h *harness) invite() string {
	h.t.Helper()
	out, err := h.operator().CreateJoinToken(h.t.Context(), connect.NewRequest(&fleetv1.CreateJoinTokenRequest{Region: "eu-west", Site: "rotterdam"}))
	if err != nil {
		h.t.Fatal(err)
	}
	return out.Msg.GetToken()
}

func (h *harness) enrol(token, name string) (*node, error) {
	h.t.Helper()
	key, err := nodekey.New()
	if err != nil {
		h.t.Fatal(err)
	}
	csr, err := nodekey.Request(key)
	if err != nil {
		h.t.Fatal(err)
	}
	pin := h.pin()
	t := transport.NewClient(transport.ClientConfig{Address: h.manager.Addr(), ServerName: identity.EnrolServerName, RootPin: &pin, DisableQUIC: h.config.DisableQUIC, Now: h.clock})
	defer t.Close()
	out, err := syncclient.New(t.HTTPClient(), "https://"+identity.EnrolServerName).Enrol(h.t.Context(), &syncv1.EnrolRequest{
		JoinToken: token, CertificateRequest: csr, NodeName: name, Protocol: version.Current})
	if err != nil {
		return nil, err
	}
	n := &node{h: h, key: key, id: out.GetIdentity()}
	n.connect()
	return n, nil
}

func (n *node) connect() {
	roots := x509.NewCertPool()
	for _, der := range n.id.GetTrustRoots() {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			n.h.t.Fatal(err)
		}
		roots.AddCert(cert)
	}
	n.transport = transport.NewClient(transport.ClientConfig{Address: n.h.manager.Addr(), ServerName: identity.NodeServerName, DisableQUIC: n.h.config.DisableQUIC, Now: n.h.clock,
		Roots:       func() *x509.CertPool { return roots },
		Certificate: func() (*tls.Certificate, error) { return nodekey.Certificate(n.key, n.id.GetCertificateChain()) }})
	n.h.t.Cleanup(n.transport.Close)
	n.http = n.transport.HTTPClient()
	n.Client = syncclient.New(n.http, "https://"+identity.NodeServerName)
}

// follow watches until the test ends or stop is called, and calls took for each new state.
func (n *node) follow(has *syncv1.DesiredEnvelope, took func(*syncv1.DesiredEnvelope)) (ended chan error, stop func()) {
	ended = make(chan error, 16)
	ctx, cancel := context.WithCancel(context.Background())
	n.h.t.Cleanup(cancel)
	w := &syncclient.Watcher{Client: n.Client, Current: func() *syncv1.DesiredEnvelope { return has },
		Accept:    func(_ context.Context, e *syncv1.DesiredEnvelope) error { has = e; took(e); return nil },
		Connected: func() {}, Older: func(uint64) {},
		Disconnected: func(err error) {
			select {
			case ended <- err:
			default:
			}
		},
		Backoff: backoff.Backoff{Base: 50 * time.Millisecond, Cap: 200 * time.Millisecond}}
	go func() { _ = w.Run(ctx) }()
	return ended, cancel
}

// request asks the registry for something and returns the status and body.
func request(t *testing.T, c *http.Client, method, url string, body []byte, header ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// push publishes a bundle whose model is a few bytes and returns the digest of its manifest and of the model.
func (h *harness) push(model, version, tag string) (manifest, weights digest.Digest, err error) {
	h.t.Helper()
	files := map[string][]byte{"model.onnx": []byte("weights of " + model + version), "bundle.yaml": fmt.Appendf(nil, `apiVersion: dhow/v1
name: %s
version: %q
variants: [{name: float32, file: model.onnx}]
inputs: [{name: x, datatype: FP32, shape: [1]}]
outputs: [{name: y, datatype: FP32, shape: [1]}]
budgets: {memory: 512MiB, load: 60s, infer: 2s}
`, model, version)}
	spec, err := bundle.ParseSpec(files["bundle.yaml"])
	if err != nil {
		h.t.Fatal(err)
	}
	b := &bundle.Bundle{Spec: spec}
	for _, p := range []string{"bundle.yaml", "model.onnx"} {
		b.Files = append(b.Files, bundle.File{Path: p, Size: int64(len(files[p])), Digest: digest.FromBytes(files[p])})
	}
	body, configBody, err := b.Manifest()
	if err != nil {
		h.t.Fatal(err)
	}
	operator := h.operator()
	base := operator.BaseURL() + "/v2/models/" + model
	for _, data := range [][]byte{files["bundle.yaml"], files["model.onnx"], configBody} {
		url := fmt.Sprintf("%s/blobs/uploads/?digest=%s", base, digest.FromBytes(data))
		if status, text := request(h.t, operator.HTTP(), http.MethodPost, url, data, "Content-Type", "application/octet-stream"); status != http.StatusCreated {
			h.t.Fatalf("pushing a blob: %d %s", status, text)
		}
	}
	status, text := request(h.t, operator.HTTP(), http.MethodPut, base+"/manifests/"+tag, body, "Content-Type", bundle.MediaTypeManifest)
	if status != http.StatusCreated {
		return "", "", errors.New(text)
	}
	return digest.FromBytes(body), digest.FromBytes(files["model.onnx"]), nil
}

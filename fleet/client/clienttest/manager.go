// Package clienttest runs the operators' side of a fleet manager inside a test: its own authority, a real store, the
// real handlers behind the real gate, on a real socket. Nothing decides about nodes; a test puts into Store what it
// wants operators to see. A Manager ends with its test.
package clienttest

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/fleet/access"
	"github.com/dhowfleet/dhow/fleet/api"
	"github.com/dhowfleet/dhow/fleet/authority"
	"github.com/dhowfleet/dhow/fleet/store"
	"github.com/dhowfleet/dhow/fleet/store/operators"
	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
	"github.com/dhowfleet/dhow/protocol/transport"
)

// Manager is a manager as operators see it.
type Manager struct {
	Store   *store.Store
	Address string
	Token   string
	RootPin [32]byte

	t         testing.TB
	authority *authority.Authority
	gate      *access.Gate
	stop      func()
}

// Start runs a manager. Further routes, such as a registry's, are served beside the operators' service.
func Start(t testing.TB, more ...access.Route) *Manager {
	t.Helper()
	m := &Manager{t: t}
	var err error
	if m.authority, err = authority.Open(filepath.Join(t.TempDir(), "authority"), "fleet.example", time.Now); err != nil {
		t.Fatal(err)
	}
	m.RootPin = m.authority.RootPin()
	if m.Store, err = store.Open(t.Context(), filepath.Join(t.TempDir(), "fleet.db")); err != nil {
		t.Fatal(err)
	}
	if m.Token, err = m.Store.Operators().Create(t.Context(), "ana", string(access.Admin)); err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	service, err := api.New(api.Config{Resources: m.Store, Tokens: m.Store, Nodes: m.Store, Totals: m.Store,
		RootPin: m.RootPin, TrustDomain: "fleet.example", Logger: logger, WatchPause: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	check := func(ctx context.Context, token string) (string, access.Role, error) {
		name, role, err := m.Store.Operators().Check(ctx, token)
		if errors.Is(err, operators.ErrUnknown) {
			err = access.ErrUnknownToken
		}
		return name, access.Role(role), err
	}
	if m.gate, err = access.New(access.Config{Check: check, Logger: logger}, append(service.Routes(), more...)); err != nil {
		t.Fatal(err)
	}
	m.serve("127.0.0.1:0")
	t.Cleanup(func() {
		m.Stop()
		if err := m.Store.Close(); err != nil {
			t.Errorf("cannot close the store: %v", err)
		}
	})
	return m
}

func (m *Manager) serve(address string) {
	m.t.Helper()
	server, err := transport.Listen(transport.ServerConfig{
		Address: address, Handler: m.gate, TrustDomain: "fleet.example", NodeRoots: m.authority.Roots,
		Certificates: func() (*tls.Certificate, error) {
			return m.authority.ServerCertificate([]string{"localhost", "127.0.0.1"})
		},
		Limits: transport.Limits{ShutdownGrace: time.Second},
	})
	if err != nil {
		m.t.Fatal(err)
	}
	m.Address = server.Addr()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx) }()
	m.stop = func() {
		cancel()
		if err := <-done; err != nil {
			m.t.Errorf("the manager ended with: %v", err)
		}
	}
}

// Stop ends the manager's port; what is stored stays.
func (m *Manager) Stop() {
	if m.stop != nil {
		m.stop()
		m.stop = nil
	}
}

// Restart opens the same port again after Stop.
func (m *Manager) Restart() { m.serve(m.Address) }

// CASHA256 is the pin as operators write it.
func (m *Manager) CASHA256() string { return hex.EncodeToString(m.RootPin[:]) }

// Enrol makes a node of a site that exists, and returns its name.
func (m *Manager) Enrol(region, site, name string, approval bool) string {
	m.t.Helper()
	secret, info, err := m.Store.CreateJoinToken(m.t.Context(), store.JoinTokenSpec{
		Region: region, Site: site, Uses: 1, ExpiresAt: time.Now().Add(time.Hour), RequireApproval: approval})
	if err != nil {
		m.t.Fatal(err)
	}
	node, err := m.Store.UseJoinToken(m.t.Context(), store.Enrolment{TokenID: info.GetId(), Secret: secret,
		Name: name, ID: "n-" + name, Protocol: 1, AgentVersion: "1.2.3", Now: time.Now()})
	if err != nil {
		m.t.Fatal(err)
	}
	return node.Name
}

// Apply stores resources without the checks of the operators' service.
func (m *Manager) Apply(resources ...*fleetv1.Resource) {
	m.t.Helper()
	var changes []store.Change
	for _, r := range resources {
		changes = append(changes, store.Change{Put: r})
	}
	if _, err := m.Store.Apply(m.t.Context(), changes); err != nil {
		m.t.Fatal(err)
	}
}

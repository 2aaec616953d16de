// Package fleet composes the fleet manager: New opens what it needs in the order in which one part needs another, Run
// serves until its context ends.
//
//	operators ─┐                ┌─ api ──────┐
//	nodes ─────┼─ transport ─ access ─ sync ─┼─ nodes ─ store ─ control ─ rollout (decides)
//	OCI clients┘   (one port)   └─ registry ─┘
//
// Everything that must survive lies in the data folder: fleet.db (store and the registry's index), blobs/ (bundles),
// authority/ (the fleet's keys) and config.yaml. One process at a time has it open, which a lock sees to.
package fleet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/dhowfleet/dhow/fleet/access"
	"github.com/dhowfleet/dhow/fleet/api"
	"github.com/dhowfleet/dhow/fleet/authority"
	"github.com/dhowfleet/dhow/fleet/config"
	"github.com/dhowfleet/dhow/fleet/control"
	"github.com/dhowfleet/dhow/fleet/nodes"
	"github.com/dhowfleet/dhow/fleet/registry"
	"github.com/dhowfleet/dhow/fleet/registry/sqlindex"
	"github.com/dhowfleet/dhow/fleet/store"
	"github.com/dhowfleet/dhow/fleet/store/operators"
	"github.com/dhowfleet/dhow/fleet/sync"
	"github.com/dhowfleet/dhow/models/blob"
	"github.com/dhowfleet/dhow/protocol/identity"
	"github.com/dhowfleet/dhow/protocol/transport"
	"github.com/dhowfleet/dhow/protocol/version"
)

// The data folder.
const (
	databaseFile    = "fleet.db"
	blobFolder      = "blobs"
	authorityFolder = "authority"
	lockFile        = "lock"
)

// collectEvery is how often the registry removes what nothing refers to.
const collectEvery = time.Hour

// scrubEvery is how often every file of the registry is read again to find what the disk has spoilt.
const scrubEvery = 7 * 24 * time.Hour

// diskReserve is the free space that uploads leave to the database.
const diskReserve = 64 << 20

// Deps are what a manager takes from outside.
type Deps struct {
	Logger *slog.Logger     // required
	Now    func() time.Time // default: time.Now
}

// Manager is an open manager. Run is called once; a manager that is never run is closed by Close.
type Manager struct {
	config    config.Config
	deps      Deps
	lock      *os.File
	authority *authority.Authority
	store     *store.Store
	blobs     *blob.Store
	registry  *registry.Registry
	nodes     *nodes.Registry
	sync      *sync.Service
	loop      *control.Loop
	api       *api.Service
	server    *transport.Server
}

// New opens a manager on a data folder that Initialise made, and its port. Nothing is answered before Run.
func New(ctx context.Context, c config.Config, deps Deps) (_ *Manager, err error) {
	if _, err := os.Stat(filepath.Join(c.Data, databaseFile)); err != nil {
		return nil, fmt.Errorf("%s holds no fleet manager yet: set it up with dhow-fleet init --data %s", c.Data, c.Data)
	}
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("the configuration cannot be: %w", err)
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	m := &Manager{config: c, deps: deps}
	defer func() {
		if err != nil {
			m.Close()
		}
	}()
	// The lock first: nothing else may be touched while another process has the folder open.
	if m.lock, err = lock(c.Data); err != nil {
		return nil, err
	}
	if m.authority, err = authority.Open(filepath.Join(c.Data, authorityFolder), c.TrustDomain, deps.Now); err != nil {
		return nil, err
	}
	if m.store, err = store.Open(ctx, filepath.Join(c.Data, databaseFile)); err != nil {
		return nil, err
	}
	// The reserve keeps room for the database: a registry that fills the disk would stop it too.
	if m.blobs, err = blob.Open(filepath.Join(c.Data, blobFolder), blob.WithReserve(diskReserve)); err != nil {
		return nil, err
	}
	if err := m.openRegistry(ctx); err != nil {
		return nil, err
	}
	m.nodes = nodes.New(nodes.Config{Store: m.store, Authority: m.authority, TrustDomain: c.TrustDomain, Logger: deps.Logger, Now: deps.Now, ReportInterval: c.ReportInterval})
	m.sync = sync.New(sync.Config{Registry: m.nodes, Store: m.store, Logger: deps.Logger, SignOfLife: c.SignOfLife})
	// The loop tells the watches of sync, so it comes after it.
	m.loop = control.New(control.Config{Store: m.store, Told: m.sync.Wake, Logger: deps.Logger, Now: deps.Now, ReportInterval: c.ReportInterval, DeliverInterval: c.DeliverInterval})
	m.api, err = api.New(api.Config{Resources: m.store, Tokens: m.store, Nodes: membership{m}, Totals: m.store, RootPin: m.authority.RootPin(),
		TrustDomain: c.TrustDomain, Logger: deps.Logger, Now: deps.Now})
	if err != nil {
		return nil, err
	}
	// The port last: whoever reaches it finds everything there.
	return m, m.listen()
}

func (m *Manager) openRegistry(ctx context.Context) error {
	index, err := sqlindex.Open(ctx, m.store.DB())
	if err != nil {
		return err
	}
	m.registry, err = registry.New(registry.Config{Store: m.blobs, Index: index, Logger: m.deps.Logger, OnTag: m.onTag, OnDelete: m.onDelete,
		Quota: registry.Quota{TotalBytes: m.config.RegistryBytes}, Now: m.deps.Now})
	return err
}

func (m *Manager) listen() error {
	gate, err := access.New(access.Config{Check: m.checkOperator, Logger: m.deps.Logger, Now: m.deps.Now}, m.routes())
	if err != nil {
		return err
	}
	resetKey, err := m.authority.DeriveKey("quic stateless reset")
	if err != nil {
		return err
	}
	hosts := m.hosts()
	m.server, err = transport.Listen(transport.ServerConfig{
		Address: m.config.Listen, Handler: gate, TrustDomain: m.config.TrustDomain, NodeRoots: m.authority.Roots, ExpiredGrace: m.config.ExpiredGrace,
		Certificates: func() (*tls.Certificate, error) { return m.authority.ServerCertificate(hosts) },
		Now:          m.deps.Now, Logger: m.deps.Logger, DisableQUIC: m.config.DisableQUIC, ResetKey: resetKey,
	})
	return err
}

// hosts are the names of the manager's certificate: the configured ones and loopback.
func (m *Manager) hosts() []string {
	hosts := slices.Clone(m.config.Hostnames)
	for _, h := range []string{"localhost", "127.0.0.1", "::1"} {
		if !slices.Contains(hosts, h) {
			hosts = append(hosts, h)
		}
	}
	return hosts
}

func (m *Manager) checkOperator(ctx context.Context, token string) (string, access.Role, error) {
	name, role, err := m.store.Operators().Check(ctx, token)
	switch {
	case errors.Is(err, operators.ErrUnknown):
		err = access.ErrUnknownToken
	case errors.Is(err, operators.ErrRevoked):
		err = access.ErrRevokedToken
	}
	return name, access.Role(role), err
}

// Addr is the address that is listened on, with its real port.
func (m *Manager) Addr() string { return m.server.Addr() }

// Run serves until ctx ends or a part cannot go on, and closes the manager. Requests are drained first, then the loops
// end and what nodes reported last is written, then the database is closed.
func (m *Manager) Run(ctx context.Context) error {
	defer m.Close()
	serving, stop := context.WithCancel(ctx)
	defer stop()
	working, finish := context.WithCancel(context.WithoutCancel(ctx))
	defer finish()
	failed := make(chan error, 3)
	for name, part := range map[string]func(context.Context) error{"the list of nodes": m.nodes.Run, "the control loop": m.loop.Run, "collection": m.collect} {
		go func() {
			err := part(working)
			if err != nil {
				err = fmt.Errorf("%s ended: %w", name, err)
				stop()
			}
			failed <- err
		}()
	}
	m.deps.Logger.Info("listening", "address", m.Addr(), "version", version.Build, "protocol", version.Current)
	errs := []error{m.server.Serve(serving)}
	finish()
	for range cap(failed) {
		errs = append(errs, <-failed)
	}
	m.deps.Logger.Info("stopped")
	return errors.Join(errs...)
}

func (m *Manager) collect(ctx context.Context) error {
	ticker := time.NewTicker(collectEvery)
	defer ticker.Stop()
	scrub := time.NewTicker(scrubEvery)
	defer scrub.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-scrub.C:
			switch corrupt, err := m.registry.Scrub(ctx); {
			case err != nil && ctx.Err() == nil:
				m.deps.Logger.Error("the registry could not be checked; trying again in a week", "error", err)
			case len(corrupt) > 0:
				m.deps.Logger.Error("the disk has spoilt files of the registry; push the versions that hold them again", "digests", corrupt)
			}
		case <-ticker.C:
			if c, err := m.registry.Collect(ctx); err != nil && ctx.Err() == nil {
				m.deps.Logger.Error("the registry could not be tidied; trying again in an hour", "error", err)
			} else if err == nil {
				m.deps.Logger.Debug("the registry is tidied", "uploads", c.Uploads, "links", c.Links)
			}
		}
	}
}

// Close frees what New opened. It is for a manager that is not run; Run calls it at its end.
func (m *Manager) Close() {
	if m.server != nil {
		m.server.Close()
	}
	if m.store != nil {
		if err := m.store.Close(); err != nil {
			m.deps.Logger.Error("the database could not be closed", "error", err)
		}
	}
	if m.lock != nil {
		m.lock.Close() // which unlocks
	}
}

// membership is the operators' say in who belongs to the fleet, with its effect on open connections.
type membership struct{ m *Manager }

func (o membership) ApproveNode(ctx context.Context, name string) error {
	return o.m.store.ApproveNode(ctx, name)
}

func (o membership) RevokeNode(ctx context.Context, name, reason string) error {
	if err := o.m.store.RevokeNode(ctx, name, reason); err != nil {
		return err
	}
	r, err := o.m.store.Get(ctx, store.KindNode, name)
	if err != nil {
		return err
	}
	id := r.GetNode().GetStatus().GetNodeId()
	// Its watch learns why it ends before its connections are cut.
	o.m.sync.Wake(id)
	time.AfterFunc(time.Second, func() { o.m.server.DropPeers(func(n identity.Node) bool { return n.ID == id }) })
	o.m.deps.Logger.Info("node revoked", "node", name, "reason", reason)
	return nil
}

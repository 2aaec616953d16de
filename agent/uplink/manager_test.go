package uplink

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"math/big"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"

	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
	"github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1/syncv1connect"
	"github.com/dhowfleet/dhow/protocol/identity"
	"github.com/dhowfleet/dhow/protocol/transport"
)

// manager is a fleet manager as small as one can be, over real sockets.
type manager struct {
	syncv1connect.UnimplementedSyncServiceHandler
	t       *testing.T
	caKey   *ecdsa.PrivateKey
	ca      *x509.Certificate
	server  *tls.Certificate
	address string
	end     context.CancelFunc
	ended   chan error

	mu       sync.Mutex
	pending  int   // answers of Enrol that say so
	refuse   error // instead of every answer of Enrol
	deny     error // instead of every answer of the others
	enrolled map[string]int
	life     time.Duration // of the certificates
	begins   time.Time
	renewals int
	desired  *syncv1.DesiredEnvelope
	change   chan struct{}
	reports  []*syncv1.ReportRequest
	high     uint64
	requests uint64
	watches  int
}

func newManager(t *testing.T) *manager {
	t.Helper()
	m := &manager{t: t, enrolled: map[string]int{}, life: 30 * 24 * time.Hour, change: make(chan struct{})}
	var err error
	m.caKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	m.ca = m.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "test root"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, NotAfter: time.Now().Add(1000 * time.Hour)}, &m.caKey.PublicKey)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	leaf := m.sign(&x509.Certificate{DNSNames: []string{identity.NodeServerName, identity.EnrolServerName}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, NotAfter: time.Now().Add(1000 * time.Hour)}, &key.PublicKey)
	m.server = &tls.Certificate{Certificate: [][]byte{leaf.Raw, m.ca.Raw}, PrivateKey: key, Leaf: leaf}
	m.address = "127.0.0.1:0"
	m.start()
	t.Cleanup(m.stop)
	return m
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (m *manager) sign(c *x509.Certificate, pub any) *x509.Certificate {
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	if c.NotBefore.IsZero() {
		c.NotBefore = time.Now().Add(-100 * 24 * time.Hour) // older than every certificate of a node
	}
	parent := m.ca
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, pub, m.caKey)
	must(m.t, err)
	out, err := x509.ParseCertificate(der)
	must(m.t, err)
	return out
}

func (m *manager) token() *identity.JoinToken {
	return &identity.JoinToken{ID: "abcdefghijkl", Secret: "abcdefghijklmnopqrstuvwxyz", RootPin: sha256.Sum256(m.ca.Raw)}
}

func (m *manager) start() {
	mux := http.NewServeMux()
	mux.Handle(syncv1connect.NewSyncServiceHandler(m))
	mux.Handle(syncv1connect.NewEnrolmentServiceHandler(m))
	pool := x509.NewCertPool()
	pool.AddCert(m.ca)
	s, err := transport.Listen(transport.ServerConfig{
		Address: m.address, Handler: mux, TrustDomain: "test.example", Logger: slog.New(slog.DiscardHandler),
		Certificates: func() (*tls.Certificate, error) { return m.server, nil },
		NodeRoots:    func() *x509.CertPool { return pool },
		ExpiredGrace: 24 * time.Hour,
		Limits:       transport.Limits{ShutdownGrace: 100 * time.Millisecond},
	})
	must(m.t, err)
	m.address = s.Addr()
	ctx, cancel := context.WithCancel(context.Background())
	m.end, m.ended = cancel, make(chan error, 1)
	go func() { m.ended <- s.Serve(ctx) }()
}

func (m *manager) stop() {
	if m.end != nil {
		m.end()
		<-m.ended
		m.end = nil
	}
}

func (m *manager) set(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
	close(m.change)
	m.change = make(chan struct{})
}

func (m *manager) get(read func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	read()
}

func (m *manager) identity(csr []byte) (*syncv1.Identity, error) {
	req, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	n := identity.Node{TrustDomain: "test.example", Region: "ae-dubai", Site: "deira", ID: "n-1"}
	uri, err := url.Parse(n.URI())
	if err != nil {
		return nil, err
	}
	begins := m.begins
	if begins.IsZero() {
		begins = time.Now()
	}
	leaf := m.sign(&x509.Certificate{URIs: []*url.URL{uri}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, NotBefore: begins, NotAfter: begins.Add(m.life)}, req.PublicKey)
	return &syncv1.Identity{NodeId: n.ID, TrustDomain: n.TrustDomain, Region: n.Region, Site: n.Site, CertificateChain: [][]byte{leaf.Raw}, TrustRoots: [][]byte{m.ca.Raw}, NodeName: "till-3-of-deira"}, nil
}

func (m *manager) Enrol(_ context.Context, r *connect.Request[syncv1.EnrolRequest]) (*connect.Response[syncv1.EnrolResponse], error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.refuse != nil {
		return nil, m.refuse
	}
	if r.Msg.GetJoinToken() != m.token().String() || r.Msg.GetNodeName() != "till-3" || r.Msg.GetHardware().GetArch() != "amd64" {
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("not what was expected"))
	}
	if m.pending > 0 {
		m.pending--
		return connect.NewResponse(&syncv1.EnrolResponse{Pending: true, RetryAfterSeconds: 1}), nil
	}
	req, err := x509.ParseCertificateRequest(r.Msg.GetCertificateRequest())
	if err != nil {
		return nil, err
	}
	m.enrolled[string(req.RawSubjectPublicKeyInfo)]++
	id, err := m.identity(r.Msg.GetCertificateRequest())
	return connect.NewResponse(&syncv1.EnrolResponse{Identity: id}), err
}

func (m *manager) Renew(_ context.Context, r *connect.Request[syncv1.RenewRequest]) (*connect.Response[syncv1.RenewResponse], error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.renewals++
	m.begins = time.Time{}
	id, err := m.identity(r.Msg.GetCertificateRequest())
	return connect.NewResponse(&syncv1.RenewResponse{Identity: id}), err
}

func (m *manager) Watch(ctx context.Context, r *connect.Request[syncv1.WatchRequest], s *connect.ServerStream[syncv1.WatchResponse]) error {
	m.get(func() { m.watches++ })
	has := r.Msg.GetDigest()
	for {
		var desired *syncv1.DesiredEnvelope
		var change chan struct{}
		var deny error
		m.get(func() { desired, change, deny = m.desired, m.change, m.deny })
		if deny != nil {
			return deny
		}
		if p, ok := transport.PeerFrom(ctx); !ok || p.Expired {
			e := connect.NewError(connect.CodePermissionDenied, errors.New("expired"))
			e.Meta().Set("Dhow-Reason", "expired")
			return e
		}
		a := &syncv1.WatchResponse{NextSeconds: 20}
		if desired != nil && desired.GetDigest() != has {
			a.State, has = desired, desired.GetDigest()
		}
		if err := s.Send(a); err != nil {
			return err
		}
		select {
		case <-change:
		case <-transport.Draining(ctx):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *manager) Report(_ context.Context, r *connect.Request[syncv1.ReportRequest]) (*connect.Response[syncv1.ReportResponse], error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reports = append(m.reports, r.Msg)
	return connect.NewResponse(&syncv1.ReportResponse{}), m.deny
}

func (m *manager) Deliver(_ context.Context, r *connect.Request[syncv1.DeliverRequest]) (*connect.Response[syncv1.DeliverResponse], error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.deny != nil {
		return nil, m.deny
	}
	for _, a := range r.Msg.GetAggregates() {
		if a.GetSequence() > m.high {
			m.high = a.GetSequence()
			for _, t := range a.GetRequests() {
				m.requests += t.GetRequests()
			}
		}
	}
	return connect.NewResponse(&syncv1.DeliverResponse{AcknowledgedSequence: m.high}), nil
}

func envelope(t *testing.T, generation uint64, version string) *syncv1.DesiredEnvelope {
	t.Helper()
	s := &syncv1.DesiredState{}
	if version != "" {
		s.Copies = []*syncv1.DesiredCopy{{Model: "fashion", Version: version, ManifestDigest: digest.FromString(version).String(), Role: syncv1.Role_ROLE_BASELINE, TrafficMillionths: 1_000_000}}
	}
	state, err := proto.Marshal(s)
	must(t, err)
	return &syncv1.DesiredEnvelope{Generation: generation, State: state, Digest: digest.FromBytes(state).String()}
}

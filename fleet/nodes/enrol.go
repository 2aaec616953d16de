package nodes

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/dhowfleet/dhow/fleet/authority"
	"github.com/dhowfleet/dhow/fleet/store"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
	"github.com/dhowfleet/dhow/protocol/identity"
	"github.com/dhowfleet/dhow/protocol/version"
	"github.com/dhowfleet/dhow/test/failpoint"
)

const (
	maxRequestBytes  = 16 << 10
	maxHardwareBytes = 64 << 10
	maxVersionLength = 128
)

// Enrol exchanges a join token and a certificate request for a certificate. The same token with the same key gives the
// same node again. Refusals are *Refusal.
func (r *Registry) Enrol(ctx context.Context, q *syncv1.EnrolRequest) (*syncv1.EnrolResponse, error) {
	select {
	case r.enrolled <- struct{}{}:
		defer func() { <-r.enrolled }()
	default:
		return nil, refuse(ReasonBusy, "too many machines enrol at this moment: try again")
	}
	if err := version.Compatible(version.Current, q.GetProtocol()); err != nil {
		return nil, refuse(ReasonProtocol, err.Error())
	}
	token, err := identity.ParseJoinToken(q.GetJoinToken())
	if err != nil {
		return nil, refuse(reasonTokenPrefix+Reason(store.TokenInvalid), err.Error())
	}
	key, err := keyHash(q.GetCertificateRequest())
	if err != nil {
		return nil, refuse(ReasonBadRequest, "cannot read the certificate request: "+err.Error())
	}
	if proto.Size(q.GetHardware()) > maxHardwareBytes || len(q.GetAgentVersion()) > maxVersionLength {
		return nil, refuse(ReasonBadRequest, "the facts about the machine are larger than a machine can need")
	}
	n, err := r.Store.UseJoinToken(ctx, store.Enrolment{
		TokenID: token.ID, Secret: token.Secret, KeyHash: key, Name: validName(q.GetNodeName()), ID: newID(),
		Protocol: q.GetProtocol(), AgentVersion: q.GetAgentVersion(), Hardware: q.GetHardware(), Now: r.Now(),
	})
	var refusal *store.TokenError
	if errors.As(err, &refusal) {
		r.Logger.Info("enrolment refused", "token", token.ID, "reason", string(refusal.Reason))
		return nil, refuse(reasonTokenPrefix+Reason(refusal.Reason), refusal.Error())
	}
	if errors.Is(err, store.ErrConflict) {
		return nil, refuse(ReasonBadRequest, err.Error())
	}
	if err != nil {
		return nil, err
	}
	switch n.State {
	case store.NodePending:
		r.Logger.Info("node waits for approval", "node", n.Name, "region", n.Region, "site", n.Site)
		return &syncv1.EnrolResponse{Pending: true, RetryAfterSeconds: uint32(max(1, r.ApprovalRetry/time.Second))}, nil
	case store.NodeRevoked:
		return nil, refuse(ReasonRevoked, "node "+n.Name+" was revoked; ask for a new join token and enrol with a new key")
	}
	id, err := r.certify(ctx, n, q.GetCertificateRequest(), q.GetProtocol())
	if err != nil {
		return nil, err
	}
	r.Logger.Info("node enrolled", "node", n.Name, "region", n.Region, "site", n.Site)
	return &syncv1.EnrolResponse{Identity: id}, nil
}

// Renew gives a node that Admit returned a fresh certificate.
func (r *Registry) Renew(ctx context.Context, n *store.Node, csr []byte) (*syncv1.Identity, error) {
	id, err := r.certify(ctx, n, csr, 0)
	if err == nil {
		r.Logger.Info("certificate renewed", "node", n.Name, "region", n.Region, "site", n.Site)
	}
	return id, err
}

// certify signs and records. The certificate is recorded before it is handed out, so that none is at large that the
// fleet does not know of.
func (r *Registry) certify(ctx context.Context, n *store.Node, csr []byte, protocol uint32) (*syncv1.Identity, error) {
	chain, expires, err := r.Authority.SignNode(csr, identity.Node{TrustDomain: r.TrustDomain, Region: n.Region, Site: n.Site, ID: n.ID})
	if errors.Is(err, authority.ErrBadRequest) {
		return nil, refuse(ReasonBadRequest, err.Error())
	}
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, fmt.Errorf("cannot read the certificate that was just signed: %w", err)
	}
	err = r.Store.RecordCertificate(ctx, n.ID, leaf.SerialNumber.Text(16), expires, protocol)
	if errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound) {
		return nil, refuse(ReasonRevoked, "node "+n.Name+" was revoked meanwhile")
	}
	if err != nil {
		return nil, err
	}
	failpoint.Here("nodes/certificate-recorded")
	return &syncv1.Identity{NodeId: n.ID, TrustDomain: r.TrustDomain, Region: n.Region, Site: n.Site, CertificateChain: chain, TrustRoots: r.Authority.RootsDER(), NodeName: n.Name}, nil
}

// keyHash identifies a machine by the key that it proves to have.
func keyHash(csr []byte) ([32]byte, error) {
	if len(csr) > maxRequestBytes {
		return [32]byte{}, fmt.Errorf("it has %d bytes, at most %d are allowed", len(csr), maxRequestBytes)
	}
	parsed, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return [32]byte{}, err
	}
	if err := parsed.CheckSignature(); err != nil {
		return [32]byte{}, fmt.Errorf("its signature does not hold: %w", err)
	}
	return sha256.Sum256(parsed.RawSubjectPublicKeyInfo), nil
}

// newID makes a node id of 80 random bits.
func newID() string { return "n-" + strings.ToLower(rand.Text()[:16]) }

// validName makes a valid name of a host name: its first label in small letters, with a hyphen for what a name cannot
// have.
func validName(host string) string {
	const longest = 63
	host, _, _ = strings.Cut(host, ".")
	name := strings.Map(func(c rune) rune {
		switch {
		case c >= 'a' && c <= 'z' || c >= '0' && c <= '9':
			return c
		case c >= 'A' && c <= 'Z':
			return c - 'A' + 'a'
		}
		return '-'
	}, host)
	name = strings.Trim(name[:min(len(name), longest)], "-")
	if name == "" {
		return "node"
	}
	return name
}

package transport

import (
	"context"
	"crypto/x509"
	"net/http"
	"strings"

	"github.com/dhowfleet/dhow/protocol/identity"
)

// Audience is whom a connection is with, told by the server name that the client asked for.
type Audience uint8

const (
	// AudiencePublic is everybody else: operators, browsers, tools. It is what is assumed when nothing is known.
	AudiencePublic Audience = iota
	// AudienceEnrol is a machine without a certificate that wants to become a node.
	AudienceEnrol
	// AudienceNode is a node with a certificate of the fleet.
	AudienceNode
)

func (a Audience) String() string {
	switch a {
	case AudienceEnrol:
		return "enrol"
	case AudienceNode:
		return "node"
	}
	return "public"
}

func audienceOf(serverName string) Audience {
	switch {
	case strings.EqualFold(serverName, identity.NodeServerName):
		return AudienceNode
	case strings.EqualFold(serverName, identity.EnrolServerName):
		return AudienceEnrol
	}
	return AudiencePublic
}

// Peer is the node at the other end, as its certificate says.
type Peer struct {
	Node        identity.Node
	Certificate *x509.Certificate
	// Expired is true when the certificate has expired, within the server's grace period. Such a peer may only renew.
	Expired bool
}

type contextKey int

const (
	peerKey contextKey = iota
	audienceKey
	drainingKey
)

// PeerFrom returns the node that sent the request of ctx; false unless the audience is AudienceNode.
func PeerFrom(ctx context.Context) (Peer, bool) {
	p, ok := ctx.Value(peerKey).(Peer)
	return p, ok
}

// AudienceFrom returns whom the request of ctx came from.
func AudienceFrom(ctx context.Context) Audience {
	a, _ := ctx.Value(audienceKey).(Audience)
	return a
}

// Draining returns a channel that is closed when the server begins to shut down. A handler that streams ends its
// answer then; those still running when the grace period is over are cut off. It is nil outside of a server.
func Draining(ctx context.Context) <-chan struct{} {
	c, _ := ctx.Value(drainingKey).(<-chan struct{})
	return c
}

// WithPeer returns a context as the handler of a Server gets it from the node p. It is for tests of handlers and for
// callers that carry requests in memory.
func WithPeer(ctx context.Context, p Peer) context.Context {
	return WithAudience(context.WithValue(ctx, peerKey, p), AudienceNode)
}

// WithAudience returns a context as the handler of a Server gets it from a.
func WithAudience(ctx context.Context, a Audience) context.Context {
	return context.WithValue(ctx, audienceKey, a)
}

// The protocols that a Server and a Client speak with each other.
const (
	HTTP3 = "HTTP/3"
	HTTP2 = "HTTP/2"
)

// ProtocolOf names the protocol of a request as operators know it: "HTTP/3", "HTTP/2" or "HTTP/1.1".
func ProtocolOf(r *http.Request) string {
	switch r.ProtoMajor {
	case 3:
		return HTTP3
	case 2:
		return HTTP2
	}
	return "HTTP/1.1"
}

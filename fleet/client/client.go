// Package client speaks dhow.fleet.v1 to a fleet manager for operators: the CLI uses it, and any Go program may.
//
// It trusts exactly the manager whose authority's root certificate has the pinned SHA-256, over HTTP/3 or HTTP/2 as
// the network allows, and brings the operator's token with every request to that manager and with no other. HTTP
// returns the same way for other parts of the manager, such as its OCI registry.
//
// A call blocks until it is answered or its context ends; nothing is retried, except that Watch watches anew when its
// stream breaks. Explain turns an error into a sentence for an operator. A Client is safe for concurrent use.
package client

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"

	"connectrpc.com/connect"

	"github.com/dhowfleet/dhow/protocol/backoff"
	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
	"github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1/fleetv1connect"
	"github.com/dhowfleet/dhow/protocol/transport"
)

// maxResponseBytes is what a manager sends at most in one message.
const maxResponseBytes = 64 << 20

// Config says which manager to speak to, and as whom. All but the last two fields are required.
type Config struct {
	// Server is the manager's "host:port".
	Server string
	// Token is the operator's.
	Token string
	// CASHA256 is the SHA-256 of the root certificate of the manager's authority, as dhow-fleet init prints it.
	CASHA256 [32]byte
	// ServerName is the name that the manager's certificate must bear; empty: the host of Server.
	ServerName string
	// DisableQUIC uses HTTP/2 over TCP only.
	DisableQUIC bool
	Logger      *slog.Logger
}

// Client is an operator's connection to a manager.
type Client struct {
	fleetv1connect.FleetServiceClient
	server    string
	http      *http.Client
	transport *transport.Client
}

// New makes a client. It connects at the first call.
func New(config Config) (*Client, error) {
	host, err := checkServer(config.Server)
	if err != nil {
		return nil, err
	}
	if config.Token == "" {
		return nil, errors.New("no operator token is given")
	}
	if config.CASHA256 == [32]byte{} {
		return nil, errors.New("no SHA-256 of the manager's certificate authority is given")
	}
	name := config.ServerName
	if name == "" {
		name = host
	}
	t := transport.NewClient(transport.ClientConfig{
		Address: config.Server, ServerName: name, RootPin: &config.CASHA256,
		DisableQUIC: config.DisableQUIC, Logger: config.Logger,
	})
	c := &Client{server: config.Server, transport: t, http: t.HTTPClient()}
	c.http.Transport = &bearer{next: t, host: config.Server, token: config.Token}
	c.FleetServiceClient = fleetv1connect.NewFleetServiceClient(c.http, c.BaseURL(), connect.WithReadMaxBytes(maxResponseBytes))
	return c, nil
}

// checkServer returns the host of a "host:port".
func checkServer(server string) (string, error) {
	host, port, err := net.SplitHostPort(server)
	if err == nil {
		n, portErr := strconv.ParseUint(port, 10, 16)
		if portErr == nil && n > 0 && host != "" {
			return host, nil
		}
	}
	if strings.Contains(server, "://") {
		return "", fmt.Errorf("the server %q is written without a scheme, as HOST:PORT", server)
	}
	return "", fmt.Errorf("the server %q is no HOST:PORT, such as fleet.example.com:8443", server)
}

// Server returns the manager's "host:port".
func (c *Client) Server() string { return c.server }

// BaseURL is what the URLs of requests through HTTP begin with.
func (c *Client) BaseURL() string { return "https://" + c.server }

// HTTP returns a client for other requests to the manager. It reaches nobody else and follows no redirects.
func (c *Client) HTTP() *http.Client { return c.http }

// Transport names the protocol of the present connection, "HTTP/3" or "HTTP/2"; empty when there is none.
func (c *Client) Transport() string { return c.transport.Transport() }

// Close ends the connection.
func (c *Client) Close() { c.transport.Close() }

// bearer adds the token. It refuses other hosts, so that no mistake of a library hands the token to the manager in
// another's name.
type bearer struct {
	next  http.RoundTripper
	host  string
	token string
}

func (b *bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host != b.host || r.URL.Scheme != "https" {
		return nil, fmt.Errorf("the address %s is not that of the manager %s", r.URL.Redacted(), b.host)
	}
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.token)
	return b.next.RoundTrip(r)
}

// ParseCASHA256 reads the SHA-256 of a certificate authority: 64 hex digits, with colons or not.
func ParseCASHA256(s string) (pin [32]byte, err error) {
	s = strings.ReplaceAll(strings.TrimPrefix(strings.TrimSpace(s), "sha256:"), ":", "")
	raw, err := hex.DecodeString(s)
	if err != nil || len(raw) != len(pin) {
		return pin, errors.New("the SHA-256 of the certificate authority is not 64 hex digits")
	}
	return [32]byte(raw), nil
}

// Watch calls do for what there is, once with type "synced", and for every change after that, until do returns an
// error, which it returns, or ctx ends. A stream that breaks is opened anew with a growing pause between; what changed
// meanwhile then comes as "current" again, and deletions come between as "deleted". A refusal by the manager ends it.
func (c *Client) Watch(ctx context.Context, req *fleetv1.WatchRequest, do func(*fleetv1.WatchResponse) error) error {
	w := &watch{client: c, req: req, do: do, known: map[key]uint64{}}
	var pause backoff.Backoff
	for {
		synced, err := w.stream(ctx)
		if synced {
			pause.Reset()
		}
		var stop *stopError
		switch {
		case errors.As(err, &stop):
			return stop.err
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !worthRetrying(err):
			return err
		case !w.everSynced:
			// Nothing was ever seen: the operator should hear of it rather than wait.
			if err == nil {
				err = connect.NewError(connect.CodeUnavailable, errors.New("the manager ended the watch before it began"))
			}
			return err
		}
		if err := pause.Wait(ctx, 0); err != nil {
			return err
		}
	}
}

// stopError is an error of the caller's function, apart from those of the stream.
type stopError struct{ err error }

func (s *stopError) Error() string { return s.err.Error() }

func worthRetrying(err error) bool {
	switch connect.CodeOf(err) {
	case connect.CodeUnauthenticated, connect.CodePermissionDenied, connect.CodeInvalidArgument, connect.CodeUnimplemented, connect.CodeNotFound:
		return false
	}
	return !errors.Is(err, transport.ErrUntrusted)
}

type key struct{ kind, name string }

type watch struct {
	client     *Client
	req        *fleetv1.WatchRequest
	do         func(*fleetv1.WatchResponse) error
	known      map[key]uint64 // the resource versions that the caller was told last
	everSynced bool
}

// stream runs one stream to its end.
func (w *watch) stream(ctx context.Context) (synced bool, err error) {
	stream, err := w.client.FleetServiceClient.Watch(ctx, connect.NewRequest(w.req))
	if err != nil {
		return false, err
	}
	defer func() { _ = stream.Close() }() // what it could say, stream.Err has said
	seen := map[key]bool{}                // in this stream's first picture
	for stream.Receive() {
		m := stream.Msg()
		k := key{m.GetResource().GetKind(), m.GetResource().GetMetadata().GetName()}
		switch m.GetType() {
		case "current":
			seen[k] = true
			version := m.GetResource().GetMetadata().GetResourceVersion()
			told, known := w.known[k]
			w.known[k] = version
			if known && told == version {
				continue // told before the stream broke
			}
		case "synced":
			for gone := range w.known {
				if seen[gone] {
					continue
				}
				delete(w.known, gone)
				if err := w.tell(&fleetv1.WatchResponse{Type: "deleted", Resource: &fleetv1.Resource{Kind: gone.kind, Metadata: &fleetv1.Metadata{Name: gone.name}}}); err != nil {
					return synced, err
				}
			}
			synced = true
			if w.everSynced {
				continue
			}
			w.everSynced = true
		case "changed":
			w.known[k] = m.GetResource().GetMetadata().GetResourceVersion()
		case "deleted":
			delete(w.known, k)
		}
		if err := w.tell(m); err != nil {
			return synced, err
		}
	}
	return synced, stream.Err()
}

func (w *watch) tell(m *fleetv1.WatchResponse) error {
	if err := w.do(m); err != nil {
		return &stopError{err}
	}
	return nil
}

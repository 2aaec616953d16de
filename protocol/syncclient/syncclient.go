// Package syncclient speaks dhow.sync.v1 to a fleet manager: enrol, renew, watch, report, deliver. A node's agent uses
// it, and a region's gateway does towards its own manager.
//
// Every call has a deadline, and every message a bound; nothing is repeated in here except by the loops Watcher and
// Deliver, which say when. What an error means is its Class: Retry (offline, overloaded, restarting: come again with
// jitter), Unauthorised (renew the certificate first), Refused (this request will not be accepted as it is), Revoked (the
// node no longer belongs to the fleet), Incompatible and Ahead (the manager was restored from an old backup). The class
// comes from the manager's codes, never from the text of an error.
//
// A Client may be used from any goroutine. Calls block until they are answered, their deadline or their context ends.
package syncclient

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"connectrpc.com/connect"

	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
	"github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1/syncv1connect"
	"github.com/dhowfleet/dhow/protocol/transport"
)

// The bounds of messages and calls.
const (
	MaxMessage   = 4 << 20 // bytes of one message, either way
	callTimeout  = 30 * time.Second
	batchTimeout = 60 * time.Second
)

// Class is what an error means for who called.
type Class uint8

// The classes.
const (
	None         Class = iota // no error
	Retry                     // try again, with jitter
	Unauthorised              // the certificate is not accepted now: renew it, then try again
	Refused                   // the request is refused and will be again
	Revoked                   // the node was revoked
	Incompatible              // the two are too many versions apart
	Ahead                     // the node has a newer desired state than the manager
)

// reasonHeader carries the code of a refusal beside its sentence; the reasons are fleet/sync's.
const (
	reasonHeader  = "Dhow-Reason"
	reasonExpired = "expired"
	reasonAhead   = "ahead"
)

// ClassOf returns what an error of a Client means.
func ClassOf(err error) Class {
	if err == nil {
		return None
	}
	if errors.Is(err, transport.ErrRefused) {
		return Unauthorised
	}
	var e *connect.Error
	if !errors.As(err, &e) || !connect.IsWireError(err) {
		return Retry // it did not come from the manager
	}
	switch e.Meta().Get(reasonHeader) {
	case reasonExpired:
		return Unauthorised
	case reasonAhead:
		return Ahead
	}
	switch e.Code() {
	case connect.CodePermissionDenied:
		return Revoked
	case connect.CodeUnauthenticated:
		return Unauthorised
	case connect.CodeFailedPrecondition:
		return Incompatible
	case connect.CodeInvalidArgument, connect.CodeNotFound, connect.CodeAlreadyExists, connect.CodeOutOfRange:
		return Refused
	}
	return Retry
}

// maxRetryAfter bounds how long a manager can send a node away.
const maxRetryAfter = time.Hour

// RetryAfter returns how long the manager asked the node to wait, or zero.
func RetryAfter(err error) time.Duration {
	var e *connect.Error
	if !errors.As(err, &e) {
		return 0
	}
	seconds, parseErr := strconv.Atoi(e.Meta().Get("Retry-After"))
	if parseErr != nil || seconds <= 0 {
		return 0
	}
	return min(time.Duration(seconds)*time.Second, maxRetryAfter)
}

// Sentence returns what an operator should read of an error: the manager's own words where it answered.
func Sentence(err error) string {
	var e *connect.Error
	text := err.Error()
	if errors.As(err, &e) {
		text = e.Message()
	}
	const most = 300
	return text[:min(len(text), most)]
}

// Client makes the calls.
type Client struct {
	enrol syncv1connect.EnrolmentServiceClient
	sync  syncv1connect.SyncServiceClient
}

// New makes a client of the manager at baseURL: under identity.EnrolServerName only Enrol is answered, under
// identity.NodeServerName only the others.
func New(client *http.Client, baseURL string) *Client {
	options := []connect.ClientOption{
		connect.WithReadMaxBytes(MaxMessage), connect.WithSendMaxBytes(MaxMessage),
		connect.WithAcceptCompression("gzip", nil, nil), // messages are small and mostly numbers
	}
	return &Client{
		enrol: syncv1connect.NewEnrolmentServiceClient(client, baseURL, options...),
		sync:  syncv1connect.NewSyncServiceClient(client, baseURL, options...),
	}
}

// Enrol asks for a certificate. Repeating it with the same key is harmless.
func (c *Client) Enrol(ctx context.Context, r *syncv1.EnrolRequest) (*syncv1.EnrolResponse, error) {
	return call(ctx, callTimeout, "enrol", c.enrol.Enrol, r)
}

// Renew asks for a fresh certificate of the same node.
func (c *Client) Renew(ctx context.Context, r *syncv1.RenewRequest) (*syncv1.RenewResponse, error) {
	return call(ctx, callTimeout, "renew the certificate", c.sync.Renew, r)
}

// Report says what the node is and does.
func (c *Client) Report(ctx context.Context, r *syncv1.ReportRequest) error {
	_, err := call(ctx, callTimeout, "report", c.sync.Report, r)
	return err
}

func call[Q, A any](ctx context.Context, timeout time.Duration, what string, f func(context.Context, *connect.Request[Q]) (*connect.Response[A], error), q *Q) (*A, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	a, err := f(ctx, connect.NewRequest(q))
	if err != nil {
		return nil, fmt.Errorf("cannot %s: %w", what, err)
	}
	return a.Msg, nil
}

package client

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"connectrpc.com/connect"

	"github.com/dhowfleet/dhow/protocol/transport"
)

// Explain says in a sentence or two what an error of a call means to an operator and what to do. It returns err itself
// where that says it all.
func (c *Client) Explain(err error) error {
	if err == nil {
		return nil
	}
	var host x509.HostnameError
	var rpc *connect.Error
	isRPC := errors.As(err, &rpc)
	switch {
	case errors.As(err, &host):
		return fmt.Errorf("the manager at %s is not called that in its certificate: %s; log in with --server-name and a name that it has, or run dhow-fleet init with --hostname", c.server, host.Error())
	case errors.Is(err, transport.ErrUntrusted):
		return fmt.Errorf("whoever answers at %s is not the manager that you logged in to: its certificate does not lead to the pinned authority; mind the address, and --ca-sha256 (dhow-fleet prints it): %w", c.server, unwrapped(err))
	case errors.Is(err, context.Canceled):
		return errors.New("interrupted")
	case errors.Is(err, context.DeadlineExceeded) && !isRemote(rpc):
		return fmt.Errorf("the manager at %s did not answer in time; is it running, and does a firewall let %s through (UDP and TCP)?", c.server, c.server)
	case isRPC && isRemote(rpc):
		return errors.New(rpc.Message())
	}
	text := strings.TrimPrefix(unwrapped(err).Error(), fmt.Sprintf("cannot reach the manager at %s: ", c.server))
	return fmt.Errorf("cannot reach the manager at %s: %s; is it running? Another manager is chosen with dhow login --server HOST:PORT", c.server, strings.ReplaceAll(text, "\n", "; "))
}

// isRemote tells an answer of the manager from a failure on the way: only the former has text from afar.
func isRemote(err *connect.Error) bool { return err != nil && connect.IsWireError(err) }

// unwrapped removes what connect and net/http put before a failure on the way, which says nothing to an operator.
func unwrapped(err error) error {
	var rpc *connect.Error
	if errors.As(err, &rpc) && rpc.Unwrap() != nil {
		err = rpc.Unwrap()
	}
	var request *url.Error
	if errors.As(err, &request) {
		err = request.Err
	}
	return err
}

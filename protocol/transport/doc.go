// Package transport carries HTTP between nodes, operators and the fleet manager: HTTP/3 over QUIC and HTTP/2 over TCP
// on the same port number, TLS 1.3 only, nodes known by their certificates. It knows nothing of what is said over it.
//
// # Server
//
// A Server tells by the server name of the TLS handshake whom it speaks to (Audience). Only under
// identity.NodeServerName does it ask for a client certificate; it checks it against the fleet's roots and hands the
// node to the handler as a Peer. A node whose certificate expired not too long ago is let through with Peer.Expired set:
// the handler lets it renew and nothing else. A handler that answers over a long time ends when Draining says so.
//
// # Client
//
// A Client keeps one connection to one manager. To make it, QUIC is tried first and TCP after a head start, or at once
// when QUIC fails or is known not to get through on this network (WinnerMemory). Whichever is up first is used and the
// other is closed. A broken connection is replaced at the next request; requests that come meanwhile share one attempt.
//
// Some networks let the QUIC handshake pass and lose what follows. A request over QUIC that makes no progress within
// ClientConfig.StallTimeout, before its body is taken, or whose caller's deadline ends after as long a silence, turns
// the network over to TCP. A caller that gives up on a slow transfer says so by a context deadline, or by a
// cancellation cause with a Timeout() bool that returns true; a plain cancellation is no complaint about the network.
// While TCP is used, QUIC is tried again in the background, at most every ClientConfig.RetryQUIC.
//
// When the local address towards the manager changes, a QUIC connection moves to it after probing the path; where that
// fails, and for TCP, the next request makes a new connection.
//
// # Concurrency and blocking
//
// Server and Client may be used from any goroutine. Server.Serve blocks until its context ends. Client.RoundTrip blocks
// until the response's headers are there or the request's context ends; the caller sets the deadline. A Client runs
// goroutines only while it has a connection, and Close ends them.
package transport

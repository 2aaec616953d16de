package transport

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/dhowfleet/dhow/protocol/identity"
	"github.com/dhowfleet/dhow/protocol/transport/internal/admission"
)

// serve finds out whom a request is from, refuses nodes that may not come in, and hands the rest on.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	ctx := context.WithValue(r.Context(), drainingKey, (<-chan struct{})(s.draining))
	audience := AudiencePublic
	if r.TLS != nil {
		audience = audienceOf(r.TLS.ServerName)
	}
	ctx = WithAudience(ctx, audience)
	if audience == AudienceNode {
		peer, err := s.peer(r)
		if err != nil {
			refuse(w, http.StatusUnauthorized, "unauthenticated", "this node's certificate no longer holds: "+err.Error())
			return
		}
		if s.cfg.Authorize != nil {
			if err := s.cfg.Authorize(peer); err != nil {
				refuse(w, http.StatusForbidden, "permission_denied", err.Error())
				return
			}
		}
		ctx = context.WithValue(ctx, peerKey, peer)
	}
	r = r.WithContext(ctx)
	control := http.NewResponseController(w)
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = &guardedBody{ReadCloser: r.Body, control: control, limit: s.cfg.Limits.StallTimeout}
	}
	s.cfg.Handler.ServeHTTP(&guardedWriter{ResponseWriter: w, control: control, limit: s.cfg.Limits.StallTimeout}, r)
}

// peer returns the node that r is from. Its certificate was verified in the handshake; what may have changed since is
// the time.
func (s *Server) peer(r *http.Request) (Peer, error) {
	if len(r.TLS.PeerCertificates) == 0 {
		return Peer{}, errors.New("there is none")
	}
	leaf := r.TLS.PeerCertificates[0]
	past := s.cfg.Now().Sub(leaf.NotAfter)
	if past > s.cfg.ExpiredGrace && past > 0 {
		return Peer{}, fmt.Errorf("it expired on %s, longer ago than it may be renewed", leaf.NotAfter.Format(time.RFC3339))
	}
	c := admission.From(r.Context())
	if known, ok := c.Node(); ok {
		return Peer{Node: known, Certificate: leaf, Expired: past > 0}, nil
	}
	node, err := identity.FromCertificate(leaf)
	if err != nil {
		return Peer{}, err
	}
	c.SetNode(node)
	return Peer{Node: node, Certificate: leaf, Expired: past > 0}, nil
}

// refuse answers in the form that Connect clients read, which others can read as well.
func refuse(w http.ResponseWriter, status int, code, message string) {
	body, err := json.Marshal(map[string]string{"code": code, "message": message})
	if err != nil {
		body = fmt.Appendf(nil, `{"code":%q}`, code)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// guardedBody ends a read that waits longer than limit for the next byte. Only the wait counts, so that a large upload
// may take as long as it moves.
type guardedBody struct {
	io.ReadCloser
	control *http.ResponseController
	limit   time.Duration
}

func (b *guardedBody) Read(p []byte) (int, error) {
	timer := time.AfterFunc(b.limit, func() { _ = b.control.SetReadDeadline(time.Unix(1, 0)) })
	defer timer.Stop()
	return b.ReadCloser.Read(p)
}

// guardedWriter ends a write that the other side does not take for longer than limit.
type guardedWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	limit   time.Duration
}

func (w *guardedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *guardedWriter) Write(p []byte) (int, error) {
	timer := time.AfterFunc(w.limit, func() { _ = w.control.SetWriteDeadline(time.Unix(1, 0)) })
	defer timer.Stop()
	return w.ResponseWriter.Write(p)
}

func (w *guardedWriter) Flush() { _ = w.FlushError() }

func (w *guardedWriter) FlushError() error {
	timer := time.AfterFunc(w.limit, func() { _ = w.control.SetWriteDeadline(time.Unix(1, 0)) })
	defer timer.Stop()
	return w.control.Flush()
}

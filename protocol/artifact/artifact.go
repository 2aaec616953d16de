// Package artifact pulls manifests and blobs by digest from an OCI registry into a blob store.
//
// # Contract
//
// What is pulled is verified while it streams and stands in the store only when it is whole. A pull that ends early, in
// whatever way, is continued by the next one where it stopped (HTTP Range), after a restart of the process too. The
// package goes on by itself only while bytes arrive: a connection that breaks after progress is replaced at once; one
// that brings nothing is the caller's to try again, with the wait that RetryAfter names.
//
// # What a caller does with an error
//
//   - ErrUnavailable: the registry, or the way to it, cannot deliver now (offline, too slow, 429, 5xx, no permission, a
//     proxy's page instead of content). It says nothing about the artifact: wait (RetryAfter, else with full jitter) and
//     pull again; count no failure against the artifact.
//   - ErrNotFound: the registry says that it does not have it. Report it, and go on trying slowly: a registry that is
//     being restored answers like that.
//   - ErrDigestMismatch: the registry twice delivered other content under this digest. Fail the copy; another try needs
//     a person.
//   - ErrNoSpace: the disk is full. Free space (Store.Collect), warn, and try again; what was pulled is kept.
//   - blob.ErrBusy: the same blob is being pulled already. Wait for that.
//   - the context's error when the caller gave up. Anything else is a fault of the local disk.
//
// # Concurrency
//
// A Puller may be used by many goroutines once its fields are set. Calls block until done, as long as bytes arrive at
// the least rate; every phase without bytes has a deadline.
package artifact

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/dhowfleet/dhow/models/blob"
)

var (
	// ErrUnavailable says that nothing could be pulled now, for reasons that lie outside the artifact.
	ErrUnavailable = errors.New("artifact is not available now")
	// ErrNotFound says that the registry does not have it.
	ErrNotFound = errors.New("registry does not have it")
	// ErrDigestMismatch says that what the registry delivers is not what the digest names.
	ErrDigestMismatch = blob.ErrDigestMismatch
	// ErrNoSpace says that the disk is full.
	ErrNoSpace = blob.ErrNoSpace
)

// MaxManifest is the largest manifest in bytes.
const MaxManifest = 4 << 20

// Puller pulls from one registry.
type Puller struct {
	// Client makes the requests. Its Timeout is not used: a download takes as long as it takes.
	Client *http.Client
	// BaseURL is the registry's scheme and host. Redirects that leave it are refused.
	BaseURL string
	Store   *blob.Store
	// Logger is told of connections that broke; nil: nobody.
	Logger *slog.Logger

	// HeaderTimeout is how long an answer may take to begin, connecting included (default 30 s).
	HeaderTimeout time.Duration
	// RateWindow and LeastBytes are the minimum rate: a window in which fewer bytes arrive ends the connection (defaults
	// 30 s and 32 KiB).
	RateWindow time.Duration
	LeastBytes int64
	// MaxRetryAfter bounds the wait that a registry may ask for (default 1 h).
	MaxRetryAfter time.Duration
}

// settings are a Puller's fields with the defaults filled in.
type settings struct {
	headerTimeout, rateWindow, maxRetryAfter time.Duration
	leastBytes                               int64
	logger                                   *slog.Logger
	client                                   *http.Client
	base                                     string
}

func (p *Puller) settings() (settings, error) {
	s := settings{
		headerTimeout: p.HeaderTimeout, rateWindow: p.RateWindow, maxRetryAfter: p.MaxRetryAfter,
		leastBytes: p.LeastBytes, logger: p.Logger, base: strings.TrimSuffix(p.BaseURL, "/"),
	}
	base, err := url.Parse(s.base)
	if err != nil || base.Host == "" || base.Path != "" {
		return s, fmt.Errorf("cannot pull: base URL %q is not a scheme and a host", p.BaseURL)
	}
	if p.Client == nil || p.Store == nil {
		return s, errors.New("cannot pull: no client or no store")
	}
	if s.headerTimeout <= 0 {
		s.headerTimeout = 30 * time.Second
	}
	if s.rateWindow <= 0 {
		s.rateWindow = 30 * time.Second
	}
	if s.leastBytes <= 0 {
		s.leastBytes = 32 << 10
	}
	if s.maxRetryAfter <= 0 {
		s.maxRetryAfter = time.Hour
	}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	s.client = &http.Client{Transport: p.Client.Transport, Jar: p.Client.Jar, CheckRedirect: stayAt(base)}
	return s, nil
}

var errRedirect = errors.New("redirect to another host")

// stayAt refuses redirects that leave the registry: where to take artifacts from, and whom to show a certificate, is
// configured, not answered.
func stayAt(base *url.URL) func(*http.Request, []*http.Request) error {
	return func(r *http.Request, via []*http.Request) error {
		if r.URL.Scheme != base.Scheme || !strings.EqualFold(r.URL.Host, base.Host) {
			return fmt.Errorf("%w: %s", errRedirect, r.URL.Host)
		}
		if len(via) > 3 {
			return errors.New("more than three redirects")
		}
		return nil
	}
}

// unavailable is an ErrUnavailable that may know how long to wait.
type unavailable struct {
	reason     string
	retryAfter time.Duration
	cause      error
}

func (e *unavailable) Error() string {
	if e.cause == nil {
		return ErrUnavailable.Error() + ": " + e.reason
	}
	return ErrUnavailable.Error() + ": " + e.reason + ": " + e.cause.Error()
}

func (e *unavailable) Is(target error) bool { return target == ErrUnavailable }

// RetryAfter returns how long the registry asked to be left alone, or zero.
func RetryAfter(err error) time.Duration {
	var u *unavailable
	if errors.As(err, &u) {
		return u.retryAfter
	}
	return 0
}

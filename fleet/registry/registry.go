// Package registry serves the OCI distribution API, version 1.1, over a blob store: pull, push (in one piece, in chunks,
// resumable), mount, tags, referrers, and deletion. It is where the fleet's bundles live.
//
// # Contract
//
// Registry is an http.Handler for everything under /v2/. It decides nothing about who may do what: Action says what a
// request wants, and whoever wraps the handler decides. Config.OnTag is asked before a tag is acknowledged, so that
// "tagged" can mean "accepted as a model's version". Tags of immutable repositories (models/…) never move.
//
// Content lies in a blob.Store, one copy for all repositories; what a repository has is in an Index. Whether a blob
// exists is asked of the disk each time. Order on a push: the blob's file is durable before its link, all links before
// the manifest's row, the row before OnTag, OnTag before the tag; a crash between any two leaves content that the same
// push, repeated, completes.
//
// # Collection
//
// Collect removes what nothing refers to, but never what a push in flight may rely on: an upload session is a lease on
// everything in its repository; what was uploaded, mounted, or found by a HEAD request stays for a grace. Manifests are
// only ever removed by DELETE: nodes pull them by digest, tagged or not.
//
// Scrub finds what the disk has spoilt, so that it can be pushed again.
//
// # Concurrency
//
// All methods may be called from many goroutines. A request blocks for its own transfer; two requests on one upload
// session take turns; tags are set one at a time, OnTag included.
package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dhowfleet/dhow/models/blob"
)

// MaxManifest is the largest manifest in bytes.
const MaxManifest = 4 << 20

// Quota bounds what may be stored; zero fields: unbounded. Bytes of unfinished uploads count.
type Quota struct {
	RepositoryBytes int64
	TotalBytes      int64
}

// Config is what a Registry needs. Store and Index are required.
type Config struct {
	Store  *blob.Store
	Index  Index
	Logger *slog.Logger
	// OnTag, if set, is asked before a tag is acknowledged; its error refuses the tag, with the error's text for the
	// pusher. It may be asked again about a tag that it accepted before.
	OnTag func(ctx context.Context, repository, tag string, d digest.Digest, manifest []byte) error
	// OnDelete, if set, is asked before a manifest (reference is a digest) or a tag is deleted; its error refuses.
	OnDelete func(ctx context.Context, repository, reference string) error
	// Immutable says in which repositories a tag never moves; nil: in those under "models/".
	Immutable func(repository string) bool
	Quota     Quota
	// AnonymousMount lets a push mount any blob of the store whose digest it knows, without saying from where. It tells
	// whoever may push what other repositories hold.
	AnonymousMount bool
	// MaxUploads bounds the open upload sessions (default 256), UploadAge how long one may rest (default 24 h).
	MaxUploads int
	UploadAge  time.Duration
	// MaxDownloads bounds the blobs that are being sent at the same time (default 512); whoever comes beyond is asked to
	// come back after a random while, so that a region that returns does not stampede.
	MaxDownloads int
	// Grace is how long Collect leaves alone what nothing refers to (default 24 h).
	Grace time.Duration
	// StallTimeout ends a request whose peer neither sends nor takes bytes for so long (default 1 min).
	StallTimeout time.Duration
	Now          func() time.Time
}

// Registry is the handler.
type Registry struct {
	Config

	tagging   sync.Mutex
	ledger    ledger
	downloads chan struct{}
}

// New returns a Registry. It reads the open upload sessions from the index.
func New(config Config) (*Registry, error) {
	if config.Store == nil || config.Index == nil {
		return nil, errors.New("cannot open registry: it needs a store and an index")
	}
	r := &Registry{Config: config}
	if r.Logger == nil {
		r.Logger = slog.New(slog.DiscardHandler)
	}
	if r.Immutable == nil {
		r.Immutable = func(repository string) bool { return strings.HasPrefix(repository, "models/") }
	}
	if r.MaxUploads <= 0 {
		r.MaxUploads = 256
	}
	if r.UploadAge <= 0 {
		r.UploadAge = 24 * time.Hour
	}
	if r.MaxDownloads <= 0 {
		r.MaxDownloads = 512
	}
	r.downloads = make(chan struct{}, r.MaxDownloads)
	if r.Grace <= 0 {
		r.Grace = 24 * time.Hour
	}
	if r.StallTimeout <= 0 {
		r.StallTimeout = time.Minute
	}
	if r.Now == nil {
		r.Now = time.Now
	}
	uploads, err := r.Index.Uploads(context.Background())
	if err != nil {
		return nil, fmt.Errorf("cannot open registry: %w", err)
	}
	r.ledger.open = map[string]charge{}
	for _, u := range uploads {
		r.ledger.open[u.ID] = charge{u.Repository, u.Size}
	}
	return r, nil
}

// fault is an answer that is no success: the error body of the OCI specification and its status.
type fault struct {
	status        int
	code, message string
	detail        any
}

func (f *fault) Error() string { return f.code + ": " + f.message }

func refuse(status int, code, format string, args ...any) error {
	return &fault{status: status, code: code, message: fmt.Sprintf(format, args...)}
}

// ServeHTTP implements http.Handler.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Docker-Distribution-API-Version", "registry/2.0")
	if err := r.serve(w, req); err != nil {
		r.fail(w, req, err)
	}
}

func (r *Registry) serve(w http.ResponseWriter, req *http.Request) error {
	t, ok := parse(req.URL.Path)
	if !ok {
		return refuse(http.StatusNotFound, "NAME_INVALID", "%q is not a path of the distribution API", req.URL.Path)
	}
	methods := r.handlers(t.kind)
	handler := methods[req.Method]
	if handler == nil && req.Method == http.MethodHead {
		handler = methods[http.MethodGet]
	}
	if handler == nil {
		for method := range methods {
			w.Header().Add("Allow", method)
		}
		return refuse(http.StatusMethodNotAllowed, "UNSUPPORTED", "%s is not supported here", req.Method)
	}
	return handler(w, req, t)
}

type handler func(w http.ResponseWriter, req *http.Request, t target) error

func (r *Registry) handlers(k kind) map[string]handler {
	switch k {
	case kindPing:
		return map[string]handler{http.MethodGet: r.ping}
	case kindCatalog:
		return map[string]handler{http.MethodGet: r.listRepositories}
	case kindBlob:
		return map[string]handler{http.MethodGet: r.getBlob, http.MethodDelete: r.deleteBlob}
	case kindUploads:
		return map[string]handler{http.MethodPost: r.startUpload}
	case kindUpload:
		return map[string]handler{
			http.MethodGet: r.uploadStatus, http.MethodPatch: r.continueUpload,
			http.MethodPut: r.finishUpload, http.MethodDelete: r.cancelUpload,
		}
	case kindManifest:
		return map[string]handler{
			http.MethodGet: r.getManifest, http.MethodPut: r.putManifest, http.MethodDelete: r.deleteManifest,
		}
	case kindTags:
		return map[string]handler{http.MethodGet: r.listTags}
	case kindReferrers:
		return map[string]handler{http.MethodGet: r.listReferrers}
	}
	return nil
}

// fail writes an error. Faults of ours are logged and say nothing about our inside.
func (r *Registry) fail(w http.ResponseWriter, req *http.Request, err error) {
	var f *fault
	switch {
	case errors.As(err, &f):
	case errors.Is(err, blob.ErrNoSpace):
		r.Logger.LogAttrs(req.Context(), slog.LevelError, "registry has no space", slog.String("path", req.URL.Path), slog.String("error", err.Error()))
		f = &fault{status: http.StatusInsufficientStorage, code: "NO_SPACE", message: "the registry's disk is full; delete models that are no longer used, or give it more space"}
	case req.Context().Err() != nil:
		// Nobody is there to read an answer.
		f = &fault{status: http.StatusServiceUnavailable, code: "CANCELED", message: "the request was given up"}
	default:
		r.Logger.LogAttrs(req.Context(), slog.LevelError, "registry request failed",
			slog.String("method", req.Method), slog.String("path", req.URL.Path), slog.String("error", err.Error()))
		f = &fault{status: http.StatusInternalServerError, code: "INTERNAL", message: "the registry failed; its log says why"}
	}
	body, err := json.Marshal(map[string]any{"errors": []any{struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Detail  any    `json:"detail,omitempty"`
	}{f.code, f.message, f.detail}}})
	if err != nil {
		body = []byte(`{"errors":[]}`)
	}
	if f.status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", strconv.Itoa(1+rand.IntN(30)))
	}
	w.Header().Del("Etag")
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(f.status)
	if req.Method != http.MethodHead {
		_, _ = w.Write(body)
	}
}

func (r *Registry) ping(w http.ResponseWriter, req *http.Request, _ target) error {
	return writeJSON(w, req, "application/json", struct{}{})
}

func writeJSON(w http.ResponseWriter, req *http.Request, contentType string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(http.StatusOK)
	if req.Method != http.MethodHead {
		_, _ = w.Write(body)
	}
	return nil
}

// parseDigest reads a digest from a request.
func parseDigest(s string) (digest.Digest, error) {
	d := digest.Digest(s)
	if err := blob.Check(d); err != nil {
		return "", refuse(http.StatusBadRequest, "DIGEST_INVALID", "%q is not a sha256 or sha512 digest", s)
	}
	return d, nil
}

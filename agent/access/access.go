// Package access says who may ask a node what, and how often.
//
// A file of ServingKey documents, written like the fleet's resources, names callers: the hash of each one's key, the
// groups of endpoints and the models it may use, and its quota. A request brings its key, Authorize looks the key's hash
// up and answers with the caller, or with an *Error that says what the request lacks:
//
//	request -> key -> rule -> not expired -> group -> model -> quota -> caller
//
// Keys are 256 random bits, so that their plain SHA-256 tells nothing of them and the time that a lookup takes tells
// nothing but the hash of what the asker sent. A key is never kept, logged or put into an error.
//
// Without a key a request may ask for health; for anything else only where it came from decides: a listener that
// nobody outside the machine reaches may let it in (Gate). CheckListen refuses to listen elsewhere without keys and TLS.
//
// Authorize is safe for concurrent use, blocks for nothing and allocates nothing when it lets a request in. Run blocks
// until its context ends; it looks at the file each second and takes the rules over when they hold. A file that does
// not hold, or is gone, leaves the rules as they were. How much of a quota is used stays with the key, through reloads.
package access

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Group is a group of endpoints, named as Triton names those that it can restrict.
type Group string

// The groups. The last two are this agent's own pages.
const (
	Health          Group = "health"
	Metadata        Group = "metadata"
	Inference       Group = "inference"
	SharedMemory    Group = "shared-memory"
	ModelConfig     Group = "model-config"
	ModelRepository Group = "model-repository"
	Statistics      Group = "statistics"
	Trace           Group = "trace"
	Logging         Group = "logging"
	Status          Group = "status"
	Metrics         Group = "metrics"
)

// Groups returns all groups.
func Groups() []Group {
	return []Group{Health, Metadata, Inference, SharedMemory, ModelConfig, ModelRepository, Statistics, Trace, Logging, Status, Metrics}
}

// All stands for every group in a document.
const All = "all"

// set is a set of groups.
type set uint16

const everything set = 1<<11 - 1

func (g Group) set() set {
	for i, known := range [...]Group{Health, Metadata, Inference, SharedMemory, ModelConfig, ModelRepository, Statistics, Trace, Logging, Status, Metrics} {
		if g == known {
			return 1 << i
		}
	}
	return 0
}

// Kind classes why a request is refused.
type Kind uint8

// The kinds, with the status that a front answers.
const (
	Unauthenticated Kind = iota + 1 // 401, UNAUTHENTICATED
	Forbidden                       // 403, PERMISSION_DENIED
	QuotaExceeded                   // 429 with Retry-After, RESOURCE_EXHAUSTED
)

// Error is why a request is refused; the message is for the one who sent it.
type Error struct {
	Kind       Kind
	RetryAfter time.Duration // of QuotaExceeded: trying earlier is in vain
	Message    string
}

func (e *Error) Error() string { return e.Message }

// Caller is who asks.
type Caller struct {
	Name     string // of the key; "" is a caller without one
	Priority uint64 // of its requests, 1 the most urgent; 0 is what the model says
}

// Options of a policy.
type Options struct {
	// Header also carries keys, beside Authorization: as it is over HTTP, and behind "triton-grpc-protocol-" over gRPC,
	// where Triton's clients put the key of a restricted endpoint. Empty: none does.
	Header string
	// Anonymous lets callers without a key use everything through a local Gate although there are keys. Without a file
	// of keys they always may.
	Anonymous bool
	// Warn is called with what is wrong with the file, and with nil when it holds again; nil: it is only logged.
	Warn   func(error)
	Logger *slog.Logger     // nil logs nothing
	Now    func() time.Time // nil: time.Now
}

// Policy is the rules in force.
type Policy struct {
	path      string
	options   Options
	header    string // the two forms of Options.Header, as requests have them
	grpc      string
	rules     atomic.Pointer[rules]
	reload    sync.Mutex // held by Reload; guards seen and fault
	seen      seen
	fault     error        // what is wrong with the file as it was seen last
	failures  atomic.Int64 // refused for their key since the last line about it
	lastLine  atomic.Int64 // when that was, in Unix nanoseconds
	anonymous bool
}

// rules are what a file says; they are not changed once they are in force.
type rules struct{ byHash map[Hash]*rule }

// rule is one document, and what its key has used.
type rule struct {
	Key
	groups set
	usage  *usage
}

// usage outlives the rules: it belongs to the key.
type usage struct {
	mu      sync.Mutex
	bucket  bucket
	running int
	done    func() // ends one of running; made once, since a request must not allocate
}

func newUsage() *usage {
	u := &usage{}
	u.done = func() {
		u.mu.Lock()
		u.running--
		u.mu.Unlock()
	}
	return u
}

// end returns what ends a request that u counts.
func (u *usage) end() func() {
	if u == nil {
		return nothing
	}
	return u.done
}

// Open reads the file of keys at path. Without a path there are no keys: local callers may do everything, others
// nothing but ask for health.
func Open(path string, o Options) (*Policy, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	p := &Policy{path: path, options: o, anonymous: o.Anonymous || path == ""}
	if o.Header != "" {
		p.header = http.CanonicalHeaderKey(o.Header)
		p.grpc = http.CanonicalHeaderKey("triton-grpc-protocol-" + o.Header)
	}
	p.rules.Store(&rules{})
	if path == "" {
		return p, nil
	}
	if _, p.fault = p.read(); p.fault != nil {
		return nil, p.fault
	}
	return p, nil
}

// Keys returns the keys in force, by name.
func (p *Policy) Keys() []Key { return p.rules.Load().list() }

// Authorize lets a request of a caller from elsewhere in or refuses it: see Gate for local ones. get returns a header of
// the request by its canonical name; model is "" where the request is about no single one. The returned func, never
// nil, is to be called once, when the request has ended.
func (p *Policy) Authorize(get func(header string) string, group Group, model string) (Caller, func(), error) {
	caller, u, err := p.authorize(get, group, model, false)
	return caller, u.end(), err
}

func nothing() {}

// authorize returns what counts the request, if anything does.
func (p *Policy) authorize(get func(string) string, group Group, model string, local bool) (Caller, *usage, error) {
	if group == Health {
		return Caller{}, nil, nil
	}
	key := p.key(get)
	if local && p.anonymous && (key == "" || p.path == "") {
		return Caller{}, nil, nil
	}
	if key == "" {
		return Caller{}, nil, p.unknown(group, "a key is needed for this: send it as Authorization: Bearer KEY")
	}
	r := p.rules.Load().find(key)
	if r == nil {
		return Caller{}, nil, p.unknown(group, "the key is not known here")
	}
	now := p.options.Now()
	if !r.Expires.IsZero() && !now.Before(r.Expires) {
		return Caller{}, nil, p.unknown(group, "the key "+r.Name+" expired on "+r.Expires.UTC().Format(time.DateOnly)+"; ask for a new one")
	}
	if err := r.permits(group, model); err != nil {
		return Caller{}, nil, err
	}
	u, err := r.admit(now)
	if err != nil {
		return Caller{}, nil, err
	}
	return Caller{Name: r.Name, Priority: r.Priority}, u, nil
}

// key returns what the request brings as its key.
func (p *Policy) key(get func(string) string) string {
	const scheme = "Bearer "
	if v := get("Authorization"); len(v) > len(scheme) && strings.EqualFold(v[:len(scheme)], scheme) {
		return strings.TrimSpace(v[len(scheme):])
	}
	if p.header == "" {
		return ""
	}
	if v := get(p.header); v != "" {
		return v
	}
	return get(p.grpc)
}

func (r *rules) find(key string) *rule {
	if len(key) > maxKey {
		return nil
	}
	var text [maxKey]byte // on the stack, where a conversion would allocate
	return r.byHash[sha256.Sum256(text[:copy(text[:], key)])]
}

// permits checks what the key may be used for.
func (r *rule) permits(group Group, model string) error {
	if r.groups&group.set() == 0 {
		return &Error{Kind: Forbidden, Message: fmt.Sprintf("the key %s may not be used for %s, only for %s", r.Name, group, join(r.Groups))}
	}
	if len(r.Models) == 0 {
		return nil
	}
	if model == "" {
		// What the server says of itself names no model; everything else speaks of all of them.
		if group == Metadata {
			return nil
		}
		return &Error{Kind: Forbidden, Message: fmt.Sprintf("the key %s may be used for the models %s only, this request is about all", r.Name, join(r.Models))}
	}
	for _, pattern := range r.Models {
		if match(pattern, model) {
			return nil
		}
	}
	return &Error{Kind: Forbidden, Message: fmt.Sprintf("the key %s may not be used for the model %s", r.Name, clip(model))}
}

// admit takes the request off the key's quota.
func (r *rule) admit(now time.Time) (*usage, error) {
	q := &r.Quota
	if q.RequestsPerMinute == 0 && q.Concurrent == 0 {
		return nil, nil
	}
	u := r.usage
	u.mu.Lock()
	defer u.mu.Unlock()
	if q.Concurrent > 0 && u.running >= q.Concurrent {
		return nil, &Error{Kind: QuotaExceeded, RetryAfter: time.Second, Message: fmt.Sprintf("the key %s has %d requests running, which is its quota; wait for one to end", r.Name, q.Concurrent)}
	}
	if q.RequestsPerMinute > 0 {
		if wait := u.bucket.take(now, q); wait > 0 {
			return nil, &Error{Kind: QuotaExceeded, RetryAfter: wait, Message: fmt.Sprintf("the key %s has used its quota of %d requests a minute; try again in %s", r.Name, q.RequestsPerMinute, max(wait.Round(time.Millisecond), time.Millisecond))}
		}
	}
	// Counted although only the rate may be bounded: the quota may become another while the request runs.
	u.running++
	return u, nil
}

// failureEvery bounds how often refused keys are written of.
const failureEvery = 10 * time.Second

// unknown refuses a request for its key, and says so in the log now and then: guesses come by the thousand.
func (p *Policy) unknown(group Group, message string) error {
	p.failures.Add(1)
	now := p.options.Now().UnixNano()
	if last := p.lastLine.Load(); (last == 0 || now-last >= int64(failureEvery)) && p.lastLine.CompareAndSwap(last, now) {
		p.options.Logger.Warn("requests are refused for their key", "count", p.failures.Swap(0), "group", string(group))
	}
	return &Error{Kind: Unauthenticated, Message: message}
}

// Gate is a policy at one listener.
type Gate struct {
	policy *Policy
	local  bool
}

// Gate returns the policy for a listener; local says that only this machine reaches it.
func (p *Policy) Gate(local bool) *Gate { return &Gate{p, local} }

// Authorize is Policy.Authorize at this listener.
func (g *Gate) Authorize(get func(header string) string, group Group, model string) (Caller, func(), error) {
	caller, u, err := g.policy.authorize(get, group, model, g.local)
	return caller, u.end(), err
}

// Enter authorizes a request that ends with ctx.
func (g *Gate) Enter(ctx context.Context, header http.Header, group Group, model string) (Caller, error) {
	caller, u, err := g.policy.authorize(header.Get, group, model, g.local)
	if u != nil {
		context.AfterFunc(ctx, u.done)
	}
	return caller, err
}

// Request authorizes an HTTP request, whose context the server ends with it. It is what fronts take as their hook.
func (g *Gate) Request(r *http.Request, group Group, model string) error {
	_, err := g.Enter(r.Context(), r.Header, group, model)
	return err
}

// Run looks after the file until ctx ends.
func (p *Policy) Run(ctx context.Context) {
	if p.path == "" {
		<-ctx.Done()
		return
	}
	every := time.NewTicker(time.Second)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
			_ = p.Reload() // it has been told by Warn and the log
		}
	}
}

// Reload takes the file's rules over if it changed since it was read. What is wrong with it is returned, logged once,
// and handed to Warn; the rules stay as they were then.
func (p *Policy) Reload() error {
	if p.path == "" {
		return nil
	}
	p.reload.Lock()
	defer p.reload.Unlock()
	changed, err := p.read()
	if !changed {
		return p.fault
	}
	before := p.fault
	p.fault = err
	if err != nil {
		p.options.Logger.Error("the serving keys stay as they were, for their file does not hold", "error", err.Error())
		p.warn(err)
		return err
	}
	p.options.Logger.Info("serving keys were read", "keys", len(p.rules.Load().byHash))
	if before != nil {
		p.warn(nil)
	}
	return nil
}

func (p *Policy) warn(err error) {
	if p.options.Warn != nil {
		p.options.Warn(err)
	}
}

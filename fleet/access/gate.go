package access

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/dhowfleet/dhow/protocol/transport"
)

// Route is one row of the table.
type Route struct {
	// Pattern is one of http.ServeMux, such as "POST /dhow.fleet.v1.FleetService/Apply" or "/v2/".
	Pattern string
	Rule    Rule
	Handler http.Handler
}

var (
	// ErrUnknownToken is what Config.Check returns for a token that is nobody's.
	ErrUnknownToken = errors.New("the token is not known")
	// ErrRevokedToken is what Config.Check returns, with the name, for a token that was somebody's.
	ErrRevokedToken = errors.New("the token was revoked")
)

const (
	// maxToken bounds what is hashed and looked up for a stranger.
	maxToken = 512
	// recheck is how often the token of a request that goes on is looked at again.
	recheck = time.Second
)

// Config is what a gate needs. Check and Logger are required.
type Config struct {
	// Check says whose an operator's token is, or ErrUnknownToken or ErrRevokedToken; another error means that it could
	// not find out. It must take as long for a token that is nearly right as for any other.
	Check func(ctx context.Context, token string) (name string, role Role, err error)
	// Logger is told of refusals, never of a token.
	Logger *slog.Logger
	// Now is time.Now unless a test says otherwise.
	Now func() time.Time
	// Audience and Peer say under which name and with which certificate a request came: protocol/transport's, unless a
	// test says otherwise.
	Audience func(context.Context) transport.Audience
	Peer     func(context.Context) (transport.Peer, bool)
}

// Gate is the handler of the whole table.
type Gate struct {
	config  Config
	mux     *http.ServeMux
	routes  []Route
	guesses guesses
}

// New builds the handler of a route table. It refuses a route without a rule or handler, a pattern that http.ServeMux
// does not take, and two routes for the same pattern.
func New(config Config, routes []Route) (g *Gate, err error) {
	if config.Check == nil || config.Logger == nil {
		return nil, errors.New("cannot build the route table: no token check or no logger is given")
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.Audience == nil {
		config.Audience = transport.AudienceFrom
	}
	if config.Peer == nil {
		config.Peer = transport.PeerFrom
	}
	g = &Gate{config: config, mux: http.NewServeMux(), routes: slices.Clone(routes)}
	for _, r := range routes {
		switch {
		case !r.Rule.valid():
			return nil, fmt.Errorf("cannot build the route table: %q has no access rule", r.Pattern)
		case r.Handler == nil:
			return nil, fmt.Errorf("cannot build the route table: %q has no handler", r.Pattern)
		}
		if err := handle(g.mux, r.Pattern, g.guard(r)); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// handle turns ServeMux's panic about a pattern into an error.
func handle(mux *http.ServeMux, pattern string, h http.Handler) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("cannot build the route table: %v", p)
		}
	}()
	mux.Handle(pattern, h)
	return nil
}

// Routes returns the table, for documentation and for tests that walk it.
func (g *Gate) Routes() []Route { return slices.Clone(g.routes) }

// ServeHTTP finds the route of a request and serves it if its rule allows.
func (g *Gate) ServeHTTP(w http.ResponseWriter, r *http.Request) { g.mux.ServeHTTP(w, r) }

func (g *Gate) guard(route Route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v := &visit{gate: g, request: r, audience: g.config.Audience(r.Context())}
		if peer, ok := g.config.Peer(r.Context()); ok {
			v.peer = &peer
		}
		p, err := route.Rule.judge(v)
		if err != nil {
			g.refuse(w, r, route, err)
			return
		}
		ctx := WithPrincipal(r.Context(), p)
		if p.Role != "" {
			var end context.CancelFunc
			ctx, end = g.whileGood(ctx, r)
			defer end()
		}
		route.Handler.ServeHTTP(w, r.WithContext(ctx))
	})
}

// whileGood returns a context that ends when the operator's token of the request is good no more: a watch may last for
// days. A check that fails says nothing about the token.
func (g *Gate) whileGood(ctx context.Context, r *http.Request) (context.Context, context.CancelFunc) {
	ctx, end := context.WithCancel(ctx)
	token, _ := credentials(r)
	// Most requests are over before the first look and cost no more than the timer.
	var timer *time.Timer
	look := func() {
		if ctx.Err() != nil {
			return
		}
		if name, _, err := g.config.Check(ctx, token); errors.Is(err, ErrRevokedToken) || errors.Is(err, ErrUnknownToken) {
			g.config.Logger.Warn("request ended: its token was revoked", "operator", name, "path", r.URL.Path, "remote", remote(r))
			end()
			return
		}
		timer.Reset(recheck)
	}
	timer = time.AfterFunc(time.Hour, look)
	timer.Reset(recheck) // only now, since look uses the variable
	return ctx, func() {
		timer.Stop()
		end()
	}
}

// visit is one request before the gate.
type visit struct {
	gate     *Gate
	request  *http.Request
	audience transport.Audience
	peer     *transport.Peer

	asked     bool // so that two rules of one route check a token once
	principal Principal
	err       error
}

// operator returns whose token the request brings.
func (v *visit) operator() (Principal, error) {
	if !v.asked {
		v.asked = true
		v.principal, v.err = v.gate.operator(v.request)
	}
	return v.principal, v.err
}

// wrongToken, revokedToken and tooMany are refusals that have their own status.
type wrongToken struct{}

func (wrongToken) Error() string {
	return "the token is not known to this manager: log in again with dhow login, or mind which manager this is"
}

type revokedToken struct{ name string }

func (t revokedToken) Error() string {
	return fmt.Sprintf("the operator token %q was revoked: get a new one (dhow-fleet token --name NAME, on the manager's machine) and log in with it with dhow login", t.name)
}

type tooMany struct{ wait time.Duration }

func (t tooMany) Error() string {
	return fmt.Sprintf("too many wrong tokens came from this address: wait %s", t.wait)
}

// unavailable: the check itself failed.
type unavailable struct{ cause error }

func (unavailable) Error() string {
	return "the manager cannot check tokens just now: try again in a moment"
}

func (g *Gate) operator(r *http.Request) (Principal, error) {
	token, given := credentials(r)
	if !given {
		return Principal{}, errCredentials
	}
	from, hash, now := remote(r), sha256.Sum256([]byte(token)), g.config.Now()
	if wait := g.guesses.wait(from, hash, now); wait > 0 {
		return Principal{}, tooMany{wait}
	}
	if token == "" || len(token) > maxToken {
		g.guesses.wrong(from, now)
		return Principal{}, wrongToken{}
	}
	name, role, err := g.config.Check(r.Context(), token)
	switch {
	case errors.Is(err, ErrUnknownToken):
		g.guesses.wrong(from, now)
		return Principal{}, wrongToken{}
	case errors.Is(err, ErrRevokedToken):
		// It was right once, so that it is no guess: a forgotten script must not lock its colleagues out.
		return Principal{}, revokedToken{name}
	case err != nil:
		return Principal{}, unavailable{err}
	case name == "" || role == "":
		return Principal{}, unavailable{errors.New("the token's name or role is empty")}
	}
	g.guesses.right(from, hash, now)
	return Principal{Name: name, Role: role}, nil
}

// credentials returns the token of a request. The user name of Basic says nothing: OCI clients want one.
func credentials(r *http.Request) (string, bool) {
	header := r.Header.Get("Authorization")
	if header == "" {
		return "", false
	}
	scheme, rest, _ := strings.Cut(header, " ")
	switch {
	case strings.EqualFold(scheme, "Bearer"):
		return strings.TrimSpace(rest), true
	case strings.EqualFold(scheme, "Basic"):
		_, password, _ := r.BasicAuth()
		return password, true
	}
	return "", true // given, and nothing that is understood
}

// remote is the part of the address that one party holds: an IPv4 address, or the /64 of an IPv6 address.
func remote(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	host, _, _ = strings.Cut(host, "%")
	ip := net.ParseIP(host)
	if ip == nil {
		return host
	}
	if ip.To4() == nil {
		return ip.Mask(net.CIDRMask(64, 128)).String()
	}
	return ip.String()
}

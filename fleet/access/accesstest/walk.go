// Package accesstest walks a route table from outside: a test of any part of the manager that has routes calls Walk
// with the whole table, and fails when a route answers a stranger.
package accesstest

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/dhowfleet/dhow/fleet/access"
	"github.com/dhowfleet/dhow/protocol/transport"
)

// wildcard is a {name} of a http.ServeMux pattern.
var wildcard = regexp.MustCompile(`\{[^}]*\}`)

// Walk requests every route without credentials, under every name of the server, with every method that the route
// takes. It fails unless each is refused with 401 or 403 and its handler left alone, but for the patterns named in
// public, which must be exactly those with a public rule. The enrolment routes count as public under the enrolment
// name only.
func Walk(t testing.TB, config access.Config, routes []access.Route, public ...string) {
	t.Helper()
	reached := ""
	var open []string
	watched := slices.Clone(routes)
	for i := range watched {
		pattern := watched[i].Pattern
		watched[i].Handler = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = pattern })
	}
	gate, err := access.New(config, watched)
	if err != nil {
		t.Fatal(err)
	}
	for _, route := range watched {
		for _, audience := range []transport.Audience{transport.AudiencePublic, transport.AudienceEnrol, transport.AudienceNode} {
			for _, r := range requests(route.Pattern) {
				reached = ""
				w := httptest.NewRecorder()
				gate.ServeHTTP(w, r.WithContext(transport.WithAudience(r.Context(), audience)))
				switch {
				case reached == route.Pattern && audience == transport.AudienceEnrol && route.Rule.String() == access.Enrolment().String():
				case reached == route.Pattern:
					if !slices.Contains(open, route.Pattern) {
						open = append(open, route.Pattern)
					}
				case reached != "":
					t.Errorf("%s %s was taken for the route %q, not %q", r.Method, r.URL.Path, reached, route.Pattern)
				case w.Code != http.StatusUnauthorized && w.Code != http.StatusForbidden:
					t.Errorf("%s %s (%s) without credentials: %d, want 401 or 403", r.Method, r.URL.Path, audience, w.Code)
				}
			}
		}
	}
	for _, pattern := range open {
		if !slices.Contains(public, pattern) {
			t.Errorf("%q lets in strangers, and is not among what is meant to be public", pattern)
		}
	}
	for _, pattern := range public {
		if !slices.Contains(open, pattern) {
			t.Errorf("%q is meant to be public, and refuses strangers or is not a route", pattern)
		}
	}
}

// requests makes one request of each method that a pattern takes.
func requests(pattern string) []*http.Request {
	methods := []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}
	path := pattern
	if method, rest, ok := strings.Cut(pattern, " "); ok {
		methods, path = []string{method}, strings.TrimSpace(rest)
	}
	path = wildcard.ReplaceAllStringFunc(path, func(w string) string {
		if w == "{$}" {
			return ""
		}
		return "x"
	})
	var out []*http.Request
	for _, m := range methods {
		out = append(out, httptest.NewRequest(m, path, nil))
	}
	return out
}

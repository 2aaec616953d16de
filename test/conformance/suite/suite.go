// Package suite runs checks against a server and says how each ended.
//
// New takes where the server is; Learn asks it for its extensions and models and makes, for each model, a request that it
// answers; Run makes the checks one after the other. A check is a function of a Run, which sends requests for it and
// keeps what was sent and got, so that a failure can be read. Checks see a server only through what it answers.
//
// A Suite is used by one goroutine; a check that asks several things at once makes a Run of its own for each (Fork). Every
// request has a time limit, every answer a limit of size; Learn and Run block for as long as the server takes.
package suite

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Options say where the server is and what may be done with it.
type Options struct {
	URL       string             // of REST
	Header    http.Header        // sent with every request, gRPC too
	Models    []string           // to be used; none: those of the repository index
	Shapes    map[string][]int64 // by input, or by model/input
	Fixture   string             // "simple", or ""
	Control   string             // a model that may be unloaded and loaded
	Group     string             // only this one's checks; "": all
	Timeout   time.Duration      // of one request
	MaxModels int
}

// Scope says how often a check runs.
type Scope int

// Once is for the server, Each for every model that answers, First for the first of those with which it can be made.
const (
	Once Scope = iota
	Each
	First
)

// Check is one rule of the protocol.
type Check struct {
	Group, Name, About string
	Needs              string // an extension that the server must advertise
	Scope              Scope
	Run                func(*Run) error // nil: passed; an error made by Skip: skipped; else failed
}

type skipped struct{ reason string }

func (s *skipped) Error() string { return s.reason }

// Skip is what a check returns that cannot be made here, and why.
func Skip(format string, args ...any) error { return &skipped{fmt.Sprintf(format, args...)} }

// Status of a check that was made.
const (
	Pass    = "PASS"
	Fail    = "FAIL"
	Skipped = "SKIP"
)

// Outcome is how a check ended.
type Outcome struct {
	Group     string     `json:"group"`
	Check     string     `json:"check"`
	Model     string     `json:"model,omitempty"`
	Status    string     `json:"status"`
	Detail    string     `json:"detail,omitempty"`
	Exchanges []Exchange `json:"exchanges,omitempty"` // of a failed check
}

// Suite is the server under test and what is known of it.
type Suite struct {
	Options    Options
	Extensions []string
	Models     []*Model // that answer
	Unusable   []*Model
	client     *http.Client
}

// New returns a suite that knows nothing yet.
func New(o Options) *Suite {
	o.URL = strings.TrimRight(o.URL, "/")
	if !strings.Contains(o.URL, "://") {
		o.URL = "http://" + o.URL
	}
	// Compression is asked for by the checks that are about it, and by no other.
	return &Suite{Options: o, client: &http.Client{
		Timeout:       o.Timeout,
		Transport:     &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 32},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Has reports whether the server advertises the extension.
func (s *Suite) Has(extension string) bool { return slices.Contains(s.Extensions, extension) }

// Knows reports whether a model of that name was found.
func (s *Suite) Knows(name string) bool {
	named := func(m *Model) bool { return m.Name == name }
	return slices.ContainsFunc(s.Models, named) || slices.ContainsFunc(s.Unusable, named)
}

// Run makes every check and tells of each as it ends.
func (s *Suite) Run(ctx context.Context, checks []Check, tell func(Outcome)) []Outcome {
	var all []Outcome
	for _, c := range checks {
		if s.Options.Group != "" && s.Options.Group != c.Group {
			continue
		}
		for _, out := range s.outcomes(ctx, c) {
			all = append(all, out)
			tell(out)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return all
}

// outcomes makes a check as often as its scope says.
func (s *Suite) outcomes(ctx context.Context, c Check) []Outcome {
	if c.Scope == Once {
		return []Outcome{s.one(ctx, c, nil)}
	}
	if len(s.Models) == 0 {
		return []Outcome{{Group: c.Group, Check: c.Name, Status: Skipped, Detail: "there is no model that answers"}}
	}
	var all []Outcome
	for _, m := range s.Models {
		if ctx.Err() != nil {
			break
		}
		out := s.one(ctx, c, m)
		if c.Scope == First {
			if all = []Outcome{out}; out.Status != Skipped {
				break
			}
			continue
		}
		all = append(all, out)
	}
	return all
}

func (s *Suite) one(ctx context.Context, c Check, m *Model) Outcome {
	out := Outcome{Group: c.Group, Check: c.Name, Status: Pass}
	if m != nil {
		out.Model = m.Name
	}
	if c.Needs != "" && !s.Has(c.Needs) {
		out.Status, out.Detail = Skipped, fmt.Sprintf("the server does not advertise the extension %q", c.Needs)
		return out
	}
	r := &Run{Context: ctx, Suite: s, Model: m}
	err := c.Run(r)
	var why *skipped
	switch {
	case err == nil:
	case errors.As(err, &why):
		out.Status, out.Detail = Skipped, why.reason
	default:
		out.Status, out.Detail, out.Exchanges = Fail, err.Error(), r.sent
	}
	return out
}

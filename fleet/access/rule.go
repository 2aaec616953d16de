package access

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/dhowfleet/dhow/protocol/identity"
	"github.com/dhowfleet/dhow/protocol/transport"
)

// Role is what an operator may do.
type Role string

// Admin may do everything an operator can. The token that dhow-fleet init prints has this role.
const Admin Role = "admin"

// Principal is who was let in.
type Principal struct {
	// Name is an operator's token's name, or a node's id; empty when anybody may call.
	Name string
	// Role is set for operators.
	Role Role
	// Node is set for nodes.
	Node *identity.Node
}

// Anonymous reports whether nobody in particular was let in.
func (p Principal) Anonymous() bool { return p.Name == "" }

type principalKey struct{}

// PrincipalFrom returns who was let in by the gate; false when the request did not come through it.
func PrincipalFrom(ctx context.Context) (Principal, bool) {
	p, ok := ctx.Value(principalKey{}).(Principal)
	return p, ok
}

// WithPrincipal returns a context that says p was let in.
func WithPrincipal(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// Rule says who may call a route. The zero Rule lets nobody in and is refused by New; rules are made by the functions
// below and do not change.
type Rule struct {
	text   string
	public bool
	judge  func(*visit) (Principal, error)
}

// String says the rule in words, as docs and tests show it.
func (r Rule) String() string {
	if r.judge == nil {
		return "nobody"
	}
	return r.text
}

// valid reports whether the rule says anything.
func (r Rule) valid() bool { return r.judge != nil }

// errCredentials: come back with credentials. Other errors: these will not do.
var errCredentials = errors.New("this needs an operator's token")

// forbidden is a refusal that names what is missing.
type forbidden struct{ text string }

func (f *forbidden) Error() string { return f.text }

func forbid(format string, args ...any) error { return &forbidden{fmt.Sprintf(format, args...)} }

// Public lets anybody in, under any name of the server. The reason is for the reader of the table.
func Public(reason string) Rule {
	return Rule{text: "anybody: " + reason, public: true, judge: func(*visit) (Principal, error) { return Principal{}, nil }}
}

// Enrolment lets in whoever speaks to the server's enrolment name; the join token inside the message is checked by the
// handler.
func Enrolment() Rule {
	return Rule{text: "anybody with a join token, under the enrolment name", judge: func(v *visit) (Principal, error) {
		if v.audience != transport.AudienceEnrol {
			return Principal{}, forbid("this is called under the server name %s", identity.EnrolServerName)
		}
		return Principal{}, nil
	}}
}

// Nodes lets in enrolled nodes whose certificate is not expired.
func Nodes() Rule { return nodes("nodes", false) }

// NodesToRenew lets in enrolled nodes, also those whose certificate expired within the time that the transport allows.
func NodesToRenew() Rule { return nodes("nodes, with a certificate that expired lately too", true) }

func nodes(text string, expired bool) Rule {
	return Rule{text: text, judge: func(v *visit) (Principal, error) {
		if v.audience != transport.AudienceNode || v.peer == nil {
			return Principal{}, forbid("this is for nodes, which present a certificate under the server name %s", identity.NodeServerName)
		}
		if v.peer.Expired && !expired {
			return Principal{}, forbid("the node's certificate expired: renew it first")
		}
		node := v.peer.Node
		return Principal{Name: node.ID, Node: &node}, nil
	}}
}

// Operators lets in operators of any of the given roles.
func Operators(roles ...Role) Rule {
	names := make([]string, len(roles))
	for i, r := range roles {
		names[i] = string(r)
	}
	return Rule{text: "operators: " + strings.Join(names, ", "), judge: func(v *visit) (Principal, error) {
		// A node's certificate and a token in one request would leave open who speaks.
		if v.audience != transport.AudiencePublic {
			return Principal{}, forbid("operators call under the manager's own host name")
		}
		p, err := v.operator()
		if err != nil {
			return Principal{}, err
		}
		if !slices.Contains(roles, p.Role) {
			return Principal{}, forbid("%s has the role %q, this needs %s", p.Name, p.Role, strings.Join(names, " or "))
		}
		return p, nil
	}}
}

// When narrows the rule to requests that match; what says in words which they are.
func (r Rule) When(what string, match func(*http.Request) bool) Rule {
	if r.judge == nil || match == nil {
		return Rule{}
	}
	return Rule{text: r.text + " (" + what + ")", judge: func(v *visit) (Principal, error) {
		p, err := r.judge(v)
		if err == nil && !match(v.request) {
			return Principal{}, forbid("this is allowed only for: %s", what)
		}
		return p, err
	}}
}

// AnyOf lets in whom any of the rules lets in. The rules are asked in order; when none agrees, a request for
// credentials is preferred as the answer, since that is what the caller can do something about.
func AnyOf(rules ...Rule) Rule {
	texts := make([]string, len(rules))
	public := false
	for i, r := range rules {
		if r.judge == nil {
			return Rule{}
		}
		texts[i], public = r.text, public || r.public
	}
	if len(rules) == 0 {
		return Rule{}
	}
	return Rule{text: strings.Join(texts, "; "), public: public, judge: func(v *visit) (Principal, error) {
		var refusal error
		for _, r := range rules {
			p, err := r.judge(v)
			if err == nil {
				return p, nil
			}
			// Who asks under the nodes' name is told what a node lacks, others what an operator lacks.
			var f *forbidden
			if refusal == nil || !errors.As(err, &f) {
				refusal = err
			}
		}
		return Principal{}, refusal
	}}
}

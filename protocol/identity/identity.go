// Package identity says who is who in a fleet: the names of nodes as SPIFFE ids, the names under which a manager is
// spoken to, when a certificate is to be believed, and the format of join tokens.
//
// A node is named by its place: spiffe://<trust domain>/region/<region>/site/<site>/node/<id>, carried as the one URI
// of its certificate, so that a node cannot speak for another region. Everything here is a function of its arguments:
// nothing blocks, and all of it may be called from any goroutine.
package identity

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
)

// The server names of a manager. They are carried in the TLS handshake and never looked up in DNS. A manager asks for a
// client certificate under NodeServerName only, so that a browser that opens the dashboard is never prompted for one.
const (
	// NodeServerName is what enrolled nodes ask for.
	NodeServerName = "node.dhow.internal"
	// EnrolServerName is what a node without a certificate asks for.
	EnrolServerName = "enrol.dhow.internal"
)

const (
	scheme         = "spiffe://"
	maxTrustDomain = 255
	maxName        = 63
)

// Node is the full name of a node.
type Node struct {
	TrustDomain string // of the fleet, a DNS name such as "fleet.example.com"
	Region      string
	Site        string
	ID          string
}

// URI returns the node's SPIFFE id. It is only meaningful for a node that Validate accepts.
func (n Node) URI() string {
	return scheme + n.TrustDomain + "/region/" + n.Region + "/site/" + n.Site + "/node/" + n.ID
}

func (n Node) String() string { return n.URI() }

// Validate returns what is wrong with the names of n, or nil.
func (n Node) Validate() error {
	if err := ValidTrustDomain(n.TrustDomain); err != nil {
		return err
	}
	for _, part := range []struct{ what, name string }{{"region", n.Region}, {"site", n.Site}, {"node id", n.ID}} {
		if err := ValidName(part.name); err != nil {
			return fmt.Errorf("%s: %w", part.what, err)
		}
	}
	return nil
}

// ParseURI reads a node's SPIFFE id. It accepts exactly what Node.URI writes: no port, no query, no percent-encoding,
// no second spelling of the same node.
func ParseURI(uri string) (Node, error) {
	rest, ok := strings.CutPrefix(uri, scheme)
	if !ok {
		return Node{}, fmt.Errorf("cannot read node id %.300q: it does not start with %s", uri, scheme)
	}
	parts := strings.Split(rest, "/")
	if len(parts) != 7 || parts[1] != "region" || parts[3] != "site" || parts[5] != "node" {
		return Node{}, fmt.Errorf("cannot read node id %.300q: it is not of the form %s<trust domain>/region/<region>/site/<site>/node/<id>", uri, scheme)
	}
	n := Node{TrustDomain: parts[0], Region: parts[2], Site: parts[4], ID: parts[6]}
	if err := n.Validate(); err != nil {
		return Node{}, fmt.Errorf("cannot read node id %.300q: %w", uri, err)
	}
	return n, nil
}

// FromCertificate returns the node that a certificate names. The certificate must carry exactly one URI and must not be
// an authority's. It does not check who signed it; NodeTrust.Verify does.
func FromCertificate(cert *x509.Certificate) (Node, error) {
	switch {
	case cert == nil:
		return Node{}, errors.New("cannot read the certificate's node: there is no certificate")
	case cert.IsCA:
		return Node{}, errors.New("cannot read the certificate's node: it is an authority's certificate")
	case len(cert.URIs) != 1:
		return Node{}, fmt.Errorf("cannot read the certificate's node: it has %d URIs, not one", len(cert.URIs))
	}
	return ParseURI(cert.URIs[0].String())
}

// ValidName returns an error unless s is a DNS label: 1 to 63 lower-case letters, digits and hyphens, beginning and
// ending with a letter or a digit. Regions, sites, nodes, models and other resources are named so, which makes their
// names safe in paths, URLs, certificates and repository names.
func ValidName(s string) error {
	if s == "" {
		return errors.New("a name is missing")
	}
	if len(s) > maxName {
		return fmt.Errorf("the name %.70q has %d characters, at most %d are allowed", s, len(s), maxName)
	}
	for i := range len(s) {
		if !lowerAlphanumeric(s[i]) && s[i] != '-' {
			return fmt.Errorf("the name %q has characters other than lower-case letters, digits and hyphens", s)
		}
	}
	if s[0] == '-' || s[len(s)-1] == '-' {
		return fmt.Errorf("the name %q begins or ends with a hyphen", s)
	}
	return nil
}

// ValidTrustDomain returns an error unless s is one or more names as of ValidName, separated by dots, of at most 255
// characters in all.
func ValidTrustDomain(s string) error {
	if len(s) > maxTrustDomain {
		return fmt.Errorf("the trust domain has %d characters, at most %d are allowed", len(s), maxTrustDomain)
	}
	for label := range strings.SplitSeq(s, ".") {
		if err := ValidName(label); err != nil {
			return fmt.Errorf("the trust domain %q is not a DNS name: %w", s, err)
		}
	}
	return nil
}

func lowerAlphanumeric(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

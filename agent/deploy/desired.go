package deploy

import (
	"fmt"
	"regexp"

	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"

	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
	"github.com/dhowfleet/dhow/protocol/identity"
)

// Desired is a desired state that was checked.
type Desired struct {
	Copies []DesiredCopy
}

// DesiredCopy is a copy that the node should hold.
type DesiredCopy struct {
	Key
	Role       syncv1.Role
	Millionths uint32
	Retry      uint32
	Rollout    string
}

var versionSyntax = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)

// ParseDesired reads the bytes of a desired state and checks everything that the node relies on: names that become
// file names, digests, roles, and shares that sum to the whole. A state that does not hold is refused whole, since half
// of one would be a state that nobody wanted.
func ParseDesired(state []byte) (*syncv1.DesiredState, *Desired, error) {
	var m syncv1.DesiredState
	if err := proto.Unmarshal(state, &m); err != nil {
		return nil, nil, fmt.Errorf("cannot read the desired state: %w", err)
	}
	if len(m.GetCopies()) > MaxCopies {
		return nil, nil, fmt.Errorf("the desired state has %d copies, at most %d are allowed", len(m.GetCopies()), MaxCopies)
	}
	d := &Desired{}
	seen := map[Key]bool{}
	shares := map[string]uint64{}
	for _, c := range m.GetCopies() {
		k := Key{Model: c.GetModel(), Version: c.GetVersion(), Digest: c.GetManifestDigest()}
		if err := identity.ValidName(k.Model); err != nil {
			return nil, nil, fmt.Errorf("the desired state names the model %.80q: %w", k.Model, err)
		}
		if !versionSyntax.MatchString(k.Version) {
			return nil, nil, fmt.Errorf("the desired state names the version %.80q of %s, which is no version", k.Version, k.Model)
		}
		if err := digest.Digest(k.Digest).Validate(); err != nil {
			return nil, nil, fmt.Errorf("the desired state names the digest %.80q of %s: %w", k.Digest, k, err)
		}
		if seen[k] {
			return nil, nil, fmt.Errorf("the desired state names %s twice", k)
		}
		seen[k] = true
		switch c.GetRole() {
		case syncv1.Role_ROLE_BASELINE, syncv1.Role_ROLE_CANDIDATE:
			shares[k.Model] += uint64(c.GetTrafficMillionths())
		case syncv1.Role_ROLE_SHADOW:
			if c.GetTrafficMillionths() != 0 {
				return nil, nil, fmt.Errorf("the desired state gives the shadow %s a share of the requests", k)
			}
		default:
			return nil, nil, fmt.Errorf("the desired state gives %s the role %d, which this agent does not know", k, c.GetRole())
		}
		d.Copies = append(d.Copies, DesiredCopy{Key: k, Role: c.GetRole(), Millionths: c.GetTrafficMillionths(), Retry: c.GetRetry(), Rollout: c.GetRollout()})
	}
	for _, c := range d.Copies {
		if sum := shares[c.Model]; sum != Whole {
			return nil, nil, fmt.Errorf("the desired state's shares of %s sum to %d millionths, not to %d", c.Model, sum, Whole)
		}
	}
	return &m, d, nil
}

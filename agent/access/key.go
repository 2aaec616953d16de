package access

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/dhowfleet/dhow/protocol/identity"
)

// KindServingKey is the kind of a key's document.
const KindServingKey = "ServingKey"

const (
	maxKey     = 256 // bytes of a key that is worth hashing
	keyPrefix  = "dhow_"
	hashPrefix = "sha256:"

	maxPerMinute  = 6_000_000
	maxBurst      = 1_000_000
	maxConcurrent = 100_000
	maxModels     = 1000
	maxPattern    = 256
)

// Hash is the SHA-256 of a key.
type Hash [sha256.Size]byte

// HashOf returns the hash of a key.
func HashOf(key string) Hash { return sha256.Sum256([]byte(key)) }

// String is the form of documents.
func (h Hash) String() string { return hashPrefix + hex.EncodeToString(h[:]) }

func parseHash(s string) (h Hash, err error) {
	text, ok := strings.CutPrefix(s, hashPrefix)
	b, err := hex.DecodeString(text)
	if !ok || err != nil || len(b) != len(h) {
		return h, errors.New("it is sha256: and 64 hexadecimal digits, as dhow-agent key create prints it")
	}
	return Hash(b), nil
}

// NewKey makes a key: 256 random bits.
func NewKey() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // it ends the program rather than fail
	return keyPrefix + base64.RawURLEncoding.EncodeToString(b[:])
}

// Key is what a document says of a key, without the key.
type Key struct {
	Name     string
	Hash     Hash
	Groups   []Group  // or All
	Models   []string // names or patterns with '*'; none means every model
	Quota    Quota
	Priority uint64    // of its requests, 1 the most urgent; 0: the model's
	Expires  time.Time // zero: never
}

// set returns the groups as a set.
func (k *Key) set() set {
	var s set
	for _, g := range k.Groups {
		if g == All {
			return everything
		}
		s |= g.set()
	}
	return s
}

// Validate says what cannot be, as path and sentence for each problem.
func (k *Key) Validate() error {
	var problems []error
	k.check(func(path, message string) { problems = append(problems, errors.New(path+": "+message)) })
	return errors.Join(problems...)
}

func (k *Key) check(fail func(path, message string)) {
	if err := identity.ValidName(k.Name); err != nil {
		fail("metadata.name", err.Error())
	}
	if k.Hash == (Hash{}) {
		fail("spec.hash", "missing: write what dhow-agent key create prints")
	}
	if len(k.Groups) == 0 {
		fail("spec.groups", "missing: write some of "+known()+", or all")
	}
	for _, g := range k.Groups {
		if g != All && g.set() == 0 {
			fail("spec.groups", "there is no group "+clip(string(g))+": write some of "+known()+", or all")
		}
	}
	if len(k.Models) > maxModels {
		fail("spec.models", fmt.Sprintf("%d models, at most %d: use patterns such as shop-*", len(k.Models), maxModels))
	}
	for _, m := range k.Models {
		if m == "" || len(m) > maxPattern {
			fail("spec.models", fmt.Sprintf("%s is no name or pattern of 1 to %d bytes", clip(m), maxPattern))
		}
	}
	for _, n := range []struct {
		path        string
		value, most int
	}{
		{"spec.quota.requestsPerMinute", k.Quota.RequestsPerMinute, maxPerMinute},
		{"spec.quota.burst", k.Quota.Burst, maxBurst},
		{"spec.quota.concurrent", k.Quota.Concurrent, maxConcurrent},
	} {
		if n.value < 0 || n.value > n.most {
			fail(n.path, fmt.Sprintf("%d is not between 0 and %d", n.value, n.most))
		}
	}
	if k.Quota.Burst > 0 && k.Quota.RequestsPerMinute == 0 {
		fail("spec.quota.burst", "it needs requestsPerMinute, which says how fast it is refilled")
	}
}

func known() string { return join(Groups()) }

// Document returns the key's document, to be put into the file.
func (k *Key) Document() ([]byte, error) {
	type quota struct {
		RequestsPerMinute int `yaml:"requestsPerMinute,omitempty"`
		Burst             int `yaml:"burst,omitempty"`
		Concurrent        int `yaml:"concurrent,omitempty"`
	}
	var d struct {
		Kind     string
		Metadata struct{ Name string }
		Spec     struct {
			Hash     string
			Groups   []Group  `yaml:",flow"`
			Models   []string `yaml:",flow,omitempty"`
			Quota    quota    `yaml:",omitempty"`
			Priority uint64   `yaml:",omitempty"`
			Expires  string   `yaml:",omitempty"`
		}
	}
	d.Kind, d.Metadata.Name = KindServingKey, k.Name
	d.Spec.Hash, d.Spec.Groups, d.Spec.Models = k.Hash.String(), k.Groups, k.Models
	d.Spec.Quota, d.Spec.Priority = quota(k.Quota), k.Priority
	if !k.Expires.IsZero() {
		d.Spec.Expires = k.Expires.UTC().Format(time.RFC3339)
	}
	text, err := yaml.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("cannot write the key's document: %w", err)
	}
	return append([]byte("---\n"), text...), nil
}

// ParseExpiry reads a time (RFC 3339), or a day, whose end in UTC is meant.
func ParseExpiry(s string) (time.Time, error) {
	if t, err := time.Parse(time.DateOnly, s); err == nil {
		return t.AddDate(0, 0, 1), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, fmt.Errorf("%s is neither a day such as 2027-01-31 nor a time such as 2027-01-31T18:00:00Z", clip(s))
	}
	return t, nil
}

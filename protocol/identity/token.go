package identity

import (
	"encoding/base64"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
)

const (
	tokenPrefix    = "dhow-join-1"
	maxTokenLength = 512
	minSecret      = 16
	maxSecret      = 128
)

// JoinToken lets a machine join a fleet. It holds all that a machine needs to know of a manager besides its address:
// RootPin is the SHA-256 of the root certificate's DER, by which the machine recognises the manager on first contact.
//
// Secret must not be logged; ID names the token in logs and in audit.
type JoinToken struct {
	ID      string // 1 to 63 characters of A-Z, a-z, 0-9, "_" and "-"
	Secret  string // 16 to 128 characters of the same
	RootPin [32]byte
}

// String returns the token as an operator copies it: dhow-join-1.<id>.<secret>.<pin>.<checksum>. It contains the
// secret. The checksum is there to tell a token damaged in copying from one that the manager does not know.
func (t JoinToken) String() string {
	body := tokenPrefix + "." + t.ID + "." + t.Secret + "." + base64.RawURLEncoding.EncodeToString(t.RootPin[:])
	return body + "." + checksum(body)
}

// GoString keeps the secret out of what %#v prints.
func (t JoinToken) GoString() string { return fmt.Sprintf("identity.JoinToken{ID: %q}", t.ID) }

// Validate returns what is wrong with t, or nil. The error never contains the secret.
func (t JoinToken) Validate() error {
	if len(t.ID) < 1 || len(t.ID) > maxName || !tokenCharacters(t.ID) {
		return errors.New("the join token's id is not 1 to 63 letters, digits, hyphens and underscores")
	}
	if len(t.Secret) < minSecret || len(t.Secret) > maxSecret || !tokenCharacters(t.Secret) {
		return fmt.Errorf("the join token's secret is not %d to %d letters, digits, hyphens and underscores", minSecret, maxSecret)
	}
	if t.RootPin == [32]byte{} {
		return errors.New("the join token names no root certificate")
	}
	return nil
}

// ParseJoinToken reads what JoinToken.String writes. White space around it, as a file or a mail adds, is ignored. The
// error never contains any of the token.
func ParseJoinToken(s string) (JoinToken, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return JoinToken{}, errors.New("cannot read the join token: it is empty")
	}
	if len(s) > maxTokenLength {
		return JoinToken{}, fmt.Errorf("cannot read the join token: it has %d characters, at most %d are allowed", len(s), maxTokenLength)
	}
	parts := strings.Split(s, ".")
	if parts[0] != tokenPrefix {
		return JoinToken{}, fmt.Errorf("cannot read the join token: it does not start with %q", tokenPrefix+".")
	}
	if len(parts) != 5 || checksum(s[:len(s)-len(parts[len(parts)-1])-1]) != parts[len(parts)-1] {
		return JoinToken{}, errors.New("cannot read the join token: it is incomplete or was changed in copying")
	}
	pin, err := base64.RawURLEncoding.Strict().DecodeString(parts[3])
	if err != nil || len(pin) != 32 {
		return JoinToken{}, errors.New("cannot read the join token: its root certificate's digest is damaged")
	}
	t := JoinToken{ID: parts[1], Secret: parts[2], RootPin: [32]byte(pin)}
	if err := t.Validate(); err != nil {
		return JoinToken{}, fmt.Errorf("cannot read the join token: %w", err)
	}
	return t, nil
}

func checksum(s string) string { return fmt.Sprintf("%08x", crc32.ChecksumIEEE([]byte(s))) }

func tokenCharacters(s string) bool {
	for i := range len(s) {
		if c := s[i]; !lowerAlphanumeric(c) && (c < 'A' || c > 'Z') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

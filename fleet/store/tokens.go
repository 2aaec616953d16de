package store

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
	"github.com/dhowfleet/dhow/test/failpoint"
)

// TokenReason says why a token is refused.
type TokenReason string

// Reasons for which a token is refused. An unknown token and a wrong secret look the same.
const (
	TokenInvalid TokenReason = "invalid"
	TokenExpired TokenReason = "expired"
	TokenUsed    TokenReason = "used"
	TokenRevoked TokenReason = "revoked"
	TokenMoot    TokenReason = "site-gone"
	// TokenKeyRefused: the token is good, but not for this machine, which was revoked.
	TokenKeyRefused TokenReason = "key-refused"
)

// TokenError refuses a token.
type TokenError struct {
	Reason TokenReason
	text   string
}

func (e *TokenError) Error() string { return e.text }

func refuse(r TokenReason, format string, args ...any) error {
	return &TokenError{Reason: r, text: fmt.Sprintf(format, args...)}
}

var errInvalidToken = refuse(TokenInvalid, "the join token is not known here; ask for a new one with dhow node invite")

const (
	maxJoinTokens = 100_000
	maxUses       = 1_000_000
	maxNames      = 10_000 // suffixes tried for a name that is taken
)

// JoinTokenSpec describes a join token to be made.
type JoinTokenSpec struct {
	Region, Site    string
	Uses            uint32 // 0: one
	ExpiresAt       time.Time
	RequireApproval bool
}

// secret makes 26 characters that carry 130 random bits.
func secret() string { return strings.ToLower(rand.Text()) }

func hash(secret string) []byte {
	h := sha256.Sum256([]byte(secret))
	return h[:]
}

// CreateJoinToken makes a token for a site that is there and returns its secret, which is kept only as a hash.
func (s *Store) CreateJoinToken(ctx context.Context, spec JoinTokenSpec) (plain string, info *fleetv1.JoinToken, err error) {
	uses := max(1, spec.Uses)
	if uses > maxUses {
		return "", nil, fmt.Errorf("%w: a token may be used %d times at most", ErrConflict, maxUses)
	}
	plain = secret()
	info = &fleetv1.JoinToken{Id: secret()[:10], Region: spec.Region, Site: spec.Site, Uses: uses,
		ExpiresAt: timestamp(spec.ExpiresAt), RequireApproval: spec.RequireApproval}
	err = s.write(ctx, func(tx *sql.Tx) error {
		if err := checkSite(ctx, tx, spec.Region, spec.Site); err != nil {
			return err
		}
		// Tokens that were of no use for a month are forgotten, so that the table stays small.
		old := nanos(s.now().Add(-30 * 24 * time.Hour))
		if _, err := tx.ExecContext(ctx, `DELETE FROM join_tokens WHERE expires_at < $1
			AND NOT EXISTS (SELECT 1 FROM nodes WHERE nodes.token_id = join_tokens.id AND nodes.state = 'Pending')`, old); err != nil {
			return err
		}
		var n int
		if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM join_tokens`).Scan(&n); err != nil {
			return err
		}
		if n >= maxJoinTokens {
			return fmt.Errorf("%w: there are %d join tokens, more are not kept; use fewer with more uses", ErrConflict, n)
		}
		failpoint.Here("store/token")
		_, err := tx.ExecContext(ctx, `INSERT INTO join_tokens (id, secret_hash, region, site, uses, used, expires_at, require_approval, revoked, created_at)
			VALUES ($1, $2, $3, $4, $5, 0, $6, $7, 0, $8)`,
			info.Id, hash(plain), spec.Region, spec.Site, int64(uses), nanos(spec.ExpiresAt), toInt(spec.RequireApproval), nanos(s.now()))
		return err
	})
	if err != nil {
		return "", nil, err
	}
	return plain, info, nil
}

func checkSite(ctx context.Context, tx *sql.Tx, region, site string) error {
	r, err := getResource(ctx, tx, Key{KindSite, site})
	if err != nil {
		return err
	}
	if r.GetSite().GetSpec().GetRegion() != region {
		return fmt.Errorf("%w: site %q is in region %q, not in %q", ErrConflict, site, r.GetSite().GetSpec().GetRegion(), region)
	}
	return nil
}

type tokenRow struct {
	info *fleetv1.JoinToken
	hash []byte
}

const tokenColumns = `SELECT id, secret_hash, region, site, uses, used, expires_at, require_approval, revoked FROM join_tokens `

func queryTokens(ctx context.Context, tx *sql.Tx, where string, args ...any) ([]tokenRow, error) {
	rows, err := tx.QueryContext(ctx, tokenColumns+where, args...)
	if err != nil {
		return nil, fmt.Errorf("cannot read join tokens: %w", err)
	}
	defer rows.Close()
	var out []tokenRow
	for rows.Next() {
		t := tokenRow{info: &fleetv1.JoinToken{}}
		var uses, used, expires, approval, revoked int64
		if err := rows.Scan(&t.info.Id, &t.hash, &t.info.Region, &t.info.Site, &uses, &used, &expires, &approval, &revoked); err != nil {
			return nil, fmt.Errorf("cannot read a join token: %w", err)
		}
		t.info.Uses, t.info.Used = uint32(uses), uint32(used)
		t.info.ExpiresAt = timestamp(fromNanos(expires))
		t.info.RequireApproval, t.info.Revoked = approval != 0, revoked != 0
		out = append(out, t)
	}
	return out, rows.Err()
}

// ListJoinTokens returns all tokens, the newest first, without their secrets.
func (s *Store) ListJoinTokens(ctx context.Context) ([]*fleetv1.JoinToken, error) {
	var out []*fleetv1.JoinToken
	err := s.read(ctx, func(tx *sql.Tx) error {
		rows, err := queryTokens(ctx, tx, `ORDER BY created_at DESC, id`)
		for _, t := range rows {
			out = append(out, t.info)
		}
		return err
	})
	return out, err
}

// RevokeJoinToken makes a token useless. Nodes that enrolled with it stay.
func (s *Store) RevokeJoinToken(ctx context.Context, id string) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE join_tokens SET revoked = 1 WHERE id = $1`, id)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, fmt.Errorf("%w: there is no join token %q", ErrNotFound, id))
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM refused_keys WHERE token_id = $1`, id)
		return err
	})
}

// Enrolment is one use of a join token.
type Enrolment struct {
	TokenID, Secret string
	// KeyHash is the SHA-256 of the node's public key (its SubjectPublicKeyInfo in DER).
	KeyHash [32]byte
	// Name is the wished name, a valid one; when it is taken, a number is added.
	Name string
	// ID names the node if it is new.
	ID           string
	Protocol     uint32
	AgentVersion string
	Hardware     *syncv1.Hardware
	Now          time.Time
}

// UseJoinToken enrols a node, in one transaction: of any number of uses of a one-use token exactly one wins. The same
// token with the same key returns the node that it enrolled before, even after the token expired or was used up, so
// that a lost answer can be asked for again, unless the node was revoked and deleted: then the key is refused. Refusals
// are *TokenError.
func (s *Store) UseJoinToken(ctx context.Context, e Enrolment) (*Node, error) {
	// Look first without the writer's lock: guesses must not slow the fleet down.
	if err := s.read(ctx, func(tx *sql.Tx) error { _, err := usableToken(ctx, tx, e); return err }); err != nil {
		return nil, err
	}
	var node *Node
	err := s.write(ctx, func(tx *sql.Tx) error {
		token, err := usableToken(ctx, tx, e)
		if err != nil {
			return err
		}
		again, err := queryNodes(ctx, tx, `WHERE n.token_id = $1 AND n.key_hash = $2`, e.TokenID, e.KeyHash[:])
		if err != nil {
			return err
		}
		if len(again) > 0 {
			node = again[0]
			return errUnchanged
		}
		if expires := token.GetExpiresAt(); expires != nil && !e.Now.Before(expires.AsTime()) {
			return refuse(TokenExpired, "the join token expired at %s; ask for a new one with dhow node invite", expires.AsTime().Format(time.RFC3339))
		}
		if token.GetUsed() >= token.GetUses() {
			return refuse(TokenUsed, "the join token was used by another machine already (%d of %d uses); ask for a new one with dhow node invite", token.GetUsed(), token.GetUses())
		}
		if err := checkSite(ctx, tx, token.GetRegion(), token.GetSite()); err != nil {
			return refuse(TokenMoot, "the join token is for site %q of region %q, which is no longer there; ask for a new one with dhow node invite", token.GetSite(), token.GetRegion())
		}
		if _, err := tx.ExecContext(ctx, `UPDATE join_tokens SET used = used + 1 WHERE id = $1`, e.TokenID); err != nil {
			return err
		}
		if node, err = s.insertNode(ctx, tx, e, token); err != nil {
			return err
		}
		failpoint.Here("store/enrol")
		return nil
	})
	if err != nil {
		return nil, err
	}
	failpoint.Here("store/enrol-committed")
	return node, nil
}

// usableToken finds the token of an enrolment and refuses it when it brings in nobody, or not this machine.
func usableToken(ctx context.Context, tx *sql.Tx, e Enrolment) (*fleetv1.JoinToken, error) {
	rows, err := queryTokens(ctx, tx, `WHERE id = $1`, e.TokenID)
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, errInvalidToken
	}
	if subtle.ConstantTimeCompare(rows[0].hash, hash(e.Secret)) != 1 {
		return nil, errInvalidToken
	}
	if rows[0].info.GetRevoked() {
		return nil, refuse(TokenRevoked, "the join token was revoked; ask for a new one with dhow node invite")
	}
	return rows[0].info, checkRefused(ctx, tx, e)
}

func (s *Store) insertNode(ctx context.Context, tx *sql.Tx, e Enrolment, token *fleetv1.JoinToken) (*Node, error) {
	name, err := freeName(ctx, tx, e.Name)
	if err != nil {
		return nil, err
	}
	state := NodeActive
	if token.GetRequireApproval() {
		state = NodePending
	}
	report, err := proto.Marshal(&syncv1.ReportRequest{Hardware: e.Hardware, AgentVersion: e.AgentVersion})
	if err != nil {
		return nil, fmt.Errorf("cannot write the facts of node %q: %w", name, err)
	}
	v, err := take(ctx, tx, 1)
	if err != nil {
		return nil, err
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO nodes (id, name, version, region, site, token_id, key_hash, state, revoked_reason, labels, protocol,
		certificate_serial, certificate_expires_at, connection, transport, last_seen_at, report, ahead, created_at, updated_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, '', $9, $10, '', 0, $11, '', 0, $12, 0, $13, $14)`,
		e.ID, name, int64(v), token.GetRegion(), token.GetSite(), e.TokenID, e.KeyHash[:], state, []byte("{}"), int64(e.Protocol),
		Enrolling, bytesOf(report), nanos(e.Now), nanos(e.Now)); err != nil {
		return nil, fmt.Errorf("cannot write node %q: %w", name, err)
	}
	return getNode(ctx, tx, "id", e.ID)
}

// freeName returns the wished name, or the first of name-2, name-3 and so on that is free and no longer than a name may be.
func freeName(ctx context.Context, tx *sql.Tx, wish string) (string, error) {
	const longest = 63
	for i := 1; i <= maxNames; i++ {
		name := wish
		if i > 1 {
			suffix := fmt.Sprintf("-%d", i)
			name = strings.TrimRight(wish[:min(len(wish), longest-len(suffix))], "-") + suffix
		}
		var one int
		err := tx.QueryRowContext(ctx, `SELECT 1 FROM nodes WHERE name = $1`, name).Scan(&one)
		if errors.Is(err, sql.ErrNoRows) {
			return name, nil
		}
		if err != nil {
			return "", err
		}
	}
	return "", fmt.Errorf("%w: %d nodes are called %q already; give this one a name of its own", ErrConflict, maxNames, wish)
}

func toInt(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

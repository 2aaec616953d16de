// Package operators keeps the tokens by which operators speak to the manager.
//
// A token has a name, which stands in logs, and a secret of 130 random bits that is kept as a hash only. A revoked one
// stays, so that whoever still brings it is told what happened; its name is free again. Nothing is remembered between
// two calls and the database may be written by several processes, so a token that one of them revokes is refused by the
// others from the next Check on.
//
// A method that writes is one transaction, durable when it returns. It waits for the database's other writers, and
// those of other processes, and obeys its context; Check and List wait for nobody. All are safe for concurrent use.
package operators

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

	"github.com/dhowfleet/dhow/protocol/identity"
	"github.com/dhowfleet/dhow/test/failpoint"
)

var (
	// ErrUnknown: no operator has or had such a token.
	ErrUnknown = errors.New("the operator token is not known")
	// ErrRevoked: the token was one once.
	ErrRevoked = errors.New("the operator token was revoked")
	// ErrTaken: the name cannot be had.
	ErrTaken = errors.New("the name is taken")
	// ErrLast: without the token nobody would have its role.
	ErrLast = errors.New("it is the last one")
)

const (
	prefix     = "dhow-op-"
	maxGood    = 1000
	maxRevoked = 1000 // of more the oldest are forgotten, and unknown from then on
)

// Token is what is known of a token.
type Token struct {
	Name, Role string
	CreatedAt  time.Time
	RevokedAt  time.Time // zero: it is good
}

// Tokens are the tokens of a database.
type Tokens struct {
	write  Write
	reader *sql.DB
	now    func() time.Time
}

// Write runs do in one transaction, which holds the writer's lock from its beginning on and is durable when it returns
// nil. An error of do undoes it.
type Write func(ctx context.Context, do func(*sql.Tx) error) error

// New returns the tokens of a database, which has the table of fleet/store's schema.
func New(write Write, reader *sql.DB, now func() time.Time) *Tokens {
	return &Tokens{write, reader, now}
}

// Create makes a token and returns its secret, which is kept nowhere. It fails with ErrTaken, wrapped, when a good token
// has the name.
func (t *Tokens) Create(ctx context.Context, name, role string) (secret string, err error) {
	if err := identity.ValidName(name); err != nil {
		return "", fmt.Errorf("cannot name an operator token so: %w", err)
	}
	secret = prefix + strings.ToLower(rand.Text())
	err = t.write(ctx, func(tx *sql.Tx) error {
		var good, same int
		if err := tx.QueryRowContext(ctx, `SELECT COUNT(*), COUNT(CASE WHEN name = $1 THEN 1 END) FROM operator_tokens WHERE revoked_at = 0`, name).Scan(&good, &same); err != nil {
			return err
		}
		if same > 0 {
			return fmt.Errorf("%w: there is an operator token %q already; revoke it first, or choose another name", ErrTaken, name)
		}
		if good >= maxGood {
			return fmt.Errorf("%w: there are %d operator tokens, more are not kept; revoke those that nobody uses", ErrTaken, good)
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO operator_tokens (secret_hash, name, role, created_at, revoked_at) VALUES ($1, $2, $3, $4, 0)`,
			hash(secret), name, role, t.now().UnixNano())
		failpoint.Here("operators/create")
		return err
	})
	if err != nil {
		return "", err
	}
	failpoint.Here("operators/create-committed")
	return secret, nil
}

// Check returns whose token it is. It fails with ErrUnknown, or with ErrRevoked and the name that the token had.
func (t *Tokens) Check(ctx context.Context, secret string) (name, role string, err error) {
	// The lookup is by the hash of 130 random bits: its timing says nothing about a secret that one could get nearer to.
	h := hash(secret)
	var stored []byte
	var revoked int64
	err = t.reader.QueryRowContext(ctx, `SELECT name, role, secret_hash, revoked_at FROM operator_tokens WHERE secret_hash = $1`, h).Scan(&name, &role, &stored, &revoked)
	switch {
	case errors.Is(err, sql.ErrNoRows) || err == nil && subtle.ConstantTimeCompare(stored, h) != 1:
		return "", "", ErrUnknown
	case err != nil:
		return "", "", fmt.Errorf("cannot check an operator token: %w", err)
	case revoked != 0:
		return name, "", ErrRevoked
	}
	return name, role, nil
}

// List returns all tokens: the good ones by name, then the revoked ones, the latest first.
func (t *Tokens) List(ctx context.Context) ([]Token, error) {
	rows, err := t.reader.QueryContext(ctx, `SELECT name, role, created_at, revoked_at FROM operator_tokens
		ORDER BY CASE WHEN revoked_at = 0 THEN 0 ELSE 1 END, revoked_at DESC, name`)
	if err != nil {
		return nil, fmt.Errorf("cannot read operator tokens: %w", err)
	}
	defer rows.Close()
	var out []Token
	for rows.Next() {
		var k Token
		var created, revoked int64
		if err := rows.Scan(&k.Name, &k.Role, &created, &revoked); err != nil {
			return nil, fmt.Errorf("cannot read an operator token: %w", err)
		}
		k.CreatedAt = time.Unix(0, created).UTC()
		if revoked != 0 {
			k.RevokedAt = time.Unix(0, revoked).UTC()
		}
		out = append(out, k)
	}
	return out, rows.Err()
}

// Revoke makes a token useless for good; revoking it again changes nothing. It fails with ErrUnknown, and with ErrLast
// when it is the last good token of the role keep, both wrapped. An empty keep keeps none.
func (t *Tokens) Revoke(ctx context.Context, name, keep string) error {
	err := t.write(ctx, func(tx *sql.Tx) error {
		var role string
		err := tx.QueryRowContext(ctx, `SELECT role FROM operator_tokens WHERE name = $1 AND revoked_at = 0`, name).Scan(&role)
		if errors.Is(err, sql.ErrNoRows) {
			return known(ctx, tx, name)
		}
		if err != nil {
			return err
		}
		if keep != "" && role == keep {
			var others int
			if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM operator_tokens WHERE revoked_at = 0 AND role = $1 AND name <> $2`, keep, name).Scan(&others); err != nil {
				return err
			}
			if others == 0 {
				return fmt.Errorf("%w: no other operator token than %q has the role %s", ErrLast, name, keep)
			}
		}
		if _, err := tx.ExecContext(ctx, `UPDATE operator_tokens SET revoked_at = $1 WHERE name = $2 AND revoked_at = 0`, t.now().UnixNano(), name); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM operator_tokens WHERE revoked_at > 0 AND secret_hash NOT IN
			(SELECT secret_hash FROM operator_tokens WHERE revoked_at > 0 ORDER BY revoked_at DESC LIMIT $1)`, maxRevoked)
		failpoint.Here("operators/revoke")
		return err
	})
	if err == nil {
		failpoint.Here("operators/revoke-committed")
	}
	return err
}

// known tells a name whose token was revoked from one that none ever had.
func known(ctx context.Context, tx *sql.Tx, name string) error {
	var one int
	err := tx.QueryRowContext(ctx, `SELECT 1 FROM operator_tokens WHERE name = $1 LIMIT 1`, name).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("%w: there is none with the name %q", ErrUnknown, name)
	}
	return err
}

func hash(secret string) []byte {
	h := sha256.Sum256([]byte(secret))
	return h[:]
}

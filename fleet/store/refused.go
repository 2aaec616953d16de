package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// maxRefusedKeys bounds the keys that are remembered of one token. A token that brought in so many machines that were
// thrown out again is better revoked, which keeps out all of them.
const maxRefusedKeys = 1000

// deleteNode removes a node that is not active. What it delivered stays.
func deleteNode(ctx context.Context, tx *sql.Tx, name string) error {
	n, err := getNode(ctx, tx, "name", name)
	if err != nil {
		return err
	}
	if n.State == NodeActive {
		return fmt.Errorf("%w: node %q is active; revoke it before it is deleted", ErrConflict, name)
	}
	if err := rememberRefused(ctx, tx, n); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM nodes WHERE id = $1`, n.ID); err != nil {
		return fmt.Errorf("cannot delete node %q: %w", name, err)
	}
	return nil
}

// rememberRefused keeps a machine out whose node is about to be deleted: if it was revoked, the token that it came by
// brings it in no more. A token that is revoked or forgotten brings in nobody anyway.
func rememberRefused(ctx context.Context, tx *sql.Tx, n *Node) error {
	if n.State != NodeRevoked {
		return nil
	}
	tokens, err := queryTokens(ctx, tx, `WHERE id = $1 AND revoked = 0`, n.TokenID)
	if err != nil || len(tokens) == 0 {
		return err
	}
	var kept int
	if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM refused_keys WHERE token_id = $1`, n.TokenID).Scan(&kept); err != nil {
		return err
	}
	if kept >= maxRefusedKeys {
		return fmt.Errorf("%w: node %q cannot be deleted, since its join token would let the machine in again: %d revoked machines are remembered of the token, which is the most; revoke it first: dhow token revoke %s",
			ErrConflict, n.Name, kept, n.TokenID)
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO refused_keys (token_id, key_hash, node, reason) SELECT token_id, key_hash, name, revoked_reason FROM nodes WHERE id = $1`, n.ID)
	return err
}

// checkRefused refuses a machine that was revoked and deleted after it came in by the same token with the same key.
func checkRefused(ctx context.Context, tx *sql.Tx, e Enrolment) error {
	var node, reason string
	err := tx.QueryRowContext(ctx, `SELECT node, reason FROM refused_keys WHERE token_id = $1 AND key_hash = $2`, e.TokenID, e.KeyHash[:]).Scan(&node, &reason)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil
	case err != nil:
		return fmt.Errorf("cannot read refused keys: %w", err)
	case reason != "":
		reason = " (" + reason + ")"
	}
	return refuse(TokenKeyRefused, "this machine was node %q by the same join token and was revoked%s; to let it in again give it a new token: dhow node invite", node, reason)
}

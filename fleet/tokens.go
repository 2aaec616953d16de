package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/dhowfleet/dhow/fleet/access"
	"github.com/dhowfleet/dhow/fleet/config"
	"github.com/dhowfleet/dhow/fleet/store"
	"github.com/dhowfleet/dhow/fleet/store/operators"
)

// OperatorToken is what is known of an operator's token.
type OperatorToken = operators.Token

// NewOperatorToken makes another operator token with the role admin. Like all functions for operators' tokens it may be
// called while a manager runs on the folder: they change the database alone, which several processes may write, and
// not what the folder's lock is for.
func NewOperatorToken(ctx context.Context, c config.Config, name string) (secret string, err error) {
	err = withOperators(ctx, c, func(tokens *operators.Tokens) (err error) {
		secret, err = tokens.Create(ctx, name, string(access.Admin))
		return err
	})
	return secret, err
}

// OperatorTokens lists the operators' tokens, the revoked ones last.
func OperatorTokens(ctx context.Context, c config.Config) (list []OperatorToken, err error) {
	err = withOperators(ctx, c, func(tokens *operators.Tokens) (err error) {
		list, err = tokens.List(ctx)
		return err
	})
	return list, err
}

// RevokeOperatorToken makes a token useless for good; a manager that runs refuses it from its next request on. The last
// token of an administrator is revoked by force only, since without it nobody can operate the fleet.
func RevokeOperatorToken(ctx context.Context, c config.Config, name string, force bool) error {
	return withOperators(ctx, c, func(tokens *operators.Tokens) error {
		keep := string(access.Admin)
		if force {
			keep = ""
		}
		err := tokens.Revoke(ctx, name, keep)
		switch {
		case errors.Is(err, operators.ErrUnknown):
			return fmt.Errorf("there is no operator token %q; those that there are: dhow-fleet token list --data %s", name, c.Data)
		case errors.Is(err, operators.ErrLast):
			return fmt.Errorf("cannot revoke the operator token %q: it is the last one of an administrator, and without it nobody can operate the fleet; "+
				"make another first (dhow-fleet token --data %s --name NAME), or revoke it all the same with --force", name, c.Data)
		}
		return err
	})
}

func withOperators(ctx context.Context, c config.Config, do func(*operators.Tokens) error) (err error) {
	path := filepath.Join(c.Data, databaseFile)
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("%s holds no fleet manager: set it up with dhow-fleet init --data %s", c.Data, c.Data)
	}
	s, err := store.Open(ctx, path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return do(s.Operators())
}

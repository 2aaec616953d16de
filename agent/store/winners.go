package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// maxWinners bounds how many networks are remembered; the oldest are forgotten first.
const maxWinners = 64

// Winner is the transport that got through on a network; agent/uplink gives it its meaning.
type Winner struct {
	Protocol  string
	At        time.Time
	Demotions int
}

// Winner returns the transport that won last on a network, and whether one is known.
func (s *Store) Winner(ctx context.Context, network string) (Winner, bool, error) {
	var w Winner
	var at int64
	switch err := s.db.QueryRowContext(ctx, "SELECT protocol, at, demotions FROM winners WHERE network = ?", network).Scan(&w.Protocol, &at, &w.Demotions); {
	case errors.Is(err, sql.ErrNoRows):
		return Winner{}, false, nil
	case err != nil:
		return Winner{}, false, fmt.Errorf("cannot read which transport won: %w", err)
	}
	w.At = time.Unix(0, at)
	return w, true, nil
}

// PutWinner remembers the transport that won on a network.
func (s *Store) PutWinner(ctx context.Context, network string, w Winner) error {
	err := s.change(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO winners (network, protocol, at, demotions) VALUES (?, ?, ?, ?)
			ON CONFLICT (network) DO UPDATE SET protocol = excluded.protocol, at = excluded.at, demotions = excluded.demotions`,
			network, w.Protocol, w.At.UnixNano(), w.Demotions)
		if err == nil {
			_, err = tx.ExecContext(ctx, "DELETE FROM winners WHERE network IN (SELECT network FROM winners ORDER BY at DESC, network LIMIT -1 OFFSET ?)", maxWinners)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot remember which transport won: %w", err)
	}
	return nil
}

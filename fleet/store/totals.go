package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/dhowfleet/dhow/fleet/store/tally"
	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
	"github.com/dhowfleet/dhow/test/failpoint"
)

const (
	maxTotalsPerNode = 1000 // combinations of model, version and role
	maxSequence      = 1 << 62
)

// ErrDisorder: the sequence numbers of a delivery do not rise from one on.
var ErrDisorder = errors.New("sequence numbers do not rise")

// Deliver adds a node's aggregates to its totals in one transaction and returns the sequence number up to which all
// are taken in. What has a number up to that of an earlier delivery was added then and is left out, so that repeating a
// delivery changes nothing. An aggregate that makes no sense is left out for good, and counted: it would make no more
// sense when it came again.
func (s *Store) Deliver(ctx context.Context, nodeID string, aggregates []*syncv1.Aggregate) (acknowledged uint64, rejected int, err error) {
	previous := uint64(0)
	for _, a := range aggregates {
		if a.GetSequence() <= previous || a.GetSequence() > maxSequence {
			return 0, 0, fmt.Errorf("%w: %d comes after %d", ErrDisorder, a.GetSequence(), previous)
		}
		previous = a.GetSequence()
	}
	err = s.write(ctx, func(tx *sql.Tx) error {
		rejected = 0
		n, err := getNode(ctx, tx, "id", nodeID)
		if err != nil {
			return err
		}
		var mark counter
		err = tx.QueryRowContext(ctx, `SELECT sequence FROM deliveries WHERE node_id = $1`, nodeID).Scan(&mark)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		acknowledged = uint64(mark)
		sums := tally.Sums{}
		for _, a := range aggregates {
			if a.GetSequence() <= acknowledged {
				continue
			}
			acknowledged = a.GetSequence()
			if !sums.Add(a) {
				rejected++
			}
		}
		if acknowledged == uint64(mark) {
			return errUnchanged
		}
		left, err := saveTotals(ctx, tx, nodeID, sums)
		if err != nil {
			return err
		}
		rejected += left
		_, err = tx.ExecContext(ctx, `INSERT INTO deliveries (node_id, node, region, site, sequence, rejected) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (node_id) DO UPDATE SET sequence = excluded.sequence, rejected = deliveries.rejected + excluded.rejected`,
			nodeID, n.Name, n.Region, n.Site, int64(acknowledged), rejected)
		failpoint.Here("store/deliver")
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	failpoint.Here("store/deliver-committed")
	return acknowledged, rejected, nil
}

// saveTotals adds sums to what is stored, and returns how many found no room among the node's totals.
func saveTotals(ctx context.Context, tx *sql.Tx, nodeID string, sums tally.Sums) (left int, err error) {
	var rows int
	if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM totals WHERE node_id = $1`, nodeID).Scan(&rows); err != nil {
		return 0, err
	}
	for k, sum := range sums {
		var body []byte
		err := tx.QueryRowContext(ctx, `SELECT totals FROM totals WHERE node_id = $1 AND model = $2 AND version = $3 AND role = $4`,
			nodeID, k.Model, k.Version, int64(k.Role)).Scan(&body)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			if rows >= maxTotalsPerNode {
				left++
				continue
			}
			rows++
		case err != nil:
			return 0, err
		default:
			have := &syncv1.RequestTotals{}
			if err := proto.Unmarshal(body, have); err != nil {
				return 0, fmt.Errorf("the totals of model %q at node %q cannot be read: %w", k.Model, nodeID, err)
			}
			sum = tally.Plus(have, sum)
		}
		if body, err = proto.Marshal(sum); err != nil {
			return 0, fmt.Errorf("cannot write the totals of model %q: %w", k.Model, err)
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO totals (node_id, model, version, role, totals) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (node_id, model, version, role) DO UPDATE SET totals = excluded.totals`, nodeID, k.Model, k.Version, int64(k.Role), body); err != nil {
			return 0, err
		}
	}
	return left, nil
}

// TotalsFilter chooses totals; an empty field matches all.
type TotalsFilter struct{ Model, Region, Site, Node string }

// Totals returns what was delivered, by node, model, version and role. Nodes that were deleted are among them, after one
// that has their name now.
func (s *Store) Totals(ctx context.Context, f TotalsFilter) ([]*fleetv1.NodeTotals, error) {
	rows, err := s.reader.QueryContext(ctx, `SELECT d.node, d.region, d.site, d.node_id, CASE WHEN n.id IS NULL THEN 1 ELSE 0 END AS deleted, t.totals
		FROM totals t JOIN deliveries d ON d.node_id = t.node_id LEFT JOIN nodes n ON n.id = t.node_id
		WHERE ($1 = '' OR t.model = $1) AND ($2 = '' OR d.region = $2) AND ($3 = '' OR d.site = $3) AND ($4 = '' OR d.node = $4)
		ORDER BY d.node, deleted, d.node_id, t.model, t.version, t.role`, f.Model, f.Region, f.Site, f.Node)
	if err != nil {
		return nil, fmt.Errorf("cannot read totals: %w", err)
	}
	defer rows.Close()
	var out []*fleetv1.NodeTotals
	for rows.Next() {
		t := &fleetv1.NodeTotals{Totals: &syncv1.RequestTotals{}}
		var body []byte
		if err := rows.Scan(&t.Node, &t.Region, &t.Site, &t.NodeId, &t.NodeDeleted, &body); err != nil {
			return nil, fmt.Errorf("cannot read totals: %w", err)
		}
		if err := proto.Unmarshal(body, t.Totals); err != nil {
			return nil, fmt.Errorf("the totals of node %q cannot be read: %w", t.Node, err)
		}
		out = append(out, t)
	}
	return out, rows.Err()
}

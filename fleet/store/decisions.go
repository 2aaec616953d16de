package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
	"github.com/dhowfleet/dhow/test/failpoint"
)

// maxReleases is how many releases of one rollout are kept: the present one, and what it was before it was edited. It
// counts by rollout and not by model, so that the present release of no rollout is ever forgotten.
const maxReleases = 20

// Desired is what a node is told: bytes with the generation under which they were handed out.
type Desired struct {
	NodeID     string
	Generation uint64
	// Digest is "sha256:" and the hex digest of State.
	Digest string
	// State is a serialised dhow.sync.v1.DesiredState.
	State []byte
}

// Desired returns a node's desired state; its generation is zero when nothing was decided for the node yet.
func (s *Store) Desired(ctx context.Context, nodeID string) (Desired, error) {
	d := Desired{NodeID: nodeID}
	err := s.reader.QueryRowContext(ctx, `SELECT generation, digest, state FROM desired WHERE node_id = $1`, nodeID).Scan((*counter)(&d.Generation), &d.Digest, &d.State)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return d, fmt.Errorf("cannot read a desired state: %w", err)
	}
	return d, nil
}

// AllDesired returns every node's desired state by node id.
func (s *Store) AllDesired(ctx context.Context) (map[string]Desired, error) {
	rows, err := s.reader.QueryContext(ctx, `SELECT node_id, generation, digest, state FROM desired`)
	if err != nil {
		return nil, fmt.Errorf("cannot read desired states: %w", err)
	}
	defer rows.Close()
	out := map[string]Desired{}
	for rows.Next() {
		var d Desired
		if err := rows.Scan(&d.NodeID, (*counter)(&d.Generation), &d.Digest, &d.State); err != nil {
			return nil, fmt.Errorf("cannot read a desired state: %w", err)
		}
		out[d.NodeID] = d
	}
	return out, rows.Err()
}

// SetDesired stores the states of the given nodes in one transaction and returns what changed. A generation rises by
// one when, and only when, the bytes differ from those that are there. Nodes that are gone are left out.
func (s *Store) SetDesired(ctx context.Context, states map[string][]byte) ([]Desired, error) {
	var out []Desired
	err := s.write(ctx, func(tx *sql.Tx) error {
		for id, state := range states {
			sum := sha256.Sum256(state)
			d := Desired{NodeID: id, Digest: "sha256:" + hex.EncodeToString(sum[:]), State: state}
			var have string
			err := tx.QueryRowContext(ctx, `SELECT COALESCE(d.generation, 0), COALESCE(d.digest, '') FROM nodes n LEFT JOIN desired d ON d.node_id = n.id WHERE n.id = $1`, id).
				Scan((*counter)(&d.Generation), &have)
			if errors.Is(err, sql.ErrNoRows) || err == nil && have == d.Digest {
				continue
			}
			if err != nil {
				return err
			}
			d.Generation++
			if _, err := tx.ExecContext(ctx, `INSERT INTO desired (node_id, generation, digest, state) VALUES ($1, $2, $3, $4)
				ON CONFLICT (node_id) DO UPDATE SET generation = excluded.generation, digest = excluded.digest, state = excluded.state`,
				id, int64(d.Generation), d.Digest, bytesOf(state)); err != nil {
				return err
			}
			if err := s.touch(ctx, tx, id); err != nil {
				return err
			}
			out = append(out, d)
		}
		if len(out) == 0 {
			return errUnchanged
		}
		failpoint.Here("store/desired")
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot write desired states: %w", err)
	}
	failpoint.Here("store/desired-committed")
	return out, nil
}

// Release is a rollout that was complete once.
type Release struct {
	Rollout string
	// Sequence is the rollout's when it was complete: it orders releases, and tells an edited rollout from what it was.
	Sequence               uint64
	Model, Version, Digest string
	Region, Site           string
	// Millionths is the share of traffic that it asked for.
	Millionths  uint32
	Retry       uint32
	CompletedAt time.Time
}

// Releases returns all releases, oldest first.
func (s *Store) Releases(ctx context.Context) ([]Release, error) {
	rows, err := s.reader.QueryContext(ctx, `SELECT rollout, sequence, model, version, digest, region, site, millionths, retry, completed_at FROM releases ORDER BY sequence, rollout`)
	if err != nil {
		return nil, fmt.Errorf("cannot read releases: %w", err)
	}
	defer rows.Close()
	var out []Release
	for rows.Next() {
		var r Release
		var share, retry, completed int64
		if err := rows.Scan(&r.Rollout, (*counter)(&r.Sequence), &r.Model, &r.Version, &r.Digest, &r.Region, &r.Site, &share, &retry, &completed); err != nil {
			return nil, fmt.Errorf("cannot read a release: %w", err)
		}
		r.Millionths, r.Retry, r.CompletedAt = uint32(share), uint32(retry), fromNanos(completed)
		out = append(out, r)
	}
	return out, rows.Err()
}

// Decisions are what a look at the fleet led to, but for the desired states.
type Decisions struct {
	// Statuses are of Regions, Sites and Rollouts. That of a rollout counts only if the rollout still has the sequence
	// that the status carries: a decision about an older spec is dropped. Resources that are gone are left out.
	Statuses []*fleetv1.Resource
	// Releases are added under the same condition.
	Releases []Release
}

// CommitDecisions stores decisions in one transaction.
func (s *Store) CommitDecisions(ctx context.Context, d Decisions) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		changed := false
		for _, r := range d.Statuses {
			if r.GetKind() == KindRollout {
				if current, err := hasSequence(ctx, tx, r.GetMetadata().GetName(), r.GetRollout().GetStatus().GetSequence()); err != nil || !current {
					if err != nil {
						return err
					}
					continue
				}
			}
			did, err := s.updateStatus(ctx, tx, r)
			if err != nil && !errors.Is(err, ErrNotFound) {
				return err
			}
			changed = changed || did
		}
		for _, r := range d.Releases {
			current, err := hasSequence(ctx, tx, r.Rollout, r.Sequence)
			if err != nil {
				return err
			}
			if !current {
				continue
			}
			if err := s.addRelease(ctx, tx, r); err != nil {
				return err
			}
			changed = true
		}
		if !changed {
			return errUnchanged
		}
		failpoint.Here("store/decisions")
		return nil
	})
	if err != nil {
		return fmt.Errorf("cannot write decisions: %w", err)
	}
	failpoint.Here("store/decisions-committed")
	return nil
}

func (s *Store) addRelease(ctx context.Context, tx *sql.Tx, r Release) error {
	if _, err := tx.ExecContext(ctx, `INSERT INTO releases (rollout, sequence, model, version, digest, region, site, millionths, retry, completed_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (rollout, sequence) DO NOTHING`,
		r.Rollout, int64(r.Sequence), r.Model, r.Version, r.Digest, r.Region, r.Site, int64(r.Millionths), int64(r.Retry), nanos(r.CompletedAt)); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `DELETE FROM releases WHERE rollout = $1 AND sequence <=
		(SELECT sequence FROM releases WHERE rollout = $1 ORDER BY sequence DESC LIMIT 1 OFFSET $2)`, r.Rollout, maxReleases)
	return err
}

func hasSequence(ctx context.Context, tx *sql.Tx, rollout string, sequence uint64) (bool, error) {
	r, err := getResource(ctx, tx, Key{KindRollout, rollout})
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return r.GetRollout().GetStatus().GetSequence() == sequence, nil
}

// counter scans a BIGINT into a number that is never negative.
type counter uint64

func (c *counter) Scan(v any) error {
	n, ok := v.(int64)
	if !ok || n < 0 {
		return fmt.Errorf("%v is no counter", v)
	}
	*c = counter(n)
	return nil
}

package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
	"github.com/dhowfleet/dhow/test/failpoint"
)

// Kinds of resources. All but KindNode are declared by operators.
const (
	KindRegion  = "Region"
	KindSite    = "Site"
	KindModel   = "Model"
	KindRollout = "Rollout"
	KindNode    = "Node"
)

const (
	maxResourceBytes  = 1 << 20
	maxTombstones     = 10_000
	maxChangesAtATime = 1000
)

// Key names a resource.
type Key struct{ Kind, Name string }

// Change is one step of Apply: either Put or Delete is set.
type Change struct {
	// Put creates the resource or changes its labels and spec; its status and the managed fields of its metadata are
	// not looked at. Of a Node, only labels can be put, and only to one that is there.
	Put *fleetv1.Resource
	// Delete removes a resource. An Active node must be revoked before.
	Delete *Key
	// IfVersion, when not zero, makes the whole Apply fail with ErrConflict unless the resource has this version now.
	IfVersion uint64
}

// ChangeRecord tells of a resource's latest change.
type ChangeRecord struct {
	Kind, Name string
	Version    uint64
	Deleted    bool
	// Resource is the resource as it is now; nil when Deleted.
	Resource *fleetv1.Resource
}

// Apply makes all changes or none, and returns for each the resource as it is then (of a deletion: as it was last). A
// Put that changes nothing takes no new resource version. It fails with ErrConflict or ErrNotFound, wrapped.
func (s *Store) Apply(ctx context.Context, changes []Change) ([]*fleetv1.Resource, error) {
	out := make([]*fleetv1.Resource, len(changes))
	err := s.write(ctx, func(tx *sql.Tx) error {
		changed := false
		for i, c := range changes {
			var did bool
			var err error
			if c.Delete != nil {
				out[i], err = s.remove(ctx, tx, *c.Delete, c.IfVersion)
				did = true
			} else {
				out[i], did, err = s.put(ctx, tx, c.Put, c.IfVersion)
			}
			if err != nil {
				return err
			}
			changed = changed || did
		}
		if !changed {
			return errUnchanged
		}
		failpoint.Here("store/apply")
		return nil
	})
	if err != nil {
		return nil, err
	}
	failpoint.Here("store/apply-committed")
	return out, nil
}

func checkVersion(k Key, have *fleetv1.Resource, want uint64) error {
	switch {
	case want == 0:
		return nil
	case have == nil:
		return fmt.Errorf("%w: %s %q is not there, its resource version %d was expected", ErrConflict, k.Kind, k.Name, want)
	case have.GetMetadata().GetResourceVersion() != want:
		return fmt.Errorf("%w: %s %q has resource version %d by now, %d was expected; get it again and repeat the change",
			ErrConflict, k.Kind, k.Name, have.GetMetadata().GetResourceVersion(), want)
	}
	return nil
}

func (s *Store) put(ctx context.Context, tx *sql.Tx, r *fleetv1.Resource, ifVersion uint64) (*fleetv1.Resource, bool, error) {
	k := Key{r.GetKind(), r.GetMetadata().GetName()}
	if k.Kind == KindNode {
		return s.putNodeLabels(ctx, tx, r, ifVersion)
	}
	if k.Name == "" || bodyKind(r) != k.Kind {
		return nil, false, fmt.Errorf("%w: a resource of kind %q named %q cannot be stored with a body of kind %q", ErrConflict, k.Kind, k.Name, bodyKind(r))
	}
	have, err := getResource(ctx, tx, k)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, false, err
	}
	if err := checkVersion(k, have, ifVersion); err != nil {
		return nil, false, err
	}
	now := s.now()
	next := proto.Clone(r).(*fleetv1.Resource)
	next.Metadata = &fleetv1.Metadata{Name: k.Name, Labels: r.GetMetadata().GetLabels(), Generation: 1, CreatedAt: timestamppb.New(now)}
	clearStatus(next)
	newSpec := true
	if have != nil {
		newSpec = !proto.Equal(specOf(have), specOf(next))
		if !newSpec && sameLabels(have, next) {
			return have, false, nil
		}
		keepStatus(next, have)
		next.Metadata.CreatedAt = have.GetMetadata().GetCreatedAt()
		next.Metadata.Generation = have.GetMetadata().GetGeneration()
		if newSpec {
			next.Metadata.Generation++
		}
	}
	version, err := take(ctx, tx, 1)
	if err != nil {
		return nil, false, err
	}
	next.Metadata.ResourceVersion = version
	next.Metadata.UpdatedAt = timestamppb.New(now)
	if rollout := next.GetRollout(); rollout != nil && newSpec {
		if rollout.Status == nil {
			rollout.Status = &fleetv1.RolloutStatus{}
		}
		rollout.Status.Sequence = version
	}
	return next, true, saveResource(ctx, tx, next)
}

func (s *Store) remove(ctx context.Context, tx *sql.Tx, k Key, ifVersion uint64) (*fleetv1.Resource, error) {
	have, err := s.get(ctx, tx, k)
	if err != nil {
		return nil, err
	}
	if err := checkVersion(k, have, ifVersion); err != nil {
		return nil, err
	}
	switch k.Kind {
	case KindNode:
		if err := deleteNode(ctx, tx, k.Name); err != nil {
			return nil, err
		}
	case KindRollout:
		if _, err := tx.ExecContext(ctx, `DELETE FROM releases WHERE rollout = $1`, k.Name); err != nil {
			return nil, err
		}
		fallthrough
	default:
		_, err = tx.ExecContext(ctx, `DELETE FROM resources WHERE kind = $1 AND name = $2`, k.Kind, k.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot delete %s %q: %w", k.Kind, k.Name, err)
	}
	return have, bury(ctx, tx, k)
}

// bury leaves a tombstone and forgets the oldest.
func bury(ctx context.Context, tx *sql.Tx, k Key) error {
	version, err := take(ctx, tx, 1)
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO tombstones (version, kind, name) VALUES ($1, $2, $3)`, int64(version), k.Kind, k.Name); err != nil {
		return err
	}
	var floor int64
	err = tx.QueryRowContext(ctx, `SELECT version FROM tombstones ORDER BY version DESC LIMIT 1 OFFSET $1`, maxTombstones).Scan(&floor)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM tombstones WHERE version <= $1`, floor); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO meta (name, value) VALUES ('changes_floor', $1)
		ON CONFLICT (name) DO UPDATE SET value = excluded.value`, strconv.FormatInt(floor, 10))
	return err
}

// Get returns a resource or ErrNotFound, wrapped.
func (s *Store) Get(ctx context.Context, kind, name string) (*fleetv1.Resource, error) {
	var out *fleetv1.Resource
	err := s.read(ctx, func(tx *sql.Tx) (err error) {
		out, err = s.get(ctx, tx, Key{kind, name})
		return err
	})
	return out, err
}

func (s *Store) get(ctx context.Context, tx *sql.Tx, k Key) (*fleetv1.Resource, error) {
	if k.Kind == KindNode {
		n, err := getNode(ctx, tx, "name", k.Name)
		if err != nil {
			return nil, err
		}
		return n.resource(), nil
	}
	return getResource(ctx, tx, k)
}

// List returns the resources of a kind (all kinds when it is empty) by name, and the resource version of the picture,
// from which Changes goes on.
func (s *Store) List(ctx context.Context, kind string) ([]*fleetv1.Resource, uint64, error) {
	var out []*fleetv1.Resource
	var version uint64
	err := s.read(ctx, func(tx *sql.Tx) (err error) {
		if version, err = newest(ctx, tx); err != nil {
			return err
		}
		if kind != KindNode {
			out, err = queryResources(ctx, tx, `WHERE ($1 = '' OR kind = $1) ORDER BY kind, name`, kind)
			if err != nil {
				return err
			}
		}
		if kind == KindNode || kind == "" {
			nodes, err := queryNodes(ctx, tx, `ORDER BY n.name`)
			if err != nil {
				return err
			}
			for _, n := range nodes {
				out = append(out, n.resource())
			}
		}
		return nil
	})
	return out, version, err
}

// Changes returns what changed after version since, oldest first, at most a thousand records at a time: each resource
// once, as it is now. It says ErrCompacted when deletions since then are forgotten.
func (s *Store) Changes(ctx context.Context, since uint64) ([]ChangeRecord, error) {
	var out []ChangeRecord
	err := s.read(ctx, func(tx *sql.Tx) error {
		var floor string
		err := tx.QueryRowContext(ctx, `SELECT value FROM meta WHERE name = 'changes_floor'`).Scan(&floor)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if f, err := strconv.ParseUint(floor, 10, 64); err == nil && since < f {
			return fmt.Errorf("%w: since version %d, kept from %d on", ErrCompacted, since, f)
		}
		resources, err := queryResources(ctx, tx, `WHERE version > $1 ORDER BY version LIMIT $2`, int64(since), maxChangesAtATime)
		if err != nil {
			return err
		}
		nodes, err := queryNodes(ctx, tx, `WHERE n.version > $1 ORDER BY n.version LIMIT $2`, int64(since), maxChangesAtATime)
		if err != nil {
			return err
		}
		for _, n := range nodes {
			resources = append(resources, n.resource())
		}
		for _, r := range resources {
			out = append(out, ChangeRecord{Kind: r.GetKind(), Name: r.GetMetadata().GetName(), Version: r.GetMetadata().GetResourceVersion(), Resource: r})
		}
		rows, err := tx.QueryContext(ctx, `SELECT version, kind, name FROM tombstones WHERE version > $1 ORDER BY version LIMIT $2`, int64(since), maxChangesAtATime)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			c := ChangeRecord{Deleted: true}
			var version int64
			if err := rows.Scan(&version, &c.Kind, &c.Name); err != nil {
				return err
			}
			c.Version = uint64(version)
			out = append(out, c)
		}
		return rows.Err()
	})
	slices.SortFunc(out, func(a, b ChangeRecord) int { return cmp.Compare(a.Version, b.Version) })
	return out[:min(len(out), maxChangesAtATime)], err
}

// UpdateStatus stores the status of a declared resource; spec and labels stay as they are. A status that is the same
// takes no new resource version. The sequence of a rollout is the store's own and is kept.
func (s *Store) UpdateStatus(ctx context.Context, r *fleetv1.Resource) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		changed, err := s.updateStatus(ctx, tx, r)
		if err == nil && !changed {
			return errUnchanged
		}
		return err
	})
}

func (s *Store) updateStatus(ctx context.Context, tx *sql.Tx, r *fleetv1.Resource) (bool, error) {
	k := Key{r.GetKind(), r.GetMetadata().GetName()}
	have, err := getResource(ctx, tx, k)
	if err != nil {
		return false, err
	}
	if bodyKind(r) != k.Kind {
		return false, fmt.Errorf("%w: the status of %s %q comes with a body of kind %q", ErrConflict, k.Kind, k.Name, bodyKind(r))
	}
	next := proto.Clone(have).(*fleetv1.Resource)
	keepStatus(next, r)
	if rollout := next.GetRollout(); rollout != nil {
		rollout.Status = proto.Clone(rollout.GetStatus()).(*fleetv1.RolloutStatus)
		rollout.Status.Sequence = have.GetRollout().GetStatus().GetSequence()
	}
	if proto.Equal(next, have) {
		return false, nil
	}
	if next.Metadata.ResourceVersion, err = take(ctx, tx, 1); err != nil {
		return false, err
	}
	next.Metadata.UpdatedAt = timestamppb.New(s.now())
	return true, saveResource(ctx, tx, next)
}

const resourceColumns = `SELECT kind, name, generation, version, created_at, updated_at, body FROM resources `

func getResource(ctx context.Context, tx *sql.Tx, k Key) (*fleetv1.Resource, error) {
	found, err := queryResources(ctx, tx, `WHERE kind = $1 AND name = $2`, k.Kind, k.Name)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%w: there is no %s %q", ErrNotFound, k.Kind, k.Name)
	}
	return found[0], nil
}

func queryResources(ctx context.Context, tx *sql.Tx, where string, args ...any) ([]*fleetv1.Resource, error) {
	rows, err := tx.QueryContext(ctx, resourceColumns+where, args...)
	if err != nil {
		return nil, fmt.Errorf("cannot read resources: %w", err)
	}
	defer rows.Close()
	var out []*fleetv1.Resource
	for rows.Next() {
		var kind, name string
		var generation, version, created, updated int64
		var body []byte
		if err := rows.Scan(&kind, &name, &generation, &version, &created, &updated, &body); err != nil {
			return nil, fmt.Errorf("cannot read a resource: %w", err)
		}
		r := &fleetv1.Resource{}
		if err := proto.Unmarshal(body, r); err != nil {
			return nil, fmt.Errorf("%s %q is stored in a form that cannot be read: %w", kind, name, err)
		}
		r.Kind = kind
		r.Metadata = &fleetv1.Metadata{Name: name, Labels: r.GetMetadata().GetLabels(), Generation: uint64(generation), ResourceVersion: uint64(version),
			CreatedAt: timestamp(fromNanos(created)), UpdatedAt: timestamp(fromNanos(updated))}
		out = append(out, r)
	}
	return out, rows.Err()
}

func saveResource(ctx context.Context, tx *sql.Tx, r *fleetv1.Resource) error {
	body, err := proto.Marshal(r)
	if err != nil {
		return fmt.Errorf("cannot write %s %q: %w", r.GetKind(), r.GetMetadata().GetName(), err)
	}
	if len(body) > maxResourceBytes {
		return fmt.Errorf("%w: %s %q has %d bytes, at most %d", ErrConflict, r.GetKind(), r.GetMetadata().GetName(), len(body), maxResourceBytes)
	}
	m := r.GetMetadata()
	_, err = tx.ExecContext(ctx, `INSERT INTO resources (kind, name, generation, version, created_at, updated_at, body) VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (kind, name) DO UPDATE SET generation = excluded.generation, version = excluded.version, updated_at = excluded.updated_at, body = excluded.body`,
		r.GetKind(), m.GetName(), int64(m.GetGeneration()), int64(m.GetResourceVersion()), nanos(m.GetCreatedAt().AsTime()), nanos(m.GetUpdatedAt().AsTime()), body)
	if err != nil {
		return fmt.Errorf("cannot write %s %q: %w", r.GetKind(), m.GetName(), err)
	}
	return nil
}

func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

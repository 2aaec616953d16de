package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
	"github.com/dhowfleet/dhow/protocol/version"
	"github.com/dhowfleet/dhow/test/failpoint"
)

// States of a node.
const (
	NodePending = "Pending"
	NodeActive  = "Active"
	NodeRevoked = "Revoked"
)

// Connections of a node.
const (
	Enrolling    = "Enrolling"
	Connected    = "Connected"
	Disconnected = "Disconnected"
)

// Node is one machine as the manager knows it.
type Node struct {
	ID, Name, Region, Site string
	State, RevokedReason   string
	TokenID                string
	Labels                 map[string]string
	Protocol               uint32
	CertificateSerial      string
	CertificateExpiresAt   time.Time
	Connection, Transport  string
	LastSeenAt             time.Time
	Report                 *syncv1.ReportRequest
	DesiredGeneration      uint64
	DesiredDigest          string
	// Ahead is the generation of the desired state that the node showed when it was above the manager's own, which
	// happens after the manager was restored from an older backup; 0 when all is well.
	Ahead                uint64
	CreatedAt, UpdatedAt time.Time
	Version              uint64
}

func (n *Node) resource() *fleetv1.Resource {
	note := ""
	if err := version.Compatible(version.Current, n.Protocol); err != nil {
		note = err.Error()
	}
	if n.State == NodeRevoked && n.RevokedReason != "" {
		note = "revoked: " + n.RevokedReason
	}
	if n.Ahead > 0 {
		note = fmt.Sprintf("paused: the node has generation %d of its desired state and the manager %d, so the manager was restored from an older backup; "+
			"to make the node take what the manager says now: dhow node approve %s", n.Ahead, n.DesiredGeneration, n.Name)
	}
	return &fleetv1.Resource{
		Kind: KindNode,
		Metadata: &fleetv1.Metadata{Name: n.Name, Labels: n.Labels, Generation: 1, ResourceVersion: n.Version,
			CreatedAt: timestamp(n.CreatedAt), UpdatedAt: timestamp(n.UpdatedAt)},
		Body: &fleetv1.Resource_Node{Node: &fleetv1.Node{Spec: &fleetv1.NodeSpec{}, Status: &fleetv1.NodeStatus{
			Region: n.Region, Site: n.Site, State: n.State, Connection: n.Connection, Transport: n.Transport,
			LastSeenAt: timestamp(n.LastSeenAt), CertificateExpiresAt: timestamp(n.CertificateExpiresAt),
			DesiredGeneration: n.DesiredGeneration, DesiredDigest: n.DesiredDigest, Report: n.Report, NodeId: n.ID, ProtocolNote: note,
		}}},
	}
}

const nodeColumns = `SELECT n.id, n.name, n.version, n.region, n.site, n.token_id, n.state, n.revoked_reason, n.labels, n.protocol,
	n.certificate_serial, n.certificate_expires_at, n.connection, n.transport, n.last_seen_at, n.report, n.ahead, n.created_at, n.updated_at,
	COALESCE(d.generation, 0), COALESCE(d.digest, '') FROM nodes n LEFT JOIN desired d ON d.node_id = n.id `

func queryNodes(ctx context.Context, tx *sql.Tx, where string, args ...any) ([]*Node, error) {
	rows, err := tx.QueryContext(ctx, nodeColumns+where, args...)
	if err != nil {
		return nil, fmt.Errorf("cannot read nodes: %w", err)
	}
	defer rows.Close()
	var out []*Node
	for rows.Next() {
		n := &Node{}
		var v, protocol, expires, seen, created, updated, generation int64
		var labels, report []byte
		if err := rows.Scan(&n.ID, &n.Name, &v, &n.Region, &n.Site, &n.TokenID, &n.State, &n.RevokedReason, &labels, &protocol,
			&n.CertificateSerial, &expires, &n.Connection, &n.Transport, &seen, &report, (*counter)(&n.Ahead), &created, &updated, &generation, &n.DesiredDigest); err != nil {
			return nil, fmt.Errorf("cannot read a node: %w", err)
		}
		if len(labels) > 0 {
			if err := json.Unmarshal(labels, &n.Labels); err != nil {
				return nil, fmt.Errorf("the labels of node %q cannot be read: %w", n.Name, err)
			}
		}
		if len(report) > 0 {
			n.Report = &syncv1.ReportRequest{}
			if err := proto.Unmarshal(report, n.Report); err != nil {
				return nil, fmt.Errorf("the report of node %q cannot be read: %w", n.Name, err)
			}
		}
		n.Version, n.Protocol, n.DesiredGeneration = uint64(v), uint32(protocol), uint64(generation)
		n.CertificateExpiresAt, n.LastSeenAt = fromNanos(expires), fromNanos(seen)
		n.CreatedAt, n.UpdatedAt = fromNanos(created), fromNanos(updated)
		out = append(out, n)
	}
	return out, rows.Err()
}

// getNode finds a node by one of its unique columns, "id" or "name".
func getNode(ctx context.Context, tx *sql.Tx, column, value string) (*Node, error) {
	found, err := queryNodes(ctx, tx, `WHERE n.`+column+` = $1`, value)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%w: there is no node %q", ErrNotFound, value)
	}
	return found[0], nil
}

// NodeByID returns a node or ErrNotFound, wrapped.
func (s *Store) NodeByID(ctx context.Context, id string) (*Node, error) {
	var n *Node
	err := s.read(ctx, func(tx *sql.Tx) (err error) {
		n, err = getNode(ctx, tx, "id", id)
		return err
	})
	return n, err
}

// Nodes returns all nodes by name.
func (s *Store) Nodes(ctx context.Context) ([]*Node, error) {
	var out []*Node
	err := s.read(ctx, func(tx *sql.Tx) (err error) {
		out, err = queryNodes(ctx, tx, `ORDER BY n.name`)
		return err
	})
	return out, err
}

// touch gives a node a new resource version after its row was changed.
func (s *Store) touch(ctx context.Context, tx *sql.Tx, id string) error {
	v, err := take(ctx, tx, 1)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `UPDATE nodes SET version = $1, updated_at = $2 WHERE id = $3`, int64(v), nanos(s.now()), id)
	return err
}

func (s *Store) putNodeLabels(ctx context.Context, tx *sql.Tx, r *fleetv1.Resource, ifVersion uint64) (*fleetv1.Resource, bool, error) {
	n, err := getNode(ctx, tx, "name", r.GetMetadata().GetName())
	if err != nil {
		return nil, false, fmt.Errorf("%w (a node comes to be by enrolling; only its labels can be applied)", err)
	}
	have := n.resource()
	if err := checkVersion(Key{KindNode, n.Name}, have, ifVersion); err != nil {
		return nil, false, err
	}
	if sameLabels(have, r) {
		return have, false, nil
	}
	labels, err := json.Marshal(r.GetMetadata().GetLabels())
	if err != nil {
		return nil, false, err
	}
	if _, err := tx.ExecContext(ctx, `UPDATE nodes SET labels = $1 WHERE id = $2`, labels, n.ID); err != nil {
		return nil, false, err
	}
	if err := s.touch(ctx, tx, n.ID); err != nil {
		return nil, false, err
	}
	n, err = getNode(ctx, tx, "id", n.ID)
	if err != nil {
		return nil, false, err
	}
	return n.resource(), true, nil
}

// ApproveNode lets a pending node have its certificate. A node that is ahead takes what the manager says from then on:
// its desired state gets a generation above the node's. Approving another active node changes nothing; a revoked one
// stays revoked (ErrConflict).
func (s *Store) ApproveNode(ctx context.Context, name string) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		n, err := getNode(ctx, tx, "name", name)
		if err != nil {
			return err
		}
		switch n.State {
		case NodeActive:
			if n.Ahead == 0 {
				return errUnchanged
			}
			if _, err := tx.ExecContext(ctx, `UPDATE desired SET generation = $1 WHERE node_id = $2`, int64(max(n.Ahead, n.DesiredGeneration)+1), n.ID); err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, `UPDATE nodes SET ahead = 0 WHERE id = $1`, n.ID); err != nil {
				return err
			}
			return s.touch(ctx, tx, n.ID)
		case NodeRevoked:
			return fmt.Errorf("%w: node %q is revoked for good; invite it anew", ErrConflict, name)
		}
		if _, err := tx.ExecContext(ctx, `UPDATE nodes SET state = $1 WHERE id = $2`, NodeActive, n.ID); err != nil {
			return err
		}
		return s.touch(ctx, tx, n.ID)
	})
}

// RecordAhead notes that a node showed a generation of its desired state that the manager did not hand out.
func (s *Store) RecordAhead(ctx context.Context, nodeID string, generation uint64) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		n, err := getNode(ctx, tx, "id", nodeID)
		if err != nil {
			return err
		}
		generation = min(generation, maxSequence)
		if n.Ahead == generation {
			return errUnchanged
		}
		if _, err := tx.ExecContext(ctx, `UPDATE nodes SET ahead = $1 WHERE id = $2`, int64(generation), nodeID); err != nil {
			return err
		}
		return s.touch(ctx, tx, nodeID)
	})
}

// RevokeNode takes a node out of the fleet for good. Revoking it again changes nothing.
func (s *Store) RevokeNode(ctx context.Context, name, reason string) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		n, err := getNode(ctx, tx, "name", name)
		if err != nil {
			return err
		}
		if n.State == NodeRevoked {
			return errUnchanged
		}
		if _, err := tx.ExecContext(ctx, `UPDATE nodes SET state = $1, revoked_reason = $2, connection = $3 WHERE id = $4`,
			NodeRevoked, reason, Disconnected, n.ID); err != nil {
			return err
		}
		return s.touch(ctx, tx, n.ID)
	})
}

// RecordCertificate stores the facts of a certificate that is about to be handed to an active node, and the protocol
// that the node speaks (0: as before).
func (s *Store) RecordCertificate(ctx context.Context, nodeID, serial string, expires time.Time, protocol uint32) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		n, err := getNode(ctx, tx, "id", nodeID)
		if err != nil {
			return err
		}
		if n.State != NodeActive {
			return fmt.Errorf("%w: node %q is %s", ErrConflict, n.Name, n.State)
		}
		if protocol == 0 {
			protocol = n.Protocol
		}
		if _, err := tx.ExecContext(ctx, `UPDATE nodes SET certificate_serial = $1, certificate_expires_at = $2, protocol = $3 WHERE id = $4`,
			serial, nanos(expires), int64(protocol), nodeID); err != nil {
			return err
		}
		failpoint.Here("store/certificate")
		return s.touch(ctx, tx, nodeID)
	})
}

// Sighting is what was learned of a node since the last time.
type Sighting struct {
	NodeID string
	// SeenAt is when the node last spoke; zero: as before.
	SeenAt time.Time
	// Connection and Transport are as they are now; empty: as before.
	Connection, Transport string
	// Protocol is what the node speaks; 0: as before.
	Protocol uint32
	// Report is its last report; nil: as before.
	Report *syncv1.ReportRequest
}

// RecordSightings stores sightings in one transaction. A node takes a new resource version, which wakes the loops and
// the watchers, when more changed than when it was last seen and how much waits in its outbox. Unknown nodes are left
// out.
func (s *Store) RecordSightings(ctx context.Context, sightings []Sighting) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		wrote := false
		for _, sight := range sightings {
			n, err := getNode(ctx, tx, "id", sight.NodeID)
			if errors.Is(err, ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			if err := s.recordSighting(ctx, tx, n, sight); err != nil {
				return err
			}
			wrote = true
		}
		if !wrote {
			return errUnchanged
		}
		failpoint.Here("store/sightings")
		return nil
	})
}

func (s *Store) recordSighting(ctx context.Context, tx *sql.Tx, n *Node, sight Sighting) error {
	next := *n
	if sight.SeenAt.After(n.LastSeenAt) {
		next.LastSeenAt = sight.SeenAt
	}
	if sight.Connection != "" && n.State != NodeRevoked {
		next.Connection = sight.Connection
	}
	if sight.Transport != "" {
		next.Transport = sight.Transport
	}
	if sight.Protocol != 0 {
		next.Protocol = sight.Protocol
	}
	if sight.Report != nil {
		next.Report = sight.Report
	}
	report, err := proto.Marshal(next.Report)
	if err != nil {
		return fmt.Errorf("cannot write the report of node %q: %w", n.Name, err)
	}
	if _, err := tx.ExecContext(ctx, `UPDATE nodes SET last_seen_at = $1, connection = $2, transport = $3, protocol = $4, report = $5 WHERE id = $6`,
		nanos(next.LastSeenAt), next.Connection, next.Transport, int64(next.Protocol), bytesOf(report), n.ID); err != nil {
		return err
	}
	if next.Connection == n.Connection && next.Transport == n.Transport && next.Protocol == n.Protocol && sameReport(n.Report, next.Report) {
		return nil
	}
	return s.touch(ctx, tx, n.ID)
}

// sameReport tells whether two reports say the same about the node, but for what moves all the time.
func sameReport(a, b *syncv1.ReportRequest) bool {
	if a == nil || b == nil {
		return a == b
	}
	a, b = proto.CloneOf(a), proto.CloneOf(b)
	a.OutboxPending, b.OutboxPending = 0, 0
	for _, h := range []*syncv1.Hardware{a.GetHardware(), b.GetHardware()} {
		if h != nil {
			h.DiskFreeBytes = 0
		}
	}
	return proto.Equal(a, b)
}

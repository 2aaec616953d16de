package store

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"testing"

	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
)

func open(t *testing.T) *Store {
	t.Helper()
	return openAt(t, filepath.Join(t.TempDir(), "fleet.db"))
}

func openAt(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func region(name string) *fleetv1.Resource {
	return &fleetv1.Resource{Kind: KindRegion, Metadata: &fleetv1.Metadata{Name: name},
		Body: &fleetv1.Resource_Region{Region: &fleetv1.Region{Spec: &fleetv1.RegionSpec{Jurisdiction: "eu"}}}}
}

func site(name, region string) *fleetv1.Resource {
	return &fleetv1.Resource{Kind: KindSite, Metadata: &fleetv1.Metadata{Name: name},
		Body: &fleetv1.Resource_Site{Site: &fleetv1.Site{Spec: &fleetv1.SiteSpec{Region: region}}}}
}

func rollout(name, model, version string) *fleetv1.Resource {
	return &fleetv1.Resource{Kind: KindRollout, Metadata: &fleetv1.Metadata{Name: name},
		Body: &fleetv1.Resource_Rollout{Rollout: &fleetv1.Rollout{Spec: &fleetv1.RolloutSpec{Model: model, Version: version}}}}
}

func apply(t *testing.T, s *Store, changes ...Change) []*fleetv1.Resource {
	t.Helper()
	out, err := s.Apply(t.Context(), changes)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func puts(resources ...*fleetv1.Resource) []Change {
	var out []Change
	for _, r := range resources {
		out = append(out, Change{Put: r})
	}
	return out
}

func TestOpenAgainKeepsEverything(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a folder with ?#% in it")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(path, "fleet.db")
	s := openAt(t, path)
	apply(t, s, puts(region("eu-west"))...)
	epoch := s.Epoch()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the database's mode is %v (%v), want 0600", info.Mode(), err)
	}
	s = openAt(t, path)
	if _, err := s.Get(t.Context(), KindRegion, "eu-west"); err != nil {
		t.Fatal(err)
	}
	if s.Epoch() != epoch || epoch == "" {
		t.Errorf("epoch %q became %q", epoch, s.Epoch())
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestNewerDatabaseIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fleet.db")
	s := openAt(t, path)
	if _, err := s.writer.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)`); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := Open(t.Context(), path); !errors.Is(err, ErrNewerDatabase) {
		t.Fatalf("a newer database is opened: %v", err)
	}
}

func TestFileThatIsNoDatabaseIsRefusedAndKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fleet.db")
	const text = "this is no database, and whoever wrote it wants it back"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), path); err == nil {
		t.Fatal("no error")
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != text {
		t.Fatalf("the file was changed to %q (%v)", got, err)
	}
}

// TestMigrationsGoBothWays keeps every migration reversible and leaves nothing behind.
func TestMigrationsGoBothWays(t *testing.T) {
	s := open(t)
	p, err := provider(s.writer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.DownTo(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	var left int
	if err := s.writer.QueryRow(`SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'goose%' AND name NOT LIKE 'sqlite%'`).Scan(&left); err != nil || left != 0 {
		t.Fatalf("%d tables are left (%v)", left, err)
	}
	if _, err := p.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestNotifyWakesOncePerLookAndOnlyForChanges(t *testing.T) {
	s := open(t)
	wake, cancel := s.Notify()
	woken := func() bool {
		select {
		case <-wake:
			return true
		default:
			return false
		}
	}
	apply(t, s, puts(region("a"))...)
	apply(t, s, puts(region("b"))...)
	if !woken() || woken() {
		t.Error("two commits must wake one who does not look exactly once")
	}
	apply(t, s, puts(region("b"))...)
	if woken() {
		t.Error("an unchanged resource woke the watcher")
	}
	cancel()
	apply(t, s, puts(region("c"))...)
	if woken() {
		t.Error("woken after cancel")
	}
}

func TestReaderSeesOnePicture(t *testing.T) {
	s := open(t)
	apply(t, s, puts(region("a"))...)
	err := s.read(t.Context(), func(tx *sql.Tx) error {
		before, err := newest(t.Context(), tx)
		if err != nil {
			return err
		}
		apply(t, s, puts(region("b"))...)
		after, err := newest(t.Context(), tx)
		if before != after {
			t.Errorf("version %d became %d under a reader", before, after)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestReaderCannotWrite(t *testing.T) {
	s := open(t)
	if _, err := s.reader.Exec(`DELETE FROM resources`); err == nil {
		t.Error("the reading connection writes")
	}
}

func TestWriterObeysItsContext(t *testing.T) {
	s := open(t)
	tx, err := s.writer.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Apply(ctx, puts(region("a"))); !errors.Is(err, context.Canceled) {
		t.Errorf("a waiting writer ended with %v", err)
	}
}

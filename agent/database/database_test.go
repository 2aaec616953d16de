package database

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

var schema = []string{"CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT) STRICT", "ALTER TABLE t ADD COLUMN w INTEGER"}

func options() Options { return Options{Full: true, Check: true, CacheKiB: 128, Migrations: schema} }

func TestUpgradeStepByStep(t *testing.T) {
	ctx, path := context.Background(), filepath.Join(t.TempDir(), "a ?b.db")
	o := options()
	o.Migrations = schema[:1]
	db, aside, err := Open(ctx, path, o)
	if err != nil || aside != "" {
		t.Fatal(aside, err)
	}
	if _, err := db.Exec("INSERT INTO t (v) VALUES ('kept')"); err != nil {
		t.Fatal(err)
	}
	db.Close()
	db, aside, err = Open(ctx, path, options())
	if err != nil || aside != "" {
		t.Fatal(aside, err)
	}
	var v string
	if err := db.QueryRow("SELECT v FROM t WHERE w IS NULL").Scan(&v); err != nil || v != "kept" {
		t.Fatal(v, err)
	}
	var mode string
	var sync int
	if err := db.QueryRow("PRAGMA journal_mode").Scan(&mode); err != nil || mode != "wal" {
		t.Fatal(mode, err)
	}
	if err := db.QueryRow("PRAGMA synchronous").Scan(&sync); err != nil || sync != 2 {
		t.Fatal(sync, err)
	}
	db.Close()
	if _, _, err := Open(ctx, path, o); !errors.Is(err, ErrNewer) {
		t.Fatalf("a newer file was opened by an older build: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatal(info.Mode(), err)
	}
}

func TestDamageIsSetAside(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	for _, damage := range []struct {
		name string
		do   func(path string, data []byte) []byte
	}{
		{"no database", func(_ string, data []byte) []byte { return bytes.Repeat([]byte("x"), 8192) }},
		{"pages overwritten", func(_ string, data []byte) []byte {
			for i := 4096 + 100; i < len(data); i++ {
				data[i] = 0xa5
			}
			return data
		}},
	} {
		path := filepath.Join(dir, damage.name)
		db, _, err := Open(ctx, path, options())
		if err != nil {
			t.Fatal(err)
		}
		for range 2000 {
			if _, err := db.Exec("INSERT INTO t (v) VALUES ('some text that fills pages')"); err != nil {
				t.Fatal(err)
			}
		}
		db.Close()
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, damage.do(path, data), 0o600); err != nil {
			t.Fatal(err)
		}
		for n := 1; n <= maxSetAside+1; n++ {
			db, aside, err := Open(ctx, path, options())
			if err != nil {
				t.Fatalf("%s: %v", damage.name, err)
			}
			if want := path + ".corrupt-" + string(rune('0'+min(n, maxSetAside))); aside != want {
				t.Fatalf("%s: set aside as %q, want %q", damage.name, aside, want)
			}
			if _, err := db.Exec("INSERT INTO t (v) VALUES ('new')"); err != nil {
				t.Fatal(err)
			}
			db.Close()
			if err := os.WriteFile(path, []byte("no database, over and over again, longer than a header needs to be: 100 bytes of it, at the least"), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, s := range []string{"-wal", "-shm"} {
				_ = os.Remove(path + s)
			}
		}
	}
}

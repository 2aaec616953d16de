package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestBothKindsOfServingAnswer keeps the table's program working, whatever it takes.
func TestBothKindsOfServingAnswer(t *testing.T) {
	const wide = 256
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, file), heavy(wide).Model(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, batches := range []bool{false, true} {
		r, err := underLoad(t.Context(), dir, wide, batches, manyClients, 100*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		if r.requests < manyClients || r.executions < 1 || r.executions > int64(r.requests) || !batches && r.executions < int64(r.requests) {
			t.Errorf("batches %v: %d requests in %d runs", batches, r.requests, r.executions)
		}
	}
	if err := batchingTable(t.Context(), true); err != nil {
		t.Fatal(err)
	}
}

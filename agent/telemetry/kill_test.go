package telemetry

import (
	"bytes"
	"database/sql"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/dhowfleet/dhow/agent/health"
	"github.com/dhowfleet/dhow/agent/store"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
	"github.com/dhowfleet/dhow/test/failpoint/killtest"
)

// TestMain runs the life of an agent's telemetry instead of the tests when it is told to.
func TestMain(m *testing.M) {
	if dir := os.Getenv("DHOW_TEST_LIFE"); dir != "" {
		if err := life(dir, os.Getenv("DHOW_TEST_MANAGER")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// life records, adds up and delivers three times, and then delivers what is left.
func life(dir, manager string) error {
	s, err := store.Open(ctx, dir, store.Options{})
	if err != nil {
		return err
	}
	limit := int64(1 << 30)
	if os.Getenv("DHOW_TEST_SMALL") != "" {
		limit = 1 // every look at the size finds it too large
	}
	r, err := Open(ctx, dir, s, Options{Logger: slog.New(slog.DiscardHandler), Health: health.New(time.Now), MaxBytes: limit})
	if err != nil {
		return err
	}
	for range 3 {
		for i := range 500 {
			r.Record(observation(i))
		}
		if err := r.Flush(ctx); err != nil {
			return err
		}
		if err := r.RollUp(ctx); err != nil {
			return err
		}
		if err := deliver(s, manager); err != nil {
			return err
		}
	}
	if err := r.Close(); err != nil {
		return err
	}
	return s.Close()
}

func deliver(s *store.Store, manager string) error {
	for {
		batch, err := s.Peek(ctx, 2, 1<<20)
		if err != nil || len(batch) == 0 {
			return err
		}
		body, err := proto.Marshal(&syncv1.DeliverRequest{Aggregates: batch})
		if err != nil {
			return err
		}
		resp, err := http.Post(manager, "application/octet-stream", bytes.NewReader(body))
		if err != nil {
			return err
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			return err
		}
		acked, err := strconv.ParseUint(string(text), 10, 64)
		if err != nil {
			return err
		}
		if _, err := s.Acknowledge(ctx, acked); err != nil {
			return err
		}
	}
}

// manager is the simplest one that obeys the protocol: it counts an aggregate when its number is above all before.
type manager struct {
	mu       sync.Mutex
	highest  uint64
	requests uint64
}

func (m *manager) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	var req syncv1.DeliverRequest
	if err == nil {
		err = proto.Unmarshal(body, &req)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	for _, a := range req.GetAggregates() {
		if a.GetSequence() <= m.highest {
			continue
		}
		m.highest = a.GetSequence()
		for _, t := range a.GetRequests() {
			m.requests += t.GetRequests()
		}
	}
	fmt.Fprint(w, m.highest)
}

// TestKilledAtEveryWritePoint: whatever row is in telemetry.db in the end, the manager has counted it exactly once.
func TestKilledAtEveryWritePoint(t *testing.T) {
	points := []string{"store/epoch", "telemetry/rows", "telemetry/rows-written", "store/roll-up", "store/rolled-up", "store/acknowledge", "store/acknowledged"}
	for _, point := range points {
		for n := 1; n <= 2; n++ {
			t.Run(fmt.Sprint(strings.ReplaceAll(point, "/", " "), " ", n), func(t *testing.T) {
				m := &manager{}
				server := httptest.NewServer(m)
				defer server.Close()
				dir := t.TempDir()
				env := []string{"DHOW_TEST_LIFE=" + dir, "DHOW_TEST_MANAGER=" + server.URL}
				if n == 1 || point != "store/epoch" { // an agent opens its state once
					killtest.Killed(t, fmt.Sprint(point, ":", n), env)
				}
				killtest.Lives(t, env)
				db, err := sql.Open("sqlite3", filepath.Join(dir, "telemetry.db"))
				must(t, err)
				defer db.Close()
				var rows uint64
				must(t, db.QueryRow("SELECT count(*) FROM rows").Scan(&rows))
				m.mu.Lock()
				defer m.mu.Unlock()
				if m.requests != rows || rows < 1500 {
					t.Fatalf("the manager counts %d requests, telemetry has %d", m.requests, rows)
				}
			})
		}
	}
}

// TestKilledWhileItTrims: rows that leave the ring were counted before, once, also when the process dies as they leave.
func TestKilledWhileItTrims(t *testing.T) {
	m := &manager{}
	server := httptest.NewServer(m)
	defer server.Close()
	dir := t.TempDir()
	env := []string{"DHOW_TEST_LIFE=" + dir, "DHOW_TEST_MANAGER=" + server.URL, "DHOW_TEST_SMALL=1"}
	killtest.Lives(t, env)
	killtest.Killed(t, "telemetry/trim", env)
	killtest.Lives(t, env)
	db, err := sql.Open("sqlite3", filepath.Join(dir, "telemetry.db"))
	must(t, err)
	defer db.Close()
	var rows, last uint64
	must(t, db.QueryRow("SELECT count(*), max(id) FROM rows").Scan(&rows, &last))
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.requests != last || rows >= last {
		t.Fatalf("the manager counts %d requests, telemetry wrote %d rows and has %d", m.requests, last, rows)
	}
}

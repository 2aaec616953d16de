package artifact

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dhowfleet/dhow/models/blob"
)

// meter writes down, outside the process, from which byte on it asked and up to which byte it took from the network.
type meter struct {
	base http.RoundTripper
	f    *os.File
}

func (m *meter) note(asked, took int64) {
	var text [16]byte
	binary.LittleEndian.PutUint64(text[:], uint64(asked))
	binary.LittleEndian.PutUint64(text[8:], uint64(took))
	if _, err := m.f.WriteAt(text[:], 0); err != nil {
		panic(err)
	}
}

// readings returns what a meter wrote; before it asked, both are -1.
func readings(t *testing.T, path string) (asked, took int64) {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) || len(text) == 0 {
		return -1, -1
	}
	if err != nil || len(text) != 16 {
		t.Fatalf("the meter shows %d bytes: %v", len(text), err)
	}
	return int64(binary.LittleEndian.Uint64(text)), int64(binary.LittleEndian.Uint64(text[8:]))
}

func (m *meter) RoundTrip(r *http.Request) (*http.Response, error) {
	start := rangeStart(r)
	m.note(start, start)
	answer, err := m.base.RoundTrip(r)
	if err == nil {
		answer.Body = &meteredBody{answer.Body, m, start, start}
	}
	return answer, err
}

type meteredBody struct {
	io.ReadCloser
	m         *meter
	start, at int64
}

func (b *meteredBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.at += int64(n)
	b.m.note(b.start, b.at)
	return n, err
}

const killedSize = 6 << 20

func TestMain(m *testing.M) {
	dir := os.Getenv("DHOW_ARTIFACT_PULL")
	if dir == "" {
		os.Exit(m.Run())
	}
	err := func() error {
		store, err := blob.Open(filepath.Join(dir, "store"))
		if err != nil {
			return err
		}
		f, err := os.OpenFile(filepath.Join(dir, "meter"), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		p := &Puller{Client: &http.Client{Transport: &meter{http.DefaultTransport, f}}, BaseURL: os.Getenv("DHOW_ARTIFACT_URL"), Store: store}
		return p.Blob(context.Background(), "models/fashion", digest.FromBytes(content(30, killedSize)), killedSize, nil)
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// TestKilledWhilePulling kills the pulling process with SIGKILL again and again, at random bytes and at random moments,
// and counts what is taken from the network twice: at most 1 MiB for each kill.
func TestKilledWhilePulling(t *testing.T) {
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data := content(30, killedSize)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		honest(data)(&slowWriter{w}, r)
	}))
	defer server.Close()
	kills := 16
	if os.Getenv("DHOW_FAULTS") == "long" {
		kills = 200
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var worst int64
	for done := 0; done < kills; {
		dir := folder(t)
		gauge := filepath.Join(dir, "meter")
		reached, finished := int64(0), false
		for !finished {
			cmd := exec.Command(executable)
			cmd.Env = append(os.Environ(), "DHOW_ARTIFACT_PULL="+dir, "DHOW_ARTIFACT_URL="+server.URL)
			byMoment := random.IntN(2) == 0
			if !byMoment && done < kills {
				point := [...]string{"artifact/bytes-written", "blob/partial-written", "blob/partial-synced", "blob/partial-recorded"}[random.IntN(4)]
				cmd.Env = append(cmd.Env, fmt.Sprintf("DHOW_FAILPOINT=%s:%d", point, 1+random.IntN(8)))
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			killed := make(chan struct{})
			if byMoment && done < kills {
				timer := time.AfterFunc(time.Duration(5+random.IntN(150))*time.Millisecond, func() {
					_ = cmd.Process.Kill()
					close(killed)
				})
				err = cmd.Wait()
				if !timer.Stop() {
					<-killed
				}
			} else {
				err = cmd.Wait()
			}
			var exit *exec.ExitError
			switch {
			case err == nil:
				finished = true
			case errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL:
				done++
			default:
				t.Fatalf("the child failed: %v", err)
			}
			asked, took := readings(t, gauge)
			if asked < 0 { // It was killed before it asked.
				continue
			}
			if again := reached - asked; again < 0 || again > 1<<20 {
				t.Fatalf("killed when byte %d had come, went on at byte %d: %d bytes again", reached, asked, again)
			} else {
				worst = max(worst, again)
			}
			reached = took
			if err := os.Remove(gauge); err != nil {
				t.Fatal(err)
			}
		}
		store, err := blob.Open(filepath.Join(dir, "store"))
		if err != nil {
			t.Fatal(err)
		}
		wantBlob(t, store, data)
	}
	t.Logf("%d kills, at most %d bytes fetched again after one", kills, worst)
}

// slowWriter spreads an answer over time, so that kills find it under way.
type slowWriter struct{ http.ResponseWriter }

func (w *slowWriter) Write(p []byte) (int, error) {
	total := 0
	for len(p) > 0 {
		n, err := w.ResponseWriter.Write(p[:min(len(p), 20_000)])
		total += n
		if err != nil {
			return total, err
		}
		_ = http.NewResponseController(w.ResponseWriter).Flush()
		p = p[n:]
		time.Sleep(200 * time.Microsecond)
	}
	return total, nil
}

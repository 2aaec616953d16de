package blob

import (
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

func TestCollect(t *testing.T) {
	now := time.Now()
	clock := func() time.Time { return now }
	s := open(t, WithClock(clock))
	kept, unused, touched := put(t, s, []byte("kept")), put(t, s, []byte("unused")), put(t, s, []byte("touched"))
	partial := func(name string) (digest.Digest, *Writer) {
		d := digest.FromString(name)
		w, err := s.Resume(d, 100)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write([]byte("part"))
		return d, w
	}
	wanted, w1 := partial("wanted")
	_, w2 := partial("stale")
	_, w3 := partial("busy")
	session, err := s.CreateSession("cccccccccccccccc")
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []*Writer{w1, w2, session} {
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	corrupt := put(t, s, []byte("corrupt"))
	flip(t, s.path(corrupt), 0)
	wantError(t, s.Verify(corrupt), ErrCorrupt)
	keep := func(d digest.Digest) bool { return d == kept || d == wanted }

	if c, err := s.Collect(keep, time.Hour); err != nil || c.Blobs+c.Partials != 0 {
		t.Fatalf("collected %+v within the grace: %v", c, err)
	}
	now = now.Add(2 * time.Hour)
	if err := s.Touch(touched); err != nil {
		t.Fatal(err)
	}
	c, err := s.Collect(keep, time.Hour)
	if err != nil || c.Blobs != 1 || c.Partials != 2 {
		t.Fatalf("collected %+v, %v; want the unused blob, the stale partial and the session", c, err)
	}
	if !s.Has(kept) || !s.Has(touched) || s.Has(unused) {
		t.Fatalf("kept %v, touched %v, unused %v", s.Has(kept), s.Has(touched), s.Has(unused))
	}
	wantEmpty(t, s, uploadDir)
	wantEmpty(t, s, quarantineDir)
	if w, err := s.Resume(wanted, 100); err != nil || w.Offset() != 4 {
		t.Fatalf("the partial of a wanted blob begins at %d: %v", w.Offset(), err)
	}
	if _, err := w3.Write([]byte("goes on")); err != nil {
		t.Fatal(err)
	}
	if err := w3.Close(); err != nil {
		t.Fatal(err)
	}
	wantError(t, s.Touch(unused), ErrNotFound)
	if err := s.Delete(unused); err != nil {
		t.Fatal(err)
	}
}

// TestCollectSparesWhatIsTouched: between the collector's decision and the removal somebody else comes to need the blob.
func TestCollectSparesWhatIsTouched(t *testing.T) {
	now := time.Now()
	s := open(t, WithClock(func() time.Time { return now }))
	d := put(t, s, []byte("needed again"))
	now = now.Add(2 * time.Hour)
	_, err := s.Collect(func(d digest.Digest) bool {
		if err := s.Touch(d); err != nil {
			t.Error(err)
		}
		return false
	}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if !s.Has(d) {
		t.Fatal("a blob was collected that had just been promised to somebody")
	}
}

package blob

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"pgregory.net/rapid"
)

func content(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(b)
	return b
}

func open(t testing.TB, options ...Option) *Store {
	t.Helper()
	s, err := Open(t.TempDir(), options...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t testing.TB, s *Store, data []byte) digest.Digest {
	t.Helper()
	d := digest.FromBytes(data)
	if err := s.Put(context.Background(), bytes.NewReader(data), d, int64(len(data))); err != nil {
		t.Fatal(err)
	}
	return d
}

// wantBlob fails unless the store has exactly data under its digest.
func wantBlob(t testing.TB, s *Store, d digest.Digest, data []byte) {
	t.Helper()
	f, size, err := s.Open(d)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := io.ReadAll(f)
	if err != nil || size != int64(len(data)) || !bytes.Equal(got, data) {
		t.Fatalf("blob %s: %d bytes of %d (error %v), not the content that was stored", d, len(got), size, err)
	}
}

// wantEmpty fails unless one of the store's folders is empty.
func wantEmpty(t testing.TB, s *Store, dir string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.dir, dir))
	if err != nil || len(entries) != 0 {
		t.Fatalf("%s holds %v (error %v), want nothing", dir, entries, err)
	}
}

func wantError(t testing.TB, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("error %v, want %v", err, target)
	}
}

func TestPut(t *testing.T) {
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		for _, size := range []int{0, 1, 700_000} {
			s := open(t)
			data := content(1, size)
			d := algorithm.FromBytes(data)
			if s.Has(d) {
				t.Fatal("an empty store has the blob")
			}
			if err := s.Put(context.Background(), bytes.NewReader(data), d, int64(size)); err != nil {
				t.Fatal(err)
			}
			wantBlob(t, s, d, data)
			if n, err := s.Size(d); err != nil || n != int64(size) {
				t.Fatalf("size %d, %v", n, err)
			}
			if err := s.Put(context.Background(), iotestFail{}, d, int64(size)); err != nil {
				t.Fatalf("putting what is there read it again: %v", err)
			}
			wantEmpty(t, s, tmpDir)
		}
	}
}

// iotestFail is a reader that must not be read.
type iotestFail struct{}

func (iotestFail) Read([]byte) (int, error) { return 0, errors.New("was read") }

func TestPutRefuses(t *testing.T) {
	s := open(t)
	data := content(2, 1000)
	d := digest.FromBytes(data)
	ctx := context.Background()
	wantError(t, s.Put(ctx, bytes.NewReader(data), d, 999), ErrDigestMismatch)
	wantError(t, s.Put(ctx, bytes.NewReader(data), d, 1001), ErrDigestMismatch)
	wantError(t, s.Put(ctx, bytes.NewReader(data[1:]), d, 999), ErrDigestMismatch)
	wantError(t, s.Put(ctx, bytes.NewReader(data), "md5:abc", 1000), ErrDigest)
	wantError(t, s.Put(ctx, bytes.NewReader(data), "sha256:../../etc/passwd", 1000), ErrDigest)
	wantError(t, s.Put(ctx, bytes.NewReader(data), d, 1<<62), ErrNoSpace)
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	wantError(t, s.Put(canceled, bytes.NewReader(data), d, 1000), context.Canceled)
	if s.Has(d) {
		t.Fatal("a refused blob is there")
	}
	wantEmpty(t, s, tmpDir)
}

// TestResume writes blobs with pauses, kills, power cuts and changes of mind, and compares with a plain buffer.
func TestResume(t *testing.T) {
	root := folder(t)
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(root, "")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		s, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		algorithm := rapid.SampledFrom([]digest.Algorithm{digest.SHA256, digest.SHA512}).Draw(t, "algorithm")
		data := content(rapid.Uint64().Draw(t, "seed"), rapid.IntRange(0, 2<<20).Draw(t, "size"))
		d := algorithm.FromBytes(data)
		w, err := s.Resume(d, int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(0, 8).Draw(t, "steps") {
			before := w.Offset()
			switch rapid.SampledFrom([]string{"write", "write", "write", "close", "kill", "reboot", "restart"}).Draw(t, "step") {
			case "write":
				n := rapid.IntRange(0, 900_000).Draw(t, "n")
				if _, err := w.Write(data[before:min(int(before)+n, len(data))]); err != nil {
					t.Fatal(err)
				}
			case "close":
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
				w = resume(t, s, d, data)
				if w.Offset() != before {
					t.Fatalf("closed at %d, resumed at %d", before, w.Offset())
				}
			case "reboot":
				s.boot[0]++
				fallthrough
			case "kill":
				w.p.release()
				w = resume(t, s, d, data)
				if lost := before - w.Offset(); lost < 0 || lost >= checkpointEvery {
					t.Fatalf("killed at %d, resumed at %d", before, w.Offset())
				}
			case "restart":
				if err := w.Restart(); err != nil {
					t.Fatal(err)
				}
				if w.Offset() != 0 {
					t.Fatalf("restarted at %d", w.Offset())
				}
			}
		}
		if w.Offset() < int64(len(data)) {
			if err := w.Commit(); !errors.Is(err, ErrIncomplete) {
				t.Fatalf("commit at %d of %d: %v", w.Offset(), len(data), err)
			}
		}
		if _, err := w.Write(data[w.Offset():]); err != nil {
			t.Fatal(err)
		}
		if err := w.Commit(); err != nil {
			t.Fatal(err)
		}
		got, err := s.Read(d, 1<<30)
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("read %d bytes of %d: %v", len(got), len(data), err)
		}
		if entries, _ := os.ReadDir(filepath.Join(s.dir, partialDir)); len(entries) != 0 {
			t.Fatalf("left %v", entries)
		}
	})
}

func resume(t *rapid.T, s *Store, d digest.Digest, data []byte) *Writer {
	w, err := s.Resume(d, int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestResumeRefuses(t *testing.T) {
	s := open(t)
	data := content(3, 2<<20)
	d := digest.FromBytes(data)
	w, err := s.Resume(d, int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Resume(d, int64(len(data)))
	wantError(t, err, ErrBusy)
	other, err := Open(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = other.Resume(d, int64(len(data)))
	wantError(t, err, ErrBusy)

	if _, err := w.Write(data[:len(data)-1]); err != nil {
		t.Fatal(err)
	}
	n, err := w.Write([]byte{data[len(data)-1], 0})
	if wantError(t, err, ErrDigestMismatch); n != 0 {
		t.Fatalf("wrote %d bytes beyond the promised size", n)
	}
	if _, err := w.Write([]byte{data[len(data)-1] + 1}); err != nil {
		t.Fatal(err)
	}
	wantError(t, w.Commit(), ErrDigestMismatch)
	if s.Has(d) {
		t.Fatal("wrong content is there")
	}
	wantEmpty(t, s, partialDir)

	// Another promise of the size begins anew, a wrong size of a blob that is there is refused.
	w, _ = s.Resume(d, 5_000_000)
	_, _ = w.Write(data)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if w, err = s.Resume(d, int64(len(data))); err != nil || w.Offset() != 0 {
		t.Fatalf("went on at %d under another size: %v", w.Offset(), err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = s.Resume(d, int64(len(data))+1)
	wantError(t, err, ErrDigestMismatch)
	w, err = s.Resume(d, int64(len(data)))
	if err != nil || w.Offset() != int64(len(data)) || w.Commit() != nil {
		t.Fatalf("a blob that is there cannot be resumed: offset %d, %v", w.Offset(), err)
	}
}

// TestLyingDisk: after a reboot the record says that data is good which the disk has lost.
func TestLyingDisk(t *testing.T) {
	s := open(t)
	data := content(4, 2<<20)
	d := digest.FromBytes(data)
	w, err := s.Resume(d, int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data[:1<<20]); err != nil {
		t.Fatal(err)
	}
	path := w.p.path
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	flip(t, path, 4711)
	s.boot[3]++
	for range 2 { // The doubt is remembered by a record that is written later.
		if w, err = s.Resume(d, int64(len(data))); err != nil || w.Offset() == 0 {
			t.Fatalf("resumed at %d: %v", w.Offset(), err)
		}
		if _, err := w.Write(data[w.Offset() : w.Offset()+1000]); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if w, err = s.Resume(d, int64(len(data))); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data[w.Offset():]); err != nil {
		t.Fatal(err)
	}
	wantError(t, w.Commit(), ErrDigestMismatch)
	if s.Has(d) {
		t.Fatal("corrupt content is there")
	}
}

func flip(t testing.TB, path string, offset int64) {
	t.Helper()
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], offset); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b[:], offset); err != nil {
		t.Fatal(err)
	}
}

func TestBitFlipsAreFound(t *testing.T) {
	s := open(t)
	data := content(5, 100_000)
	for _, offset := range []int64{0, 50_000, 99_999} {
		d := put(t, s, data)
		if err := s.Verify(d); err != nil {
			t.Fatal(err)
		}
		flip(t, s.path(d), offset)
		wantError(t, s.Verify(d), ErrCorrupt)
		if s.Has(d) {
			t.Fatal("a corrupt blob is still there")
		}
		wantError(t, s.Verify(d), ErrNotFound)
		put(t, s, data)
		wantBlob(t, s, d, data)
		flip(t, s.path(d), offset)
		_, err := s.Read(d, 1<<20)
		wantError(t, err, ErrCorrupt)
	}
	d := put(t, s, data)
	if err := os.Truncate(s.path(d), 10); err != nil {
		t.Fatal(err)
	}
	wantError(t, s.Verify(d), ErrCorrupt)
	_, err := s.Read(put(t, s, data), 10)
	if err == nil {
		t.Fatal("more than the limit was read")
	}
}

func TestSessions(t *testing.T) {
	s := open(t)
	data := content(6, 1_500_000)
	for _, d := range []digest.Digest{digest.FromBytes(data), digest.SHA512.FromBytes(data)} {
		const id = "0123456789abcdef"
		w, err := s.CreateSession(id)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data[:999_999]); err != nil {
			t.Fatal(err)
		}
		_, err = s.ResumeSession(id)
		wantError(t, err, ErrBusy)
		wantError(t, s.RemoveSession(id), ErrBusy)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if w, err = s.ResumeSession(id); err != nil || w.Offset() != 999_999 {
			t.Fatalf("resumed at %d: %v", w.Offset(), err)
		}
		if _, err := w.Write(data[999_999:]); err != nil {
			t.Fatal(err)
		}
		if err := w.CommitAs(d); err != nil {
			t.Fatal(err)
		}
		wantBlob(t, s, d, data)
		_, err = s.ResumeSession(id)
		wantError(t, err, ErrNotFound)
	}
	w, err := s.CreateSession("aaaaaaaaaaaaaaaa")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write(data)
	if w.Commit() == nil {
		t.Fatal("a session was committed without a digest")
	}
	wantError(t, w.CommitAs(digest.FromString("other")), ErrDigestMismatch)
	wantEmpty(t, s, uploadDir)
	if err := s.RemoveSession("aaaaaaaaaaaaaaaa"); err != nil {
		t.Fatal(err)
	}
	_, err = s.ResumeSession("../../sha256/aaaa")
	wantError(t, err, ErrNotFound)
}

func TestWritersRace(t *testing.T) {
	s := open(t)
	data := content(7, 600_000)
	d := digest.FromBytes(data)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for !t.Failed() {
				w, err := s.Resume(d, int64(len(data)))
				if errors.Is(err, ErrBusy) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				_, err = w.Write(data[w.Offset():])
				if err == nil || w.Offset() == int64(len(data)) {
					err = w.Commit()
				}
				if err != nil {
					t.Error(err)
				}
				return
			}
		})
	}
	wg.Wait()
	wantBlob(t, s, d, data)
	wantEmpty(t, s, partialDir)
}

// FuzzRecord reads whatever may be left of a record.
func FuzzRecord(f *testing.F) {
	s, err := Open(folder(f))
	if err != nil {
		f.Fatal(err)
	}
	data := content(9, 3000)
	d := digest.FromBytes(data)
	w, err := s.Resume(d, int64(len(data)))
	if err != nil {
		f.Fatal(err)
	}
	path := w.p.path
	for range 2 {
		_, _ = w.Write(data[w.Offset() : w.Offset()+1000])
		_ = w.Close()
		if w, err = s.Resume(d, int64(len(data))); err != nil {
			f.Fatal(err)
		}
	}
	_ = w.Close()
	record, err := os.ReadFile(path + recordSuffix)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(record)
	f.Add(record[:700])
	f.Add(record[slotSize:])
	f.Add([]byte(recordMagic))
	f.Fuzz(func(t *testing.T, record []byte) {
		const length, size = 2000, 3000
		h, err := newHash(digest.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		p := &partial{algorithm: digest.SHA256, hash: h, size: size}
		for i := 0; (i+1)*slotSize <= len(record); i++ {
			p.adopt(record[i*slotSize:(i+1)*slotSize], length)
		}
		if p.offset < 0 || p.offset > length {
			t.Fatalf("resumed at %d of %d bytes", p.offset, length)
		}
		if slot, err := p.encode(); err != nil || len(slot) != slotSize {
			t.Fatalf("what was adopted cannot be recorded again: %d bytes, %v", len(slot), err)
		}
	})
}

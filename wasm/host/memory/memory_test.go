package memory

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
	"pgregory.net/rapid"
)

const page = 1 << 16

// guest is an instance that has a memory and nothing else.
func guest(t testing.TB, limit, from, to uint32) (*Linear, api.Memory) {
	t.Helper()
	body := binary.AppendUvarint(binary.AppendUvarint([]byte{1, 1}, uint64(from)), uint64(to))
	code := append([]byte("\x00asm\x01\x00\x00\x00\x05"), byte(len(body)))
	code = append(append(code, body...), "\x07\x0a\x01\x06memory\x02\x00"...)
	l, err := New(int64(limit)*page, int64(from)*page)
	if err != nil {
		t.Fatal(err)
	}
	ctx := experimental.WithMemoryAllocator(context.Background(), experimental.MemoryAllocatorFunc(func(_, _ uint64) experimental.LinearMemory { return l }))
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter())
	t.Cleanup(func() {
		_ = r.Close(ctx)
		l.Free()
	})
	m, err := r.Instantiate(ctx, code)
	if err != nil {
		t.Fatal(err)
	}
	return l, m.Memory()
}

func content(t *rapid.T, m api.Memory) []byte {
	b, ok := m.Read(0, m.Size())
	if !ok {
		t.Fatal("the memory cannot be read")
	}
	return b
}

// TestARestoredMemoryCannotBeToldFromTheImage: whatever was written and grown, to the limit too, it is the image again;
// pages that are grown anew read as zero, and there are as many as before.
func TestARestoredMemoryCannotBeToldFromTheImage(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		limit := rapid.Uint32Range(1, 6).Draw(rt, "limit")
		from := rapid.Uint32Range(0, limit).Draw(rt, "minimum")
		l, m := guest(t, limit, from, limit+1)
		scribble := func(what string) {
			for range rapid.IntRange(0, 4).Draw(rt, what) {
				if m.Size() == 0 {
					return
				}
				at := rapid.Uint32Range(0, m.Size()-1).Draw(rt, "at")
				m.WriteByte(at, rapid.Byte().Draw(rt, "byte"))
			}
		}
		grow := func() {
			n := rapid.Uint32Range(0, limit+2).Draw(rt, "pages")
			before := m.Size() / page
			if _, grown := m.Grow(n); grown != (before+n <= limit) {
				rt.Fatalf("growing from %d by %d of %d pages: %v", before, n, limit, grown)
			}
		}
		scribble("before the image")
		grow()
		scribble("before the image")
		image := l.Capture(m.Size(), nil)
		want := bytes.Clone(content(rt, m))
		if image.Size() != int64(len(want)) {
			rt.Fatalf("the image has %d bytes of %d", image.Size(), len(want))
		}
		for range 3 {
			scribble("writes")
			grow()
			scribble("writes")
			if !l.Restore(m) {
				rt.Fatal("it cannot be restored")
			}
			if got := content(rt, m); !bytes.Equal(got, want) {
				rt.Fatalf("it has %d bytes, the image %d, or other bytes", len(got), len(want))
			}
			before := m.Size()
			grow()
			if got := content(rt, m)[before:]; !zero(got) {
				rt.Fatal("a page that was grown anew is not zero")
			}
			scribble("writes")
		}
	})
}

// TestPagesBeyondWhatStaysAreZeroToo, those that go back to the kernel, at the limit of a large memory.
func TestPagesBeyondWhatStaysAreZeroToo(t *testing.T) {
	const limit = keepResident/page + 40
	l, m := guest(t, limit, 1, limit+1)
	m.WriteByte(100, 1)
	l.Capture(m.Size(), nil)
	for range 2 {
		if _, grown := m.Grow(limit - 1); !grown {
			t.Fatal("it cannot grow to its limit")
		}
		all, _ := m.Read(page, m.Size()-page)
		for at := 0; at < len(all); at += 512 {
			if all[at] != 0 {
				t.Fatalf("byte %d is %d", at, all[at])
			}
			all[at] = 7
		}
		if !l.Restore(m) || m.Size() != page {
			t.Fatalf("after Restore it has %d bytes", m.Size())
		}
	}
}

// TestAMemoryAtItsModulesOwnMaximum cannot be shrunk, and Restore says so; one that did not grow can be restored.
func TestAMemoryAtItsModulesOwnMaximum(t *testing.T) {
	l, m := guest(t, 3, 1, 3)
	l.Capture(m.Size(), nil)
	m.WriteByte(5, 5)
	if b, _ := m.ReadByte(5); !l.Restore(m) || b != 5 {
		t.Error("a memory of its first size cannot be restored")
	}
	if _, grown := m.Grow(1); !grown || !l.Restore(m) {
		t.Error("a memory below its maximum cannot be restored")
	}
	if _, grown := m.Grow(2); !grown || l.Restore(m) {
		t.Error("a memory at its maximum was restored")
	}
}

func TestImagesAreSharedWhereTheyAreTheSame(t *testing.T) {
	a, m := guest(t, 2, 1, 3)
	b, n := guest(t, 2, 1, 3)
	m.WriteByte(9, 9)
	n.WriteByte(9, 9)
	image := a.Capture(m.Size(), nil)
	if b.Capture(n.Size(), image) != image {
		t.Error("the same image was copied")
	}
	n.WriteByte(9, 8)
	if b.Capture(n.Size(), image) == image {
		t.Error("another image was shared")
	}
	if c, _ := New(page, page); c.Restore(m) {
		t.Error("a memory without an image was restored")
	}
}

func TestFreeingTwiceDoesNoHarm(t *testing.T) {
	l, err := New(page, page)
	if err != nil {
		t.Fatal(err)
	}
	l.Free()
	l.Free()
	if l.Reallocate(page) != nil {
		t.Error("a freed memory has pages")
	}
	if _, err := New(-page, 0); err == nil {
		t.Error("a negative size was mapped")
	}
}

func BenchmarkRestore(b *testing.B) {
	for _, c := range []struct{ pages, used, grown uint32 }{{1, 1, 0}, {1, 1, 4}, {64, 64, 0}, {64, 20, 0}, {64, 20, 64}, {64, 20, 400}} {
		b.Run(fmt.Sprintf("%dKiB used %d grown %d", c.pages*64, c.used*64, c.grown*64), func(b *testing.B) {
			l, m := guest(b, 1000, c.pages, 1001)
			used, _ := m.Read(0, c.used*page)
			random := rand.New(rand.NewPCG(1, 2))
			for i := range used {
				used[i] = byte(random.Uint32())
			}
			l.Capture(m.Size(), nil)
			for b.Loop() {
				m.Grow(c.grown)
				if !l.Restore(m) {
					b.Fatal("it cannot be restored")
				}
			}
		})
	}
}

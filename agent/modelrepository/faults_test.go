package modelrepository

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

func TestAFolderThatCannotBeReadConcernsOnlyItsModel(t *testing.T) {
	ctx := context.Background()
	b := newBench(t, Config{Mode: Poll})
	b.add("good", 1)
	b.add("later", 1)
	loop := func(name string) {
		t.Helper()
		if err := os.Symlink(name, filepath.Join(b.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	loop("loop")
	wants(t, b.repo.Start(ctx), `"loop"`, "levels of symbolic links")
	b.serves("good", "", 1)
	wants(t, errorOf(b.reason("loop", "")), "levels of symbolic links")
	// A model that serves goes on when its folder cannot be read any more, and the index says so.
	if err := os.RemoveAll(filepath.Join(b.dir, "later")); err != nil {
		t.Fatal(err)
	}
	loop("later")
	if err := os.Remove(filepath.Join(b.dir, "loop")); err != nil {
		t.Fatal(err)
	}
	b.add("loop", 2)
	b.repo.look(ctx)
	b.repo.look(ctx)
	b.serves("later", "", 1)
	wants(t, errorOf(b.reason("later", "1")), "a change is not served", "levels of symbolic links")
	b.serves("loop", "", 2)
}

func TestTheIndexOutlivesTheFolder(t *testing.T) {
	b := newBench(t, Config{Mode: Poll})
	b.add("m", 1)
	b.start()
	if err := os.Rename(b.dir, b.dir+".away"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(b.dir + ".away") })
	b.repo.look(context.Background())
	b.repo.look(context.Background())
	b.serves("m", "", 1)
	if got := b.index(false); got != "m 1 READY" {
		t.Errorf("the index is %q", got)
	}
}

// errorOf makes a reason an error, for wants.
type errorOf string

func (e errorOf) Error() string { return string(e) }

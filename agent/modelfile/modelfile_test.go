package modelfile

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/dhowfleet/dhow/agent/inference/onnxtest"
)

func field(b []byte, number protowire.Number, content []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, number, protowire.BytesType), content)
}

func number(b []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

// outside is a small model with a constant of 16 bytes at location.
func outside(location string) []byte {
	w := number(number(nil, 1, 4), 2, 1)
	w = field(w, 8, []byte("w"))
	w = field(w, 13, field(field(nil, 1, []byte("location")), 2, []byte(location)))
	w = number(w, 14, 1)
	// A second graph field would be refused, so the constant goes into an attribute of a node in a function.
	node := field(field(nil, 4, []byte("Op")), 5, field(nil, 5, w))
	return field(onnxtest.Negate(3).Model(), 25, field(field(nil, 1, []byte("F")), 7, node))
}

func TestExternalData(t *testing.T) {
	for _, c := range []struct {
		name, location, want string
		prepare              func(t *testing.T, dir string)
	}{
		{"beside", "w.bin", "", nil},
		{"below", "sub/w.bin", "", nil},
		{"with a dot", "./w.bin", "", nil},
		{"around a folder", "sub/../w.bin", "", nil},
		{"above", "../w.bin", "must lie beside", nil},
		{"above by the way", "sub/../../w.bin", "must lie beside", nil},
		{"absolute", "/etc/passwd", "must lie beside", nil},
		{"the folder", ".", "must lie beside", nil},
		{"a folder", "sub", "no regular file", nil},
		{"backslashes", `..\w.bin`, "no path", nil},
		{"a zero byte", "w.bin\x00", "no path", nil},
		{"missing", "no.bin", "there is no no.bin", nil},
		{"cut off", "short.bin", "it has 15 bytes, the model has weights in it up to byte 16", nil},
		{"a link", "link.bin", "link.bin is a symbolic link", func(t *testing.T, dir string) {
			must(t, os.Symlink("/etc/passwd", filepath.Join(dir, "link.bin")))
		}},
		{"a link to beside", "link.bin", "link.bin is a symbolic link", func(t *testing.T, dir string) {
			must(t, os.Symlink("w.bin", filepath.Join(dir, "link.bin")))
		}},
		{"a folder that is a link", "out/passwd", "out", func(t *testing.T, dir string) { must(t, os.Symlink("/etc", filepath.Join(dir, "out"))) }},
		{"a folder that is a link to beside", "other/w.bin", "other is a symbolic link", func(t *testing.T, dir string) {
			must(t, os.Symlink("sub", filepath.Join(dir, "other")))
		}},
		{"a pipe", "pipe", "no regular file", func(t *testing.T, dir string) { must(t, syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600)) }},
		{"a hard link of our own", "hard.bin", "", func(t *testing.T, dir string) {
			must(t, os.Link(filepath.Join(dir, "w.bin"), filepath.Join(dir, "hard.bin")))
		}},
		{"a hard link of others", "hard.bin", "belongs to another user", func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "hard.bin"), make([]byte, 16), 0o600))
			if err := os.Chown(filepath.Join(dir, "hard.bin"), 65534, 65534); err != nil {
				t.Skip("only root can give a file away: ", err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			must(t, os.Mkdir(filepath.Join(dir, "sub"), 0o700))
			for name, size := range map[string]int{"w.bin": 16, "sub/w.bin": 16, "short.bin": 15} {
				must(t, os.WriteFile(filepath.Join(dir, name), make([]byte, size), 0o600))
			}
			model := filepath.Join(dir, "model.onnx")
			must(t, os.WriteFile(model, outside(c.location), 0o600))
			if c.prepare != nil {
				c.prepare(t, dir)
			}
			g, err := Inspect(model)
			if c.want == "" && (err != nil || len(g.External) != 1) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), dir) {
				t.Errorf("the error tells where the folder is: %v", err)
			}
		})
	}
}

func TestTheModelFileItself(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good.onnx")
	must(t, os.WriteFile(good, onnxtest.Negate(3).Model(), 0o600))
	link := filepath.Join(dir, "link.onnx")
	must(t, os.Symlink(good, link))
	for _, p := range []string{good, link} {
		if g, err := Inspect(p); err != nil || len(g.Inputs) != 1 {
			t.Error(err)
		}
	}
	pipe := filepath.Join(dir, "pipe.onnx")
	must(t, syscall.Mkfifo(pipe, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "bad.onnx"), []byte("<html>"), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "pointer.onnx"), []byte("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"), 0o600))
	for name, want := range map[string]string{"pipe.onnx": "pipe.onnx is no regular file", "no.onnx": "cannot open no.onnx", "bad.onnx": "cannot use bad.onnx", "pointer.onnx": "git lfs pull"} {
		if _, err := Inspect(filepath.Join(dir, name)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := Inspect(dir); err == nil {
		t.Error("a folder is a model")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

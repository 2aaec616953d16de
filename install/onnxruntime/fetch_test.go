package onnxruntime

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// checkout makes a folder with a copy of the script and returns it with a runner whose PATH holds the given programs
// before the system's, or only them and a few of the system's when alone is true.
func checkout(t *testing.T, alone bool, programs map[string]string) (root string, run func(env ...string) (string, error)) {
	t.Helper()
	root = t.TempDir()
	write := func(p, text string, mode os.FileMode) {
		p = filepath.Join(root, p)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(text), mode)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"fetch", "LICENSE"} {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		write("install/onnxruntime/"+name, string(data), 0o755)
	}
	write("path/.keep", "", 0o644)
	for name, text := range programs {
		write("path/"+name, "#!/bin/sh\n"+text+"\n", 0o755)
	}
	path := filepath.Join(root, "path")
	if alone {
		for _, name := range []string{"sh", "uname", "ldd", "grep", "dirname", "cut", "sha256sum", "mkdir"} {
			if _, ours := programs[name]; ours {
				continue
			}
			real, err := exec.LookPath(name)
			if err != nil {
				t.Skipf("%s is missing: %v", name, err)
			}
			if err := os.Symlink(real, filepath.Join(path, name)); err != nil {
				t.Fatal(err)
			}
		}
	} else {
		path += ":" + os.Getenv("PATH")
	}
	return root, func(env ...string) (string, error) {
		cmd := exec.Command(filepath.Join(root, "install/onnxruntime/fetch"))
		cmd.Env = append([]string{"PATH=" + path}, env...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
}

const linux = `case "$1" in -s) echo Linux;; -m) echo x86_64;; esac`

func TestFetchSaysWhyItCannot(t *testing.T) {
	glibc := `echo "ldd (GNU libc) 2.36"`
	for _, c := range []struct {
		name     string
		alone    bool
		programs map[string]string
		env      []string
		want     string
	}{
		{"another system", false, map[string]string{"uname": `case "$1" in -s) echo Darwin;; -m) echo arm64;; esac`}, nil, "no build for Darwin"},
		{"another machine", false, map[string]string{"uname": `case "$1" in -s) echo Linux;; -m) echo riscv64;; esac`}, nil, "no build for riscv64"},
		{"musl", false, map[string]string{"uname": linux, "ldd": `echo "musl libc (x86_64)" >&2; exit 1`}, nil, "uses musl"},
		{"no npm", true, map[string]string{"uname": linux, "ldd": glibc}, nil, "npm is missing"},
		{"no network", false, map[string]string{"uname": linux, "ldd": glibc, "npm": "echo getaddrinfo ENOTFOUND >&2; exit 1"}, nil, "check the network"},
		{"a package that is not the pinned one", false, map[string]string{"uname": linux, "ldd": glibc, "npm": "echo evil > onnxruntime-node-1.30.0.tgz"}, nil, "its SHA-512 differs"},
		{"a named library that is none", false, nil, []string{"DHOW_ONNXRUNTIME=/nonexistent/lib.so"}, "/nonexistent/lib.so, which is no file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root, run := checkout(t, c.alone, c.programs)
			out, err := run(c.env...)
			if err == nil || !strings.Contains(out, c.want) {
				t.Fatalf("said %q (%v), want a failure with %q", out, err, c.want)
			}
			if found, _ := filepath.Glob(filepath.Join(root, ".cache/onnxruntime/.fetch.*")); len(found) > 0 {
				t.Errorf("it left %v behind", found)
			}
			if _, err := os.Stat(filepath.Join(root, ".cache/onnxruntime/1.30.0/linux-amd64/libonnxruntime.so")); err == nil {
				t.Error("a library was installed")
			}
		})
	}
}

// TestADamagedLibraryIsNotTakenForTheRightOne: a library that does not match is fetched anew, not used.
func TestADamagedLibraryIsNotTakenForTheRightOne(t *testing.T) {
	root, run := checkout(t, false, map[string]string{"uname": linux, "npm": "exit 1"})
	dir := filepath.Join(root, ".cache/onnxruntime/1.30.0/linux-amd64")
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "libonnxruntime.so"), []byte("half"), 0o644)); err != nil {
		t.Fatal(err)
	}
	if out, err := run(); err == nil || !strings.Contains(out, "could not download") {
		t.Fatalf("said %q (%v)", out, err)
	}
}

// TestNothingIsFetchedWhenItIsThere needs the library in this checkout's cache.
func TestNothingIsFetchedWhenItIsThere(t *testing.T) {
	const library = ".cache/onnxruntime/1.30.0/linux-amd64/libonnxruntime.so"
	real, err := filepath.Abs(filepath.Join("../..", library))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(real); err != nil {
		t.Skipf("needs the library; run make onnxruntime: %v", err)
	}
	root, run := checkout(t, true, map[string]string{"uname": linux, "npm": "exit 1"})
	if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(root, library)), 0o755), os.Symlink(real, filepath.Join(root, library))); err != nil {
		t.Fatal(err)
	}
	if out, err := run(); err != nil || strings.Count(out, "\n") != 1 {
		t.Fatalf("said %q (%v)", out, err)
	}
	named := filepath.Join(root, library)
	if out, err := run("DHOW_ONNXRUNTIME=" + named); err != nil || !strings.Contains(out, named) {
		t.Fatalf("said %q (%v)", out, err)
	}
}

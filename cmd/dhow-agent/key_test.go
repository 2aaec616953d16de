package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dhowfleet/dhow/agent/access"
)

func TestKeysThatAreMadeLetIn(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys.yaml")
	if err := os.WriteFile(file, []byte("# the shop's callers"), 0o600); err != nil { // no end of line
		t.Fatal(err)
	}
	code, out, stderr := call("key", "create", "--name", "till", "--models", "fashion,shop-*", "--requests-per-minute", "60", "--concurrent", "2", "--expires", "2999-01-31", "--append", file)
	if code != 0 || stderr != "" {
		t.Fatalf("%d %s", code, stderr)
	}
	first := strings.TrimSpace(out)
	code, document, stderr := call("key", "create", "--name", "ops", "--groups", "all", "--priority", "2")
	if code != 0 {
		t.Fatalf("%d %s", code, stderr)
	}
	second := strings.TrimSpace(stderr)
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(document); err != nil {
		t.Fatal(err)
	}
	f.Close()
	text, err := os.ReadFile(file)
	if err != nil || strings.Contains(string(text), first) || strings.Contains(string(text), second) {
		t.Errorf("%v: the file holds the key:\n%s", err, text)
	}
	p, err := access.Open(file, access.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for key, name := range map[string]string{first: "till", second: "ops"} {
		get := func(string) string { return "Bearer " + key }
		caller, done, err := p.Authorize(get, access.Inference, "shop-1")
		done()
		if err != nil || caller.Name != name {
			t.Errorf("%v, %v", caller, err)
		}
	}
	code, out, _ = call("key", "list", file)
	for _, want := range []string{"inference,metadata", "fashion,shop-*", "60/min, 2 at once", "2999-02-01T00:00:00Z", "ops", "all", "never"} {
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("%d, no %q in\n%s", code, want, out)
		}
	}
	before := string(text)
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"key", "create"}, 2, "metadata.name: a name is missing"},
		{[]string{"key", "create", "--name", "x", "--groups", "infer"}, 2, `there is no group "infer"`},
		{[]string{"key", "create", "--name", "x", "--expires", "soon"}, 2, "--expires"},
		{[]string{"key", "create", "--name", "x", "--burst", "3"}, 2, "it needs requestsPerMinute"},
		{[]string{"key", "create", "x"}, 2, "takes no argument"},
		{[]string{"key", "create", "--name", "till", "--append", file}, 1, "has the name till already"},
		{[]string{"key", "create", "--name", "x", "--append", filepath.Join(file, "x")}, 1, "cannot read the keys"},
		{[]string{"key", "list"}, 2, "takes the file of keys"},
		{[]string{"key", "list", filepath.Join(t.TempDir(), "none")}, 1, "no such file"},
	} {
		code, out, stderr := call(c.args...)
		if code != c.code || !strings.Contains(stderr, c.want) || out != "" {
			t.Errorf("%v: %d, %q, %q", c.args, code, out, stderr)
		}
	}
	if after, err := os.ReadFile(file); err != nil || string(after) != before {
		t.Errorf("%v: a key that was refused is in the file:\n%s", err, after)
	}
}

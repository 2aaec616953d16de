package main

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/agent/localapi"
)

func call(args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = run(context.Background(), args, strings.NewReader(""), &out, &err)
	return code, out.String(), err.String()
}

func TestExitCodesAndSentences(t *testing.T) {
	for _, c := range []struct {
		args   []string
		code   int
		stderr string
	}{
		{[]string{"run", "--listen", "0.0.0.0:8000", "--server", "m:1", "--data", t.TempDir()}, 2, "or listen on 127.0.0.1:8000"},
		{[]string{"run", "--data", t.TempDir()}, 2, "--server HOST:PORT"},
		{[]string{"run", "--servr", "m:1"}, 2, "unknown flag"},
		{[]string{"run", "--report-interval", "soon"}, 2, "--report-interval: \"soon\" is no duration"},
		{[]string{"run", "--config", "/nonexistent.yaml"}, 2, "/nonexistent.yaml"},
		{[]string{"run", "--data", t.TempDir(), "--server", "127.0.0.1:1", "--listen", "127.0.0.1:0"}, 2, "dhow node invite"},
		{[]string{"run", "--data", t.TempDir(), "--server", "127.0.0.1:1", "--listen", "127.0.0.1:0", "--token", "garbage"}, 1, "join token"},
		{[]string{"status", "--listen", "127.0.0.1:1"}, 1, "no agent answers on 127.0.0.1:1"},
		{[]string{"hardware", "-o", "xml"}, 2, "text or json"},
		{[]string{"nonsense"}, 2, "nonsense"},
		{[]string{"status", "please"}, 2, "takes no argument"},
		{[]string{"version"}, 0, ""},
	} {
		code, _, stderr := call(c.args...)
		if code != c.code || !strings.Contains(stderr, c.stderr) {
			t.Errorf("%v: exit code %d, %q", c.args, code, stderr)
		}
	}
}

func TestJSONOutputsAreJSON(t *testing.T) {
	for _, args := range [][]string{{"version", "--json"}, {"hardware", "-o", "json", "--data", t.TempDir()}} {
		code, out, stderr := call(args...)
		var m map[string]any
		if err := json.Unmarshal([]byte(out), &m); code != 0 || err != nil || len(m) < 2 {
			t.Errorf("%v: %d, %v, %s%s", args, code, err, out, stderr)
		}
	}
}

func TestTheStatusReadsLikeASentence(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	d := localapi.Document{
		Version: "1.0", Protocol: 1, StartedAt: now.Add(-time.Hour),
		Uplink:   localapi.Uplink{Server: "m:8443", Enrolled: true, Node: "n-1", Name: "till-3", Region: "ae-dubai", Site: "deira", Since: now.Add(-time.Minute), LastError: "no route"},
		Models:   []localapi.Model{{Model: "fashion", Version: "2", State: "downloading", Since: now, Bytes: 200, BytesDone: 50, Reason: "waiting-network", Message: "the node tries again"}},
		Warnings: []localapi.Warning{{Code: "disk-full", Message: "no room", Remedy: "make some", Since: now.Add(-time.Second)}},
	}
	var out bytes.Buffer
	if err := printStatus(&out, d, now); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"up 1h0m0s", "till-3 (n-1), region ae-dubai, site deira", "not connected for 1m0s (no route)", "downloading 25%", "waiting-network: the node tries again", "disk-full for 1s: no room", "make some"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the status does not say %q:\n%s", want, out.String())
		}
	}
}

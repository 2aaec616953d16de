package main

import (
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/agent/localapi"
)

// statusServer answers like an agent that wants a key, when key is not empty.
func statusServer(key string) http.Handler {
	h := localapi.New(func(*http.Request) (localapi.Document, error) {
		return localapi.Document{Version: "1.0", StartedAt: time.Now(), Models: []localapi.Model{{Model: "fashion", Version: "2", State: "serving"}}}, nil
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if key != "" && r.Header.Get("Authorization") != "Bearer "+key {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func write(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWhereTheStatusIsRead(t *testing.T) {
	plain := httptest.NewServer(statusServer("secret"))
	defer plain.Close()
	secure := httptest.NewTLSServer(statusServer(""))
	defer secure.Close()
	socket := filepath.Join(t.TempDir(), "agent.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	local := &http.Server{Handler: statusServer(""), ReadHeaderTimeout: time.Minute}
	go func() { _ = local.Serve(listener) }() // ends with Close
	defer local.Close()
	elsewhere := httptest.NewServer(http.RedirectHandler(plain.URL+localapi.Path, http.StatusFound))
	defer elsewhere.Close()
	address := strings.TrimPrefix(plain.URL, "http://")
	keyFile := write(t, "key", []byte("secret\n"))
	caFile := write(t, "ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}))
	for _, c := range []struct {
		args        []string
		code        int
		out, stderr string
	}{
		{[]string{"--listen", "unix:" + socket}, 0, "fashion", ""},
		{[]string{"--listen", "unix:" + socket, "-o", "json"}, 0, `"model": "fashion"`, ""},
		{[]string{"--listen", address, "--key-file", keyFile}, 0, "fashion", ""},
		{[]string{"--listen", "http://" + address, "--key-file", keyFile}, 0, "fashion", ""},
		{[]string{"--listen", secure.URL, "--ca-file", caFile}, 0, "fashion", ""},
		{[]string{"--listen", address}, 1, "", "--key-file"},
		{[]string{"--listen", address, "--key-file", caFile + "x"}, 1, "", "cannot read the key"},
		{[]string{"--listen", secure.URL}, 1, "", "no agent answers"},
		{[]string{"--listen", strings.TrimPrefix(secure.URL, "https://")}, 1, "", "wants TLS; ask it with --listen " + secure.URL},
		{[]string{"--listen", secure.URL, "--ca-file", keyFile}, 1, "", "PEM"},
		// The key does not follow where an answer points.
		{[]string{"--listen", strings.TrimPrefix(elsewhere.URL, "http://"), "--key-file", keyFile}, 1, "", "302"},
		{[]string{"--listen", "unix:"}, 2, "", "unix:/run/dhow/agent.sock"},
		{[]string{"--listen", "unix:" + socket + ".gone"}, 1, "", "no agent answers on unix:"},
		{[]string{"--listen", "unix:" + socket, "-o", "xml"}, 2, "", "text or json"},
	} {
		code, out, stderr := call(append([]string{"status"}, c.args...)...)
		if code != c.code || !strings.Contains(out, c.out) || !strings.Contains(stderr, c.stderr) || strings.Contains(stderr, "secret") {
			t.Errorf("%v: exit code %d, %q, %q", c.args, code, out, stderr)
		}
	}
}

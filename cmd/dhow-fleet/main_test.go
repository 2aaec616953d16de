package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// call runs the program and returns what it printed.
func call(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, &out, &errs)
	return code, out.String(), errs.String()
}

var tokenTable = regexp.MustCompile(`^NAME        ROLE    MADE                   STATE
second      admin   [0-9TZ:-]{20}   good
bootstrap   admin   [0-9TZ:-]{20}   revoked [0-9TZ:-]{20}
$`)

func TestInitRunToken(t *testing.T) {
	data := filepath.Join(t.TempDir(), "fleet")
	code, out, errs := call(t, "init", "--data", data, "--hostname", "10.0.0.1", "--hostname", "fleet.example.com,fleet", "--write-token", "-o", "json")
	var setup struct{ CaSha256, Token, TokenFile, TrustDomain string }
	if err := json.Unmarshal([]byte(out), &setup); err != nil || code != 0 {
		t.Fatalf("init: %d %q %q (%v)", code, out, errs, err)
	}
	written, err := os.ReadFile(setup.TokenFile)
	if err != nil || strings.TrimSpace(string(written)) != setup.Token || len(setup.CaSha256) != 64 || setup.TrustDomain != "fleet.example.com" {
		t.Fatalf("init printed %q and wrote %q (%v)", out, written, err)
	}
	if info, err := os.Stat(setup.TokenFile); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the token's file has the mode %v (%v)", info.Mode(), err)
	}
	if code, _, errs := call(t, "init", "--data", data); code != 1 || !strings.Contains(errs, "set up already") {
		t.Errorf("init again: %d %q", code, errs)
	}

	if file, err := os.ReadFile(filepath.Join(data, "config.yaml")); err != nil || !strings.Contains(string(file), "hostnames: 10.0.0.1,fleet.example.com,fleet\n") {
		t.Errorf("the configuration is %q (%v)", file, err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, []string{"run", "--data", data, "--listen", "127.0.0.1:0"}, io.Discard, w)
		w.Close()
	}()
	var line struct{ Msg, Address string }
	lines := json.NewDecoder(r)
	if err := lines.Decode(&line); err != nil || line.Msg != "listening" {
		t.Fatalf("the first line is %+v (%v)", line, err)
	}
	go io.Copy(io.Discard, io.MultiReader(lines.Buffered(), r))
	conn, err := net.Dial("tcp", line.Address)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if code, out, errs := call(t, "token", "--data", data, "--name", "second"); code != 0 || !strings.HasPrefix(out, "dhow-op-") {
		t.Errorf("token: %d %q %q", code, out, errs)
	}
	if code, out, errs := call(t, "token", "revoke", "--data", data, "nobody", "bootstrap"); code != 1 || out != "token bootstrap revoked\n" || !strings.Contains(errs, `no operator token "nobody"`) {
		t.Errorf("token revoke: %d %q %q", code, out, errs)
	}
	if code, _, errs := call(t, "token", "revoke", "--data", data, "second"); code != 1 || !strings.Contains(errs, "--force") {
		t.Errorf("the last token: %d %q", code, errs)
	}
	if code, out, errs := call(t, "token", "list", "--data", data); code != 0 || !tokenTable.MatchString(out) {
		t.Errorf("token list: %d %q %q", code, out, errs)
	}
	var list struct {
		Tokens []struct{ Name, Role, CreatedAt, RevokedAt string }
	}
	code, out, errs = call(t, "token", "list", "--data", data, "-o", "json")
	if err := json.Unmarshal([]byte(out), &list); code != 0 || err != nil || len(list.Tokens) != 2 || list.Tokens[0].RevokedAt != "" || list.Tokens[1].RevokedAt == "" || strings.Contains(out, "dhow-op-") {
		t.Errorf("token list: %d %q %q (%v)", code, out, errs, err)
	}
	if code, out, errs := call(t, "token", "revoke", "--data", data, "--force", "second"); code != 0 || out != "token second revoked\n" {
		t.Errorf("token revoke --force: %d %q %q", code, out, errs)
	}
	if code, _, errs := call(t, "run", "--data", data); code != 1 || !strings.Contains(errs, "another dhow-fleet") {
		t.Errorf("run twice: %d %q", code, errs)
	}
	cancel()
	if code := <-done; code != 0 {
		t.Errorf("run ended with %d", code)
	}
}

func TestTextOfInit(t *testing.T) {
	data := filepath.Join(t.TempDir(), "fleet")
	code, out, errs := call(t, "init", "--data", data)
	if code != 0 || !strings.Contains(out, "dhow-op-") || !strings.Contains(out, "dhow-fleet run --data "+data) {
		t.Fatalf("init: %d %q %q", code, out, errs)
	}
	if _, err := os.Stat(filepath.Join(data, tokenFile)); err == nil {
		t.Error("the token was written though nobody asked")
	}
}

func TestConfigurationOrder(t *testing.T) {
	data := filepath.Join(t.TempDir(), "fleet")
	if code, _, errs := call(t, "init", "--data", data, "--sign-of-life", "7s", "--disable-quic"); code != 0 {
		t.Fatal(errs)
	}
	t.Setenv("DHOW_FLEET_LOG_LEVEL", "loud")
	if code, _, errs := call(t, "run", "--data", data, "--listen", "127.0.0.1:0"); code != 1 || !strings.Contains(errs, "logLevel") {
		t.Errorf("the environment is not read: %d %q", code, errs)
	}
	var s settings
	cmd := newRun()
	s.bind(newVersion())
	s.data = data
	c, err := s.read(cmd)
	if err != nil || c.SignOfLife.String() != "7s" || !c.DisableQUIC || c.LogLevel != "loud" {
		t.Errorf("read %+v (%v)", c, err)
	}
}

func TestUsage(t *testing.T) {
	for want, args := range map[string][]string{
		"unknown flag":            {"run", "--dta", "x"},
		"--data DIR":              {"run"},
		"unknown command":         {"runn"},
		"--name NAME":             {"token", "--data", "x"},
		"--name: the name":        {"token", "--data", "x", "--name", "Ana B"},
		"no token is named":       {"token", "revoke", "--data", "x"},
		"unknown command \"lst\"": {"token", "lst", "--data", "x"},
		"not text or json":        {"token", "list", "--data", "x", "-o", "yaml"},
		"text or json":            {"init", "--data", "x", "-o", "xml"},
		"--sign-of-life":          {"run", "--data", "x", "--sign-of-life", "soon"},
	} {
		if code, _, errs := call(t, args...); code != 2 || !strings.Contains(errs, want) {
			t.Errorf("%v: %d %q, want %q", args, code, errs, want)
		}
	}
	if code, out, errs := call(t); code != 0 || !strings.Contains(out, "dhow-fleet [command]") {
		t.Errorf("help: %d %q %q", code, out, errs)
	}
}

func TestVersion(t *testing.T) {
	code, out, _ := call(t, "version", "--json")
	var v struct {
		Version  string
		Protocol int
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil || code != 0 || v.Protocol == 0 || v.Version == "" {
		t.Errorf("version: %d %q (%v)", code, out, err)
	}
	if code, out, _ := call(t, "version"); code != 0 || !strings.HasPrefix(out, "dhow-fleet ") {
		t.Errorf("version: %d %q", code, out)
	}
}

package config

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestEachSourceOverrulesTheOneBefore(t *testing.T) {
	c := Default()
	if err := ReadFile(c.Settings(), file(t, "server: a:1\nname: from-file\nreport-interval: 5s\nmax-body: 1MiB\ndisable-quic: true\n"), true); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"DHOW_AGENT_NAME": "from-env", "DHOW_AGENT_THREADS": "2"}
	if err := ReadEnvironment(c.Settings(), func(k string) (string, bool) { v, ok := env[k]; return v, ok }); err != nil {
		t.Fatal(err)
	}
	for _, s := range c.Settings() {
		if s.Name == "threads" {
			if err := s.Value.Set("3"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Server, want.Name, want.ReportInterval, want.MaxBody, want.DisableQUIC, want.Threads = "a:1", "from-env", 5*time.Second, 1<<20, true, 3
	if !reflect.DeepEqual(c, want) {
		t.Fatalf("%+v\nwant %+v", c, want)
	}
}

func TestMistakesInTheFileAreNamedByLine(t *testing.T) {
	for content, want := range map[string]string{
		"server: a:1\nservr: b:1\n":      "line 2: there is no setting \"servr\"",
		"\nreport-interval: soon\n":      "line 2: report-interval: \"soon\" is no duration",
		"name: [a, b]\n":                 "line 1: name is a single value",
		"- a\n":                          "no list of settings",
		"threads: many\n":                "no whole number",
		"disable-quic: perhaps\n":        "neither true nor false",
		"a: b: c\n":                      "mapping values",
		"telemetry-bytes: a lot of it\n": "telemetry-bytes",
	} {
		c := Default()
		if err := ReadFile(c.Settings(), file(t, content), true); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", content, err, want)
		}
	}
	c := Default()
	if err := ReadFile(c.Settings(), file(t, ""), true); err != nil {
		t.Error(err)
	}
	if err := ReadFile(c.Settings(), "/nonexistent/agent.yaml", false); err != nil {
		t.Error(err)
	}
	if err := ReadFile(c.Settings(), "/nonexistent/agent.yaml", true); err == nil {
		t.Error("a file that was asked for may be missing")
	}
}

func TestValidate(t *testing.T) {
	for _, tc := range []struct {
		want   string
		change func(*Config)
	}{
		{"", func(*Config) {}},
		{"", func(c *Config) { c.Listen = "[::1]:8000" }},
		{"", func(c *Config) { c.Listen = "localhost:0" }},
		{"--data", func(c *Config) { c.Data = "" }},
		{"--server", func(c *Config) { c.Server = "" }},
		{"HOST:PORT", func(c *Config) { c.Server = "manager" }},
		{"listen on 127.0.0.1:8000", func(c *Config) { c.Listen = "0.0.0.0:8000" }},
		{"listen on 127.0.0.1:8000", func(c *Config) { c.Listen = ":8000" }},
		{"listen on 127.0.0.1:80", func(c *Config) { c.Listen = "shop.example.com:80" }},
		{"", func(c *Config) {
			c.Listen, c.TLSCertificate, c.TLSKey, c.ServingKeys = "0.0.0.0:8000", "cert.pem", "key.pem", "keys.yaml"
		}},
		{"needs serving keys", func(c *Config) { c.Listen, c.TLSCertificate, c.TLSKey = "0.0.0.0:8000", "cert.pem", "key.pem" }},
		{"needs TLS", func(c *Config) { c.GRPCListen, c.ServingKeys = "0.0.0.0:8001", "keys.yaml" }},
		{"belong together", func(c *Config) { c.TLSKey = "key.pem" }},
		{"whole path", func(c *Config) { c.Socket = "agent.sock" }},
		{"metrics: cannot listen", func(c *Config) { c.MetricsListen = "8002" }},
		{"max-body", func(c *Config) { c.MaxBody = 1 }},
		{"response-cache", func(c *Config) { c.ResponseCache = -1 }},
		{"one is enough", func(c *Config) { c.Token, c.TokenFile = "a", "b" }},
		{"retry-max", func(c *Config) { c.RetryMax = 0 }},
		{"report-interval", func(c *Config) { c.ReportInterval = time.Millisecond }},
		{"outbox-bytes", func(c *Config) { c.OutboxBytes = 1 }},
		{"threads", func(c *Config) { c.Threads = -1 }},
		{"log-level", func(c *Config) { c.LogLevel = "loud" }},
		{"", func(c *Config) { c.WasmAllow = []string{"files", "clock"} }},
		{`wasm-allow "network"`, func(c *Config) { c.WasmAllow = []string{"network"} }},
	} {
		c := Default()
		c.Server = "manager:8443"
		tc.change(&c)
		err := c.Validate()
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%+v: %v, want %q", c, err, tc.want)
		}
	}
}

func TestJoinToken(t *testing.T) {
	c := Default()
	if token, err := c.JoinToken(); token != nil || err != nil {
		t.Fatal(token, err)
	}
	c.TokenFile = file(t, "no token at all\n")
	if _, err := c.JoinToken(); err == nil || strings.Contains(err.Error(), "no token at all") {
		t.Fatalf("the error is %v: it must be one and not show what was given", err)
	}
	c.TokenFile = filepath.Join(t.TempDir(), "missing")
	if _, err := c.JoinToken(); err == nil {
		t.Fatal("a missing token file is no error")
	}
}

func TestAddresses(t *testing.T) {
	s := Default().Serving
	want := []Address{{"http", "127.0.0.1:8000", false}, {"grpc", "127.0.0.1:8001", true}, {"metrics", "127.0.0.1:8002", true}}
	if got := s.Addresses(); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	s.GRPCListen, s.MetricsListen, s.Socket = Off, "127.0.0.1:9002", "/run/dhow/agent.sock"
	want = []Address{{"http", "127.0.0.1:8000", false}, {"metrics", "127.0.0.1:9002", false}, {"socket", "unix:/run/dhow/agent.sock", false}}
	if got := s.Addresses(); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

func TestRepository(t *testing.T) {
	for _, tc := range []struct {
		want   string
		change func(*Repository)
	}{
		{"", func(*Repository) {}},
		{"", func(r *Repository) { r.Mode, r.LoadModels = "explicit", []string{"a"} }},
		{"", func(r *Repository) { r.Mode, r.LoadModels = "EXPLICIT", []string{"a"} }},
		{"--model-repository DIR", func(r *Repository) { r.Dir = "" }},
		{"none, poll or explicit", func(r *Repository) { r.Mode = "sometimes" }},
		{"load-model is for", func(r *Repository) { r.LoadModels = []string{"a"} }},
		{"repository-poll", func(r *Repository) { r.Mode, r.Poll = "poll", 0 }},
		{"listen on 127.0.0.1:8000", func(r *Repository) { r.Listen = "0.0.0.0:8000" }},
	} {
		r := DefaultRepository()
		r.Dir = "models"
		tc.change(&r)
		err := r.Validate()
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%+v: %v, want %q", r, err, tc.want)
		}
	}
	r := DefaultRepository()
	for _, s := range r.Settings() {
		if s.Name == "load-model" {
			for _, v := range []string{"a, b", "c"} {
				if err := s.Value.Set(v); err != nil {
					t.Fatal(err)
				}
			}
			if got := s.Value.String(); got != "a,b,c" {
				t.Errorf("%q", got)
			}
		}
	}
}

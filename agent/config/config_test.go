package config

import (
	"os"
	"path/filepath"
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
	if err := c.ReadFile(file(t, "server: a:1\nname: from-file\nreport-interval: 5s\nmax-body: 1MiB\ndisable-quic: true\n"), true); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"DHOW_AGENT_NAME": "from-env", "DHOW_AGENT_THREADS": "2"}
	if err := c.ReadEnvironment(func(k string) (string, bool) { v, ok := env[k]; return v, ok }); err != nil {
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
	if c != want {
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
		if err := c.ReadFile(file(t, content), true); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", content, err, want)
		}
	}
	c := Default()
	if err := c.ReadFile(file(t, ""), true); err != nil {
		t.Error(err)
	}
	if err := c.ReadFile("/nonexistent/agent.yaml", false); err != nil {
		t.Error(err)
	}
	if err := c.ReadFile("/nonexistent/agent.yaml", true); err == nil {
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
		{"use 127.0.0.1:8000", func(c *Config) { c.Listen = "0.0.0.0:8000" }},
		{"use 127.0.0.1:8000", func(c *Config) { c.Listen = ":8000" }},
		{"use 127.0.0.1:80", func(c *Config) { c.Listen = "shop.example.com:80" }},
		{"one is enough", func(c *Config) { c.Token, c.TokenFile = "a", "b" }},
		{"retry-max", func(c *Config) { c.RetryMax = 0 }},
		{"report-interval", func(c *Config) { c.ReportInterval = time.Millisecond }},
		{"outbox-bytes", func(c *Config) { c.OutboxBytes = 1 }},
		{"threads", func(c *Config) { c.Threads = -1 }},
		{"log-level", func(c *Config) { c.LogLevel = "loud" }},
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

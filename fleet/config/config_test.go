package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), FileName)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func environment(values map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { v, ok := values[name]; return v, ok }
}

func TestLaterSourcesWin(t *testing.T) {
	c := Default()
	c.Data = "x"
	path := write(t, "listen: 0.0.0.0:1\nhostnames: [fleet.example.com, 192.0.2.1]\ntrustDomain: fleet.example.com\nreportInterval: 30s\ndisableQUIC: true\nregistryBytes: 1000000\n")
	if err := c.ReadFile(path, true); err != nil {
		t.Fatal(err)
	}
	if err := c.ReadEnvironment(environment(map[string]string{"DHOW_FLEET_LISTEN": "0.0.0.0:2", "DHOW_FLEET_DISABLE_QUIC": "false"})); err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	if c.Listen != "0.0.0.0:2" || c.DisableQUIC || len(c.Hostnames) != 2 || c.ReportInterval != 30*time.Second || c.RegistryBytes != 1_000_000 || c.LogLevel != "info" {
		t.Errorf("%+v", c)
	}
}

func TestEverySettingReadsWhatItWrites(t *testing.T) {
	c := Default()
	c.Hostnames, c.ReportInterval = []string{"a", "b"}, time.Minute
	other := Config{}
	theirs := other.Settings()
	seen := map[string]bool{}
	for i, s := range c.Settings() {
		if err := theirs[i].Set(s.Get()); err != nil || theirs[i].Get() != s.Get() {
			t.Errorf("%s: %q became %q (%v)", s.Key, s.Get(), theirs[i].Get(), err)
		}
		if seen[s.Variable] || seen[s.Flag] || s.Usage == "" || s.Flag != strings.ToLower(s.Flag) {
			t.Errorf("setting %+v", s)
		}
		seen[s.Variable], seen[s.Flag] = true, true
	}
	if !seen["disable-quic"] || !seen["DHOW_FLEET_TRUST_DOMAIN"] {
		t.Errorf("names are %v", seen)
	}
}

func TestBadFilesSayWhatIsWrong(t *testing.T) {
	for content, want := range map[string]string{
		"listne: x":                        `no setting "listne"`,
		"listen: [a, {b: c}]":              "no plain value",
		"trustDomain: x\nsignOfLife: soon": "line 2: signOfLife",
		"signOfLife: {a: b}":               "no plain value",
		"registryBytes: many":              "no whole number",
		"disableQUIC: maybe":               "not true or false",
		"- a":                              "cannot read the configuration",
		"listen: \"":                       "cannot read the configuration",
		strings.Repeat("#", maxFile+1):     "at most",
	} {
		c := Default()
		if err := c.ReadFile(write(t, content), true); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", content, err, want)
		}
	}
	c := Default()
	missing := filepath.Join(t.TempDir(), "none")
	if err := c.ReadFile(missing, false); err != nil {
		t.Error(err)
	}
	if err := c.ReadFile(missing, true); err == nil {
		t.Error("a missing file that was asked for is no error")
	}
	if err := c.ReadEnvironment(environment(map[string]string{"DHOW_FLEET_SIGN_OF_LIFE": "x"})); err == nil || !strings.Contains(err.Error(), "DHOW_FLEET_SIGN_OF_LIFE") {
		t.Error(err)
	}
}

func TestValidate(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"--data":          func(c *Config) { c.Data = "" },
		"listen":          func(c *Config) { c.Listen = "8443" },
		"trustDomain":     func(c *Config) { c.TrustDomain = "" },
		"hostnames":       func(c *Config) { c.Hostnames = []string{"a b"} },
		"reportInterval":  func(c *Config) { c.ReportInterval = time.Millisecond },
		"deliverInterval": func(c *Config) { c.DeliverInterval = 48 * time.Hour },
		"signOfLife":      func(c *Config) { c.SignOfLife = 0 },
		"expiredGrace":    func(c *Config) { c.ExpiredGrace = -1 },
		"registryBytes":   func(c *Config) { c.RegistryBytes = -1 },
		"logLevel":        func(c *Config) { c.LogLevel = "loud" },
	} {
		c := Default()
		c.Data, c.TrustDomain = "x", "fleet.internal"
		if err := c.Validate(); err != nil {
			t.Fatal(err)
		}
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func TestDefaultTrustDomain(t *testing.T) {
	for want, hosts := range map[string][]string{"fleet.example.com": {"localhost", "192.0.2.1", "fleet.example.com"}, "fleet.internal": {"localhost"}} {
		if got := DefaultTrustDomain(hosts); got != want {
			t.Errorf("%v: %s", hosts, got)
		}
	}
}

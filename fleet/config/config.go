// Package config reads the manager's configuration: defaults, then the file, then the environment, then flags, then
// Validate. It is read once, at the start; nothing else in the manager looks at files or the environment for settings.
//
// Every setting stands in one table, from which the file's keys, the variables (DHOW_FLEET_...) and the flags are made,
// so that the three never drift apart. Reading a file is the only thing here that touches the system.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/dhowfleet/dhow/protocol/identity"
)

// FileName is the file in the data folder that is read when no other is named.
const FileName = "config.yaml"

const maxFile = 1 << 20

// Config is how a manager runs.
type Config struct {
	// Data is the folder that holds everything; it is the manager's alone.
	Data string
	// Listen is the address, host:port, for TCP and UDP alike.
	Listen string
	// Hostnames are the names and addresses under which operators reach the manager, besides those of loopback.
	Hostnames []string
	// TrustDomain names the fleet in certificates. It is chosen once.
	TrustDomain string
	// DisableQUIC serves TCP only.
	DisableQUIC bool
	// ReportInterval and DeliverInterval are what nodes are told; zero leaves it to them.
	ReportInterval, DeliverInterval time.Duration
	// SignOfLife is the longest time between two messages of a node's watch.
	SignOfLife time.Duration
	// ExpiredGrace is how long after its end a node's certificate can still be renewed.
	ExpiredGrace time.Duration
	// RegistryBytes bounds all bundles together; zero: the disk does.
	RegistryBytes int64
	// LogLevel is debug, info, warn or error.
	LogLevel string
}

// Default returns the configuration before anything is read.
func Default() Config {
	return Config{Listen: "127.0.0.1:8443", SignOfLife: 20 * time.Second, ExpiredGrace: 90 * 24 * time.Hour, LogLevel: "info"}
}

// Setting is one row of the table.
type Setting struct {
	// Key is its name in the file, Variable in the environment, Flag on the command line.
	Key, Variable, Flag, Usage string
	// List is true when it holds several values, separated by commas.
	List bool
	// Set reads it from text.
	Set func(string) error
	// Get writes it as text.
	Get func() string
}

// Settings returns the table over c.
func (c *Config) Settings() []Setting {
	return []Setting{
		text("listen", "address and port to listen on, TCP and UDP", &c.Listen),
		list("hostnames", "names and addresses under which operators reach the manager, separated by commas", &c.Hostnames),
		text("trustDomain", "name of the fleet in certificates; chosen once", &c.TrustDomain),
		truth("disableQUIC", "serve TCP only", &c.DisableQUIC),
		duration("reportInterval", "how often nodes report; 0 leaves it to them", &c.ReportInterval),
		duration("deliverInterval", "how often nodes deliver what they counted; 0 leaves it to them", &c.DeliverInterval),
		duration("signOfLife", "longest time between two messages to a node", &c.SignOfLife),
		duration("expiredGrace", "how long after its end a node's certificate can still be renewed", &c.ExpiredGrace),
		number("registryBytes", "bound on the bytes of all bundles together; 0: none but the disk", &c.RegistryBytes),
		text("logLevel", "debug, info, warn or error", &c.LogLevel),
	}
}

func setting(key, usage string, get func() string, set func(string) error) Setting {
	kebab := strings.Builder{}
	for i, r := range key {
		upper := r >= 'A' && r <= 'Z'
		if upper && i > 0 && (key[i-1] < 'A' || key[i-1] > 'Z') {
			kebab.WriteByte('-')
		}
		kebab.WriteRune(r)
	}
	flag := strings.ToLower(kebab.String())
	return Setting{Key: key, Flag: flag, Variable: "DHOW_FLEET_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_")), Usage: usage, Set: set, Get: get}
}

func text(key, usage string, v *string) Setting {
	return setting(key, usage, func() string { return *v }, func(s string) error { *v = s; return nil })
}

func list(key, usage string, v *[]string) Setting {
	s := setting(key, usage, func() string { return strings.Join(*v, ",") }, func(s string) error {
		*v = nil
		for part := range strings.SplitSeq(s, ",") {
			if part = strings.TrimSpace(part); part != "" {
				*v = append(*v, part)
			}
		}
		return nil
	})
	s.List = true
	return s
}

func truth(key, usage string, v *bool) Setting {
	return setting(key, usage, func() string { return strconv.FormatBool(*v) }, func(s string) (err error) {
		if *v, err = strconv.ParseBool(s); err != nil {
			return fmt.Errorf("%q is not true or false", s)
		}
		return nil
	})
}

func duration(key, usage string, v *time.Duration) Setting {
	return setting(key, usage, func() string { return v.String() }, func(s string) (err error) {
		if *v, err = time.ParseDuration(s); err != nil {
			return fmt.Errorf("%q is no duration, such as 30s or 12h", s)
		}
		return nil
	})
}

func number(key, usage string, v *int64) Setting {
	return setting(key, usage, func() string { return strconv.FormatInt(*v, 10) }, func(s string) (err error) {
		if *v, err = strconv.ParseInt(s, 10, 64); err != nil {
			return fmt.Errorf("%q is no whole number", s)
		}
		return nil
	})
}

// ReadFile takes up the settings of a file in YAML. One that is missing is no error unless it was asked for.
func (c *Config) ReadFile(path string, asked bool) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) && !asked {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read the configuration: %w", err)
	}
	if info.Size() > maxFile {
		return fmt.Errorf("cannot read the configuration: %s has %d bytes, at most %d are taken", path, info.Size(), maxFile)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("cannot read the configuration: %w", err)
	}
	var values map[string]yaml.Node
	if err := yaml.Unmarshal(data, &values); err != nil {
		return fmt.Errorf("cannot read the configuration %s: %w", path, err)
	}
	settings := c.Settings()
	for key, node := range values {
		i := slices.IndexFunc(settings, func(s Setting) bool { return s.Key == key })
		if i < 0 {
			var known []string
			for _, s := range settings {
				known = append(known, s.Key)
			}
			return fmt.Errorf("cannot read the configuration %s: there is no setting %q; there are %s", path, key, strings.Join(known, ", "))
		}
		value, err := plain(&node)
		if err == nil {
			err = settings[i].Set(value)
		}
		if err != nil {
			return fmt.Errorf("cannot read the configuration %s, line %d: %s: %w", path, node.Line, key, err)
		}
	}
	return nil
}

// plain returns a scalar as it is written, and a list of them separated by commas.
func plain(n *yaml.Node) (string, error) {
	switch n.Kind {
	case yaml.ScalarNode:
		return n.Value, nil
	case yaml.SequenceNode:
		var parts []string
		for _, item := range n.Content {
			if item.Kind != yaml.ScalarNode {
				return "", errors.New("the list holds something that is no plain value")
			}
			parts = append(parts, item.Value)
		}
		return strings.Join(parts, ","), nil
	}
	return "", errors.New("it is no plain value")
}

// ReadEnvironment takes up the settings of the environment.
func (c *Config) ReadEnvironment(lookup func(string) (string, bool)) error {
	for _, s := range c.Settings() {
		if value, ok := lookup(s.Variable); ok {
			if err := s.Set(value); err != nil {
				return fmt.Errorf("cannot read the variable %s: %w", s.Variable, err)
			}
		}
	}
	return nil
}

// Validate returns the first setting that cannot be, in a sentence.
func (c *Config) Validate() error {
	if c.Data == "" {
		return errors.New("no data folder is named: use --data DIR")
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		return fmt.Errorf("listen: %q is no host:port, such as 0.0.0.0:8443", c.Listen)
	}
	if err := identity.ValidTrustDomain(c.TrustDomain); err != nil {
		return fmt.Errorf("trustDomain: %w", err)
	}
	for _, h := range c.Hostnames {
		if _, err := netip.ParseAddr(h); err != nil && identity.ValidTrustDomain(h) != nil {
			return fmt.Errorf("hostnames: %q is no host name and no address", h)
		}
	}
	for name, d := range map[string]time.Duration{"reportInterval": c.ReportInterval, "deliverInterval": c.DeliverInterval} {
		if d != 0 && (d < time.Second || d > 24*time.Hour) {
			return fmt.Errorf("%s: %s is outside of 1s to 24h", name, d)
		}
	}
	if c.SignOfLife < time.Second || c.SignOfLife > 10*time.Minute {
		return fmt.Errorf("signOfLife: %s is outside of 1s to 10m", c.SignOfLife)
	}
	if c.ExpiredGrace < 0 || c.ExpiredGrace > 2*365*24*time.Hour {
		return fmt.Errorf("expiredGrace: %s is outside of 0 to two years", c.ExpiredGrace)
	}
	if c.RegistryBytes < 0 {
		return fmt.Errorf("registryBytes: %d is less than nothing", c.RegistryBytes)
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.LogLevel) {
		return fmt.Errorf("logLevel: %q is not debug, info, warn or error", c.LogLevel)
	}
	return nil
}

// DefaultTrustDomain names a fleet that was given no name: after the first host name that is a domain.
func DefaultTrustDomain(hostnames []string) string {
	for _, h := range hostnames {
		if _, err := netip.ParseAddr(h); err != nil && strings.Contains(h, ".") && identity.ValidTrustDomain(h) == nil {
			return h
		}
	}
	return "fleet.internal"
}

// File returns the path of the data folder's configuration.
func (c *Config) File() string { return filepath.Join(c.Data, FileName) }

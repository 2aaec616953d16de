// Package config is how an agent is set up: defaults, then a file, then DHOW_AGENT_... variables, then flags, each
// overruling the one before, and Validate at the end.
//
// Config is that of an agent in a fleet, Repository that of one that serves a folder of models by itself; what they have
// in common is Serving. One list names every setting, and file, environment and command line are all read through it. The configuration is
// read once, when the program starts; nothing else in the agent looks at files or variables for settings. Secrets are
// not printed.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/dhowfleet/dhow/protocol/identity"
)

// DefaultFile is read when it exists and no other file is named.
const DefaultFile = "/etc/dhow/agent.yaml"

const (
	maxFile  = 1 << 20
	maxToken = 4 << 10
)

// Config is how an agent runs.
type Config struct {
	Data      string // the folder of everything that the agent keeps
	Server    string // host:port of the fleet manager
	Token     string // the join token itself; TokenFile keeps it out of the process list
	TokenFile string
	Name      string // of the node, for operators; empty: the host name

	Serving

	ReportInterval  time.Duration // zero: as the manager says
	DeliverInterval time.Duration // zero: as the manager says
	RetryMax        time.Duration // the longest wait between two tries

	TelemetryBytes int64         // of telemetry.db
	TelemetryAge   time.Duration // of its rows
	OutboxBytes    int64         // of what waits for delivery

	DisableQUIC bool
}

// Default is the configuration when nothing is said.
func Default() Config {
	return Config{
		Data: "/var/lib/dhow", RetryMax: time.Minute, Serving: defaultServing(),
		TelemetryBytes: 256 << 20, TelemetryAge: 30 * 24 * time.Hour, OutboxBytes: 64 << 20,
	}
}

// Setting is one thing that can be set.
type Setting struct {
	Name  string // as in the file and, with two hyphens, on the command line
	Usage string
	// Value reads and writes it as text.
	Value interface {
		Set(string) error
		String() string
	}
}

// Variable is the setting's environment variable.
func (s Setting) Variable() string {
	return "DHOW_AGENT_" + strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_"))
}

// Settings lists what can be set, bound to c.
func (c *Config) Settings() []Setting {
	return append([]Setting{
		{"data", "folder of everything that the agent keeps", (*text)(&c.Data)},
		{"server", "host:port of the fleet manager", (*text)(&c.Server)},
		{"token", "join token, needed once (better: --token-file, which other users of the machine do not see)", (*text)(&c.Token)},
		{"token-file", "file with the join token; ignored once the node is enrolled", (*text)(&c.TokenFile)},
		{"name", "name of this node for operators (default: the host name)", (*text)(&c.Name)},
		{"report-interval", "how often to report (default: as the manager says)", (*duration)(&c.ReportInterval)},
		{"deliver-interval", "how often to deliver counts (default: as the manager says)", (*duration)(&c.DeliverInterval)},
		{"retry-max", "longest wait before the manager is tried again", (*duration)(&c.RetryMax)},
		{"telemetry-bytes", "largest telemetry.db; the oldest rows that were added up go first", (*size)(&c.TelemetryBytes)},
		{"telemetry-age", "how long rows are kept", (*duration)(&c.TelemetryAge)},
		{"outbox-bytes", "most that waits for delivery; the oldest counts go first", (*size)(&c.OutboxBytes)},
		{"disable-quic", "use TCP only", (*truth)(&c.DisableQUIC)},
	}, c.Serving.settings()...)
}

// ReadFile takes the settings of a YAML file. A file that is not there is an error only when it was asked for.
func ReadFile(settings []Setting, path string, asked bool) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) && !asked {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read the configuration: %w", err)
	}
	if info.Size() > maxFile {
		return fmt.Errorf("cannot read the configuration: %s has %d bytes", path, info.Size())
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("cannot read the configuration: %w", err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return fmt.Errorf("cannot read the configuration %s: %w", path, err)
	}
	if len(doc.Content) == 0 {
		return nil // empty
	}
	top := doc.Content[0]
	if top.Kind != yaml.MappingNode {
		return fmt.Errorf("cannot read the configuration %s: it is no list of settings", path)
	}
	known := map[string]Setting{}
	for _, s := range settings {
		known[s.Name] = s
	}
	for i := 0; i+1 < len(top.Content); i += 2 {
		key, value := top.Content[i], top.Content[i+1]
		s, ok := known[key.Value]
		if !ok {
			return fmt.Errorf("cannot read the configuration %s: line %d: there is no setting %q", path, key.Line, key.Value)
		}
		if value.Kind != yaml.ScalarNode {
			return fmt.Errorf("cannot read the configuration %s: line %d: %s is a single value", path, value.Line, key.Value)
		}
		if err := s.Value.Set(value.Value); err != nil {
			return fmt.Errorf("cannot read the configuration %s: line %d: %s: %w", path, value.Line, key.Value, err)
		}
	}
	return nil
}

// ReadEnvironment takes the settings that lookup has.
func ReadEnvironment(settings []Setting, lookup func(string) (string, bool)) error {
	for _, s := range settings {
		if v, ok := lookup(s.Variable()); ok {
			if err := s.Value.Set(v); err != nil {
				return fmt.Errorf("cannot use the variable %s: %w", s.Variable(), err)
			}
		}
	}
	return nil
}

// Validate returns the first thing that cannot be, in a sentence.
func (c *Config) Validate() error {
	if c.Data == "" {
		return errors.New("no data folder: name one with --data")
	}
	if c.Server == "" {
		return errors.New("no fleet manager: name one with --server HOST:PORT")
	}
	if host, port, err := net.SplitHostPort(c.Server); err != nil || host == "" || port == "" {
		return fmt.Errorf("server %q is no HOST:PORT", c.Server)
	}
	if err := c.Serving.validate(); err != nil {
		return err
	}
	if c.Token != "" && c.TokenFile != "" {
		return errors.New("both a token and a token file are given: one is enough")
	}
	for _, d := range []struct {
		name     string
		value    time.Duration
		optional bool
	}{{"report-interval", c.ReportInterval, true}, {"deliver-interval", c.DeliverInterval, true}, {"retry-max", c.RetryMax, false}, {"telemetry-age", c.TelemetryAge, false}} {
		const least, most = 100 * time.Millisecond, 10 * 365 * 24 * time.Hour
		if (d.value != 0 || !d.optional) && (d.value < least || d.value > most) {
			return fmt.Errorf("%s %s is not between %s and ten years", d.name, d.value, least)
		}
	}
	for _, n := range []struct {
		name  string
		value int64
	}{{"telemetry-bytes", c.TelemetryBytes}, {"outbox-bytes", c.OutboxBytes}} {
		const least, most = 64 << 10, 1 << 40
		if n.value < least || n.value > most {
			return fmt.Errorf("%s %d is not between 64 KiB and 1 TiB", n.name, n.value)
		}
	}
	return nil
}

// HasToken reports whether a join token is there, without reading it.
func (c *Config) HasToken() bool {
	if c.TokenFile == "" {
		return c.Token != ""
	}
	_, err := os.Stat(c.TokenFile)
	return err == nil
}

// JoinToken returns the join token, from the setting or its file; nil when neither is given.
func (c *Config) JoinToken() (*identity.JoinToken, error) {
	t := c.Token
	if c.TokenFile != "" {
		f, err := os.Open(c.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("cannot read the join token: %w", err)
		}
		defer f.Close()
		data := make([]byte, maxToken)
		n, err := f.Read(data)
		if err != nil {
			return nil, fmt.Errorf("cannot read the join token from %s: %w", c.TokenFile, err)
		}
		t = string(data[:n])
	}
	t = strings.TrimSpace(t)
	if t == "" {
		return nil, nil
	}
	token, err := identity.ParseJoinToken(t)
	if err != nil {
		return nil, fmt.Errorf("cannot use the join token: %w", err)
	}
	return &token, nil
}

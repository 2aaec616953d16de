// Package config is how an agent is set up: defaults, then a file, then DHOW_AGENT_... variables, then flags, each
// overruling the one before, and Validate at the end.
//
// One list names every setting, and file, environment and command line are all read through it. The configuration is
// read once, when the program starts; nothing else in the agent looks at files or variables for settings. Secrets are
// not printed.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/dhowfleet/dhow/models/bundle"
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
	Listen    string // host:port of the Open Inference Protocol, on loopback
	Name      string // of the node, for operators; empty: the host name

	ReportInterval  time.Duration // zero: as the manager says
	DeliverInterval time.Duration // zero: as the manager says
	RetryMax        time.Duration // the longest wait between two tries

	OnnxRuntime string // path of the library; empty: it is looked for
	Threads     int    // of one request in the model; zero: one
	Concurrency int    // requests that compute at a time; zero: one a core

	MaxBody        int64         // bytes of one request
	TelemetryBytes int64         // of telemetry.db
	TelemetryAge   time.Duration // of its rows
	OutboxBytes    int64         // of what waits for delivery

	DisableQUIC bool
	LogLevel    string
}

// Default is the configuration when nothing is said.
func Default() Config {
	return Config{
		Data: "/var/lib/dhow", Listen: "127.0.0.1:8000", RetryMax: time.Minute, MaxBody: 64 << 20,
		TelemetryBytes: 256 << 20, TelemetryAge: 30 * 24 * time.Hour, OutboxBytes: 64 << 20, LogLevel: "info",
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
	return []Setting{
		{"data", "folder of everything that the agent keeps", (*text)(&c.Data)},
		{"server", "host:port of the fleet manager", (*text)(&c.Server)},
		{"token", "join token, needed once (better: --token-file, which other users of the machine do not see)", (*text)(&c.Token)},
		{"token-file", "file with the join token; ignored once the node is enrolled", (*text)(&c.TokenFile)},
		{"listen", "host:port on loopback where models are served (Open Inference Protocol)", (*text)(&c.Listen)},
		{"name", "name of this node for operators (default: the host name)", (*text)(&c.Name)},
		{"report-interval", "how often to report (default: as the manager says)", (*duration)(&c.ReportInterval)},
		{"deliver-interval", "how often to deliver counts (default: as the manager says)", (*duration)(&c.DeliverInterval)},
		{"retry-max", "longest wait before the manager is tried again", (*duration)(&c.RetryMax)},
		{"onnxruntime", "path of the ONNX Runtime library (default: looked for beside the program)", (*text)(&c.OnnxRuntime)},
		{"threads", "threads of one request in a model (0: one)", (*number)(&c.Threads)},
		{"concurrency", "requests that compute at a time (0: one a core)", (*number)(&c.Concurrency)},
		{"max-body", "largest request", (*size)(&c.MaxBody)},
		{"telemetry-bytes", "largest telemetry.db; the oldest rows that were added up go first", (*size)(&c.TelemetryBytes)},
		{"telemetry-age", "how long rows are kept", (*duration)(&c.TelemetryAge)},
		{"outbox-bytes", "most that waits for delivery; the oldest counts go first", (*size)(&c.OutboxBytes)},
		{"disable-quic", "use TCP only", (*truth)(&c.DisableQUIC)},
		{"log-level", "debug, info, warn or error", (*text)(&c.LogLevel)},
	}
}

// ReadFile takes the settings of a YAML file. A file that is not there is an error only when it was asked for.
func (c *Config) ReadFile(path string, asked bool) error {
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
	for _, s := range c.Settings() {
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
func (c *Config) ReadEnvironment(lookup func(string) (string, bool)) error {
	for _, s := range c.Settings() {
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
	if err := loopback(c.Listen); err != nil {
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
	}{{"max-body", c.MaxBody}, {"telemetry-bytes", c.TelemetryBytes}, {"outbox-bytes", c.OutboxBytes}} {
		const least, most = 64 << 10, 1 << 40
		if n.value < least || n.value > most {
			return fmt.Errorf("%s %d is not between 64 KiB and 1 TiB", n.name, n.value)
		}
	}
	if c.Threads < 0 || c.Threads > 256 || c.Concurrency < 0 || c.Concurrency > 4096 {
		return fmt.Errorf("threads %d or concurrency %d is beyond what a machine has", c.Threads, c.Concurrency)
	}
	switch c.LogLevel {
	case "debug", "info", "warn", "error":
	default:
		return fmt.Errorf("log-level %q is not debug, info, warn or error", c.LogLevel)
	}
	return nil
}

// loopback refuses addresses that others can reach: requests are neither encrypted nor authorised yet.
func loopback(listen string) error {
	host, port, err := net.SplitHostPort(listen)
	if err != nil || port == "" {
		return fmt.Errorf("listen %q is no HOST:PORT", listen)
	}
	if host == "localhost" {
		return nil
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("listen %q can be reached from other machines, and the agent does not encrypt or authorise requests yet: use 127.0.0.1:%s, with a proxy in front if others are to reach it", listen, port)
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

type text string

func (v *text) Set(s string) error { *v = text(s); return nil }
func (v *text) String() string     { return string(*v) }

type duration time.Duration

func (v *duration) Set(s string) error {
	d, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("%q is no duration such as 30s or 12h", s)
	}
	*v = duration(d)
	return nil
}
func (v *duration) String() string { return time.Duration(*v).String() }

type number int

func (v *number) Set(s string) error {
	n, err := strconv.Atoi(s)
	if err != nil {
		return fmt.Errorf("%q is no whole number", s)
	}
	*v = number(n)
	return nil
}
func (v *number) String() string { return strconv.Itoa(int(*v)) }

type size int64

func (v *size) Set(s string) error {
	n, err := bundle.ParseSize(s)
	if err != nil {
		return err
	}
	*v = size(n)
	return nil
}
func (v *size) String() string { return bundle.FormatSize(int64(*v)) }

type truth bool

func (v *truth) Set(s string) error {
	b, err := strconv.ParseBool(s)
	if err != nil {
		return fmt.Errorf("%q is neither true nor false", s)
	}
	*v = truth(b)
	return nil
}
func (v *truth) String() string   { return strconv.FormatBool(bool(*v)) }
func (v *truth) IsBoolFlag() bool { return true }

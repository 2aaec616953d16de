package config

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/dhowfleet/dhow/agent/access"
	"github.com/dhowfleet/dhow/wasm/host"
)

// Off, as an address, is no listener.
const Off = "off"

// The addresses that clients of the protocol expect by habit. They are taken when they are free and nothing else is said.
const (
	HabitHTTP    = "127.0.0.1:8000"
	HabitGRPC    = "127.0.0.1:8001"
	HabitMetrics = "127.0.0.1:8002"
)

// Serving is how models are served, in a fleet or without.
type Serving struct {
	Listen        string // HOST:PORT of the Open Inference Protocol over HTTP
	GRPCListen    string // over gRPC; "" is HabitGRPC when it is free, Off is none
	MetricsListen string // metrics; "" is HabitMetrics when it is free, Off is none
	Socket        string // path of a Unix socket for all three; "": none

	TLSCertificate, TLSKey string // PEM files; beyond loopback both are needed
	ServingKeys            string // file of ServingKey documents; beyond loopback it is needed
	KeyHeader              string // header that also carries keys, as Triton's restricted endpoints have one
	Anonymous              bool   // callers on this machine need no key although there are keys
	AccessLog              string // file with a line for each request, "-" is standard output; "": none

	OnnxRuntime string // path of the library; empty: it is looked for
	Threads     int    // of one request in the model; zero: one
	Concurrency int    // requests that compute at a time; zero: one a core

	WasmAllow []string // what modules get that ask for it, of WasmGrants; otherwise they compute and nothing else

	MaxBody       int64 // bytes of one request
	ResponseCache int64 // bytes of answers that are kept for models that want it; 0: none
	ModelMemory   int64 // bytes that all models may take; 0: what the machine can spare

	LogLevel string
}

// WasmGrants are what a WASM module can ask for beyond computing.
var WasmGrants = []string{"clock", "random", "files"}

func defaultServing() Serving {
	return Serving{Listen: HabitHTTP, MaxBody: 64 << 20, LogLevel: "info"}
}

func (s *Serving) settings() []Setting {
	return []Setting{
		{"listen", "host:port where models are served (Open Inference Protocol over HTTP)", (*text)(&s.Listen)},
		{"grpc-listen", "host:port of the same over gRPC, or off (default " + HabitGRPC + ", when it is free)", (*text)(&s.GRPCListen)},
		{"metrics-listen", "host:port of the metrics, or off (default " + HabitMetrics + ", when it is free)", (*text)(&s.MetricsListen)},
		{"socket", "path of a Unix socket where all of them are served too", (*text)(&s.Socket)},
		{"tls-certificate", "file with the certificate (PEM) for listening beyond this machine", (*text)(&s.TLSCertificate)},
		{"tls-key", "file with its private key", (*text)(&s.TLSKey)},
		{"serving-keys", "file with the keys of those who may ask; see dhow-agent key create", (*text)(&s.ServingKeys)},
		{"key-header", "header that carries keys beside Authorization", (*text)(&s.KeyHeader)},
		{"anonymous", "let callers on this machine ask without a key although there are keys", (*truth)(&s.Anonymous)},
		{"access-log", "file with a line for each request (- is standard output)", (*text)(&s.AccessLog)},
		{"onnxruntime", "path of the ONNX Runtime library (default: looked for beside the program)", (*text)(&s.OnnxRuntime)},
		{"threads", "threads of one request in a model (0: one)", (*number)(&s.Threads)},
		{"concurrency", "requests that compute at a time (0: one a core)", (*number)(&s.Concurrency)},
		{"wasm-allow", "what WASM modules get that ask for it: clock, random, files (of their bundle); default: nothing", (*list)(&s.WasmAllow)},
		{"max-body", "largest request", (*size)(&s.MaxBody)},
		{"response-cache", "memory for answers that are given again, to models that ask for it (0: none)", (*size)(&s.ResponseCache)},
		{"model-memory", "memory that all models may take (0: what the machine can spare)", (*size)(&s.ModelMemory)},
		{"log-level", "debug, info, warn or error", (*text)(&s.LogLevel)},
	}
}

// WasmPolicy is what WASM modules may be granted.
func (s *Serving) WasmPolicy() host.Policy {
	return host.Policy{
		Clock:  slices.Contains(s.WasmAllow, "clock"),
		Random: slices.Contains(s.WasmAllow, "random"),
		Files:  slices.Contains(s.WasmAllow, "files"),
	}
}

// Addresses returns the addresses that are listened on, by endpoint; optional ones need not be free.
func (s *Serving) Addresses() []Address {
	out := []Address{{Name: "http", Address: s.Listen}}
	for _, a := range []struct{ name, given, habit string }{{"grpc", s.GRPCListen, HabitGRPC}, {"metrics", s.MetricsListen, HabitMetrics}} {
		switch a.given {
		case Off:
		case "":
			out = append(out, Address{Name: a.name, Address: a.habit, Optional: true})
		default:
			out = append(out, Address{Name: a.name, Address: a.given})
		}
	}
	if s.Socket != "" {
		out = append(out, Address{Name: "socket", Address: "unix:" + s.Socket})
	}
	return out
}

// Address is where an endpoint listens.
type Address struct {
	Name, Address string
	Optional      bool
}

// Level is the log level.
func (s *Serving) Level() (slog.Level, error) {
	var l slog.Level
	err := l.UnmarshalText([]byte(s.LogLevel))
	return l, err
}

func (s *Serving) validate() error {
	if (s.TLSCertificate == "") != (s.TLSKey == "") {
		return errors.New("tls-certificate and tls-key belong together: give both or none")
	}
	for _, a := range s.Addresses() {
		if err := access.CheckListen(a.Address, s.TLSCertificate != "", s.ServingKeys != ""); err != nil {
			return fmt.Errorf("%s: %w", a.Name, err)
		}
	}
	for _, a := range s.WasmAllow {
		if !slices.Contains(WasmGrants, a) {
			return fmt.Errorf("wasm-allow %q is none of %s", a, strings.Join(WasmGrants, ", "))
		}
	}
	for _, n := range []struct {
		name  string
		value int64
		least int64
	}{{"max-body", s.MaxBody, 64 << 10}, {"response-cache", s.ResponseCache, 0}, {"model-memory", s.ModelMemory, 0}} {
		const most = 1 << 40
		if n.value < n.least || n.value > most {
			return fmt.Errorf("%s %d is not between %d and 1 TiB", n.name, n.value, n.least)
		}
	}
	if s.Threads < 0 || s.Threads > 256 || s.Concurrency < 0 || s.Concurrency > 4096 {
		return fmt.Errorf("threads %d or concurrency %d is beyond what a machine has", s.Threads, s.Concurrency)
	}
	switch s.LogLevel {
	case "debug", "info", "warn", "error":
	default:
		return fmt.Errorf("log-level %q is not debug, info, warn or error", s.LogLevel)
	}
	return nil
}

package arch

import (
	"strings"
	"testing"
)

// allowed lists, for each top-level folder, which others its packages may import. What is missing is forbidden.
var allowed = map[string][]string{
	"models":   {"models"},
	"wasm":     {"wasm", "models"},
	"protocol": {"protocol", "models"},
	"agent":    {"agent", "protocol", "models", "wasm"},
	"fleet":    {"fleet", "protocol", "models", "wasm"},
	"install":  {"install"},
	"cmd":      {"cmd", "agent", "fleet", "protocol", "models", "wasm"},
	"test":     {"test", "agent", "fleet", "protocol", "models", "wasm", "cmd"},
}

// TestImportsPointDown keeps the layers: cmd -> agent | fleet -> protocol, wasm, models. An agent that could import the
// fleet manager would sooner or later need it to run.
func TestImportsPointDown(t *testing.T) {
	for _, p := range load(t) {
		may, known := allowed[p.top()]
		if !known {
			t.Errorf("%s lies in no folder that the layout knows; see docs/architecture.md", p.path)
			continue
		}
		for imp, files := range p.imports {
			target, ours := local(imp)
			if !ours || target == "test/failpoint" {
				continue
			}
			first, _, _ := strings.Cut(target, "/")
			ok := false
			for _, m := range may {
				ok = ok || m == first
			}
			if !ok {
				t.Errorf("%s imports %s (%s): packages of %s/ may import only %v", p.path, target, strings.Join(files, ", "), p.top(), may)
			}
		}
	}
}

// pure are the packages that decide. They take everything they need as arguments, time included, so that they can be
// tested by properties and run in simulation.
var pure = []string{
	"protocol/version", "protocol/identity", "protocol/dataclass", "protocol/hashchain",
	"models/bundle", "models/graph", "models/tensor", "models/profile", "models/evidence", "models/triton", "models/triton/textformat", "models/jsontensor", "models/strictyaml",
	"wasm/abi", "wasm/metering", "wasm/metering/binary", "wasm/metering/code", "wasm/metering/refusal", "wasm/payload",
	"agent/placement", "agent/routing", "agent/guard", "agent/deploy", "agent/tracing", "agent/openinference/grpcapi/wire", "agent/openinference/classification",
	"fleet/rollout", "fleet/verdict", "fleet/drift", "fleet/training", "fleet/residency", "fleet/resource",
	"fleet/store/latency", "fleet/store/tally",
}

var impure = []string{"os", "os/exec", "os/signal", "net", "net/http", "database/sql", "log", "log/slog", "math/rand", "math/rand/v2", "crypto/rand", "sync", "syscall"}

func TestDecisionsArePure(t *testing.T) {
	for _, p := range load(t) {
		for _, dir := range pure {
			if !under(p.path, dir) {
				continue
			}
			for _, imp := range impure {
				if files := p.imports[imp]; files != nil {
					t.Errorf("%s imports %s (%s), but it is a pure package: hand in what it needs as an argument", p.path, imp, strings.Join(files, ", "))
				}
			}
			for _, f := range p.files {
				for _, use := range selectors(f.syntax) {
					switch use {
					case "time.Now", "time.Since", "time.Until", "time.After", "time.Sleep", "time.NewTimer", "time.NewTicker", "time.AfterFunc", "time.Tick":
						t.Errorf("%s/%s uses %s, but it is a pure package: take the time as an argument", p.path, f.name, use)
					}
				}
				if hasGoStatement(f.syntax) {
					t.Errorf("%s/%s starts a goroutine, but it is a pure package", p.path, f.name)
				}
			}
		}
	}
}

// TestOneLogger keeps log/slog the only logger, so that every line has the same fields.
func TestOneLogger(t *testing.T) {
	for _, p := range load(t) {
		if files := p.imports["log"]; files != nil && p.top() != "test" {
			t.Errorf("%s imports log (%s): use log/slog", p.path, strings.Join(files, ", "))
		}
	}
}

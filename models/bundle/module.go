package bundle

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/dhowfleet/dhow/models/strictyaml"
)

// Step is a WASM module, how it is called, what bounds it, and what it asks for beyond computing.
type Step struct {
	Module string
	// Kind is how the module is called. Function is what an Extism plug-in exports, Format what a command or a plug-in
	// reads and writes.
	Kind     ModuleKind
	Function string
	Format   ModuleFormat

	// Timeout and Fuel bound one call; Fuel 0 leaves it to the timeout.
	Timeout time.Duration
	Fuel    int64
	// Memory bounds the module's linear memory in bytes, Stack that of its calls, Table the entries of its tables.
	Memory, Stack, Table int64
	// Keep lets an instance remember; otherwise each call starts as the first one did.
	Keep bool

	// Clock and Random ask for the real ones. Files is a folder of the bundle that the module may read, "" for none.
	Clock, Random bool
	Files         string
}

// ModuleKind is how a module is called.
type ModuleKind string

// The kinds. Plug-ins and commands are slower: each call copies more, and starts the program anew.
const (
	KindReactor ModuleKind = "dhow"    // by Dhow's own contract
	KindExtism  ModuleKind = "extism"  // a plug-in
	KindCommand ModuleKind = "command" // a WASI program that reads stdin and writes stdout
)

// ModuleFormat is what a plug-in or command reads and writes.
type ModuleFormat string

// The formats.
const (
	FormatTensors ModuleFormat = "tensors" // the tensor list of Dhow's contract
	FormatRaw     ModuleFormat = "raw"     // the bytes of the only tensor's only element
	FormatJSON    ModuleFormat = "json"    // as an inference request's and answer's body
)

const maxStepTimeout = time.Minute

func defaultStep() Step {
	return Step{
		Kind: KindReactor, Format: FormatTensors,
		Timeout: DefaultStepTimeout, Memory: DefaultStepMemory, Stack: DefaultStepStack, Table: DefaultStepTable,
	}
}

// step reads pipeline.pre or pipeline.post.
func (p *parser) step(n *strictyaml.Node, where string) *Step {
	s := defaultStep()
	p.Mapping(n, where, append([]strictyaml.Field{
		strictyaml.Key("module", true, func(n *strictyaml.Node) { p.Text(n, where+".module", &s.Module, ValidPath) }),
	}, p.module(&s, func(_ *strictyaml.Node, key string) string { return where + "." + key })...)...)
	p.fits(n, where, &s)
	return &s
}

// module are the keys of a module beside its file. name gives a key's name in messages, and is called before it is read.
func (p *parser) module(s *Step, name func(n *strictyaml.Node, key string) string) []strictyaml.Field {
	key := func(k string, read func(n *strictyaml.Node, where string)) strictyaml.Field {
		return strictyaml.Key(k, false, func(n *strictyaml.Node) { read(n, name(n, k)) })
	}
	var state, kind, format string
	return []strictyaml.Field{
		key("timeout", func(n *strictyaml.Node, w string) { p.duration(n, w, &s.Timeout, maxStepTimeout) }),
		key("memory", func(n *strictyaml.Node, w string) { p.size(n, w, &s.Memory, 64<<10, 2<<30) }),
		key("stack", func(n *strictyaml.Node, w string) { p.size(n, w, &s.Stack, 16<<10, 16<<20) }),
		key("table", func(n *strictyaml.Node, w string) { strictyaml.Int(&p.Reader, n, w, &s.Table, 1, 1<<20) }),
		key("fuel", func(n *strictyaml.Node, w string) { strictyaml.Int(&p.Reader, n, w, &s.Fuel, 1_000, 1<<50) }),
		key("state", func(n *strictyaml.Node, w string) {
			p.Text(n, w, &state, oneOf("reset", "keep"))
			s.Keep = state == "keep"
		}),
		key("allow", func(n *strictyaml.Node, w string) {
			p.List(n, w, 2, func(n *strictyaml.Node) {
				var what string
				p.Text(n, w, &what, func(v string) error {
					if v == "network" {
						return errors.New("no module gets a network; fetch what it needs into the bundle, or send it with the request")
					}
					return oneOf("clock", "random")(v)
				})
				s.Clock = s.Clock || what == "clock"
				s.Random = s.Random || what == "random"
			})
		}),
		key("files", func(n *strictyaml.Node, w string) { p.Text(n, w, &s.Files, ValidPath) }),
		key("kind", func(n *strictyaml.Node, w string) {
			p.Text(n, w, &kind, oneOf(string(KindReactor), string(KindExtism), string(KindCommand)))
			s.Kind = ModuleKind(kind)
		}),
		key("function", func(n *strictyaml.Node, w string) { p.Text(n, w, &s.Function, validText) }),
		key("format", func(n *strictyaml.Node, w string) {
			p.Text(n, w, &format, oneOf(string(FormatTensors), string(FormatRaw), string(FormatJSON)))
			s.Format = ModuleFormat(format)
		}),
	}
}

// fits checks keys that depend on one another.
func (p *parser) fits(n *strictyaml.Node, where string, s *Step) {
	switch {
	case s.Kind == KindExtism && s.Function == "":
		p.Failf(n, "%s: an Extism plug-in needs function, the name of what it exports", where)
	case s.Kind != KindExtism && s.Function != "":
		p.Failf(n, "%s: function is for kind: extism", where)
	case s.Kind == KindReactor && s.Format != FormatTensors:
		p.Failf(n, "%s: format is for the kinds extism and command; Dhow's own contract hands over tensors", where)
	case s.Kind != KindReactor && s.Keep:
		p.Failf(n, "%s: only modules of Dhow's own contract can keep their state", where)
	}
}

// checkModule looks whether a step's files are there and begin like a module.
func (b *Bundle) checkModule(fsys fs.FS, s *Step) error {
	p := s.Module
	if _, err := b.named(p, "pipeline", MaxModuleBytes); err != nil {
		return err
	}
	f, err := fsys.Open(p)
	if err != nil {
		return fmt.Errorf("cannot open %s: %w", p, err)
	}
	defer f.Close()
	head := make([]byte, 8)
	if _, err := io.ReadFull(f, head); err != nil || !bytes.Equal(head, []byte("\x00asm\x01\x00\x00\x00")) {
		return fmt.Errorf("%s is no WebAssembly module", p)
	}
	if s.Files != "" && !slices.ContainsFunc(b.Files, func(f File) bool { return strings.HasPrefix(f.Path, s.Files+"/") }) {
		return fmt.Errorf("%s asks for the folder %s, which has no file in the bundle", p, s.Files)
	}
	return nil
}

// oneOf checks that a value is one of those known.
func oneOf(known ...string) func(string) error {
	return func(s string) error {
		if !slices.Contains(known, s) {
			return fmt.Errorf("%q is none of %s", s, strings.Join(known, ", "))
		}
		return nil
	}
}

package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/dhowfleet/dhow/wasm/host"
	"github.com/dhowfleet/dhow/wasm/metering"
)

// refuse says why a module cannot serve, and what its maker can do.
func (r *wasmReport) refuse(err error) *wasmReport {
	r.Serves = false
	r.Verdict = "refused: " + sentenceOf(err)
	var rewriting *metering.Error
	switch {
	case errors.As(err, &rewriting):
		r.Reason = string(rewriting.Reason)
		r.Verdict = "refused: " + rewriting.Error()
		r.Remedy = remedies[rewriting.Reason]
	case errors.Is(err, host.ErrDeadline):
		r.Remedy = "let it do less when it starts: what it needs at each start can often be computed when it is built"
	case errors.Is(err, host.ErrStack):
		r.Remedy = "raise stack in bundle.yaml, or let it call less deeply when it starts"
	case errors.Is(err, host.ErrTrap):
		r.Remedy = "it fails when it starts or is configured; its log lines above may say why, and dhow wasm run shows them too"
	case r.Kind == kindUnknown && len(r.Exports) > 0:
		r.Remedy = "build it with one of the kits under wasm/guest, or export what docs/wasm.md asks for"
	}
	return r
}

// sentenceOf leaves out what the command says already.
func sentenceOf(err error) string {
	text := err.Error()
	for _, prefix := range []string{"cannot compile ", "cannot start "} {
		if rest, ok := strings.CutPrefix(text, prefix); ok {
			if _, rest, ok = strings.Cut(rest, ": "); ok {
				return rest
			}
		}
	}
	return text
}

// remedies of what package metering refuses.
var remedies = map[metering.Reason]string{
	metering.NotWasm:      "give the .wasm file that a compiler makes for wasm32, as a core module",
	metering.Malformed:    "build it anew: the file is damaged or cut off, or its compiler writes what no run time reads",
	metering.Index:        "build it anew with another version of its compiler: it names something that it does not have",
	metering.Operands:     "build it anew with another version of its compiler: its code takes values that are not there",
	metering.Unsupported:  "build it for WebAssembly 2.0 core: without threads, exceptions, tail calls, garbage collection and 64-bit memory",
	metering.TooLarge:     "build it smaller: strip symbols and debug information, optimise for size, move tables of data into the bundle's files",
	metering.Complexity:   "split the function that is named, or build it with less inlining (-O1, -Oz, or the like): machine-made functions of this size take minutes to compile",
	metering.MemoryLimit:  "raise memory in bundle.yaml, or let it start with less; it must have one memory of 32 bits",
	metering.TableLimit:   "raise table in bundle.yaml, or build it so that its tables do not grow",
	metering.ReservedName: "rename what begins with \"dhow:\"; such names are the agent's",
}

// judge says how far a module that starts is from its limits.
func (r *wasmReport) judge() {
	failed := 0
	var first *wasmMeasure
	var most wasmUsage
	for i := range r.Samples {
		s := &r.Samples[i]
		if s.Error != "" {
			if failed++; first == nil {
				first = s
			}
			continue
		}
		most.Fuel, most.Memory = max(most.Fuel, s.Usage.Fuel), max(most.Memory, s.Usage.Memory)
		most.Micros = max(most.Micros, s.Usage.Micros)
	}
	if first != nil {
		r.Verdict = fmt.Sprintf("refused: %d of %s had no answer; %s: %s", failed, count(len(r.Samples), "sample"), first.Name, first.Error)
		r.Remedy = "run it with dhow wasm run --request, which prints what it logs; raise the limit that is named, or mend the step or the sample"
		return
	}
	r.Serves = true
	if len(r.Samples) == 0 {
		r.Verdict = "can serve as far as can be told: it compiles and starts; no sample was tried, " + r.NoSamples
		return
	}
	took := time.Duration(most.Micros * float64(time.Microsecond))
	limit := time.Duration(r.Limits.Seconds * float64(time.Second))
	r.Verdict = fmt.Sprintf("can serve: %s took at most %s fuel, %s of %s memory, and %s of %s",
		count(len(r.Samples), "sample"), grouped(most.Fuel), sizeOf(most.Memory), sizeOf(r.Limits.Memory), short(took), short(limit))
	var hints []string
	if took > limit/2 {
		hints = append(hints, "raise timeout: a busy node takes more than twice as long")
	}
	if most.Memory > r.Limits.Memory/10*9 {
		hints = append(hints, "raise memory: a larger request may not fit")
	}
	if r.Limits.Fuel > 0 && most.Fuel > r.Limits.Fuel/2 {
		hints = append(hints, "raise fuel: a larger request may need more")
	}
	if !r.Compiled.Restorable && r.Limits.State == "reset" {
		hints = append(hints, "it changes its tables, drops data segments or keeps vectors in globals, so each call starts a new instance; avoid that, or say state: keep")
	}
	r.Remedy = strings.Join(hints, "; ")
}

func usageOf(u host.Usage) wasmUsage {
	return wasmUsage{Fuel: u.Fuel, Refills: u.Refills, Memory: u.Memory, Micros: microsOf(u.Time)}
}

// grouped writes a number with commas.
func grouped(n int64) string {
	text := strconv.FormatInt(n, 10)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// signatureOf writes a function's type, as in (i32, i32) -> i32.
func signatureOf(kind metering.Kind, params, results string) string {
	if kind != metering.Function {
		return ""
	}
	names := func(types string) string {
		var out []string
		for _, t := range []byte(types) {
			out = append(out, typeNames[t])
		}
		return strings.Join(out, ", ")
	}
	text := "(" + names(params) + ")"
	if results != "" {
		text += " -> " + names(results)
	}
	return text
}

var typeNames = map[byte]string{0x7f: "i32", 0x7e: "i64", 0x7d: "f32", 0x7c: "f64", 0x7b: "v128", 0x70: "funcref", 0x6f: "externref"}

const maxPorts = 40 // imports or exports in the text form

func (r *wasmReport) print(out io.Writer) {
	fmt.Fprintf(out, "%s: %s, %s\n", printable(r.Module), sizeOf(int64(r.Bytes)), r.Kind)
	if len(r.Sections) > 0 {
		var parts []string
		for _, s := range r.Sections {
			parts = append(parts, s.text())
		}
		fmt.Fprintf(out, "sections: %s\n", strings.Join(parts, ", "))
	}
	r.printPorts(out, "imports", r.Imports)
	r.printPorts(out, "exports", r.Exports)
	if len(r.Complexity) > 0 {
		fmt.Fprintln(out)
		t := newTable(out, "MADE OF", "THERE ARE", "ALLOWED")
		for _, f := range r.Complexity {
			allowed := ""
			if f.Limit > 0 {
				allowed = grouped(f.Limit)
			}
			t.row(f.Name, grouped(f.Value), allowed)
		}
		t.flush()
	}
	if c := r.Compiled; c != nil {
		fmt.Fprintf(out, "\nrewritten in %.1f ms to %s, compiled in %.0f ms to %s\n", c.RewriteMillis, sizeOf(int64(c.MeteredBytes)), c.CompileMillis, sizeOf(c.CodeBytes))
		after := "each call starts from it"
		switch {
		case r.Limits.State == "keep":
			after = "calls find what earlier ones left"
		case !c.Restorable:
			after = "each call starts a new instance"
		}
		fmt.Fprintf(out, "starts in %s with an image of %s; %s\n", short(time.Duration(c.StartMicros*float64(time.Microsecond))), sizeOf(c.ImageBytes), after)
		fmt.Fprintf(out, "vector instructions: %s; several requests in one call: %s\n", yes(c.VectorCode), yes(c.TakesBatches))
	}
	if len(r.Limits.Asks) > 0 {
		asks := strings.Join(r.Limits.Asks, ",")
		fmt.Fprintf(out, "it asks for %s; a node has to grant it: dhow-agent run --wasm-allow %s\n", asks, asks)
	}
	if len(r.Samples) > 0 {
		fmt.Fprintln(out)
		t := newTable(out, "SAMPLE", "FUEL", "MEMORY", "TIME", "ERROR")
		for _, s := range r.Samples {
			t.row(s.Name, grouped(s.Usage.Fuel), sizeOf(s.Usage.Memory), short(time.Duration(s.Usage.Micros*float64(time.Microsecond))), s.Error)
		}
		t.flush()
	}
	for _, line := range r.Log {
		fmt.Fprintf(out, "log %s\n", printable(line))
	}
	fmt.Fprintf(out, "\n%s\n", printable(r.Verdict))
	if r.Remedy != "" {
		fmt.Fprintf(out, "%s\n", printable(r.Remedy))
	}
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func (r *wasmReport) printPorts(out io.Writer, what string, ports []wasmPort) {
	if len(ports) == 0 {
		return
	}
	fmt.Fprintf(out, "%s:\n", what)
	for i, p := range ports {
		if i == maxPorts {
			fmt.Fprintf(out, "  and %d more; see -o json\n", len(ports)-i)
			return
		}
		name := p.Name
		if p.Module != "" {
			name = p.Module + "." + name
		}
		if p.Kind != metering.Function.String() {
			name += " (" + p.Kind + ")"
		}
		fmt.Fprintf(out, "  %s%s\n", printable(name), p.Signature)
	}
}

package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/dhowfleet/dhow/agent/inference/onnxruntime"
)

// failures tells what went wrong.
func failures(results []result) []string {
	var out []string
	for _, r := range results {
		if r.class == broken {
			out = append(out, fmt.Sprintf("%s/%s: %s", r.set, r.name, r.sentence))
		}
		for i, w := range r.ways {
			if w.failed != "" {
				out = append(out, fmt.Sprintf("%s/%s over %s: %s", r.set, r.name, ways[i], w.failed))
			}
		}
	}
	return out
}

// table is the document of the results.
func table(results []result, source string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `# Operators

What the ONNX project's own operator tests give when they are asked through the agent: %d models with inputs and
expected outputs, from Debian's %s, on ONNX Runtime %s on the CPU. Made by
`+"`test/operators/fetch && go run ./test/operators -o docs/operators.md`"+`; `+"`go test ./test/operators`"+` runs the same.

Each model is asked over REST with binary tensors, over REST in JSON, and over gRPC with raw and with typed contents.
Answers are compared as ONNX's runner does: floats within 1e-3 relative and 1e-7 absolute, NaN equal to NaN, all else
exactly.

| tests | models | passed | failed | not supported by ONNX Runtime | computed otherwise by ONNX Runtime | no tensors | test contradicts its model |
|--|--:|--:|--:|--:|--:|--:|--:|
`, len(results), strings.TrimSuffix(strings.TrimSpace(source), ".deb"), onnxruntime.Pinned)
	for _, set := range append(slices.Clone(sets), "") {
		c := count(results, set)
		name := set
		if set == "" {
			name = "all"
		}
		fmt.Fprintf(&b, "| %s | %d | %d | %d | %d | %d | %d | %d |\n", name, c.all, c.passed, c.failed, c.class[unsupported], c.differs, c.class[notTensor], c.class[contrary])
	}
	b.WriteString("\nA model has passed when every form that can carry it gave the expected answer:\n\n| form | passed | failed | cannot carry it |\n|--|--:|--:|--:|\n")
	for i, name := range ways {
		passed, failed, cannot := 0, 0, 0
		for _, r := range results {
			switch w := r.ways[i]; {
			case r.class != served || r.differs != "":
			case w.cannot != "":
				cannot++
			case w.failed != "":
				failed++
			default:
				passed++
			}
		}
		fmt.Fprintf(&b, "| %s | %d | %d | %d |\n", name, passed, failed, cannot)
	}
	section(&b, "Failed", failures(results))
	section(&b, "Not supported by ONNX Runtime, in its words", grouped(results, func(r result) string {
		if r.class == unsupported {
			return general(r.sentence)
		}
		return ""
	}))
	section(&b, "Computed otherwise by ONNX Runtime", grouped(results, func(r result) string { return r.differs }))
	b.WriteString(why)
	section(&b, "Drawn at random: datatypes and shapes are compared, values are not", grouped(results, func(r result) string {
		if r.random {
			return "random by definition"
		}
		return ""
	}))
	section(&b, "No tensors", grouped(results, func(r result) string {
		if r.class == notTensor {
			return r.sentence
		}
		return ""
	}))
	section(&b, "The test contradicts its model: it is refused, as it must be", grouped(results, func(r result) string {
		if r.class == contrary {
			return r.sentence
		}
		return ""
	}))
	section(&b, "An element type that the protocol does not have", grouped(results, func(r result) string {
		if r.class == noType {
			return r.sentence
		}
		return ""
	}))
	section(&b, "Binary only: JSON cannot carry it", grouped(results, func(r result) string { return kindOf(r.ways[1].cannot) }))
	return b.String()
}

// why stands under what is computed otherwise.
const why = `
Their answers are the same in every form, and those that ONNX Runtime gives in the process without any protocol.
`

type counts struct {
	all, passed, failed, differs int
	class                        map[class]int
}

func count(results []result, set string) counts {
	c := counts{class: map[class]int{}}
	for _, r := range results {
		if set != "" && r.set != set {
			continue
		}
		c.all++
		c.class[r.class]++
		switch {
		case r.failedAny():
			c.failed++
		case r.differs != "":
			c.differs++
		case r.class == served:
			c.passed++
		}
	}
	return c
}

func (res *result) failedAny() bool {
	return res.class == broken || slices.ContainsFunc(res.ways[:], func(w way) bool { return w.failed != "" })
}

// grouped lists tests by a text that say gives for each; "" leaves one out.
func grouped(results []result, say func(result) string) []string {
	var order []string
	names := map[string][]string{}
	for _, r := range results {
		text := say(r)
		if text == "" {
			continue
		}
		if names[text] == nil {
			order = append(order, text)
		}
		names[text] = append(names[text], strings.TrimPrefix(r.name, "test_"))
	}
	slices.Sort(order)
	out := make([]string, len(order))
	for i, text := range order {
		out[i] = fmt.Sprintf("%s: %s", text, strings.Join(names[text], ", "))
	}
	return out
}

func section(b *strings.Builder, title string, lines []string) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintf(b, "\n## %s\n\n", title)
	for _, line := range lines {
		fmt.Fprintf(b, "- %s\n", strings.NewReplacer("\n", " ", "|", `\|`, "<", `\<`, "*", `\*`, "_", `\_`).Replace(line))
	}
}

var particular = regexp.MustCompile(` node with name '[^']*'`)

// general leaves out of ONNX Runtime's sentence what is of one model alone, so that like ones stand together.
func general(sentence string) string {
	return particular.ReplaceAllString(strings.TrimPrefix(sentence, "cannot load model.onnx: "), "")
}

var named = regexp.MustCompile(`^"[^"]*" (is|holds) ([^,]*).*`)

// kindOf leaves the tensor's name out of why a form cannot carry it.
func kindOf(cannot string) string { return named.ReplaceAllString(cannot, "$2") }

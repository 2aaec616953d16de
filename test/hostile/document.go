package hostile

import (
	"fmt"
	"slices"
	"strings"
)

// Document is docs/wasm-hostile.md. It holds nothing that varies from run to run; the test of this package compares it
// with the file, and every verdict in it with what happens.
func Document(cases []Case) string {
	var b strings.Builder
	invalid := 0
	for i := range cases {
		if cases[i].Invalid {
			invalid++
		}
	}
	fmt.Fprintf(&b, `# Hostile modules

%d WASM modules that want to harm whoever runs them, and what becomes of each. %d are no valid WASM, and must not become
valid by what the rewriter adds; the others would run if nobody cared. Made by
`+"`go run ./test/hostile/table -o docs/wasm-hostile.md`"+`; `+"`go test ./test/hostile`"+` runs every one of them and compares.
`+"`go run ./test/hostile/neighbour`"+` runs those that get as far as a request beside a model that serves, and prints what it
notices of them.

| where it ends | modules | what that means |
|--|--:|--|
`, len(cases), invalid)
	for _, w := range []struct {
		where Where
		means string
	}{
		{Rewriter, "refused by name before anything is compiled, at the cost of reading it"},
		{Contract, "refused for what it imports or exports"},
		{Compiler, "refused by the compiler's validation"},
		{Start, "stopped or failed while its first instance starts; no request ever reaches it"},
		{Call, "stopped or failed in a request, which gets an error; the next request starts from a clean instance"},
		{Nowhere, "what it tries has no effect: it is bounded, dropped and counted, and the request is answered"},
	} {
		n := 0
		for i := range cases {
			if cases[i].Want.Where == w.where {
				n++
			}
		}
		fmt.Fprintf(&b, "| %s | %d | %s |\n", w.where, n, w.means)
	}
	b.WriteString("\nFuel, stack and deadline are the limits of a module (`fuel`, `stack` and `timeout` in bundle.yaml). Where it says fuel, the\nmodule has no end, and the deadline stops it as well where there is no budget of fuel.\n")
	var kinds []string
	for i := range cases {
		if !slices.Contains(kinds, cases[i].Kind) {
			kinds = append(kinds, cases[i].Kind)
		}
	}
	for _, kind := range kinds {
		fmt.Fprintf(&b, "\n## %s\n\n| module | what it does | verdict |\n|--|--|--|\n", strings.ToUpper(kind[:1])+kind[1:])
		for i := range cases {
			if c := &cases[i]; c.Kind == kind {
				fmt.Fprintf(&b, "| %s | %s | %s |\n", c.Name, c.Does, c.Want)
			}
		}
	}
	return b.String()
}

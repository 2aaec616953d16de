package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/dhowfleet/dhow/test/conformance/suite"
	"github.com/dhowfleet/dhow/test/conformance/wire"
)

// printOutcome prints one outcome. What came from the server is kept from the terminal's own language.
func printOutcome(w io.Writer, out suite.Outcome) {
	var line strings.Builder
	fmt.Fprintf(&line, "%s %s/%s", out.Status, out.Group, out.Check)
	if out.Model != "" {
		line.WriteString(" (")
		wire.Printable(&line, []byte(out.Model))
		line.WriteString(")")
	}
	if out.Detail != "" {
		line.WriteString(": ")
		wire.Printable(&line, []byte(out.Detail))
	}
	fmt.Fprintln(w, line.String())
	for _, e := range out.Exchanges {
		fmt.Fprintf(w, "     sent %s\n     got  %s\n", indent(e.Sent), indent(e.Got))
	}
}

func indent(s string) string { return strings.ReplaceAll(s, "\n", "\n          ") }

// summarize prints the counts, or everything as JSON, and returns how many failed.
func summarize(w io.Writer, s *suite.Suite, all []suite.Outcome, asJSON bool) int {
	count := map[string]int{}
	for _, out := range all {
		count[out.Status]++
	}
	unused := map[string]string{}
	for _, m := range s.Unusable {
		unused[m.Name] = m.Unusable
	}
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		if err := enc.Encode(map[string]any{
			"outcomes": all, "unused_models": unused,
			"passed": count[suite.Pass], "failed": count[suite.Fail], "skipped": count[suite.Skipped],
		}); err != nil {
			return max(1, count[suite.Fail])
		}
		return count[suite.Fail]
	}
	for _, m := range s.Unusable {
		var line strings.Builder
		wire.Printable(&line, []byte(m.Name+" was not used: "+m.Unusable))
		fmt.Fprintf(w, "note: model %s\n", line.String())
	}
	fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", count[suite.Pass], count[suite.Fail], count[suite.Skipped])
	return count[suite.Fail]
}

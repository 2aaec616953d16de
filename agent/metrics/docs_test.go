package metrics

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the table of docs/metrics.md")

const reference = "../../docs/metrics.md"

// TestTheReferenceListsEveryMetric: the table of docs/metrics.md is the page's families, with kind, labels and help.
// After a change: go test ./agent/metrics -run Reference -update
func TestTheReferenceListsEveryMetric(t *testing.T) {
	families, err := parse(Append(nil, t.Context(), everything()))
	if err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	table.WriteString("| name | kind | labels | |\n|---|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(families)) {
		f := families[name]
		labels := map[string]bool{}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				labels["`"+l.GetName()+"`"] = true
			}
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s |\n", name, strings.ToLower(f.GetType().String()), strings.Join(slices.Sorted(maps.Keys(labels)), ", "), f.GetHelp())
	}
	text, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	at := strings.Index(string(text), "\n| name |")
	if at < 0 {
		t.Fatalf("%s has no table", reference)
	}
	want := string(text[:at+1]) + table.String()
	if *update {
		if err := os.WriteFile(reference, []byte(want), 0o644); err != nil { //nolint:gosec // a page of documentation
			t.Fatal(err)
		}
		return
	}
	if string(text) != want {
		t.Errorf("%s is not what is measured; go test ./agent/metrics -run Reference -update writes it", reference)
	}
}

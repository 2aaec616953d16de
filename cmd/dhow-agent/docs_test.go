package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/dhowfleet/dhow/agent/config"
)

var update = flag.Bool("update", false, "write the table of settings of docs/cli.md")

// TestTheReferenceListsEverySetting: the table of docs/cli.md is the settings of run and serve, with what they mean.
// After a change: go test ./cmd/dhow-agent -run Reference -update
func TestTheReferenceListsEverySetting(t *testing.T) {
	const reference = "../../docs/cli.md"
	fleet, folder := config.Default(), config.DefaultRepository()
	run, serve := fleet.Settings(), folder.Settings()
	by := func(s []config.Setting, name string) bool {
		return slices.ContainsFunc(s, func(o config.Setting) bool { return o.Name == name })
	}
	table := "| setting | of | |\n|---|---|---|\n"
	for _, s := range slices.Concat(serve, run) {
		of := "`run`, `serve`"
		switch inRun, inServe := by(run, s.Name), by(serve, s.Name); {
		case inRun && inServe && strings.Contains(table, "| `--"+s.Name+"` |"):
			continue
		case !inServe:
			of = "`run`"
		case !inRun:
			of = "`serve`"
		}
		table += fmt.Sprintf("| `--%s` | %s | %s |\n", s.Name, of, usage(s))
	}
	text, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	before, after, ok := strings.Cut(string(text), "| setting |")
	_, after, ok2 := strings.Cut(after, "\n\n")
	if !ok || !ok2 {
		t.Fatalf("%s has no table of settings", reference)
	}
	want := before + table + "\n" + after
	if *update {
		if err := os.WriteFile(reference, []byte(want), 0o644); err != nil { //nolint:gosec // a page of documentation
			t.Fatal(err)
		}
		return
	}
	_, example, _ := strings.Cut(after, "```yaml\n")
	example, _, _ = strings.Cut(example, "```")
	file := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(file, []byte(example), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := config.ReadFile(run, file, true); err != nil || fleet.Validate() != nil || fleet.Server == "" {
		t.Errorf("the example of a file: %v, %v", err, fleet.Validate())
	}
	if string(text) != want {
		t.Errorf("%s is not what the settings are; go test ./cmd/dhow-agent -run Reference -update writes it", reference)
	}
}

// TestTheGuidesFlagsAreThere: what the pages tell users to type can be typed.
func TestTheGuidesFlagsAreThere(t *testing.T) {
	there := map[string]bool{
		"url": true, "photos": true, "help": true, // of dhow
		"cacert": true, "unix-socket": true, "data-binary": true, // of curl
	}
	for _, c := range append(newKeyCommand().Commands(), newRunCommand(), newServeCommand(), newStatusCommand(), newHardwareCommand(), newVersionCommand()) {
		collect(c, there)
	}
	text, err := os.ReadFile("../../docs/serving.md")
	if err != nil {
		t.Fatal(err)
	}
	flags := regexp.MustCompile("(?m)(?:^|[ `(])--([a-z][a-z-]+)").FindAllStringSubmatch(string(text), -1)
	if len(flags) < 30 {
		t.Errorf("only %d flags were found", len(flags))
	}
	for _, m := range flags {
		if !there[m[1]] && !(m[1] == "model" && strings.Contains(string(text), "dhow infer")) {
			t.Errorf("docs/serving.md speaks of --%s, which is not there", m[1])
		}
	}
}

func collect(c *cobra.Command, into map[string]bool) {
	c.Flags().VisitAll(func(f *pflag.Flag) { into[f.Name] = true })
}

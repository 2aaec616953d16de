package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/dhowfleet/dhow/fleet/client"
	"github.com/dhowfleet/dhow/fleet/resource"
	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
)

// maxApplyFiles bounds the files of a folder.
const maxApplyFiles = 1000

func (a *app) newApply() *cobra.Command {
	var files []string
	var dryRun, prune bool
	cmd := &cobra.Command{
		Use:   "apply -f FILE|DIR|-",
		Short: "Create or change resources from YAML files",
		Long: `Create or change resources from YAML files. All of them take effect, or none.

-f names a file, a folder (its *.yaml, *.yml and *.json files, not those of folders in it) or, as "-", standard input.
--dry-run asks the manager what would change and shows it line by line.
--prune also deletes resources that are in no file, of those kinds (Region, Site, Rollout) of which a file has one.`,
		Example: "  dhow apply -f fleet.yaml --dry-run\n  dhow get rollout fashion-v1 -o yaml | dhow apply -f -",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(files) == 0 {
				return usagef("dhow apply needs -f FILE, a folder, or - for standard input")
			}
			docs, err := a.readDocuments(files)
			if err != nil {
				return err
			}
			req := &fleetv1.ApplyRequest{DryRun: dryRun}
			for _, d := range docs {
				req.Resources = append(req.Resources, d.Resource)
			}
			if prune {
				req.PruneKinds = pruneKinds(docs)
			}
			return a.withClient(func(c *client.Client) error { return a.runApply(cmd.Context(), c, req) })
		},
	}
	cmd.Flags().StringArrayVarP(&files, "filename", "f", nil, "a file, a folder, or - for standard input; may be given several times")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show what would change and change nothing")
	cmd.Flags().BoolVar(&prune, "prune", false, "also delete what is in no file, of the kinds that the files have")
	return cmd
}

// readDocuments reads the resources of files, folders and standard input, and refuses one that comes twice.
func (a *app) readDocuments(names []string) ([]resource.Document, error) {
	var docs []resource.Document
	var problems []error
	for _, name := range names {
		files := []string{name}
		if info, err := os.Stat(name); name != "-" && err == nil && info.IsDir() {
			if files, err = yamlFiles(name); err != nil {
				return nil, err
			}
		}
		for _, f := range files {
			data, err := a.readFile(f)
			if err != nil {
				return nil, err
			}
			found, err := resource.Read(sourceName(f), data)
			if err != nil {
				problems = append(problems, err)
			}
			docs = append(docs, found...)
		}
	}
	if err := errors.Join(problems...); err != nil {
		return nil, fmt.Errorf("nothing was applied:\n%w", err)
	}
	if len(docs) == 0 {
		return nil, fmt.Errorf("there are no resources in %s", strings.Join(names, ", "))
	}
	seen := map[string]resource.Document{}
	for _, d := range docs {
		key := ref(d.Resource.GetKind(), d.Resource.GetMetadata().GetName())
		if first, twice := seen[key]; twice {
			return nil, fmt.Errorf("nothing was applied: %s is in %s, line %d and again in %s, line %d", key, first.Source, first.Line, d.Source, d.Line)
		}
		seen[key] = d
	}
	return docs, nil
}

func yamlFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot read the folder: %w", err)
	}
	var out []string
	for _, e := range entries {
		switch filepath.Ext(e.Name()) {
		case ".yaml", ".yml", ".json":
			if !e.IsDir() {
				out = append(out, filepath.Join(dir, e.Name()))
			}
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("there are no *.yaml, *.yml or *.json files in %s", dir)
	}
	if len(out) > maxApplyFiles {
		return nil, fmt.Errorf("%d files in %s are more than the %d that are applied at once", len(out), dir, maxApplyFiles)
	}
	return out, nil
}

func sourceName(file string) string {
	if file == "-" {
		return "standard input"
	}
	return file
}

func (a *app) readFile(name string) ([]byte, error) {
	in := a.in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("cannot read resources: %w", err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, resource.MaxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read resources of %s: %w", sourceName(name), err)
	}
	return data, nil
}

// pruneKinds are the kinds that the files have. Models are left out: most come to be by a push and are in no file.
func pruneKinds(docs []resource.Document) []string {
	var out []string
	for _, d := range docs {
		if kind := d.Resource.GetKind(); kind != resource.KindModel && !slices.Contains(out, kind) {
			out = append(out, kind)
		}
	}
	return out
}

func (a *app) runApply(ctx context.Context, c *client.Client, req *fleetv1.ApplyRequest) error {
	ctx, cancel := a.call(ctx)
	defer cancel()
	resp, err := c.Apply(ctx, connect.NewRequest(req))
	if err != nil {
		return c.Explain(err)
	}
	note := ""
	if req.GetDryRun() {
		note = " (dry run)"
	}
	for _, r := range resp.Msg.GetResults() {
		fmt.Fprintf(a.out, "%s %s%s\n", ref(r.GetKind(), r.GetName()), r.GetAction(), note)
		if !req.GetDryRun() || r.GetAction() == "unchanged" {
			continue
		}
		diff, err := resource.Diff(r.GetBefore(), r.GetAfter())
		if err != nil {
			return err
		}
		for line := range strings.Lines(diff) {
			fmt.Fprint(a.out, "  "+line)
		}
	}
	return nil
}

// ref names a resource as the CLI prints it and as get -o name gives it back.
func ref(kind, name string) string { return strings.ToLower(kind) + "/" + name }

package arch

import (
	"go/ast"
	"path"
	"regexp"
	"strings"
	"testing"
)

const (
	maxFileLines    = 500
	maxPackageLines = 2000
	maxMainLines    = 60
)

// TestSizes keeps files and packages small enough to be read at once. cmd/ holds a file per verb and is exempt from
// the package limit.
func TestSizes(t *testing.T) {
	for _, p := range load(t) {
		total := 0
		for _, f := range p.files {
			if f.generated {
				continue
			}
			total += f.lines
			if f.lines > maxFileLines {
				t.Errorf("%s/%s has %d lines, at most %d: split it where a seam is natural", p.path, f.name, f.lines, maxFileLines)
			}
			if p.top() == "cmd" && f.name == "main.go" && f.lines > maxMainLines {
				t.Errorf("%s/main.go has %d lines, at most %d: main maps arguments to one call and its error to an exit code", p.path, f.lines, maxMainLines)
			}
		}
		if total > maxPackageLines && p.top() != "cmd" {
			t.Errorf("%s has %d lines, at most %d: it does more than one thing", p.path, total, maxPackageLines)
		}
	}
}

var numbered = regexp.MustCompile(`^(.+[^0-9_])([0-9])\.go$`)

// TestNoSplittingBySuffix refuses x2.go beside x.go: a file is split by what it is about, not by its length.
func TestNoSplittingBySuffix(t *testing.T) {
	for _, p := range load(t) {
		names := map[string]bool{}
		for _, f := range p.files {
			names[f.name] = true
		}
		for name := range names {
			if m := numbered.FindStringSubmatch(name); m != nil && names[m[1]+".go"] {
				t.Errorf("%s/%s goes on %s.go: split by subject, not by number", p.path, name, m[1])
			}
		}
	}
}

// TestPackageNames refuses names under which anything could be put.
func TestPackageNames(t *testing.T) {
	for _, p := range load(t) {
		switch base := path.Base(p.path); base {
		case "util", "utils", "common", "helper", "helpers", "types", "misc", "structs", "base", "shared":
			t.Errorf("%s: a package called %s says nothing about what belongs in it", p.path, base)
		}
	}
}

// TestEveryPackageIsDocumented wants the contract in the package comment: what it does, what flows, what blocks.
func TestEveryPackageIsDocumented(t *testing.T) {
	for _, p := range load(t) {
		documented, generated := false, true
		for _, f := range p.files {
			generated = generated && f.generated
			if f.syntax.Doc != nil && len(strings.Fields(f.syntax.Doc.Text())) >= 8 {
				documented = true
			}
		}
		if !documented && !generated {
			t.Errorf("%s has no package comment that says what it is for", p.path)
		}
	}
}

// selectors returns the uses of imported names as "package.Name".
func selectors(f *ast.File) []string {
	var out []string
	ast.Inspect(f, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if id, ok := s.X.(*ast.Ident); ok && id.Obj == nil {
				out = append(out, id.Name+"."+s.Sel.Name)
			}
		}
		return true
	})
	return out
}

func hasGoStatement(f *ast.File) bool {
	found := false
	ast.Inspect(f, func(n ast.Node) bool {
		if _, ok := n.(*ast.GoStmt); ok {
			found = true
		}
		return !found
	})
	return found
}

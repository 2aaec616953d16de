package arch

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/dhowfleet/dhow"

// pkg is what the rules need to know of a package, read from the files and not from the compiler, so that a rule also
// speaks of files behind build tags.
type pkg struct {
	path    string // relative to the module, "" for the root
	dir     string
	files   []file
	imports map[string][]string // import path -> files that import it
}

type file struct {
	name      string
	lines     int
	generated bool
	syntax    *ast.File
}

// load lists the product's packages (not their tests).
func load(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,GoFiles,CgoFiles,IgnoredGoFiles", module+"/...")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("cannot list packages: %s", exit.Stderr)
		}
		t.Fatalf("cannot list packages: %v", err)
	}
	var pkgs []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var l struct {
			ImportPath, Dir                   string
			GoFiles, CgoFiles, IgnoredGoFiles []string
		}
		if err := dec.Decode(&l); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		p := pkg{path: strings.TrimPrefix(strings.TrimPrefix(l.ImportPath, module), "/"), dir: l.Dir, imports: map[string][]string{}}
		for _, name := range append(append(l.GoFiles, l.CgoFiles...), l.IgnoredGoFiles...) {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			fset := token.NewFileSet()
			syntax, err := parser.ParseFile(fset, filepath.Join(l.Dir, name), nil, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			f := file{name: name, lines: fset.File(syntax.FileStart).LineCount(), generated: ast.IsGenerated(syntax), syntax: syntax}
			for _, imp := range syntax.Imports {
				path := strings.Trim(imp.Path.Value, `"`)
				p.imports[path] = append(p.imports[path], name)
			}
			p.files = append(p.files, f)
		}
		pkgs = append(pkgs, p)
	}
	if len(pkgs) < 10 {
		t.Fatalf("only %d packages found: the rules would say nothing", len(pkgs))
	}
	return pkgs
}

// top returns the first element of a package's path.
func (p *pkg) top() string {
	first, _, _ := strings.Cut(p.path, "/")
	return first
}

// local returns the module-relative path of an import and whether it is one of ours.
func local(imp string) (string, bool) {
	return strings.CutPrefix(imp, module+"/")
}

func under(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

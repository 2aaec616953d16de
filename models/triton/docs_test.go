package triton

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const guide = "../../docs/serving.md"

// knownKeys are the names of keys that the decoder's own text has.
func knownKeys(t *testing.T) map[string]bool {
	t.Helper()
	known := map[string]bool{}
	add := func(e ast.Expr) {
		if l, ok := e.(*ast.BasicLit); ok && l.Kind == token.STRING {
			name, err := strconv.Unquote(l.Value)
			if err != nil {
				t.Fatal(err)
			}
			if name == strings.ToLower(name) { // those in capitals are values
				known[name] = true
			}
		}
	}
	for _, name := range []string{"decode.go", "keys.go", "scheduling.go"} {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.SwitchStmt:
				if tag, ok := n.Tag.(*ast.Ident); ok && tag.Name == "name" {
					for _, s := range n.Body.List {
						for _, e := range s.(*ast.CaseClause).List {
							add(e)
						}
					}
				}
			case *ast.BinaryExpr:
				if x, ok := n.X.(*ast.Ident); ok && n.Op == token.EQL && x.Name == "name" {
					add(n.Y)
				}
			case *ast.CallExpr:
				if f, ok := n.Fun.(*ast.SelectorExpr); ok && f.Sel.Name == "only" {
					add(n.Args[1])
				}
			}
			return true
		})
	}
	return known
}

var (
	row    = regexp.MustCompile(`(?m)^\| (\x60[a-z_.]+\x60(?:, \x60[a-z_.]+\x60)*) \|`)
	fenced = regexp.MustCompile("(?ms)^```pbtxt\n(.*?)^```")
)

// TestTheGuideListsEveryKey: docs/serving.md has all keys that are known here, in the table of what becomes of them.
func TestTheGuideListsEveryKey(t *testing.T) {
	text, err := os.ReadFile(guide)
	if err != nil {
		t.Fatal(err)
	}
	_, after, ok := strings.Cut(string(text), "\nThese keys are acted on:\n")
	acted, after, ok2 := strings.Cut(after, "\nThese have no effect.")
	ignored, after, ok3 := strings.Cut(after, "These are refused,")
	refused, _, ok4 := strings.Cut(after, "\n### ")
	if !ok || !ok2 || !ok3 || !ok4 {
		t.Fatal("the guide has not the three tables of keys any more")
	}
	known, said := knownKeys(t), map[string]bool{}
	for _, table := range []struct{ name, text string }{{"acted on", acted}, {"ignored", ignored}, {"refused", refused}} {
		for _, cells := range row.FindAllStringSubmatch(table.text, -1) {
			for cell := range strings.SplitSeq(cells[1], ", ") {
				path := strings.Split(strings.Trim(cell, "`"), ".")
				for _, name := range path {
					said[name] = true
				}
				sample := "true"
				for _, name := range slices.Backward(path) {
					if sample == "true" {
						sample = name + ": true"
					} else {
						sample = name + " { " + sample + " }"
					}
				}
				_, warnings, err := Parse([]byte(sample))
				switch {
				case table.name == "acted on" && len(warnings) > 0:
					t.Errorf("%s is said to be acted on, but %v", cell, warnings)
				case table.name == "ignored" && (err != nil || len(warnings) != 1 || strings.Contains(warnings[0].Message, "unknown")):
					t.Errorf("%s is said to have no effect, but %v, %v", cell, warnings, err)
				case table.name == "refused" && err == nil:
					t.Errorf("%s is said to be refused, but %v", cell, warnings)
				}
			}
		}
	}
	if !maps.Equal(known, said) {
		for name := range known {
			if !said[name] {
				t.Errorf("%s does not speak of the key %s", guide, name)
			}
		}
		for name := range said {
			if !known[name] {
				t.Errorf("%s speaks of the key %s, which is not known", guide, name)
			}
		}
	}
	if len(known) < 60 {
		t.Errorf("only %d keys were found in the decoder", len(known))
	}
}

// TestTheGuidesConfigurationsAreRead: what is shown in docs/serving.md can be pasted.
func TestTheGuidesConfigurationsAreRead(t *testing.T) {
	text, err := os.ReadFile(guide)
	if err != nil {
		t.Fatal(err)
	}
	examples := fenced.FindAllStringSubmatch(string(text), -1)
	if len(examples) < 4 {
		t.Errorf("%s has %d examples", guide, len(examples))
	}
	for _, e := range examples {
		c, warnings, err := Parse([]byte(e[1]))
		if err == nil {
			err = c.Fill("m")
		}
		if err == nil && c.Backend != BackendONNX { // those are completed from a file
			err = c.Validate()
		}
		if err != nil || len(warnings) > 0 {
			t.Errorf("%v, %v in\n%s", err, warnings, e[1])
		}
	}
}

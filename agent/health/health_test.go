package health

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"
	"time"
)

func TestRaiseKeepsTheTimeAndReplacesTheSentence(t *testing.T) {
	now := time.Unix(100, 0)
	r := New(func() time.Time { return now })
	r.Raise(DiskFull, "1 of 2 bytes")
	<-r.Changed()
	now = now.Add(time.Hour)
	r.Raise(DiskFull, "1 of 2 bytes")
	select {
	case <-r.Changed():
		t.Fatal("the same again counts as a change")
	default:
	}
	r.Raise(DiskFull, "2 of 2 bytes")
	r.Raise(BlobCorrupt, "")
	<-r.Changed()
	w := r.Warnings()
	if len(w) != 2 || w[0].GetCode() != "blob-corrupt" || w[1].GetSince().GetSeconds() != 100 || !strings.HasSuffix(w[1].GetMessage(), ": 2 of 2 bytes") || w[1].GetRemedy() == "" {
		t.Fatal(w)
	}
	r.Set(DiskFull, false, "")
	r.Clear(NodeRevoked)
	if w := r.Warnings(); len(w) != 1 {
		t.Fatal(w)
	}
}

// TestEveryCodeHasASentenceAndARemedy reads the constants from the source, so that a new code cannot be forgotten.
func TestEveryCodeHasASentenceAndARemedy(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "health.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	codes := 0
	ast.Inspect(f, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || len(v.Values) != 1 {
			return true
		}
		lit, ok := v.Values[0].(*ast.BasicLit)
		if !ok {
			return true
		}
		codes++
		if x := texts[Code(strings.Trim(lit.Value, `"`))]; x.sentence == "" || x.remedy == "" {
			t.Errorf("%s has no sentence or no remedy", v.Names[0])
		}
		return true
	})
	if codes != len(texts) {
		t.Errorf("%d codes, %d texts", codes, len(texts))
	}
}

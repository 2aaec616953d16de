package onnxruntime

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestPositionsAgreeWithTheHeader compiles a program against the binding's header that prints where each function
// really is.
func TestPositionsAgreeWithTheHeader(t *testing.T) {
	positions, err := os.ReadFile("positions.h")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^#define POS_(\w+) (\d+)$`).FindAllStringSubmatch(string(positions), -1)
	if len(found) < 30 {
		t.Fatalf("only %d positions found", len(found))
	}
	var program, want strings.Builder
	program.WriteString("#include <stdio.h>\n#include <stddef.h>\n#include \"onnxruntime_c_api.h\"\nint main(void) {\n")
	for _, f := range found {
		fmt.Fprintf(&program, "printf(\"%s %%zu\\n\", offsetof(OrtApi, %s) / sizeof(void *));\n", f[1], f[1])
		fmt.Fprintf(&want, "%s %s\n", f[1], f[2])
	}
	program.WriteString("return 0;\n}\n")
	dir := t.TempDir()
	source, binary := filepath.Join(dir, "a.c"), filepath.Join(dir, "a")
	if err := os.WriteFile(source, []byte(program.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cc", "-I", bindingDir(t), source, "-o", binary).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got, err := exec.Command(binary).Output()
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want.String() {
		t.Errorf("positions.h says\n%s\nthe header says\n%s", want.String(), got)
	}
}

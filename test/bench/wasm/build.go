package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// goEcho builds the step goecho once.
func (b *bench) goEcho(ctx context.Context) ([]byte, error) {
	out := filepath.Join(b.scratch, "goecho.wasm")
	if code, err := os.ReadFile(out); err == nil {
		return code, nil
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-buildmode=c-shared", "-trimpath", "-ldflags=-s -w", "-o", out, "./goecho")
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cannot build goecho: %w: %s", err, text)
	}
	return os.ReadFile(out)
}

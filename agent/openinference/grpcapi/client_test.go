package grpcapi

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/models/tensor"
)

// library is the stock gRPC library of JavaScript.
var library = []string{"@grpc/grpc-js@1.14.7", "@grpc/proto-loader@0.8.1"}

// packages returns a folder of the checkout's cache that has the library.
func packages(ctx context.Context, root string) (string, error) {
	dir := filepath.Join(root, ".cache", "grpc-js")
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "@grpc", "grpc-js", "package.json")); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o777); err != nil {
		return "", err
	}
	aside, err := os.MkdirTemp(filepath.Dir(dir), "grpc-js.")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(aside)
	cmd := exec.CommandContext(ctx, "npm", append([]string{"install", "--prefix", aside, "--ignore-scripts", "--no-package-lock", "--no-audit", "--no-fund", "--silent"}, library...)...)
	cmd.Dir = aside
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm could not install %s: %w\n%s", strings.Join(library, " "), err, out)
	}
	// Another run may have been faster.
	if err := os.Rename(aside, dir); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	return dir, nil
}

// TestStockClient lets a client that shares no code with this server ask it, by the protos of this repository.
func TestStockClient(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("Node.js is missing, so there is no other client to ask with: ", err)
	}
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	dir, err := packages(ctx, root)
	if err != nil {
		t.Skip("the packages of another client could not be had: ", err)
	}
	script, err := filepath.Abs("testdata/client.mjs")
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, Options{Version: "1"})
	s.table.Set("slow", []serving.Variant{{Version: "1", Role: 1, Runner: &echo{run: func(ctx context.Context, _ []tensor.Tensor) error {
		<-ctx.Done()
		return ctx.Err()
	}}}})
	cmd := exec.CommandContext(ctx, node, script, filepath.Join(root, "protocol", "proto"), strings.TrimPrefix(s.url, "http://"))
	cmd.Dir = dir
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	s.good()
	s.free()
}

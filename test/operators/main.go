// Operators runs the ONNX project's operator tests through the agent's serving path and says how each ended.
//
//	test/operators/fetch && go run ./test/operators [-dir .cache/operators] [-o docs/operators.md]
//
// Every test is a model of one or a few operators with an input and the expected output. Each is loaded under its name
// into one server in this process (test/inprocess), asked over REST with binary tensors, over REST in JSON, and over gRPC
// with raw and with typed contents, and unloaded; each answer is compared with the expected one by the tolerances of
// ONNX's own runner. What ONNX Runtime does not load is told in its own words; what a form of the protocol cannot carry is
// not asked in that form. The exit status is 1 when an answer was wrong.
package main

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/dhowfleet/dhow/test/conformance/rpc"
	"github.com/dhowfleet/dhow/test/inprocess"
)

func main() {
	dir := flag.String("dir", filepath.Join(".cache", "operators"), "where the tests are")
	out := flag.String("o", "", "write the table to this file")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	failed, err := write(ctx, *dir, *out)
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "operators:", err)
		os.Exit(2)
	case failed > 0:
		os.Exit(1)
	}
}

// write runs the tests, prints what failed and writes the table; it returns how many failed.
func write(ctx context.Context, dir, out string) (int, error) {
	begin := time.Now()
	results, err := runAll(ctx, dir)
	if err != nil {
		return 0, err
	}
	failed := failures(results)
	for _, f := range failed {
		fmt.Println(f)
	}
	text := table(results, packageOf(dir))
	fmt.Printf("%d tests, %d failed, %.1f s\n", len(results), len(failed), time.Since(begin).Seconds())
	if out == "" {
		return len(failed), nil
	}
	return len(failed), os.WriteFile(out, []byte(text), 0o644)
}

func packageOf(dir string) string {
	b, err := os.ReadFile(filepath.Join(dir, "package"))
	if err != nil {
		return "libonnx-testdata"
	}
	return string(b)
}

// runAll runs every test under dir.
func runAll(ctx context.Context, dir string) ([]result, error) {
	tests, err := find(dir)
	if err != nil {
		return nil, err
	}
	server, err := inprocess.Start()
	if err != nil {
		return nil, err
	}
	defer func() { _ = server.Close(context.WithoutCancel(ctx)) }() // nothing is left to be lost
	r := &runner{
		server: server,
		client: &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableCompression: true}},
		grpc:   rpc.NewTarget(server.GRPC, http.Header{}, time.Minute),
	}
	defer r.client.CloseIdleConnections()
	results := make([]result, 0, len(tests))
	for _, t := range tests {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		results = append(results, r.run(ctx, t))
	}
	return results, nil
}

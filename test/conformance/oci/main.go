// Command oci runs the conformance suite of the OCI distribution specification against the registry: it serves the
// registry on loopback over a folder that it removes again, runs the suite (a program that `run` builds), prints how
// many checks passed, failed and were skipped, and fails unless every check passed. Run it by test/conformance/oci/run.
package main

import (
	"context"
	"database/sql"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	_ "github.com/mattn/go-sqlite3"

	"github.com/dhowfleet/dhow/fleet/registry"
	"github.com/dhowfleet/dhow/fleet/registry/sqlindex"
	"github.com/dhowfleet/dhow/models/blob"
)

// leastChecks is how many checks the suite is known to make: fewer mean that it did not run as it should.
const leastChecks = 800

func main() {
	suite := flag.String("suite", "", "the suite's program")
	results := flag.String("results", "", "folder for the suite's reports")
	flag.Parse()
	if err := run(*suite, *results); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func run(suite, results string) error {
	dir, err := os.MkdirTemp("", "dhow-conformance-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	handler, closeDB, err := open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = closeDB() }()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer func() {
		_ = server.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			fmt.Fprintln(os.Stderr, "conformance: the registry stopped serving:", err)
		}
	}()

	if err := os.RemoveAll(results); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, suite)
	cmd.Dir = dir
	// The optional parts of version 1.1 that the suite leaves out by itself are asked for, too.
	cmd.Env = append(os.Environ(),
		"OCI_REGISTRY="+listener.Addr().String(), "OCI_TLS=disabled", "OCI_VERSION=1.1", "OCI_RESULTS_DIR="+results, "OCI_LOG=error",
		"OCI_API_BLOBS_UPLOAD_CANCEL=true", "OCI_API_BLOBS_DIGEST_HEADER=true",
		"OCI_API_MANIFESTS_DIGEST_HEADER=true", "OCI_API_MANIFESTS_TAG_PARAM=true")
	output, runErr := cmd.CombinedOutput()
	counts, err := read(filepath.Join(results, "junit.xml"))
	if err != nil {
		fmt.Printf("%s\n", output)
		return errors.Join(runErr, err)
	}
	for _, c := range counts.Cases {
		if c.Status != "passed" {
			fmt.Printf("%s: %s\n  %s\n", c.Status, c.Name, c.Output)
		}
	}
	passed := counts.Tests - counts.Failures - counts.Errors - counts.Skipped - counts.Disabled
	fmt.Printf("OCI distribution 1.1: %d checks, %d passed, %d failed, %d errors, %d skipped, %d disabled, in %s s\n",
		counts.Tests, passed, counts.Failures, counts.Errors, counts.Skipped, counts.Disabled, counts.Seconds)
	switch {
	case counts.Tests < leastChecks:
		return fmt.Errorf("only %d checks were made, at least %d are expected", counts.Tests, leastChecks)
	case passed != counts.Tests:
		return fmt.Errorf("%d checks did not pass; see %s", counts.Tests-passed, filepath.Join(results, "report.html"))
	case runErr != nil:
		return fmt.Errorf("the suite failed: %w", runErr)
	}
	return nil
}

// open makes a registry as the fleet manager does.
func open(dir string) (*registry.Registry, func() error, error) {
	store, err := blob.Open(filepath.Join(dir, "blobs"))
	if err != nil {
		return nil, nil, err
	}
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(dir, "fleet.db")+"?_journal_mode=WAL&_synchronous=FULL&_txlock=immediate&_busy_timeout=10000")
	if err != nil {
		return nil, nil, err
	}
	index, err := sqlindex.Open(context.Background(), db)
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	r, err := registry.New(registry.Config{
		Store: store, Index: index, AnonymousMount: true,
		Quota:  registry.Quota{RepositoryBytes: 1 << 30, TotalBytes: 2 << 30},
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	return r, db.Close, nil
}

// report is what is read of the suite's JUnit file.
type report struct {
	Tests    int    `xml:"tests,attr"`
	Failures int    `xml:"failures,attr"`
	Errors   int    `xml:"errors,attr"`
	Skipped  int    `xml:"skipped,attr"`
	Disabled int    `xml:"disabled,attr"`
	Seconds  string `xml:"time,attr"`
	Cases    []struct {
		Name   string `xml:"name,attr"`
		Status string `xml:"status,attr"`
		Output string `xml:"system-out"`
	} `xml:"testsuite>testcase"`
}

func read(path string) (report, error) {
	var r report
	data, err := os.ReadFile(path)
	if err != nil {
		return r, fmt.Errorf("the suite left no report: %w", err)
	}
	return r, xml.Unmarshal(data, &r)
}

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dhowfleet/dhow/test/conformance/extension"
	"github.com/dhowfleet/dhow/test/conformance/fixture"
	"github.com/dhowfleet/dhow/test/conformance/rest"
	"github.com/dhowfleet/dhow/test/conformance/rpc"
	"github.com/dhowfleet/dhow/test/conformance/suite"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	code := start(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// many is a flag that may be given more than once.
type many []string

func (m *many) String() string     { return strings.Join(*m, ",") }
func (m *many) Set(s string) error { *m = append(*m, s); return nil }

// flags of the command line.
type flags struct {
	suite   suite.Options
	grpc    string
	key     string
	headers many
	models  many
	json    bool
	list    bool
}

func parse(args []string, stderr io.Writer) (*flags, error) {
	f := &flags{suite: suite.Options{Shapes: map[string][]int64{}, Header: http.Header{}}}
	o := &f.suite
	set := flag.NewFlagSet("conformance", flag.ContinueOnError)
	set.SetOutput(stderr)
	set.StringVar(&o.URL, "url", "", "the server's REST address, such as http://127.0.0.1:8000")
	set.StringVar(&f.grpc, "grpc", "", "the server's gRPC address, such as 127.0.0.1:8001; https:// before it means TLS")
	set.Var(&f.models, "model", "a model to use; may be given more than once; without it, those of the repository index")
	set.StringVar(&f.key, "key", "", "a key that is sent as Authorization: Bearer KEY")
	set.Var(&f.headers, "header", "a further header, \"Name: value\"; may be given more than once")
	set.Func("shape", "what an input's shape is to be, `INPUT=1,3,224,224` or MODEL/INPUT=...; may be given more than once", func(s string) error {
		name, dims, err := parseShape(s)
		if err == nil {
			o.Shapes[name] = dims
		}
		return err
	})
	set.StringVar(&o.Fixture, "fixture", "", "\"simple\": there is a model simple, INPUT0 and INPUT1 INT32[1,16], OUTPUT0 their sum, OUTPUT1 their difference")
	set.StringVar(&o.Control, "control", "", "a model that may be unloaded and loaded again")
	set.StringVar(&o.Group, "group", "", "only the checks of this group")
	set.DurationVar(&o.Timeout, "timeout", 30*time.Second, "how long one request may take")
	set.IntVar(&o.MaxModels, "max-models", 16, "how many models are used, when the index lists more")
	set.BoolVar(&f.json, "json", false, "print the outcomes as JSON")
	set.BoolVar(&f.list, "list", false, "list the checks and end")
	if err := set.Parse(args); err != nil {
		return nil, err
	}
	o.Models = f.models
	switch {
	case set.NArg() > 0:
		return nil, errors.New("there are arguments that no flag takes; see -help")
	case f.list:
		return f, nil
	case o.URL == "":
		return nil, errors.New("-url is missing: say where the server is, such as -url http://127.0.0.1:8000")
	case o.Fixture != "" && o.Fixture != "simple":
		return nil, fmt.Errorf("there is no fixture %q, only \"simple\"", o.Fixture)
	case o.Timeout <= 0 || o.MaxModels <= 0:
		return nil, errors.New("-timeout and -max-models must be above zero")
	}
	for _, h := range f.headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok || strings.TrimSpace(name) == "" {
			return nil, fmt.Errorf("-header %q is not of the form \"Name: value\"", h)
		}
		o.Header.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	if f.key != "" {
		o.Header.Set("Authorization", "Bearer "+f.key)
	}
	if o.Group != "" && !slices.ContainsFunc(checks(nil), func(c suite.Check) bool { return c.Group == o.Group }) {
		return nil, fmt.Errorf("there is no group %q; -list shows them", o.Group)
	}
	return f, nil
}

// checks lists all of them in the order in which they are made.
func checks(t *rpc.Target) []suite.Check {
	return slices.Concat(rest.Checks(), extension.Checks(), fixture.Checks(), rpc.Checks(t), rest.Last())
}

// start runs the program and returns its exit status.
func start(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	f, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(stderr, "conformance:", err)
		return 2
	}
	var target *rpc.Target
	if f.grpc != "" {
		target = rpc.NewTarget(f.grpc, f.suite.Header, f.suite.Timeout)
	}
	all := checks(target)
	if f.list {
		for _, c := range all {
			fmt.Fprintf(stdout, "%-14s %-24s %s\n", c.Group, c.Name, c.About)
		}
		return 0
	}
	s := suite.New(f.suite)
	if err := s.Learn(ctx); err != nil {
		fmt.Fprintln(stderr, "conformance:", err)
		return 1
	}
	outcomes := s.Run(ctx, all, func(out suite.Outcome) {
		if !f.json {
			printOutcome(stdout, out)
		}
	})
	failed := summarize(stdout, s, outcomes, f.json)
	if ctx.Err() != nil || failed > 0 || len(outcomes) == 0 {
		return 1
	}
	return 0
}

func parseShape(s string) (string, []int64, error) {
	i := strings.LastIndex(s, "=")
	if i <= 0 {
		return "", nil, fmt.Errorf("%q is not of the form INPUT=1,3,224,224", s)
	}
	dims := []int64{}
	for _, part := range strings.Split(s[i+1:], ",") {
		if part == "" && s[i+1:] == "" {
			break // a scalar
		}
		d, err := strconv.ParseInt(strings.TrimSpace(part), 10, 64)
		if err != nil || d < 0 {
			return "", nil, fmt.Errorf("%q in %q is no dimension", part, s)
		}
		dims = append(dims, d)
	}
	return s[:i], dims, nil
}

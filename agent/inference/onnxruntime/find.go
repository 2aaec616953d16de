package onnxruntime

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/dhowfleet/dhow/agent/inference"
)

// Pinned is the ONNX Runtime that install/onnxruntime fetches and Dhow is tested with.
const Pinned = "1.30.0"

// Variable is the environment variable that names the library and wins over every other place.
const Variable = "DHOW_ONNXRUNTIME"

const (
	libraryName = "libonnxruntime.so"
	remedy      = "run `make onnxruntime` in a checkout of Dhow, or set " + Variable + " to the path of a libonnxruntime.so of version " + Oldest + " or newer"
)

// Find returns the path of the library: $DHOW_ONNXRUNTIME, else configured when not empty, else the first that exists
// of: beside the program, ../lib beside it, the fetched one in the checkout that the program lies in (bin/) or was
// built from. A place that was named but holds no file is an error, since another library than the named one would
// surprise. It never looks under the working directory.
func Find(configured string) (string, error) {
	for _, named := range []struct{ path, by string }{{os.Getenv(Variable), "$" + Variable}, {configured, "the configuration"}} {
		if named.path == "" {
			continue
		}
		if err := regular(named.path); err != nil {
			return "", missing(fmt.Sprintf("cannot use ONNX Runtime at %s, which %s names: %v", named.path, named.by, err))
		}
		return named.path, nil
	}
	places := candidates()
	for _, place := range places {
		if regular(place) == nil {
			return place, nil
		}
	}
	return "", missing("cannot find ONNX Runtime; looked for " + strings.Join(places, ", "))
}

func candidates() []string {
	var places []string
	fetched := filepath.Join(".cache", "onnxruntime", Pinned, runtime.GOOS+"-"+runtime.GOARCH, libraryName)
	if program, err := os.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(program); err == nil {
			program = real
		}
		dir := filepath.Dir(program)
		places = append(places, filepath.Join(dir, libraryName), filepath.Join(dir, "..", "lib", libraryName), filepath.Join(dir, "..", fetched))
	}
	// A program built without -trimpath, as `go test` and `go run` do, knows the checkout that it came from.
	if _, file, _, ok := runtime.Caller(0); ok && filepath.IsAbs(file) {
		places = append(places, filepath.Join(filepath.Dir(file), "..", "..", "..", fetched))
	}
	return places
}

func regular(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("it is no file")
	}
	return nil
}

func missing(message string) error {
	return &inference.RuntimeError{Code: "onnxruntime-missing", Message: message, Remedy: remedy}
}

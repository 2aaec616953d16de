package extism

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	sdk "github.com/extism/go-sdk"
	"github.com/tetratelabs/wazero"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/host"
	"github.com/dhowfleet/dhow/wasm/payload"
)

// sdkFolder is where the SDK's source lies.
func sdkFolder(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/extism/go-sdk").Output()
	dir := strings.TrimSpace(string(out))
	if err != nil || dir == "" {
		t.Skipf("the Extism SDK's source is not here: %v", err)
	}
	return dir
}

// theirs runs a plug-in's function in Extism's own host, with no network and the folder for reading, if there is one.
func theirs(t *testing.T, code []byte, function, input, files string) (string, error) {
	t.Helper()
	ctx := context.Background()
	manifest := sdk.Manifest{
		Wasm: []sdk.Wasm{sdk.WasmData{Data: code}}, Config: map[string]string{"configuration": "labels"},
		Memory: &sdk.ManifestMemory{MaxPages: 1024, MaxVarBytes: 1 << 20},
	}
	if files != "" {
		manifest.AllowedPaths = map[string]string{"ro:" + files: "/"}
	}
	module := wazero.NewModuleConfig().WithStdout(io.Discard).WithStderr(io.Discard)
	p, err := sdk.NewPlugin(ctx, manifest, sdk.PluginConfig{EnableWasi: true, ModuleConfig: module}, nil)
	if err != nil {
		return "", err
	}
	defer p.Close(ctx)
	code32, out, err := p.Call(function, []byte(input))
	if err == nil && code32 != 0 {
		err = errors.New("it returned a number")
	}
	return string(out), err
}

// ours runs it here, twice in one instance: the second answer must be the first.
func ours(t *testing.T, code []byte, options host.Options, input string) (string, error) {
	t.Helper()
	ctx := context.Background()
	r, err := host.NewRuntime(ctx, host.Config{Policy: host.Everything})
	if err != nil {
		t.Fatal(err)
	}
	options.Kind, options.Format, options.Instances = host.Extism, payload.Raw, 1
	options.Limits = host.Limits{Timeout: 30 * time.Second}
	options.Configuration = []byte("labels")
	m, err := r.Compile(ctx, code, options)
	if err != nil {
		return "", err
	}
	defer func() { _ = m.Close() }()
	once := func() (string, error) {
		out, err := m.Process(ctx, []tensor.Tensor{tensor.FromStrings("x", input)}, nil)
		if err != nil {
			return "", err
		}
		return string(out[0].Data[4:]), nil
	}
	first, err := once()
	second, again := once()
	if first != second || (err == nil) != (again == nil) {
		t.Errorf("the first call: %q, %v; the second: %q, %v", first, err, second, again)
	}
	return first, err
}

// TestPlugins: the same answers, and failures where there are failures, with the same words where they are the plug-in's.
func TestPlugins(t *testing.T) {
	dir := filepath.Join(sdkFolder(t), "wasm")
	files := t.TempDir()
	if err := os.Mkdir(filepath.Join(files, "mnt"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(files, "mnt", "test.txt"), []byte("hello file"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		file, function, input string
		files                 bool
		fails                 string // a part of our error's text
	}{
		{file: "count_vowels", function: "count_vowels", input: "Hello, world of ships"},
		{file: "count_vowels_std", function: "_start", input: "Hello, world of ships"},
		{file: "hello", function: "run_test"},
		{file: "hello_haskell", function: "testing", input: "dhow"},
		{file: "fail", function: "run_test", fails: "Some error message"},
		{file: "alloc", function: "run_test"},
		{file: "noop", function: "run_test"},
		{file: "replace", function: "run_test", input: "the wind turned"},
		{file: "var", function: "run_test"},
		{file: "config", function: "run_test"},
		{file: "log", function: "run_test"},
		{file: "println", function: "run_test", input: "a line"},
		{file: "std_command", function: "_start", input: "dhow"},
		{file: "exit", function: "_start", fails: "exit code 2"},
		{file: "fs", function: "run_test", files: true, fails: "/mnt/test.txt"}, // it opens for writing
		{file: "fs_std", function: "run_test", input: "/mnt/test.txt", files: true, fails: "Read-only file system"},
		{file: "read_write", function: "try_read", files: true, fails: "Path not found"},
		{file: "http", function: "run_test", fails: "network"},
		{file: "http_headers", function: "http_get", input: `{"url":"http://localhost"}`, fails: "network"},
	} {
		t.Run(c.file, func(t *testing.T) {
			code, err := os.ReadFile(filepath.Join(dir, c.file+".wasm"))
			if err != nil {
				t.Fatal(err)
			}
			options := host.Options{Function: c.function}
			folder := ""
			if c.files {
				folder, options.Grants.Files = files, files
			}
			want, wantErr := theirs(t, code, c.function, c.input, folder)
			got, err := ours(t, code, options, c.input)
			if (err == nil) != (wantErr == nil) || got != want || err != nil && !strings.Contains(err.Error(), c.fails) {
				t.Errorf("%q, %v; Extism's host: %q, %v", got, err, want, wantErr)
			}
			if (err != nil) != (c.fails != "") {
				t.Errorf("%v, want %q", err, c.fails)
			}
		})
	}
}

// TestWhatIsRefused: plug-ins that want functions of their own host are refused with the name of what is missing.
func TestWhatIsRefused(t *testing.T) {
	dir := filepath.Join(sdkFolder(t), "wasm")
	for file, name := range map[string]string{"host": "mult", "host_multiple": "hostGreenMessage", "main": "capitalize"} {
		code, err := os.ReadFile(filepath.Join(dir, file+".wasm"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ours(t, code, host.Options{Function: "run_test"}, ""); err == nil || !strings.Contains(err.Error(), name) && !strings.Contains(err.Error(), "imports") {
			t.Errorf("%s: %v, want %q", file, err, name)
		}
	}
}

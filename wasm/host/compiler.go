package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
)

// Compiler compiles modules outside this process. Compiling cannot be interrupted, and what it costs is not in
// proportion to the module, so a process that serves hands it to one that it can end.
type Compiler interface {
	// Compile fills dir, an empty folder of the caller's, as Fill does. pages is the module's limit of memory. An error
	// that is the folder's fault wraps ErrUnwritable, any other counts against the module.
	Compile(ctx context.Context, code []byte, dir string, pages uint32) error
}

// ErrUnwritable means that compiled code cannot be stored: the disk is full, or the folder is not writable.
var ErrUnwritable = errors.New("compiled WASM code cannot be stored")

// errNotThere stays inside the package: the folder holds no code that this process's engine could load.
var errNotThere = errors.New("the compiled code is missing or of another engine")

// MaxCompiled is how many bytes of machine code a module may become. Go guests become four times their size.
const MaxCompiled = 256 << 20

// engine is what compiled code depends on. There is one for all who compile and load, since wazero does not find code
// that was compiled with other settings.
func engine(pages uint32) wazero.RuntimeConfig {
	return wazero.NewRuntimeConfigCompiler().
		WithCoreFeatures(api.CoreFeaturesV2).
		WithMemoryLimitPages(pages).
		WithDebugInfoEnabled(false)
}

// Fill compiles code into dir, an empty folder, and seals it. It is the work of a Compiler's child, and blocks for as
// long as compiling takes, whatever the context.
func Fill(ctx context.Context, code []byte, dir string, pages uint32) error {
	files, err := wazero.NewCompilationCacheWithDir(dir)
	if err != nil {
		return fmt.Errorf("%w: %v", ErrUnwritable, err)
	}
	defer func() { _ = files.Close(ctx) }()
	r := wazero.NewRuntimeWithConfig(ctx, engine(pages).WithCompilationCache(files))
	defer func() { _ = r.Close(ctx) }()
	compiled, err := r.CompileModule(ctx, code)
	if err != nil {
		return storing(err)
	}
	defer func() { _ = compiled.Close(ctx) }()
	if err := seal(dir); err != nil {
		return fmt.Errorf("%w: %v", ErrUnwritable, err)
	}
	return nil
}

// storing tells errors of the disk from those of the module.
func storing(err error) error {
	var path *fs.PathError
	var link *os.LinkError
	if errors.As(err, &path) || errors.As(err, &link) {
		return fmt.Errorf("%w: %w", ErrUnwritable, err)
	}
	return err
}

// build gives m its runtime and its compiled code, from the cache if it is there.
func (r *Runtime) build(ctx context.Context, m *Module, code []byte, pages uint32) error {
	start := time.Now()
	defer func() { m.compileTime = time.Since(start) }()
	place := ""
	if r.cache != nil {
		place = r.cache.place(code)
		if r.cached(ctx, m, code, pages, place) {
			return nil
		}
	}
	select {
	case r.compiling <- struct{}{}:
		defer func() { <-r.compiling }()
	case <-ctx.Done():
		return ctx.Err()
	}
	// Whoever was before us may have compiled the same.
	if r.cache != nil && r.cached(ctx, m, code, pages, place) {
		return nil
	}
	if r.compiler != nil {
		return r.elsewhere(ctx, m, code, pages, place)
	}
	return r.here(ctx, m, code, pages, place)
}

// cached loads code from its place in the cache, and reports whether that went well.
func (r *Runtime) cached(ctx context.Context, m *Module, code []byte, pages uint32, place string) bool {
	if !r.cache.find(place) {
		return false
	}
	if err := m.loadCompiled(ctx, code, place, pages); err != nil {
		r.logger.Info("wasm cache entry is unusable, compiling anew", slog.Any("error", err))
		r.cache.discard(place)
		return false
	}
	m.cached = true
	return true
}

// elsewhere lets the Compiler fill a folder and loads what is in it. When the cache cannot be written, a folder for
// temporary files has to do: nothing is compiled in this process.
func (r *Runtime) elsewhere(ctx context.Context, m *Module, code []byte, pages uint32, place string) error {
	var unwritable error
	if r.cache != nil {
		dir, err := r.cache.begin()
		if err == nil {
			if err = r.fill(ctx, m, code, dir, pages); err == nil {
				r.cache.publish(dir, place)
				return nil
			}
			_ = os.RemoveAll(dir)
		}
		if !errors.Is(err, ErrUnwritable) {
			return err
		}
		unwritable = err
		m.lines.Logger().Warn("wasm cache unusable, compiling without it", slog.Any("error", err))
	}
	dir, err := private("")
	if err == nil {
		defer func() { _ = os.RemoveAll(dir) }() // what is loaded needs no file any more
		err = r.fill(ctx, m, code, dir, pages)
	}
	if errors.Is(err, ErrUnwritable) {
		return errors.Join(fmt.Errorf("%w; free space there, or set TMPDIR to a folder that can be written", err), unwritable)
	}
	return err
}

func (r *Runtime) fill(ctx context.Context, m *Module, code []byte, dir string, pages uint32) error {
	if err := r.compiler.Compile(ctx, code, dir, pages); err != nil {
		return err
	}
	if err := verify(dir); err != nil {
		return fmt.Errorf("the compiler left what cannot be used: %v", err)
	}
	return m.loadCompiled(ctx, code, dir, pages)
}

// here compiles in this process. A cache that cannot be written never fails the module.
func (r *Runtime) here(ctx context.Context, m *Module, code []byte, pages uint32, place string) error {
	if r.cache == nil {
		return m.load(ctx, engine(pages), code)
	}
	dir, err := r.cache.begin()
	if err == nil {
		if err = m.loadWith(ctx, code, dir, pages); err == nil {
			if err = seal(dir); err == nil {
				r.cache.publish(dir, place)
				return nil
			}
			_ = os.RemoveAll(dir)
			m.lines.Logger().Warn("cannot keep compiled wasm code, it will be compiled again", slog.Any("error", err))
			return nil
		}
		_ = os.RemoveAll(dir)
		if !errors.Is(storing(err), ErrUnwritable) {
			return err
		}
	}
	m.lines.Logger().Warn("wasm cache unusable, compiling without it", slog.Any("error", err))
	return m.load(ctx, engine(pages), code)
}

// loadCompiled loads code that lies compiled in dir, and never compiles. wazero compiles what it does not find; but with
// several workers it ends that when its context has ended, before the first function, and it does not look at the
// context when it finds the code.
func (m *Module) loadCompiled(ctx context.Context, code []byte, dir string, pages uint32) error {
	ended, end := context.WithCancel(experimental.WithCompilationWorkers(ctx, 2))
	end()
	err := m.loadWith(ended, code, dir, pages)
	if errors.Is(err, context.Canceled) {
		return errNotThere
	}
	return err
}

// loadWith loads code, with dir as the place of compiled code.
func (m *Module) loadWith(ctx context.Context, code []byte, dir string, pages uint32) error {
	files, err := wazero.NewCompilationCacheWithDir(dir)
	if err != nil {
		return err
	}
	m.compilation = files
	return m.load(ctx, engine(pages).WithCompilationCache(files), code)
}

// load makes the runtime and the compiled module, or leaves nothing behind.
func (m *Module) load(ctx context.Context, config wazero.RuntimeConfig, code []byte) error {
	m.runtime = wazero.NewRuntimeWithConfig(context.WithoutCancel(ctx), config)
	var err error
	if m.compiled, err = m.runtime.CompileModule(ctx, code); err != nil {
		_ = m.release()
	}
	return err
}

// Sealed reports whether what lies in dir is what was sealed there.
func Sealed(dir string) bool { return verify(dir) == nil }

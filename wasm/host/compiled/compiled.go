// Package compiled turns WASM modules into machine code that a process can run, and keeps it on disk.
//
// Store.Load looks into the cache, a folder that processes may share; what is there and whole is loaded in tens of
// milliseconds. What is not there is compiled, by a Compiler where there is one and in this process otherwise, sealed,
// loaded and kept. With a Compiler nothing is compiled in this process itself: also not when the cache cannot be
// written, which costs a folder for temporary files, and not when what lies there is of another version of wazero or of
// another processor.
//
// A Code is a wazero runtime of its own with one compiled module in it, so that each can have its own limit of memory,
// and closing it gives everything back.
//
// All methods are safe for concurrent use. Load blocks for seconds where the cache has no entry, one module at a time.
package compiled

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

// Config of a Store.
type Config struct {
	Dir      string   // of the cache; "" keeps nothing
	Bytes    int64    // the least recently used entries go when there are more; 0 means 256 MiB
	Compiler Compiler // nil: this process compiles
	Logger   *slog.Logger
}

// Store loads modules.
type Store struct {
	cache     *cache // nil without a folder
	compiler  Compiler
	logger    *slog.Logger
	compiling chan struct{} // one at a time: compiling takes a core and some hundred megabytes
}

// NewStore makes a Store; the folder is created when it is first written to.
func NewStore(c Config) (*Store, error) {
	if c.Bytes < 0 {
		return nil, fmt.Errorf("cache size %d is negative", c.Bytes)
	}
	s := &Store{compiler: c.Compiler, logger: c.Logger, compiling: make(chan struct{}, 1)}
	if c.Dir != "" {
		s.cache = newCache(c.Dir, c.Bytes, c.Logger)
	}
	return s, nil
}

// Code is a compiled module.
type Code struct {
	Runtime wazero.Runtime
	Module  wazero.CompiledModule
	Cached  bool          // it was in the cache
	Took    time.Duration // compiling, or loading from the cache

	files wazero.CompilationCache // nil where there are none
}

// Close gives back everything. Nothing may run any more.
func (c *Code) Close() error {
	ctx := context.Background()
	err := errors.Join(c.Module.Close(ctx), c.Runtime.Close(ctx))
	if c.files != nil {
		err = errors.Join(err, c.files.Close(ctx))
	}
	return err
}

// Load returns code, from the cache if it is there. pages is the limit of its memory. Warnings go to logger.
func (s *Store) Load(ctx context.Context, code []byte, pages uint32, logger *slog.Logger) (*Code, error) {
	start := time.Now()
	c, err := s.get(ctx, &job{code: code, pages: pages, logger: logger})
	if err == nil {
		c.Took = time.Since(start)
	}
	return c, err
}

// job is a module to be loaded.
type job struct {
	code   []byte
	pages  uint32
	logger *slog.Logger
	place  string // in the cache
}

func (s *Store) get(ctx context.Context, j *job) (*Code, error) {
	if s.cache != nil {
		j.place = s.cache.place(j.code)
		if c := s.cached(ctx, j); c != nil {
			return c, nil
		}
	}
	select {
	case s.compiling <- struct{}{}:
		defer func() { <-s.compiling }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if s.cache != nil { // whoever was before us may have compiled the same
		if c := s.cached(ctx, j); c != nil {
			return c, nil
		}
	}
	if s.compiler != nil {
		return s.elsewhere(ctx, j)
	}
	return s.here(ctx, j)
}

// cached loads code from its place in the cache; nil if it is not there.
func (s *Store) cached(ctx context.Context, j *job) *Code {
	if !s.cache.find(j.place) {
		return nil
	}
	c, err := j.loadCompiled(ctx, j.place)
	if err != nil {
		s.logger.Info("wasm cache entry is unusable, compiling anew", slog.Any("error", err))
		s.cache.discard(j.place)
		return nil
	}
	c.Cached = true
	return c
}

// elsewhere lets the Compiler fill a folder and loads what is in it. When the cache cannot be written, a folder for
// temporary files has to do: nothing is compiled in this process.
func (s *Store) elsewhere(ctx context.Context, j *job) (*Code, error) {
	var unwritable error
	if s.cache != nil {
		dir, err := s.cache.begin()
		if err == nil {
			var c *Code
			if c, err = s.fill(ctx, j, dir); err == nil {
				s.cache.publish(dir, j.place)
				return c, nil
			}
			_ = os.RemoveAll(dir)
		}
		if !errors.Is(err, ErrUnwritable) {
			return nil, err
		}
		unwritable = err
		j.logger.Warn("wasm cache unusable, compiling without it", slog.Any("error", unwritable))
	}
	dir, err := private("")
	var c *Code
	if err == nil {
		defer func() { _ = os.RemoveAll(dir) }() // what is loaded needs no file any more
		c, err = s.fill(ctx, j, dir)
	}
	if errors.Is(err, ErrUnwritable) {
		return nil, errors.Join(fmt.Errorf("%w; free space there, or set TMPDIR to a folder that can be written", err), unwritable)
	}
	return c, err
}

func (s *Store) fill(ctx context.Context, j *job, dir string) (*Code, error) {
	if err := s.compiler.Compile(ctx, j.code, dir, j.pages); err != nil {
		return nil, err
	}
	if err := verify(dir); err != nil {
		return nil, fmt.Errorf("the compiler left what cannot be used: %v", err)
	}
	return j.loadCompiled(ctx, dir)
}

// here compiles in this process. A cache that cannot be written never fails the module.
func (s *Store) here(ctx context.Context, j *job) (*Code, error) {
	if s.cache == nil {
		return j.load(ctx, nil)
	}
	dir, err := s.cache.begin()
	if err == nil {
		var c *Code
		if c, err = j.loadWith(ctx, dir); err == nil {
			if err = seal(dir); err == nil {
				s.cache.publish(dir, j.place)
				return c, nil
			}
			_ = os.RemoveAll(dir)
			j.logger.Warn("cannot keep compiled wasm code, it will be compiled again", slog.Any("error", err))
			return c, nil
		}
		_ = os.RemoveAll(dir)
		if err = storing(err); !errors.Is(err, ErrUnwritable) {
			return nil, err
		}
	}
	j.logger.Warn("wasm cache unusable, compiling without it", slog.Any("error", err))
	return j.load(ctx, nil)
}

// loadCompiled loads code that lies compiled in dir, and never compiles. wazero compiles what it does not find; but with
// several workers it ends that when its context has ended, before the first function, and it does not look at the
// context when it finds the code.
func (j *job) loadCompiled(ctx context.Context, dir string) (*Code, error) {
	ended, end := context.WithCancel(experimental.WithCompilationWorkers(ctx, 2))
	end()
	c, err := j.loadWith(ended, dir)
	if errors.Is(err, context.Canceled) {
		return nil, errNotThere
	}
	return c, err
}

// loadWith loads code, with dir as the place of compiled code.
func (j *job) loadWith(ctx context.Context, dir string) (*Code, error) {
	files, err := wazero.NewCompilationCacheWithDir(dir)
	if err != nil {
		return nil, err
	}
	return j.load(ctx, files)
}

func (j *job) load(ctx context.Context, files wazero.CompilationCache) (*Code, error) {
	config := engine(j.pages)
	if files != nil {
		config = config.WithCompilationCache(files)
	}
	background := context.WithoutCancel(ctx)
	c := &Code{Runtime: wazero.NewRuntimeWithConfig(background, config), files: files}
	var err error
	if c.Module, err = c.Runtime.CompileModule(ctx, j.code); err != nil {
		_ = c.Runtime.Close(background)
		if files != nil {
			_ = files.Close(background)
		}
		return nil, err
	}
	return c, nil
}

// Sealed reports whether what lies in dir is what was sealed there.
func Sealed(dir string) bool { return verify(dir) == nil }

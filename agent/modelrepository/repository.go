package modelrepository

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/models/graph"
	"github.com/dhowfleet/dhow/models/triton"
	"github.com/dhowfleet/dhow/wasm/host"
)

// Mode says who decides what is loaded.
type Mode uint8

// The modes, by Triton's names.
const (
	None     Mode = iota // everything, once
	Poll                 // everything, as the folder changes
	Explicit             // what Load asks for
)

// ParseMode reads a mode by its name.
func ParseMode(s string) (Mode, error) {
	if i := slices.Index(modes[:], strings.ToLower(s)); i >= 0 {
		return Mode(i), nil
	}
	return None, fmt.Errorf("model control mode %q is none of %s", s, strings.Join(modes[:], ", "))
}

var modes = [...]string{None: "none", Poll: "poll", Explicit: "explicit"}

func (m Mode) String() string { return modes[m] }

// Defaults and bounds.
const (
	DefaultPollInterval = 15 * time.Second
	DefaultLoadTimeout  = 10 * time.Minute
	MaxModels           = 10_000
	MaxVersions         = 1000 // folders of one model
)

// Candidate is a version of a model that is about to be opened.
type Candidate struct {
	Model     string
	Version   int64
	File      string       // the model file, its folder free of links
	Graph     *graph.Graph // nil for a WASM module
	Config    *triton.Config
	Instances int // that have weights of their own
	Options   inference.Options
	// Rows is set when two invented rows will be tried, to see whether requests may be joined.
	Rows bool
}

// Config of a Repository. Dir, Engine and Table must be set.
type Config struct {
	Dir          string
	Mode         Mode
	PollInterval time.Duration // 0 means DefaultPollInterval
	// LoadModels are loaded by Start in mode Explicit; "*" is all.
	LoadModels []string
	// ConfigName prefers <model>/configs/<ConfigName>.pbtxt to config.pbtxt where it is there.
	ConfigName string
	// Strict takes nothing from the model files that a configuration leaves out.
	Strict bool
	// LoadTimeout bounds the loading of one model; 0 means DefaultLoadTimeout.
	LoadTimeout time.Duration

	Engine inference.Engine
	Wasm   *host.Runtime // nil serves no WASM modules
	Table  *serving.Table
	Places *serving.Places // those of the table; nil leaves batches unbounded
	// Options are those of models that say nothing of threads and devices.
	Options inference.Options
	// Admit is asked before a candidate is opened, and may try it out elsewhere first; its error is the reason why it is not
	// opened. release, which may be nil, is called once the version is closed. Nil admits all.
	Admit func(ctx context.Context, c *Candidate) (release func(), err error)
	// Cache answers for models with response_cache; nil leaves them without.
	Cache interface {
		Wrap(model, version string, r serving.Runner) serving.Runner
	}
	Logger *slog.Logger // nil logs nothing
}

// Repository serves a folder of models. It implements Controller.
type Repository struct {
	Config
	root string // Dir without links

	work chan struct{} // held by the one load or unload that happens
	seen map[string]print
	// draining counts what waits for versions to end.
	draining sync.WaitGroup

	mu     sync.Mutex
	models map[string]*model
	closed bool
}

// model is a model that was asked for. Its states are guarded by Repository.mu, the rest by Repository.work.
type model struct {
	name     string
	wanted   bool   // is to be served
	override []byte // a configuration in place of the file's
	tried    print  // of the folder when it was last loaded
	err      error  // why the last load failed
	told     string // what the log says of it already
	again    bool   // it failed for reasons that are not the files'
	waits    bool   // it failed for want of a model that comes before it
	needs    []need // of an ensemble
	loaded   []loaded
	states   map[int64]status
	fault    string // why nothing of it could be loaded when not even its versions are known
}

type status struct {
	state  State
	reason string
	since  time.Time // that it is in the state
}

// mark notes the state of a version, with Repository.mu held.
func (m *model) mark(v int64, s State, reason string) {
	before := m.states[v]
	now := status{s, reason, before.since}
	if before.state != s {
		now.since = time.Now()
	}
	m.states[v] = now
}

// need is a model that an ensemble calls.
type need struct {
	model, version string
	form           string // its tensors, as they were when the ensemble was made
}

// loaded is a version in the table.
type loaded struct {
	version int64
	print   print
	config  *triton.Config
	runner  serving.Runner
	labels  map[string][]string
	limit   int // how many compute at a time; 0 for as many as can
}

// Open checks the folder and loads nothing yet.
func Open(c Config) (*Repository, error) {
	if c.PollInterval <= 0 {
		c.PollInterval = DefaultPollInterval
	}
	if c.LoadTimeout <= 0 {
		c.LoadTimeout = DefaultLoadTimeout
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.ConfigName != "" && !plain(c.ConfigName) {
		return nil, fmt.Errorf("cannot open the model repository: %q is no name of a configuration", c.ConfigName)
	}
	if len(c.LoadModels) > 0 && c.Mode != Explicit {
		return nil, fmt.Errorf("cannot open the model repository: models to load are named in mode %q, but only mode %q takes names", c.Mode, Explicit)
	}
	root, err := filepath.Abs(c.Dir)
	if err == nil {
		root, err = filepath.EvalSymlinks(root)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open the model repository: %w", err)
	}
	if info, err := os.Stat(root); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("cannot open the model repository: %s is no folder", c.Dir)
	}
	return &Repository{Config: c, root: root, work: make(chan struct{}, 1), models: map[string]*model{}}, nil
}

// Start loads what is to be served from the beginning. Its error joins those of all models that could not be loaded;
// the others serve.
func (r *Repository) Start(ctx context.Context) error {
	if err := r.begin(ctx); err != nil {
		return err
	}
	defer r.end()
	folders, err := r.scan()
	if err != nil {
		return err
	}
	r.seen = prints(folders)
	var errs []error
	want := folders
	if r.Mode == Explicit && !slices.Contains(r.LoadModels, "*") {
		want = nil
		for _, name := range r.LoadModels {
			at := slices.IndexFunc(folders, func(f folder) bool { return f.name == name })
			if at < 0 {
				errs = append(errs, &NotFoundError{Name: name})
				continue
			}
			want = append(want, folders[at])
		}
	}
	if r.Mode == Explicit && len(r.LoadModels) == 0 {
		want = nil
	}
	// Ensembles come after what they are made of; what is in the wrong order nevertheless is settled afterwards.
	slices.SortStableFunc(want, func(a, b folder) int { return r.rank(&a) - r.rank(&b) })
	for i := range want {
		r.model(want[i].name).wanted = true
	}
	for i := range want {
		_ = r.load(ctx, &want[i], nil)
	}
	r.settle(ctx)
	for i := range want {
		errs = append(errs, r.model(want[i].name).err)
	}
	return errors.Join(errs...)
}

// rank is 1 for an ensemble and 0 for others.
func (r *Repository) rank(f *folder) int {
	if c, err := r.read(f, nil, false); err == nil && c.IsEnsemble() {
		return 1
	}
	return 0
}

// Run looks for changes until ctx ends, in mode Poll; in the others it only waits.
func (r *Repository) Run(ctx context.Context) {
	if r.Mode != Poll {
		<-ctx.Done()
		return
	}
	tick := time.NewTicker(r.PollInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			r.look(ctx)
		}
	}
}

// look compares the folder with what was tried, and with the last look.
func (r *Repository) look(ctx context.Context) {
	if r.begin(ctx) != nil {
		return
	}
	defer r.end()
	folders, err := r.scan()
	if err != nil {
		// A file system that is away for a while is no reason to stop serving.
		r.Logger.Error("cannot look for changed models", "error", err)
		return
	}
	now := prints(folders)
	before := r.seen
	r.seen = now
	for i := range folders {
		f := &folders[i]
		m := r.model(f.name)
		m.wanted = true
		switch {
		case f.print == m.tried && !m.again:
		case f.print != before[f.name]: // it may be changing still
		default:
			_ = r.load(ctx, f, nil) // the index and the log say why
		}
	}
	for _, m := range r.all() {
		_, here := now[m.name]
		_, there := before[m.name]
		if !here && !there {
			r.unload(m)
			r.forget(m)
		}
	}
	r.settle(ctx)
}

// Close takes every model out of the table and returns when their last requests have ended, or when ctx ends.
func (r *Repository) Close(ctx context.Context) error {
	if err := r.begin(ctx); err != nil {
		return err
	}
	defer r.end()
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	for _, m := range r.all() {
		m.wanted = false
		r.unload(m)
	}
	done := make(chan struct{})
	go func() {
		r.draining.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

var errClosed = errors.New("the model repository is closed")

// begin waits until no other load or unload happens.
func (r *Repository) begin(ctx context.Context) error {
	select {
	case r.work <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		<-r.work
		return errClosed
	}
	return nil
}

func (r *Repository) end() { <-r.work }

// model returns what is known of a model, beginning with nothing.
func (r *Repository) model(name string) *model {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.models[name]
	if m == nil {
		m = &model{name: name, states: map[int64]status{}}
		r.models[name] = m
	}
	return m
}

// all returns the known models by name.
func (r *Repository) all() []*model {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]*model, 0, len(r.models))
	for _, m := range r.models {
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b *model) int { return strings.Compare(a.name, b.name) })
	return out
}

// forget drops what is known of a model that is gone from the folder.
func (r *Repository) forget(m *model) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.models, m.name)
}

// plain reports whether a name is a single visible element of a path.
func plain(name string) bool {
	return name != "" && name[0] != '.' && len(name) <= 255 && !strings.ContainsAny(name, "/\x00") && filepath.IsLocal(name)
}

package modelrepository

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/dhowfleet/dhow/agent/admission"
	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/models/triton"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

// waitingError says that an ensemble waits for a model that it is made of.
type waitingError struct{ model, needs string }

func (e *waitingError) Error() string {
	return fmt.Sprintf("cannot load model %q: it needs the model %s, which is not loaded", e.model, e.needs)
}

// load makes the table serve what the folder says. chain are the ensembles that asked for it.
func (r *Repository) load(ctx context.Context, f *folder, chain []string) error {
	ctx, cancel := context.WithTimeout(ctx, r.LoadTimeout)
	defer cancel()
	m := r.model(f.name)
	m.tried, m.again, m.waits, m.err = f.print, false, false, nil
	if f.broken != nil {
		return r.failed(m, nil, f.broken)
	}
	first, err := r.read(f, m.override, true)
	if err != nil {
		return r.failed(m, f.versions, err)
	}
	versions, err := choose(first.VersionPolicy, f.versions, first.IsEnsemble())
	if err != nil {
		return r.failed(m, f.versions, err)
	}
	if first.IsEnsemble() {
		if err = first.Validate(); err == nil {
			err = r.prepare(ctx, m, first, append(chain, m.name))
		}
		if err != nil {
			return r.failed(m, versions, err)
		}
	} else {
		m.needs = nil
	}
	r.prune(m, f.versions)
	next, opened, err := r.open(ctx, m, f, versions)
	if err != nil {
		for _, l := range opened {
			_ = l.runner.Close()
		}
		return r.failed(m, versions, err)
	}
	if len(opened) == 0 && r.same(m, versions) { // nothing that is served has changed
		for _, v := range versions {
			r.set(m, v, Ready, "")
		}
		return nil
	}
	gone := slices.DeleteFunc(m.loaded, func(l loaded) bool {
		return slices.ContainsFunc(next, func(n loaded) bool { return n.runner == l.runner })
	})
	m.loaded, m.told = next, ""
	r.replace(m, gone, unloaded)
	r.Logger.Info("a model is loaded", "model", m.name, "version", strconv.FormatInt(next[len(next)-1].version, 10), "versions", len(next))
	return nil
}

// read reads the configuration of a model; loud says whether to log what it warns of.
func (r *Repository) read(f *folder, override []byte, loud bool) (*triton.Config, error) {
	c, warnings, file, err := r.parse(f, override)
	if err != nil {
		return nil, err
	}
	if loud {
		for _, w := range warnings {
			r.Logger.Warn("a key of a model's configuration has no effect", "model", f.name, "file", file, "line", w.Line, "key", w.Key, "reason", w.Message)
		}
	}
	if err := c.Fill(f.name); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return c, nil
}

func (r *Repository) parse(f *folder, override []byte) (c *triton.Config, warnings []triton.Warning, file string, err error) {
	if override != nil {
		file = "the configuration in the request"
		c, warnings, err = triton.ParseJSON(override)
		if err != nil {
			err = fmt.Errorf("%s: %w", file, err)
		}
		return c, warnings, file, err
	}
	candidates := []string{"config.pbtxt"}
	if r.ConfigName != "" {
		candidates = []string{"configs/" + r.ConfigName + ".pbtxt", "config.pbtxt"}
	}
	for _, file := range candidates {
		text, err := readFile(filepath.Join(f.dir, filepath.FromSlash(file)), triton.MaxTextBytes)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			c, warnings, err = triton.Parse(text)
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", file, err)
		}
		return c, warnings, file, err
	}
	if r.Strict {
		return nil, nil, "", errors.New("it has no config.pbtxt, and configurations are not completed here")
	}
	return &triton.Config{}, nil, "the model's folder", nil
}

// readFile reads a regular file of at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path) // before it is opened, which would wait on a named pipe
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is no regular file")
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("it has more than %d bytes", limit)
	}
	return data, err
}

// choose applies a version policy to the versions that there are, in ascending order.
func choose(p triton.VersionPolicy, have []int64, ensemble bool) ([]int64, error) {
	if len(have) == 0 && ensemble {
		have = []int64{1} // there is nothing to keep in a folder
	}
	if len(have) == 0 {
		return nil, errors.New("it has no version: put the model file into a folder such as 1/model.onnx")
	}
	switch {
	case p.All:
		return have, nil
	case len(p.Specific) > 0:
		var out []int64
		for _, v := range have {
			if slices.Contains(p.Specific, v) {
				out = append(out, v)
			}
		}
		if len(out) < len(p.Specific) {
			for _, v := range p.Specific {
				if !slices.Contains(have, v) {
					return nil, fmt.Errorf("version_policy names version %d, which is not there", v)
				}
			}
		}
		return out, nil
	}
	return have[max(0, len(have)-max(p.Latest, 1)):], nil
}

// same reports whether exactly these versions serve.
func (r *Repository) same(m *model, versions []int64) bool {
	return slices.EqualFunc(m.loaded, versions, func(l loaded, v int64) bool { return l.version == v })
}

// prune drops the states of versions that are neither there any more nor ending.
func (r *Repository) prune(m *model, have []int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for v, s := range m.states {
		if s.state == Unavailable && !slices.Contains(have, v) {
			delete(m.states, v)
		}
	}
}

// open returns the versions as they shall serve: those that have not changed as they are, the others opened.
func (r *Repository) open(ctx context.Context, m *model, f *folder, versions []int64) (next, opened []loaded, err error) {
	for _, v := range versions {
		p := sha256.Sum256(slices.Concat(f.own[:], m.override, slices.Concat(f.of[v].bytes(), m.forms())))
		if at := slices.IndexFunc(m.loaded, func(l loaded) bool { return l.version == v && l.print == p }); at >= 0 {
			next = append(next, m.loaded[at])
			continue
		}
		if !slices.ContainsFunc(m.loaded, func(l loaded) bool { return l.version == v }) {
			r.set(m, v, Loading, "")
		}
		c, err := r.read(f, m.override, false)
		if err != nil {
			return next, opened, err
		}
		l, err := r.openVersion(ctx, m, f, v, c)
		if err != nil {
			return next, opened, fmt.Errorf("version %d: %w", v, err)
		}
		l.version, l.print = v, p
		next, opened = append(next, l), append(opened, l)
	}
	return next, opened, nil
}

func (p print) bytes() []byte { return p[:] }

// openVersion opens one version of a model.
func (r *Repository) openVersion(ctx context.Context, m *model, f *folder, v int64, c *triton.Config) (l loaded, err error) {
	switch {
	case c.IsEnsemble():
		l, err = r.openEnsemble(m, c)
	case c.Backend == triton.BackendWASM:
		l, err = r.openModule(ctx, f, v, c)
	default:
		l, err = r.openModel(ctx, f, v, c)
	}
	if err != nil {
		return l, err
	}
	if l.labels, err = readLabels(f.dir, c); err == nil {
		err = warm(ctx, f.dir, c, l.runner)
	}
	if err != nil {
		_ = l.runner.Close()
		return l, err
	}
	if c.ResponseCache && r.Cache != nil {
		l.runner = r.Cache.Wrap(f.name, strconv.FormatInt(v, 10), l.runner)
	} else if c.ResponseCache {
		r.Logger.Warn("a model asks for the response cache, which this server has not; start it with one", "model", f.name)
	}
	l.config = c
	return l, nil
}

// failed notes why a load did not come about; what served before goes on.
func (r *Repository) failed(m *model, versions []int64, err error) error {
	m.again = transient(err)
	if _, m.waits = err.(*waitingError); m.waits { //nolint:errorlint // one that is wrapped is another model's
		r.Logger.Info("an ensemble waits for a model", "model", m.name, "error", err)
	} else {
		err = fmt.Errorf("cannot load model %q: %w", m.name, err)
		level := slog.LevelError
		if m.told == err.Error() { // it is tried again at each look
			level = slog.LevelDebug
		}
		m.told = err.Error()
		r.Logger.Log(context.Background(), level, "a model cannot be loaded", "model", m.name, "error", err, "serving", len(m.loaded))
	}
	m.err = err
	r.mu.Lock()
	defer r.mu.Unlock()
	reason := err.Error()
	for _, v := range versions {
		serves := slices.ContainsFunc(m.loaded, func(l loaded) bool { return l.version == v })
		switch {
		case serves:
			m.mark(v, Ready, "a change is not served: "+reason)
		case m.states[v].state != Unloading:
			m.mark(v, Unavailable, reason)
		}
	}
	for _, l := range m.loaded {
		m.mark(l.version, Ready, "a change is not served: "+reason)
	}
	if len(versions) == 0 && len(m.loaded) == 0 {
		m.fault = reason
	}
	return err
}

// transient reports whether a load may come about with the same files.
func transient(err error) bool {
	if refused, ok := errors.AsType[*admission.Refused](err); ok {
		return !refused.Lasting
	}
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || errors.As(err, new(*inference.RuntimeError))
}

// variants are what the table is given: the highest version is the baseline.
func (m *model) variants() []serving.Variant {
	var out []serving.Variant
	for i := range slices.Backward(m.loaded) {
		l := &m.loaded[i]
		role := syncv1.Role_ROLE_SHADOW // answers those that name it, and gets no copies without a share
		if i == len(m.loaded)-1 {
			role = syncv1.Role_ROLE_BASELINE
		}
		out = append(out, serving.Variant{
			Version: strconv.FormatInt(l.version, 10), Role: uint8(role), Runner: l.runner, Config: l.config, Labels: l.labels, Concurrency: l.limit,
		})
	}
	return out
}

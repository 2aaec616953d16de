package modelrepository

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// unloaded is the reason of what was taken out by request or by a newer version, as Triton says it.
const unloaded = "unloaded"

// Index implements Controller.
func (r *Repository) Index(_ context.Context, ready bool) ([]Entry, error) {
	folders, err := r.names()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil && len(r.models) == 0 { // else a folder that is away is no reason not to say what serves
		return nil, err
	}
	var out []Entry
	for name, m := range r.models {
		delete(folders, name)
		for v, s := range m.states {
			if !ready || s.state == Ready {
				out = append(out, Entry{Name: name, Version: strconv.FormatInt(v, 10), State: s.state, Reason: s.reason, Since: s.since})
			}
		}
		if len(m.states) == 0 && !ready {
			e := Entry{Name: name, Reason: m.fault}
			if m.fault != "" {
				e.State = Unavailable
			}
			out = append(out, e)
		}
	}
	if !ready {
		for name := range folders {
			out = append(out, Entry{Name: name})
		}
	}
	slices.SortFunc(out, func(a, b Entry) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		if len(a.Version) != len(b.Version) { // numbers without leading zeros
			return len(a.Version) - len(b.Version)
		}
		return strings.Compare(a.Version, b.Version)
	})
	return out, nil
}

// controlled is the error of asking for a model where that is not how models are loaded.
func (r *Repository) controlled() error {
	if r.Mode == Explicit {
		return nil
	}
	return fmt.Errorf("%w: the model repository is in mode %q; start the server in mode %q for it", ErrNotControlled, r.Mode, Explicit)
}

// Load implements Controller.
func (r *Repository) Load(ctx context.Context, name string, parameters map[string]string) error {
	if err := r.controlled(); err != nil {
		return err
	}
	var override []byte
	for _, key := range slices.Sorted(maps.Keys(parameters)) {
		switch {
		case key == "config":
			override = []byte(parameters[key])
		case strings.HasPrefix(key, "file:"):
			return fmt.Errorf("cannot load model %q: files are not taken from requests, put them into the repository", name)
		default:
			return fmt.Errorf("cannot load model %q: the parameter %q is not known", name, key)
		}
	}
	if err := r.begin(ctx); err != nil {
		return err
	}
	defer r.end()
	f, err := r.find(name)
	if err != nil {
		return err
	}
	m := r.model(name)
	m.wanted, m.override = true, override
	err = r.load(ctx, &f, nil)
	r.settle(ctx)
	return err
}

// Unload implements Controller.
func (r *Repository) Unload(ctx context.Context, name string, dependents bool) error {
	if err := r.controlled(); err != nil {
		return err
	}
	drains, err := r.takeOut(ctx, name, dependents)
	if err != nil {
		return err
	}
	// Others may load meanwhile: nothing reaches the model any more.
	for _, d := range drains {
		select {
		case <-d:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (r *Repository) takeOut(ctx context.Context, name string, dependents bool) ([]<-chan struct{}, error) {
	if err := r.begin(ctx); err != nil {
		return nil, err
	}
	defer r.end()
	if _, err := r.find(name); err != nil && !r.knows(name) {
		return nil, err
	}
	drains := r.take(r.model(name), dependents)
	r.settle(ctx)
	return drains, nil
}

// take unloads a model, and what it is made of unless others need that too.
func (r *Repository) take(m *model, dependents bool) (drains []<-chan struct{}) {
	needs := m.needs
	m.wanted = false
	drains = append(drains, r.unload(m))
	if !dependents {
		return drains
	}
	for _, n := range needs {
		inner := r.model(n.model)
		if inner.wanted && !slices.ContainsFunc(r.all(), func(other *model) bool { return other.wanted && other.requires(n.model) }) {
			drains = append(drains, r.take(inner, true)...)
		}
	}
	return drains
}

func (m *model) requires(name string) bool {
	return slices.ContainsFunc(m.needs, func(n need) bool { return n.model == name })
}

func (r *Repository) knows(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.models[name] != nil
}

// find reads a model's folder by the name that a request or an ensemble gives.
func (r *Repository) find(name string) (folder, error) {
	if !plain(name) {
		return folder{}, &NotFoundError{Name: name}
	}
	f, err := r.folder(name)
	if errors.Is(err, fs.ErrNotExist) {
		return f, &NotFoundError{Name: name}
	}
	return f, err
}

// set notes the state of a version.
func (r *Repository) set(m *model, v int64, s State, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m.mark(v, s, reason)
	m.fault = ""
}

// unload takes a model out of the table; the channel closes when its last request has ended.
func (r *Repository) unload(m *model) <-chan struct{} {
	gone := m.loaded
	m.loaded, m.needs, m.tried, m.again, m.waits, m.err = nil, nil, print{}, false, false, nil
	r.mu.Lock()
	m.fault = ""
	for v, s := range m.states {
		if s.state != Unloading {
			m.mark(v, Unavailable, unloaded)
		}
	}
	r.mu.Unlock()
	done := make(chan struct{})
	if len(gone) == 0 {
		close(done)
		return done
	}
	r.Logger.Info("a model is unloaded", "model", m.name)
	return r.replace(m, gone, unloaded)
}

// replace makes the table serve what m has loaded in place of what is gone, which ends in the background.
func (r *Repository) replace(m *model, gone []loaded, reason string) <-chan struct{} {
	why := ""
	if reason != unloaded {
		why = reason
	}
	for _, l := range gone {
		r.set(m, l.version, Unloading, why)
	}
	drain := r.Table.Set(m.name, m.variants())
	for _, l := range m.loaded {
		r.set(m, l.version, Ready, "")
	}
	done := make(chan struct{})
	r.draining.Go(func() {
		defer close(done)
		begun := time.Now()
		if err := drain.Wait(context.Background()); err != nil { // requests end at their deadlines
			r.Logger.Warn("a model was closed with an error", "model", m.name, "error", err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, l := range gone {
			if m.states[l.version].state == Unloading {
				m.mark(l.version, Unavailable, reason)
			}
		}
		r.Logger.Debug("versions have ended", "model", m.name, "after", time.Since(begun))
	})
	return done
}

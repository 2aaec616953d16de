package probe

import (
	"context"
	"errors"
	"time"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/modelrepository/invented"
)

// tryModel loads a model file and lets it answer. Which requests it must take is not known, so that a refusal is no
// failure; a crash is one, and so is a lack of memory.
func (t *trial) tryModel(ctx context.Context) error {
	engine := t.runtime()
	start := time.Now()
	m, err := engine.Load(ctx, t.request.Model, inference.Options{Threads: t.request.Threads})
	if err != nil {
		return t.modelFailure(ctx, err)
	}
	t.answer.LoadMillis = time.Since(start).Milliseconds()
	t.answer.Provider = m.Provider()
	t.note()
	defer func() { _ = m.Close() }()
	defer t.hold()
	if blank := zeros(m.Inputs()); len(blank) > 0 {
		if _, err := m.Run(ctx, blank, nil); err != nil {
			if hungry := t.starved("the model", err); hungry != nil {
				return hungry
			}
		}
		t.note()
	}
	if t.request.Rows && ctx.Err() == nil {
		invented.Rows(ctx, m) // its verdict is of no interest here, only that the process lives
	}
	return nil
}

func (t *trial) modelFailure(ctx context.Context, err error) error {
	if missing, ok := errors.AsType[*inference.RuntimeError](err); ok {
		return missing
	}
	if hungry := t.starved("the model", err); hungry != nil {
		return hungry
	}
	if ctx.Err() != nil {
		return &failure{TimeLimit, "the model was not loaded in time", err.Error()}
	}
	if load, ok := errors.AsType[*inference.LoadError](err); ok { // says what is wrong with the file, and nothing else
		return &failure{LoadFailed, load.Message, err.Error()}
	}
	return &failure{LoadFailed, "the model cannot be loaded", err.Error()}
}

package modelrepository

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// State of a model's version, in the protocol's own words.
type State string

// The states.
const (
	Ready       State = "READY"
	Unavailable State = "UNAVAILABLE"
	Loading     State = "LOADING"
	Unloading   State = "UNLOADING"
)

// Entry is a line of a repository's index. A model of which nothing was loaded yet has neither version nor state.
type Entry struct {
	Name, Version string
	State         State
	// Reason says why the state is what it is. Beside Ready it says why a newer form of the model is not served.
	Reason string
	// Since is when it came into the state; zero where nothing came of it yet.
	Since time.Time
}

// Controller is what those who answer clients call.
type Controller interface {
	// Index lists the models by name and version, only those that can be asked when ready is set.
	Index(ctx context.Context, ready bool) ([]Entry, error)
	// Load loads a model, or loads it anew when its files have changed, and what it needs before it. It returns when the
	// model serves. The parameter "config" is a configuration as JSON in place of the one in the repository.
	Load(ctx context.Context, name string, parameters map[string]string) error
	// Unload takes a model out, and with dependents also those that it is made of. It returns when no later request can
	// reach it; requests in flight end first.
	Unload(ctx context.Context, name string, dependents bool) error
}

// ErrNotControlled is wrapped by what Load and Unload answer when the models are not theirs to set.
var ErrNotControlled = errors.New("models cannot be loaded or unloaded by request")

// NotFoundError says that there is no such model in the repository.
type NotFoundError struct{ Name string }

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("the model repository has no model %q", e.Name)
}

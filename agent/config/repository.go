package config

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Repository is how an agent serves a folder of models without a fleet. The settings have the names that Triton's have.
type Repository struct {
	Dir        string        // the folder, in Triton's layout
	Mode       string        // none, poll or explicit
	Poll       time.Duration // between two looks at the folder, in mode poll
	LoadModels []string      // at the start, in mode explicit; "*" is all
	Strict     bool          // models without a whole config.pbtxt are refused
	ConfigName string        // of the models' configs/NAME.pbtxt; "": config.pbtxt
	Cache      string        // folder of compiled WASM modules; "": none is kept

	Serving
}

// DefaultRepository is the configuration when nothing is said.
func DefaultRepository() Repository {
	return Repository{Mode: "none", Poll: 15 * time.Second, Serving: defaultServing()}
}

// Settings lists what can be set, bound to r.
func (r *Repository) Settings() []Setting {
	return append([]Setting{
		{"model-repository", "folder of the models: MODEL/VERSION/model.onnx, with or without MODEL/config.pbtxt", (*text)(&r.Dir)},
		{"model-control-mode", "none: all models at the start; poll: changes in the folder are noticed; explicit: models are loaded by request", (*text)(&r.Mode)},
		{"repository-poll", "how often the folder is looked at, in mode poll", (*duration)(&r.Poll)},
		{"load-model", "model to load at the start, in mode explicit; may be given again, * is all", (*list)(&r.LoadModels)},
		{"disable-auto-complete-config", "refuse models whose config.pbtxt leaves something out", (*truth)(&r.Strict)},
		{"model-config-name", "read MODEL/configs/NAME.pbtxt where a model has it", (*text)(&r.ConfigName)},
		{"wasm-cache", "folder where compiled WASM modules are kept", (*text)(&r.Cache)},
	}, r.Serving.settings()...)
}

// Validate returns the first thing that cannot be, in a sentence.
func (r *Repository) Validate() error {
	if r.Dir == "" {
		return errors.New("no folder of models: name one with --model-repository DIR")
	}
	r.Mode = strings.ToLower(r.Mode) // in scripts it is often written in capitals
	switch r.Mode {
	case "none", "poll", "explicit":
	default:
		return fmt.Errorf("model-control-mode %q is not none, poll or explicit", r.Mode)
	}
	if r.Mode != "explicit" && len(r.LoadModels) > 0 {
		return errors.New("load-model is for --model-control-mode explicit")
	}
	if r.Mode == "poll" && (r.Poll < 100*time.Millisecond || r.Poll > 24*time.Hour) {
		return fmt.Errorf("repository-poll %s is not between 100ms and a day", r.Poll)
	}
	return r.Serving.validate()
}

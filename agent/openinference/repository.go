package openinference

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"github.com/dhowfleet/dhow/agent/modelrepository"
	"github.com/dhowfleet/dhow/models/jsontensor"
)

// maxParameters bounds the number of parameters of a load.
const maxParameters = 64

// Logging is what a server logs, and how much, as far as it can be changed while it runs.
type Logging interface {
	Settings() LogSettings
	// Set changes them to what they can be; an error says what cannot.
	Set(LogSettings) error
}

// LogSettings are the protocol's.
type LogSettings struct {
	File         string `json:"log_file"`
	Info         bool   `json:"log_info"`
	Warning      bool   `json:"log_warning"`
	Error        bool   `json:"log_error"`
	VerboseLevel uint32 `json:"log_verbose_level"`
	Format       string `json:"log_format"`
}

// object reads a body that is an object, or nothing, and calls field for each key.
func (h *handler) object(x *exchange, field func(s *jsontensor.Scanner, key []byte) error) error {
	if _, err := h.readBody(x); err != nil {
		return err
	}
	s := jsontensor.NewScanner(x.body.Bytes())
	if s.Next() == 0 {
		return s.End()
	}
	if err := s.Object(func(key []byte) error { return field(&s, key) }); err != nil {
		return err
	}
	return s.End()
}

func (h *handler) repository() (modelrepository.Controller, error) {
	if h.options.Repository == nil {
		return nil, &apiError{status: http.StatusNotImplemented, message: "this server has no model repository"}
	}
	return h.options.Repository, nil
}

type indexEntry struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	State   string `json:"state,omitempty"`
	Reason  string `json:"reason,omitempty"`
}

func (h *handler) index(x *exchange) (any, error) {
	repository, err := h.repository()
	if err != nil {
		return nil, err
	}
	ready := false
	err = h.object(x, func(s *jsontensor.Scanner, key []byte) (err error) {
		if string(key) != "ready" {
			return s.Skip()
		}
		ready, err = s.Bool()
		return err
	})
	if err != nil {
		return nil, err
	}
	entries, err := repository.Index(x.r.Context(), ready)
	if err != nil {
		return nil, err
	}
	out := make([]indexEntry, len(entries))
	for i, e := range entries {
		out[i] = indexEntry{e.Name, e.Version, string(e.State), e.Reason}
	}
	return out, nil
}

func (h *handler) load(x *exchange) (any, error) {
	parameters, err := h.loadParameters(x)
	if err != nil {
		return nil, err
	}
	return struct{}{}, loading(h.options.Repository.Load(x.r.Context(), x.model, parameters))
}

func (h *handler) unload(x *exchange) (any, error) {
	parameters, err := h.loadParameters(x)
	if err != nil {
		return nil, err
	}
	dependents := parameters["unload_dependents"] == "true"
	return struct{}{}, loading(h.options.Repository.Unload(x.r.Context(), x.model, dependents))
}

// loadParameters reads the parameters of a load or unload, whatever their types, as texts.
func (h *handler) loadParameters(x *exchange) (map[string]string, error) {
	if _, err := h.repository(); err != nil {
		return nil, err
	}
	out := map[string]string{}
	err := h.object(x, func(s *jsontensor.Scanner, key []byte) error {
		if string(key) != "parameters" {
			return s.Skip()
		}
		if s.Null() {
			return nil
		}
		return s.Object(func(key []byte) error {
			if len(out) == maxParameters {
				return badRequest("more than %d parameters", maxParameters)
			}
			name := string(key)
			var text []byte
			var err error
			switch s.Next() {
			case '"':
				text, err = s.Text()
			case 't', 'f':
				var v bool
				v, err = s.Bool()
				text = strconv.AppendBool(nil, v)
			default:
				text, err = s.Number()
			}
			out[name] = string(text)
			return err
		})
	})
	return out, err
}

// loading classes what a repository answered: what is wrong with a model is for the sender to mend, and no failure of the
// server.
func loading(err error) error {
	var missing *modelrepository.NotFoundError
	if err == nil || errors.As(err, &missing) {
		return err
	}
	return badRequest("%v", err)
}

func (h *handler) logging(x *exchange) (any, error) {
	if h.options.Logging == nil {
		return nil, &apiError{status: http.StatusNotImplemented, message: "what this server logs is set when it is started"}
	}
	if x.r.Method != http.MethodPost {
		return h.options.Logging.Settings(), nil
	}
	if _, err := h.readBody(x); err != nil {
		return nil, err
	}
	// What is not mentioned stays as it is.
	settings := h.options.Logging.Settings()
	if err := json.Unmarshal(x.body.Bytes(), &settings); err != nil {
		return nil, badRequest("the settings are no object of log_info, log_warning, log_error, log_verbose_level, log_format and log_file with values of their types")
	}
	if err := h.options.Logging.Set(settings); err != nil {
		return nil, badRequest("%v", err)
	}
	return h.options.Logging.Settings(), nil
}

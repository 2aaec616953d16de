package openinference

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/dhowfleet/dhow/agent/access"
	"github.com/dhowfleet/dhow/agent/modelrepository"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/agent/telemetry"
	"github.com/dhowfleet/dhow/models/jsontensor"
)

// apiError is an error with the status that it is answered with.
type apiError struct {
	status  int
	message string
	retry   bool // trying again may help
}

func (e *apiError) Error() string { return e.message }

// Code makes it countable beside the errors of models.
func (e *apiError) Code() telemetry.Code {
	if e.status == http.StatusServiceUnavailable {
		return telemetry.Overloaded
	}
	return telemetry.InvalidInput
}

func badRequest(format string, args ...any) error {
	return &apiError{status: http.StatusBadRequest, message: fmt.Sprintf(format, args...)}
}

// maxEcho bounds how much of a request stands in an error's text.
const maxEcho = 256

// shorten cuts a text of the sender's to what an error may repeat.
func shorten(text string) string {
	if len(text) <= maxEcho {
		return text
	}
	return strings.ToValidUTF8(text[:maxEcho], "") + "..."
}

// maxText bounds the text of an error, whatever it repeats: names may be as long as a path or a body.
const maxText = 900

// classify returns the status of an error, its text, and after how many seconds trying again may help; 0 is never.
func classify(err error) (status int, text string, retry int) {
	var api *apiError
	var refused *access.Error
	var missing *serving.NotFoundError
	var unlisted *modelrepository.NotFoundError
	if text = err.Error(); len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "..."
	}
	switch {
	case errors.As(err, &api):
		if api.retry {
			retry = 1
		}
		return api.status, text, retry
	case errors.As(err, &refused):
		switch refused.Kind {
		case access.Unauthenticated:
			return http.StatusUnauthorized, text, 0
		case access.QuotaExceeded:
			return http.StatusTooManyRequests, text, max(1, int(math.Ceil(refused.RetryAfter.Seconds())))
		}
		return http.StatusForbidden, text, 0
	case errors.As(err, &missing), errors.As(err, &unlisted):
		return http.StatusNotFound, text, 0
	}
	switch serving.CodeOf(err) {
	case telemetry.InvalidInput:
		return http.StatusBadRequest, text, 0
	case telemetry.Overloaded:
		return http.StatusTooManyRequests, text, 1
	case telemetry.Deadline:
		return http.StatusGatewayTimeout, "the model did not answer within its time", 0
	case telemetry.Canceled: // nobody reads it
		return http.StatusServiceUnavailable, "the request was given up", 0
	}
	return http.StatusInternalServerError, text, 0
}

// fail answers with an error in the protocol's form.
func (x *exchange) fail(err error) {
	status, text, retry := classify(err)
	header := x.w.Header()
	if retry > 0 {
		header["Retry-After"] = []string{strconv.Itoa(retry)}
	}
	if status == http.StatusUnauthorized {
		header["Www-Authenticate"] = []string{"Bearer"}
	}
	x.json, x.binary = errorBody(x.json[:0], text), x.binary[:0]
	x.packed.Reset()
	x.write(status)
}

// value answers with a value as JSON.
func (x *exchange) value(v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("the answer cannot be written")
	}
	x.json = append(x.json[:0], body...)
	x.write(http.StatusOK)
	return nil
}

func errorBody(b []byte, text string) []byte {
	return append(jsontensor.AppendText(append(b, `{"error":`...), text), '}')
}

// WriteError answers with an error in the protocol's form, for handlers beside those of this package.
func WriteError(w http.ResponseWriter, err error) {
	status, text, _ := classify(err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(errorBody(nil, text)) // a client that left misses nothing
}

// codeOf names how a request ended, as the records of requests do.
func codeOf(status int) string {
	switch {
	case status < 400:
		return "ok"
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return "refused"
	case status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable:
		return "overloaded"
	case status == http.StatusGatewayTimeout:
		return "deadline"
	case status < 500:
		return "invalid-input"
	case status == http.StatusNotImplemented:
		return "not-done"
	}
	return "failed"
}

package grpcapi

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/dhowfleet/dhow/agent/access"
	"github.com/dhowfleet/dhow/agent/modelrepository"
	"github.com/dhowfleet/dhow/agent/openinference/grpcapi/wire"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/agent/telemetry"
)

var (
	errUnknown   = errors.New("this server has no such method")
	errPanicked  = errors.New("the request failed inside Dhow; the agent's log says where")
	errLate      = errors.New("the model did not answer within its time")
	errGivenUp   = errors.New("the request was given up")
	errNoRequest = connect.NewError(connect.CodeInvalidArgument, errors.New("the message is empty"))
)

// maxSentence bounds the text of an error: it travels in a header, escaped, and clients take some KiB of these.
const maxSentence = 1200

// coded gives an error the code that Triton would answer.
func coded(err error) *connect.Error {
	var already *connect.Error
	var refused *access.Error
	var missing *serving.NotFoundError
	var unlisted *modelrepository.NotFoundError
	code := connect.CodeInternal
	switch {
	case errors.As(err, &already):
		return already
	case errors.As(err, &refused):
		return refusal(refused)
	case errors.As(err, &missing), errors.As(err, &unlisted):
		code = connect.CodeNotFound
	case errors.Is(err, modelrepository.ErrNotControlled):
		code = connect.CodeUnavailable
	default:
		switch serving.CodeOf(err) {
		case telemetry.InvalidInput:
			code = connect.CodeInvalidArgument
		case telemetry.Overloaded:
			code = connect.CodeUnavailable
		case telemetry.Deadline:
			code, err = connect.CodeDeadlineExceeded, errLate
		case telemetry.Canceled:
			code, err = connect.CodeCanceled, errGivenUp
		}
	}
	return connect.NewError(code, sentence(err))
}

// sentence is an error's text alone, on one line and of a bounded length.
func sentence(err error) error {
	return errors.New(wire.Clip(strings.Join(strings.Fields(strings.ToValidUTF8(err.Error(), "\ufffd")), " "), maxSentence))
}

func refusal(r *access.Error) *connect.Error {
	code := connect.CodePermissionDenied
	switch r.Kind {
	case access.Unauthenticated:
		code = connect.CodeUnauthenticated
	case access.QuotaExceeded:
		code = connect.CodeResourceExhausted
	}
	err := connect.NewError(code, sentence(r))
	if r.RetryAfter > 0 {
		err.Meta().Set("Retry-After", strconv.Itoa(int(math.Ceil(float64(r.RetryAfter)/float64(time.Second)))))
	}
	return err
}

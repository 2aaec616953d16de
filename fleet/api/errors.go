package api

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"connectrpc.com/connect"

	"github.com/dhowfleet/dhow/fleet/store"
)

var errInside = connect.NewError(connect.CodeInternal, errors.New("the manager failed at this call: its log says why"))

// fail turns an error of the manager's parts into what an operator is told. What they say of themselves (not found,
// conflict) is passed on; anything else is logged and told as a failure of the manager.
func (s *Service) fail(ctx context.Context, what string, err error) error {
	text := func(sentinel error) error {
		return errors.New(strings.TrimPrefix(err.Error(), sentinel.Error()+": "))
	}
	switch {
	case errors.Is(err, store.ErrNotFound):
		return connect.NewError(connect.CodeNotFound, text(store.ErrNotFound))
	case errors.Is(err, store.ErrConflict):
		return connect.NewError(connect.CodeFailedPrecondition, text(store.ErrConflict))
	case errors.Is(ctx.Err(), context.Canceled):
		return connect.NewError(connect.CodeCanceled, fmt.Errorf("cannot %s: the caller went away", what))
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return connect.NewError(connect.CodeDeadlineExceeded, fmt.Errorf("cannot %s in time: try again", what))
	}
	s.Logger.Error("cannot "+what, "error", err)
	return errInside
}

func invalid(format string, args ...any) error {
	return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf(format, args...))
}

func refused(format string, args ...any) error {
	return connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf(format, args...))
}

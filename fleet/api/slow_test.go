package api

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/dhowfleet/dhow/fleet/store"
	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
)

// quiet is a store in which nothing ever happens.
type quiet struct{ Resources }

func (quiet) Notify() (<-chan struct{}, func()) { return nil, func() {} }
func (quiet) List(context.Context, string) ([]*fleetv1.Resource, uint64, error) {
	return nil, 1, nil
}

func TestWatcherThatTakesNothingIsCutWithTheReason(t *testing.T) {
	var log strings.Builder
	w := &watch{
		service: &Service{Config: Config{Resources: quiet{}, Logger: slog.New(slog.NewTextHandler(&log, nil))}},
		want:    &fleetv1.WatchRequest{}, known: map[store.Key]uint64{},
		send: func(*fleetv1.WatchResponse) error { return errors.New("i/o timeout") },
	}
	err := w.run(t.Context())
	if connect.CodeOf(err) != connect.CodeResourceExhausted || !strings.Contains(err.Error(), "not taken in time: watch anew") {
		t.Errorf("cut with %v", err)
	}
	if !strings.Contains(log.String(), "i/o timeout") {
		t.Errorf("the log does not say why: %s", &log)
	}
	// One that went away is no fault.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	log.Reset()
	if err := w.run(ctx); err != nil || log.Len() > 0 {
		t.Errorf("gone: %v, %s", err, &log)
	}
}

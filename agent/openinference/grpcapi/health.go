package grpcapi

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"

	healthv1 "github.com/dhowfleet/dhow/protocol/gen/grpc/health/v1"
	"github.com/dhowfleet/dhow/protocol/gen/inference/inferencepbconnect"
)

// watchEvery is how late a change may be told to those who watch.
const watchEvery = time.Second

func (h *handler) check(_ context.Context, r *healthv1.HealthCheckRequest) (*healthv1.HealthCheckResponse, error) {
	status := h.status(r.GetService())
	if status == healthv1.HealthCheckResponse_SERVICE_UNKNOWN {
		return nil, connect.NewError(connect.CodeNotFound, errors.New("this server has no such service"))
	}
	return &healthv1.HealthCheckResponse{Status: status}, nil
}

// status is that of the server, under an empty name, or of the one service whose health it is.
func (h *handler) status(service string) healthv1.HealthCheckResponse_ServingStatus {
	switch {
	case service != "" && service != inferencepbconnect.GRPCInferenceServiceName:
		return healthv1.HealthCheckResponse_SERVICE_UNKNOWN
	case h.ready():
		return healthv1.HealthCheckResponse_SERVING
	}
	return healthv1.HealthCheckResponse_NOT_SERVING
}

// watch sends the status as it is and then every change, until ctx ends or nobody reads.
func (h *handler) watch(ctx context.Context, service string, send func(*healthv1.HealthCheckResponse) error) error {
	every := time.NewTicker(watchEvery)
	defer every.Stop()
	told := healthv1.HealthCheckResponse_UNKNOWN
	for {
		if now := h.status(service); now != told {
			if err := send(&healthv1.HealthCheckResponse{Status: now}); err != nil {
				return err
			}
			told = now
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-every.C:
		}
	}
}

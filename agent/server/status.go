package server

import (
	"context"
	"net/http"
	"runtime"
	"strings"

	"github.com/dhowfleet/dhow/agent/hardware"
	"github.com/dhowfleet/dhow/agent/localapi"
	"github.com/dhowfleet/dhow/agent/metrics"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
	"github.com/dhowfleet/dhow/protocol/version"
)

// Describe adds to a document what the server knows: where it listens, what it runs on, and for each of the document's
// models its part of the traffic, the memory that it takes and what became of its requests.
func (s *Server) Describe(ctx context.Context, d *localapi.Document) {
	for _, a := range s.config.Addresses() {
		if at := s.endpoints.Addr(a.Name); at != "" {
			d.Addresses = append(d.Addresses, localapi.Address{Protocol: protocols[a.Name], Address: at})
		}
	}
	if s.Responses != nil {
		r := s.Responses.Stats()
		d.Cache = &localapi.Cache{Entries: uint64(r.Entries), Bytes: uint64(r.Bytes), LimitBytes: uint64(s.config.ResponseCache)}
	}
	if s.requests != nil {
		r := s.requests.Stats()
		d.AccessLog = &localapi.AccessLog{Written: r.Written, Dropped: r.Dropped}
	}
	d.Hardware = s.machine(ctx)
	for _, m := range s.Table.Models() {
		for _, v := range m.Variants {
			for i := range d.Models {
				if d.Models[i].Model == m.Name && d.Models[i].Version == v.Version {
					d.Models[i].Role = strings.ToLower(strings.TrimPrefix(syncv1.Role(v.Role).String(), "ROLE_"))
					d.Models[i].Share = float64(v.ShareMillionths) / 1e6
				}
			}
		}
	}
	for i := range d.Models {
		d.Models[i].MemoryBytes = uint64(s.Memory.Bytes(d.Models[i].Model, d.Models[i].Version))
	}
	localapi.Attach(d.Models, s.Statistics.Snapshot())
}

var protocols = map[string]string{"http": "HTTP", "grpc": "gRPC", "metrics": "metrics", "socket": "HTTP, gRPC and metrics"}

// machine describes the hardware in lines. It is looked at once: the parts of a machine stay as they are.
func (s *Server) machine(ctx context.Context) []string {
	s.hardware.Do(func() {
		s.lines = localapi.Describe(hardware.Probe(ctx, hardware.Options{StateDir: "/"}))
	})
	return s.lines
}

// metrics answers with what is counted here and with what a document says of the agent.
func (s *Server) metrics(status func(context.Context) (localapi.Document, error)) http.Handler {
	return metrics.Handler(metrics.Options{
		Models: s.Statistics.Snapshot, Machine: metrics.NewMachine(""), Process: metrics.ReadProcess, GPUs: metrics.NewGPUs(),
		Agent: func(ctx context.Context) metrics.Agent {
			d, err := status(ctx)
			if err != nil {
				s.log.Warn("the metrics lack what the status would have said", "error", err)
			}
			return ofDocument(&d, s)
		},
	})
}

func ofDocument(d *localapi.Document, s *Server) metrics.Agent {
	a := metrics.Agent{
		Version: version.Build, GoVersion: runtime.Version(),
		Fleet: d.Uplink.Server != "", Enrolled: d.Uplink.Enrolled, Connected: d.Uplink.Connected,
		OutboxPending: d.Outbox.Pending, OutboxBytes: d.Outbox.Bytes, OutboxDropped: d.Outbox.Dropped,
		TelemetryWritten: d.Telemetry.Written, TelemetryDropped: d.Telemetry.Dropped, TelemetryLost: d.Telemetry.Lost,
	}
	if d.AccessLog != nil {
		a.AccessWritten, a.AccessDropped = d.AccessLog.Written, d.AccessLog.Dropped
	}
	if c := d.Cache; c != nil {
		a.Cache = &metrics.Cache{Entries: c.Entries, Bytes: c.Bytes, Limit: c.LimitBytes, Evicted: s.Responses.Stats().Evicted}
	}
	for _, w := range d.Warnings {
		a.Warnings = append(a.Warnings, w.Code)
	}
	for _, m := range d.Models {
		a.Models = append(a.Models, metrics.Model{Model: m.Model, Version: m.Version, State: m.State, Role: m.Role, Memory: m.MemoryBytes})
	}
	return a
}

package grpcapi

import (
	"context"
	"net/http"

	"github.com/dhowfleet/dhow/agent/access"
	"github.com/dhowfleet/dhow/agent/accesslog"
	"github.com/dhowfleet/dhow/agent/openinference/classification"
	"github.com/dhowfleet/dhow/agent/openinference/grpcapi/wire"
	"github.com/dhowfleet/dhow/agent/serving"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

// modelInfer answers one request.
func (h *handler) modelInfer(ctx context.Context, m *received) (*unary, error) {
	c := callOf(ctx)
	if m.exchange == nil {
		return answered[unary](c, nil, errNoRequest)
	}
	// The answer is written after this returns; what it is made of ends with the call. The copy of the message is
	// accounted for by the body, but for what was compressed.
	c.exchange = m.exchange
	c.body.late.Stop()
	if more := int64(len(m.message)) - c.body.taken; more > 0 {
		if err := m.reserve(h, more); err != nil {
			return answered[unary](c, nil, err)
		}
	}
	role, done, err := h.answer(ctx, c.r, m.exchange, &c.entry)
	c.done = done
	if version := m.response.Version; version != "" {
		header := c.w.Header()
		header[headerVersion] = []string{version}
		header[headerVariant] = variantNames[min(int(role), len(variantNames)-1)]
	}
	if err == nil {
		c.entry.BytesOut = int64(m.response.Size())
	}
	// What was read for the message is held by the body until the call ends.
	c.hurry(m.exchange, c.body.taken+c.entry.BytesOut)
	return answered(c, &unary{&m.response}, err)
}

const (
	headerVersion = "Dhow-Model-Version"
	headerVariant = "Dhow-Variant"
)

var variantNames = [...][]string{
	syncv1.Role_ROLE_UNSPECIFIED: {"unspecified"},
	syncv1.Role_ROLE_BASELINE:    {"baseline"},
	syncv1.Role_ROLE_CANDIDATE:   {"candidate"},
	syncv1.Role_ROLE_SHADOW:      {"shadow"},
}

// answer decodes the request that is in x, runs it, and puts the answer into x, which names the model, its version and
// the request's id, as far as they are known, beside an error too. done, never nil, is called when it has been sent.
func (h *handler) answer(ctx context.Context, r *http.Request, x *exchange, e *accesslog.Entry) (role uint8, done func(), err error) {
	q := &x.request
	err = q.Decode(x.message, func(n int64) error { return x.reserve(h, n) })
	x.response.Model, x.response.ID = q.Model, q.ID
	e.Model, e.ID = q.Model, q.ID
	if err != nil {
		return 0, nothing, err
	}
	caller, done, err := h.authorize(r, access.Inference, q.Model, e)
	if err != nil {
		return 0, done, err
	}
	if q.Priority == 0 {
		q.Priority = caller.Priority
	}
	res, err := h.table.Infer(ctx, serving.Request{
		Model: q.Model, Version: q.Version, ID: q.ID, Inputs: q.Inputs, Outputs: q.Outputs, Priority: q.Priority, Timeout: q.Timeout,
	})
	x.response.Version = res.Version
	e.Version, e.Queue = res.Version, res.Timing.Queue
	if err == nil {
		err = h.classify(q, &res)
	}
	if err != nil {
		return res.Role, done, err
	}
	x.response.Outputs = res.Outputs
	return res.Role, done, x.reserve(h, int64(x.response.Size()))
}

// classify replaces the outputs of which the highest classes were asked for.
func (h *handler) classify(q *wire.Request, res *serving.Response) error {
	var info serving.Info
	for i, classes := range q.Classes {
		if classes == 0 {
			continue
		}
		if info.Name == "" {
			var err error
			if info, err = h.table.Lookup(q.Model, res.Version); err != nil {
				return err
			}
		}
		for j := range res.Outputs {
			t := &res.Outputs[j]
			if t.Name != q.Outputs[i] {
				continue
			}
			ranked, err := classification.Apply(*t, classes, batched(&info, t.Name), info.Labels[t.Name])
			if err != nil {
				return err
			}
			*t = ranked
		}
	}
	return nil
}

// batched says whether the first dimension of an output is the batch: the configuration says so, or else it varies.
func batched(info *serving.Info, output string) bool {
	if info.Config != nil {
		return info.Config.MaxBatchSize > 0
	}
	for _, s := range info.Outputs {
		if s.Name == output {
			return len(s.Shape) > 1 && s.Shape[0] < 0
		}
	}
	return false
}

package openinference

import (
	"net/http"

	"github.com/dhowfleet/dhow/agent/openinference/predictv1"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/models/tensor"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

var variantNames = [...][]string{
	syncv1.Role_ROLE_UNSPECIFIED: {"unspecified"},
	syncv1.Role_ROLE_BASELINE:    {"baseline"},
	syncv1.Role_ROLE_CANDIDATE:   {"candidate"},
	syncv1.Role_ROLE_SHADOW:      {"shadow"},
}

// infer answers a request to a model.
func (h *handler) infer(x *exchange) error {
	// Whatever is asked of a model that is not there need not be read.
	if err := h.table.Has(x.model, x.version); err != nil {
		return err
	}
	header, err := h.readBody(x)
	if err != nil {
		return err
	}
	req := &x.request
	if err := req.parse(x.body.Bytes(), header, x); err != nil {
		return err
	}
	for i := range req.outputs {
		x.names = append(x.names, req.outputs[i].name)
	}
	outputs, err := h.run(x, req.inputs)
	if err != nil {
		return err
	}
	x.outputs, err = req.arrange(x.outputs[:0], outputs, func() (serving.Info, error) { return h.table.Lookup(x.model, x.answered) })
	if err != nil {
		return err
	}
	x.json, x.binary, err = appendResponse(x.json[:0], x.model, x.answered, req, x.outputs, x.binary[:0], x.reserve)
	if err != nil {
		return err
	}
	x.write(http.StatusOK)
	return nil
}

// run asks the model and puts who answered into the headers.
func (h *handler) run(x *exchange, inputs []tensor.Tensor) ([]tensor.Tensor, error) {
	req := &x.request
	priority := req.priority
	if priority == 0 {
		priority = x.caller.Priority
	}
	res, err := h.table.Infer(x.r.Context(), serving.Request{
		Model: x.model, Version: x.version, ID: req.id, Inputs: inputs, Outputs: x.names, Priority: priority, Timeout: req.timeout,
	})
	if res.Version != "" {
		header := x.w.Header()
		header[headerVersion] = x.one(res.Version)
		header[headerVariant] = variantNames[min(int(res.Role), len(variantNames)-1)]
	}
	x.answered, x.queued = res.Version, res.Timing.Queue
	return res.Outputs, err
}

// predict answers a request of KServe's first protocol.
func (h *handler) predict(x *exchange) error {
	info, err := h.table.Lookup(x.model, x.version)
	if err != nil {
		return err
	}
	header, err := h.readBody(x)
	if err != nil {
		return err
	}
	if header != x.body.Len() {
		return badRequest("binary data is for /v2/models/.../infer")
	}
	req, err := predictv1.Parse(x.body.Bytes(), info.Inputs, x)
	if err != nil {
		return err
	}
	outputs, err := h.run(x, req.Inputs)
	if err != nil {
		return err
	}
	for i := range outputs {
		if err := x.reserve(textSize(&outputs[i])); err != nil {
			return err
		}
	}
	if x.json, err = predictv1.AppendResponse(x.json[:0], req, outputs); err != nil {
		return err
	}
	x.write(http.StatusOK)
	return nil
}

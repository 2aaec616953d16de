package suite

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/dhowfleet/dhow/test/conformance/wire"
)

// maxExchanges are kept of one check, the last ones.
const maxExchanges = 8

// Run is one check under way.
type Run struct {
	Context context.Context
	Suite   *Suite
	Model   *Model // nil for a check of scope Once
	sent    []Exchange
	// answered is whether the last Infer got an answer of success, well-formed or not.
	answered bool
}

// Exchange is one request and its answer, cut to what is worth printing.
type Exchange struct {
	Sent string `json:"sent"`
	Got  string `json:"got"`
}

// Fork is a run for another goroutine; what it sends is not in the report.
func (r *Run) Fork() *Run { return &Run{Context: r.Context, Suite: r.Suite, Model: r.Model} }

// Keep notes what was sent and got.
func (r *Run) Keep(sent, got string) {
	if r.sent = append(r.sent, Exchange{sent, got}); len(r.sent) > maxExchanges {
		r.sent = r.sent[1:]
	}
}

// Do sends a request and keeps it. It fails only when there is no answer.
func (r *Run) Do(method, path string, header http.Header, body []byte) (*wire.Reply, error) {
	got, err := r.send(method, path, header, body)
	sent := wire.Shown(method+" "+path, header, body)
	if err != nil {
		r.Keep(sent, err.Error())
		return nil, fmt.Errorf("there is no answer: %v", err)
	}
	r.Keep(sent, wire.Shown(strconv.Itoa(got.Status), got.Header, got.Body))
	return got, nil
}

func (r *Run) send(method, path string, header http.Header, body []byte) (*wire.Reply, error) {
	req, err := http.NewRequestWithContext(r.Context, method, r.Suite.Options.URL+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for _, h := range []http.Header{r.Suite.Options.Header, header} {
		for name, values := range h {
			req.Header[name] = values
		}
	}
	res, err := r.Suite.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, wire.MaxAnswer+1))
	if err != nil {
		return nil, err
	}
	if len(b) > wire.MaxAnswer {
		return nil, fmt.Errorf("the answer has more than %d bytes", wire.MaxAnswer)
	}
	return &wire.Reply{Status: res.StatusCode, Header: res.Header, Body: b}, nil
}

// Get asks for a path.
func (r *Run) Get(path string) (*wire.Reply, error) { return r.Do(http.MethodGet, path, nil, nil) }

// Status is the status of a GET, for checks to which nothing else matters.
func (r *Run) Status(path string) (int, error) {
	got, err := r.Get(path)
	if err != nil {
		return 0, err
	}
	return got.Status, nil
}

// Post sends a value as JSON.
func (r *Run) Post(path string, body any) (*wire.Reply, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	return r.PostText(path, b)
}

// PostText sends a text as JSON, whatever it is.
func (r *Run) PostText(path string, body []byte) (*wire.Reply, error) {
	return r.Do(http.MethodPost, path, http.Header{"Content-Type": {"application/json"}}, body)
}

// Path is that of a model, with what follows it. An empty version leaves it out.
func Path(name, version, rest string) string {
	path := "/v2/models/" + url.PathEscape(name)
	if version != "" {
		path += "/versions/" + url.PathEscape(version)
	}
	return path + rest
}

func (r *Run) path(c *wire.Call) string { return Path(r.Model.Name, c.Version, "/infer") }

// Ask makes an inference request to the run's model.
func (r *Run) Ask(c wire.Call) (*wire.Reply, error) {
	body, length, err := c.Encode()
	if err != nil {
		return nil, err
	}
	return r.Do(http.MethodPost, r.path(&c), wire.LengthHeader(length), body)
}

// Infer makes it and reads the answer.
func (r *Run) Infer(c wire.Call) (*wire.Answer, error) {
	r.answered = false
	got, err := r.Ask(c)
	if err != nil {
		return nil, err
	}
	r.answered = got.OK() == nil
	return got.Answer()
}

// Refuses wants the call to be refused and the server to be as well as before.
func (r *Run) Refuses(c wire.Call) error {
	got, err := r.Ask(c)
	if err != nil {
		return err
	}
	return r.RefusedWell(got)
}

// RefusedWell wants an answer to be a refusal and the server to be as well as before.
func (r *Run) RefusedWell(got *wire.Reply) error {
	if err := got.Refused(); err != nil {
		return err
	}
	if err := r.Again(); err != nil {
		return fmt.Errorf("after the refusal, a request that is right: %v", err)
	}
	return nil
}

// RefusesBody is Refuses for a body that Encode would not make.
func (r *Run) RefusesBody(header http.Header, body []byte) error {
	got, err := r.Do(http.MethodPost, Path(r.Model.Name, "", "/infer"), header, body)
	if err != nil {
		return err
	}
	return r.RefusedWell(got)
}

// RefusesGet wants a GET to be refused.
func (r *Run) RefusesGet(path string) error {
	got, err := r.Get(path)
	if err != nil {
		return err
	}
	return got.Refused()
}

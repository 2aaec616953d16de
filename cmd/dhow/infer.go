package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dhowfleet/dhow/models/tensor"
)

const (
	maxInferFile     = 64 << 20
	maxInferResponse = 64 << 20
	maxShown         = 5 // values of an output in a table
)

func (a *app) newInfer() *cobra.Command {
	var q inference
	var output string
	cmd := &cobra.Command{
		Use:   "infer --model MODEL FILE...",
		Short: "Send files to a model at a branch and print its answers",
		Long: `Send each file as one BYTES element to a model, by the Open Inference Protocol, and print the answers. It speaks to an
agent (or any other server of the protocol), not to the fleet manager, and needs no login.`,
		Example: "  dhow infer --url http://127.0.0.1:8000 --model fashion shoe.png shirt.jpg",
		Args:    wantArgs(true, "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if q.model == "" {
				return usagef("dhow infer needs --model")
			}
			if err := oneOf("output", output, "table", "json"); err != nil {
				return err
			}
			u, err := url.Parse(q.url)
			if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
				return usagef("--url %q is no address such as http://127.0.0.1:8000", q.url)
			}
			q.url = strings.TrimSuffix(q.url, "/")
			q.client = &http.Client{Timeout: a.timeout}
			return a.runInfer(cmd.Context(), &q, args, output)
		},
	}
	cmd.Flags().StringVar(&q.url, "url", "http://127.0.0.1:8000", "where the model is served")
	cmd.Flags().StringVar(&q.model, "model", "", "the model")
	cmd.Flags().StringVar(&q.version, "version", "", "a version of the model (default: what the node routes to)")
	cmd.Flags().StringVar(&q.input, "input", "", "the input that takes the file (default: the model's only one)")
	cmd.Flags().StringVarP(&output, "output", "o", "table", "one of table, json")
	return cmd
}

// inference is where and what to ask.
type inference struct {
	url, model, version, input string
	rank                       int // of the input
	client                     *http.Client
}

// answer is what came back for one file.
type answer struct {
	File    string          `json:"file"`
	Millis  float64         `json:"milliseconds"`
	Error   string          `json:"error,omitempty"`
	Model   string          `json:"model_name,omitempty"`
	Version string          `json:"model_version,omitempty"`
	ID      string          `json:"id,omitempty"`
	Outputs []answerOutput  `json:"outputs,omitempty"`
	Params  json.RawMessage `json:"parameters,omitempty"`
}

type answerOutput struct {
	Name     string          `json:"name"`
	Datatype string          `json:"datatype"`
	Shape    []int64         `json:"shape"`
	Data     json.RawMessage `json:"data"`
}

func (a *app) runInfer(ctx context.Context, q *inference, files []string, output string) error {
	if err := q.findInput(ctx); err != nil {
		return err
	}
	var answers []*answer
	failed := 0
	for _, file := range files {
		answered, err := q.ask(ctx, file)
		if err != nil {
			if ctx.Err() != nil {
				return errors.New("interrupted")
			}
			failed++
			answered = &answer{File: file, Error: err.Error()}
		}
		answers = append(answers, answered)
	}
	if output == "json" {
		if err := a.writeJSON(answers); err != nil {
			return err
		}
	} else {
		a.printAnswers(answers)
	}
	if failed > 0 {
		return fmt.Errorf("%d of %s had no answer", failed, count(len(files), "file"))
	}
	return nil
}

// path is the model's address.
func (q *inference) path(verb string) string {
	p := q.url + "/v2/models/" + url.PathEscape(q.model)
	if q.version != "" {
		p += "/versions/" + url.PathEscape(q.version)
	}
	return p + verb
}

// findInput asks the model what it takes.
func (q *inference) findInput(ctx context.Context) error {
	var meta struct {
		Inputs []struct {
			Name     string  `json:"name"`
			Datatype string  `json:"datatype"`
			Shape    []int64 `json:"shape"`
		} `json:"inputs"`
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, q.path(""), nil)
	if err != nil {
		return fmt.Errorf("cannot ask for the model: %w", err)
	}
	if err := q.do(req, &meta); err != nil {
		return err
	}
	var takes []string
	for _, in := range meta.Inputs {
		takes = append(takes, fmt.Sprintf("%s (%s %v)", in.Name, in.Datatype, in.Shape))
		if (q.input == "" && len(meta.Inputs) == 1) || q.input == in.Name {
			if in.Datatype != tensor.Bytes.String() {
				return fmt.Errorf("the model %s takes %s, and not the bytes of a file; send it tensors with a client of the Open Inference Protocol", q.model, takes[len(takes)-1])
			}
			q.input, q.rank = in.Name, len(in.Shape)
			return nil
		}
	}
	if q.input == "" {
		return usagef("the model %s has several inputs: choose one with --input: %s", q.model, strings.Join(takes, ", "))
	}
	return usagef("the model %s has no input %q: it takes %s", q.model, q.input, strings.Join(takes, ", "))
}

// ask sends one file in the protocol's binary form.
func (q *inference) ask(ctx context.Context, file string) (*answer, error) {
	data, err := readBounded(file, maxInferFile)
	if err != nil {
		return nil, err
	}
	element := tensor.AppendBytes(nil, data)
	shape := make([]int64, q.rank)
	for i := range shape {
		shape[i] = 1
	}
	header, err := json.Marshal(map[string]any{
		"inputs": []any{map[string]any{"name": q.input, "datatype": tensor.Bytes.String(), "shape": shape,
			"parameters": map[string]any{"binary_data_size": len(element)}}},
		"parameters": map[string]any{"binary_data_output": false},
	})
	if err != nil {
		return nil, fmt.Errorf("cannot write the request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, q.path("/infer"), bytes.NewReader(append(header[:len(header):len(header)], element...)))
	if err != nil {
		return nil, fmt.Errorf("cannot write the request: %w", err)
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set("Inference-Header-Content-Length", strconv.Itoa(len(header)))
	out := &answer{}
	begin := time.Now()
	if err := q.do(req, out); err != nil {
		return nil, err
	}
	out.File, out.Millis = file, float64(time.Since(begin).Microseconds())/1000
	return out, nil
}

// do sends a request and reads the JSON answer into out.
func (q *inference) do(req *http.Request, out any) error {
	resp, err := q.client.Do(req)
	if err != nil {
		return fmt.Errorf("cannot reach %s: %w; is the agent running there?", q.url, errors.Unwrap(err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxInferResponse+1))
	switch {
	case err != nil:
		return fmt.Errorf("cannot read the answer of %s: %w", q.url, err)
	case len(body) > maxInferResponse:
		return fmt.Errorf("the answer of %s is larger than %s", q.url, size(maxInferResponse))
	}
	if resp.StatusCode != http.StatusOK {
		var refusal struct {
			Error string `json:"error"`
		}
		if json.Unmarshal(body, &refusal) == nil && refusal.Error != "" {
			return errors.New(refusal.Error)
		}
		return fmt.Errorf("%s answered %s", q.url, resp.Status)
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("%s answered what is no JSON of the Open Inference Protocol: %w", q.url, err)
	}
	return nil
}

func readBounded(file string, most int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read the file: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read the file: %w", err)
	}
	if int64(len(data)) > most {
		return nil, fmt.Errorf("%s is larger than the %s that are sent at once", file, size(uint64(most)))
	}
	return data, nil
}

func (a *app) printAnswers(answers []*answer) {
	header, columns := []string{"FILE", "VERSION", "TIME"}, map[string]int{}
	for _, n := range answers {
		for _, o := range n.Outputs {
			if _, known := columns[o.Name]; !known {
				columns[o.Name] = len(header)
				header = append(header, printable(strings.ToUpper(o.Name)))
			}
		}
	}
	t := newTable(a.out, header...)
	for _, n := range answers {
		if n.Error != "" {
			continue
		}
		row := make([]string, len(header))
		row[0], row[1], row[2] = n.File, n.Version, short(time.Duration(n.Millis*float64(time.Millisecond)))
		for _, o := range n.Outputs {
			row[columns[o.Name]] = values(o)
		}
		t.row(row...)
	}
	if len(t.rows) > 0 {
		t.flush()
	}
	for _, n := range answers {
		if n.Error != "" {
			fmt.Fprintf(a.err, "%s: %s\n", printable(n.File), printable(n.Error))
		}
	}
}

// values prints the first values of an output, however they are nested.
func values(o answerOutput) string {
	var out []string
	dec := json.NewDecoder(bytes.NewReader(o.Data))
	dec.UseNumber()
	for len(out) <= maxShown {
		token, err := dec.Token()
		if err != nil {
			break
		}
		switch v := token.(type) {
		case json.Delim:
		case json.Number:
			out = append(out, shortNumber(v))
		default:
			out = append(out, fmt.Sprint(v))
		}
	}
	if len(out) > maxShown {
		out = append(out[:maxShown], "...")
	}
	return strings.Join(out, ", ")
}

func shortNumber(n json.Number) string {
	if _, err := n.Int64(); err == nil {
		return n.String()
	}
	f, err := n.Float64()
	if err != nil {
		return n.String()
	}
	return strconv.FormatFloat(f, 'g', 4, 64)
}

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/dhowfleet/dhow/models/bundle"
	"github.com/dhowfleet/dhow/models/jsontensor"
	"github.com/dhowfleet/dhow/models/tensor"
)

// requestFile is a request of the Open Inference Protocol, or a golden sample of a bundle, which may also name files.
type requestFile struct {
	Inputs []requestTensor `json:"inputs"`
}

type requestTensor struct {
	Name     string          `json:"name"`
	Datatype string          `json:"datatype"`
	Shape    []int64         `json:"shape"`
	Data     json.RawMessage `json:"data"`
	// File, beside the request's, holds the tensor's data in binary form, or the only element of BYTES.
	File string `json:"file"`
}

// bounded gives a tensor at most the bytes that are sent at once.
type bounded struct{}

func (bounded) Grow(data []byte, size int64) ([]byte, error) {
	if size > maxInferFile {
		return nil, fmt.Errorf("it has more than %s", sizeOf(maxInferFile))
	}
	return slices.Grow(data, int(size)-len(data)), nil
}

func sizeOf(n int64) string { return size(uint64(max(n, 0))) }

// readSamples reads a file with a request, or all .json files of a folder.
func readSamples(path string) ([]wasmSample, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the samples: %w", err)
	}
	files := []string{path}
	if info.IsDir() {
		if files, err = filepath.Glob(filepath.Join(path, "*.json")); err != nil || len(files) == 0 {
			return nil, fmt.Errorf("cannot read the samples: %s has none; a sample is a .json file with a request", path)
		}
		if len(files) > bundle.MaxGoldens {
			return nil, fmt.Errorf("cannot read the samples: %s has %d, at most %d are used", path, len(files), bundle.MaxGoldens)
		}
	}
	var out []wasmSample
	for _, file := range files {
		in, err := readRequest(file)
		if err != nil {
			return nil, err
		}
		out = append(out, wasmSample{strings.TrimSuffix(filepath.Base(file), ".json"), in})
	}
	return out, nil
}

// readRequest reads the inputs of a request in JSON.
func readRequest(file string) ([]tensor.Tensor, error) {
	data, err := readBounded(file, maxInferFile)
	if err != nil {
		return nil, err
	}
	var r requestFile
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("%s is no request of the Open Inference Protocol: %w", file, err)
	}
	if len(r.Inputs) == 0 {
		return nil, fmt.Errorf(`%s is no request of the Open Inference Protocol: it has no "inputs"`, file)
	}
	var out []tensor.Tensor
	for _, in := range r.Inputs {
		t, err := in.tensor(filepath.Dir(file))
		if err != nil {
			return nil, fmt.Errorf("%s: input %q: %w", file, in.Name, err)
		}
		out = append(out, t)
	}
	return out, nil
}

func (r *requestTensor) tensor(dir string) (tensor.Tensor, error) {
	datatype, err := tensor.ParseDatatype(r.Datatype)
	if err != nil {
		return tensor.Tensor{}, err
	}
	if (r.File == "") == (len(r.Data) == 0) {
		return tensor.Tensor{}, errors.New("give either data or file")
	}
	if r.File != "" {
		if err := bundle.ValidPath(r.File); err != nil {
			return tensor.Tensor{}, err
		}
		return fromFile(r.Name, datatype, r.Shape, filepath.Join(dir, filepath.FromSlash(r.File)))
	}
	return fromJSON(r.Name, datatype, r.Shape, r.Data)
}

// fromFile makes a tensor of a file's bytes, which are the only element of BYTES, or the numbers in binary form.
func fromFile(name string, datatype tensor.Datatype, shape []int64, file string) (tensor.Tensor, error) {
	data, err := readBounded(file, maxInferFile)
	if err != nil {
		return tensor.Tensor{}, err
	}
	if datatype == tensor.Bytes {
		data = tensor.AppendBytes(nil, data)
	}
	t := tensor.Tensor{Name: name, Datatype: datatype, Shape: shape, Data: data}
	return t, t.Validate()
}

// fromJSON makes a tensor of JSON values. Without a shape it is what the lists are nested to.
func fromJSON(name string, datatype tensor.Datatype, shape []int64, data []byte) (tensor.Tensor, error) {
	scanner := jsontensor.NewScanner(data)
	d := jsontensor.Decoder{Scanner: &scanner, Memory: bounded{}, Name: name, Datatype: datatype, Shape: slices.Clone(shape)}
	var err error
	if shape != nil {
		err = d.Tensor()
	} else {
		d.Shape = make([]int64, 0, 1)
		for _, c := range data {
			if c == '[' && len(d.Shape) < tensor.MaxRank {
				d.Shape = append(d.Shape, -1)
			} else if c != ' ' && c != '\t' && c != '\n' && c != '\r' {
				break
			}
		}
		err = d.Value(0)
	}
	if err == nil {
		err = d.End()
	}
	if err != nil {
		return tensor.Tensor{}, err
	}
	t := tensor.Tensor{Name: name, Datatype: datatype, Shape: d.Shape, Data: d.Data}
	return t, t.Validate()
}

// typed is a value with its datatype, and perhaps its shape, before it: FP32[1,4]:..., UINT8[2,2]@FILE.
var typed = regexp.MustCompile(`(?s)^([A-Z]+[0-9]*)(\[[0-9, ]*\])?([:@])(.*)$`)

// parseInput reads NAME=@FILE, NAME=TYPE[SHAPE]@FILE, NAME=TYPE[SHAPE]:JSON or NAME=JSON.
func (m *wasmModule) parseInput(text string) (tensor.Tensor, error) {
	name, value, ok := strings.Cut(text, "=")
	if !ok || name == "" {
		return tensor.Tensor{}, usagef("--input %q is not of the form NAME=@FILE or NAME=FP32:[1,2]", text)
	}
	fail := func(err error) (tensor.Tensor, error) {
		return tensor.Tensor{}, fmt.Errorf("--input %s: %w", name, err)
	}
	declared := slices.IndexFunc(m.inputs, func(s tensor.Spec) bool { return s.Name == name })
	if file, ok := strings.CutPrefix(value, "@"); ok {
		shape := []int64{1}
		if declared >= 0 {
			shape = make([]int64, len(m.inputs[declared].Shape))
			for i := range shape {
				shape[i] = 1
			}
		}
		t, err := fromFile(name, tensor.Bytes, shape, file)
		if err != nil {
			return fail(err)
		}
		return t, nil
	}
	datatype, shape := tensor.Invalid, []int64(nil)
	file, content := "", value
	if parts := typed.FindStringSubmatch(value); parts != nil {
		var err error
		if datatype, err = tensor.ParseDatatype(parts[1]); err != nil {
			return fail(err)
		}
		if parts[2] != "" {
			if err := json.Unmarshal([]byte(parts[2]), &shape); err != nil {
				return fail(fmt.Errorf("%s is no shape such as [1,4]", parts[2]))
			}
		}
		if parts[3] == "@" {
			file = parts[4]
		}
		content = parts[4]
	}
	switch {
	case file != "" && shape == nil:
		return fail(errors.New("say the shape of what is in the file, such as FP32[1,4]@FILE"))
	case file != "":
		t, err := fromFile(name, datatype, shape, file)
		if err != nil {
			return fail(err)
		}
		return t, nil
	case datatype == tensor.Invalid && declared >= 0:
		datatype = m.inputs[declared].Datatype
	case datatype == tensor.Invalid:
		return fail(errors.New("say its datatype, such as FP32:[1,2] or BYTES:[\"a\"]"))
	}
	t, err := fromJSON(name, datatype, shape, []byte(content))
	if err != nil {
		return fail(err)
	}
	return t, nil
}

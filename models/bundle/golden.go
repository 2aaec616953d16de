package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path"
	"slices"
	"strings"

	"github.com/dhowfleet/dhow/models/tensor"
)

// Golden is a sample request with the answer that the bundle must give.
type Golden struct {
	// Name is the file's name without ".json".
	Name            string
	Inputs, Outputs []tensor.Tensor
	// Tolerance is how far a floating-point element may be from the expected one. Other datatypes must be equal.
	Tolerance float64
}

// DefaultTolerance is that of a sample that names none.
const DefaultTolerance = 0.001

type goldenFile struct {
	Inputs    []goldenTensor `json:"inputs"`
	Outputs   []goldenTensor `json:"outputs"`
	Tolerance *float64       `json:"tolerance"`
}

type goldenTensor struct {
	Name     string          `json:"name"`
	Datatype string          `json:"datatype"`
	Shape    []int64         `json:"shape"`
	Data     json.RawMessage `json:"data"`
	// File, relative to the folder of samples, holds the tensor's data in binary form, or the only element of BYTES.
	File string `json:"file"`
}

// Golden reads the golden samples, sorted by name: every .json file of the folder. It returns none when bundle.yaml
// names no folder.
func (s *Spec) Golden(fsys fs.FS) ([]Golden, error) {
	if s.GoldenDir == "" {
		return nil, nil
	}
	entries, err := fs.ReadDir(fsys, s.GoldenDir)
	if err != nil {
		return nil, fmt.Errorf("%s names the folder %s, which is not in the bundle: %w", SpecFile, s.GoldenDir, err)
	}
	var out []Golden
	left := int64(MaxGoldenBytes)
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue
		}
		if len(out) == MaxGoldens {
			return nil, fmt.Errorf("%s has more than %d samples", s.GoldenDir, MaxGoldens)
		}
		p := path.Join(s.GoldenDir, e.Name())
		g, err := s.readGolden(fsys, p, &left)
		if err != nil {
			return nil, fmt.Errorf("golden sample %s: %w", p, err)
		}
		g.Name = name
		out = append(out, g)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s has no sample; a sample is a .json file", s.GoldenDir)
	}
	return out, nil
}

func (s *Spec) readGolden(fsys fs.FS, p string, left *int64) (Golden, error) {
	g := Golden{Tolerance: DefaultTolerance}
	data, err := readBounded(fsys, p, left)
	if err != nil {
		return g, err
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var f goldenFile
	if err := dec.Decode(&f); err != nil {
		return g, fmt.Errorf("it is no sample: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return g, fmt.Errorf("something follows the sample")
	}
	if f.Tolerance != nil {
		g.Tolerance = *f.Tolerance
	}
	if g.Tolerance < 0 || math.IsInf(g.Tolerance, 0) {
		return g, fmt.Errorf("tolerance %v is negative or infinite", g.Tolerance)
	}
	if g.Inputs, err = goldenTensors(fsys, path.Dir(p), f.Inputs, "input", s.Inputs, left); err != nil {
		return g, err
	}
	if len(g.Inputs) != len(s.Inputs) {
		return g, fmt.Errorf("it has %d inputs, the bundle has %d", len(g.Inputs), len(s.Inputs))
	}
	if g.Outputs, err = goldenTensors(fsys, path.Dir(p), f.Outputs, "output", s.Outputs, left); err != nil {
		return g, err
	}
	if len(g.Outputs) == 0 {
		return g, fmt.Errorf("it expects no output, so it would prove nothing")
	}
	return g, nil
}

// readBounded reads a file and takes its size off what is left for all samples of the bundle.
func readBounded(fsys fs.FS, p string, left *int64) ([]byte, error) {
	data, err := readFile(fsys, p, *left)
	if err != nil {
		return nil, err
	}
	*left -= int64(len(data))
	return data, nil
}

func goldenTensors(fsys fs.FS, dir string, in []goldenTensor, what string, specs []tensor.Spec, left *int64) ([]tensor.Tensor, error) {
	var out []tensor.Tensor
	for _, g := range in {
		at := slices.IndexFunc(specs, func(s tensor.Spec) bool { return s.Name == g.Name })
		if at < 0 {
			return nil, fmt.Errorf("the bundle has no %s %q", what, g.Name)
		}
		if slices.ContainsFunc(out, func(t tensor.Tensor) bool { return t.Name == g.Name }) {
			return nil, fmt.Errorf("%s %q occurs twice", what, g.Name)
		}
		t, err := g.tensor(fsys, dir, left)
		if err == nil {
			err = specs[at].Accepts(&t)
		}
		if err != nil {
			return nil, fmt.Errorf("%s %q: %w", what, g.Name, err)
		}
		out = append(out, t)
	}
	return out, nil
}

func (g *goldenTensor) tensor(fsys fs.FS, dir string, left *int64) (tensor.Tensor, error) {
	t := tensor.Tensor{Name: g.Name, Shape: slices.Clone(g.Shape)}
	var err error
	if t.Datatype, err = tensor.ParseDatatype(g.Datatype); err != nil {
		return t, err
	}
	n, err := tensor.Elements(t.Shape)
	if err != nil {
		return t, err
	}
	switch {
	case (g.File == "") == (len(g.Data) == 0):
		return t, fmt.Errorf("give either data or file")
	case g.File != "":
		if err := ValidPath(g.File); err != nil {
			return t, err
		}
		if t.Data, err = readBounded(fsys, path.Join(dir, g.File), left); err != nil {
			return t, err
		}
		if t.Datatype == tensor.Bytes {
			if n != 1 {
				return t, fmt.Errorf("a file is one element, the shape has %d", n)
			}
			t.Data = tensor.AppendBytes(nil, t.Data)
		}
	default:
		if t.Data, err = encode(g.Data, t.Datatype); err != nil {
			return t, err
		}
	}
	return t, t.Validate()
}

package tabular

import (
	"encoding/binary"
	"errors"
	"math"
	"strconv"
	"strings"

	"github.com/dhowfleet/dhow/models/tensor"
)

// The reference: the step's configuration and encoding in plain Go, a row at a time.
type reference struct {
	output   string
	datatype tensor.Datatype
	missing  map[string]bool
	columns  []*column
}

type column struct {
	name            string
	number, oneHot  bool
	flag, drift     bool
	impute, unknown *float64
	mean, std       float64
	values          map[string]int
}

func newReference(configuration string) *reference {
	r := &reference{missing: map[string]bool{"": true}}
	for line := range strings.Lines(configuration) {
		line = strings.TrimRight(line, "\r\n")
		if value, ok := strings.CutPrefix(line, "= "); ok {
			last := r.columns[len(r.columns)-1]
			last.values[value] = len(last.values)
			continue
		}
		words := strings.Fields(line)
		if len(words) == 0 || words[0][0] == '#' {
			continue
		}
		switch words[0] {
		case "output":
			r.output = words[1]
			r.datatype, _ = tensor.ParseDatatype(words[2])
		case "missing":
			r.missing[words[1]] = true
		default:
			c := &column{name: words[1], number: words[0] == "number", std: 1, values: map[string]int{}}
			for _, w := range words[2:] {
				key, value, _ := strings.Cut(w, "=")
				x, _ := strconv.ParseFloat(value, 64)
				switch key {
				case "flag":
					c.flag = true
				case "drift":
					c.drift = true
				case "one-hot":
					c.oneHot = true
				case "missing":
					c.impute = &x
				case "unknown":
					c.unknown = &x
				case "mean":
					c.mean = x
				case "std":
					c.std = x
				}
			}
			r.columns = append(r.columns, c)
		}
	}
	return r
}

// cell is a value of a table: nil, text or a number.
type cell any

// cells splits a column.
func cells(t *tensor.Tensor) []cell {
	var out []cell
	if t.Datatype == tensor.Bytes {
		elements, _ := tensor.SplitBytes(t.Data)
		for _, e := range elements {
			out = append(out, string(e))
		}
		return out
	}
	for b := t.Data; len(b) > 0; b = b[t.Datatype.Size():] {
		var x float64
		switch t.Datatype {
		case tensor.FP64:
			x = math.Float64frombits(binary.LittleEndian.Uint64(b))
		case tensor.FP32:
			x = float64(math.Float32frombits(binary.LittleEndian.Uint32(b)))
		case tensor.Int64:
			x = float64(int64(binary.LittleEndian.Uint64(b)))
		case tensor.Int16:
			x = float64(int16(binary.LittleEndian.Uint16(b)))
		case tensor.Uint8:
			x = float64(b[0])
		}
		out = append(out, x)
	}
	return out
}

var errRefused = errors.New("refused")

type answer struct {
	data                         []byte
	missing, unknown, categories int
	drift                        []string
}

func (r *reference) encode(in []tensor.Tensor) (*answer, error) {
	a := &answer{}
	var table [][]cell // by column
	for _, c := range r.columns {
		for i := range in {
			if in[i].Name == c.name {
				table = append(table, cells(&in[i]))
			}
		}
	}
	drift := map[string][]string{}
	for row := range table[0] {
		for i, c := range r.columns {
			v := table[i][row]
			if text, ok := v.(string); ok && r.missing[text] {
				v = nil
			}
			if x, ok := v.(float64); ok && math.IsNaN(x) {
				v = nil
			}
			numbers, raw, err := c.encode(v, a)
			if err != nil {
				return nil, err
			}
			if c.flag {
				numbers = append(numbers, 0)
				if v == nil {
					numbers[len(numbers)-1] = 1
				}
			}
			for _, x := range numbers {
				if r.datatype == tensor.Int64 {
					if x != math.Trunc(x) || math.Abs(x) > 1<<53 {
						return nil, errRefused
					}
					a.data = binary.LittleEndian.AppendUint64(a.data, uint64(int64(x)))
				} else {
					a.data = binary.LittleEndian.AppendUint32(a.data, math.Float32bits(float32(x)))
				}
			}
			if c.drift && raw != nil {
				drift[c.name] = append(drift[c.name], c.name+"="+strconv.FormatFloat(*raw, 'g', -1, 64))
			}
		}
	}
	for _, c := range r.columns {
		a.drift = append(a.drift, drift[c.name]...)
	}
	return a, nil
}

func (c *column) encode(v cell, a *answer) (numbers []float64, raw *float64, err error) {
	if c.number {
		var x float64
		switch v := v.(type) {
		case nil:
			a.missing++
			if c.impute == nil {
				return nil, nil, errRefused
			}
			return []float64{(*c.impute - c.mean) / c.std}, nil, nil
		case string:
			v = strings.Trim(v, " ")
			if strings.Trim(v, "0123456789+-.eE") != "" {
				return nil, nil, errRefused
			}
			if x, err = strconv.ParseFloat(v, 64); err != nil {
				return nil, nil, errRefused
			}
		case float64:
			x = v
		}
		if math.IsInf(x, 0) {
			return nil, nil, errRefused
		}
		return []float64{(x - c.mean) / c.std}, &x, nil
	}
	a.categories++
	n := float64(len(c.values))
	numbers = []float64{n}
	if c.oneHot {
		numbers = make([]float64, len(c.values))
	}
	var text string
	switch v := v.(type) {
	case nil:
		a.missing++
		if c.impute != nil && !c.oneHot {
			numbers[0] = *c.impute
		}
		return numbers, nil, nil
	case string:
		text = v
	case float64:
		if v != math.Trunc(v) || math.IsInf(v, 0) {
			return nil, nil, errRefused
		}
		text = strconv.FormatFloat(v, 'f', -1, 64)
	}
	i, known := c.values[text]
	switch {
	case !known:
		a.unknown++
		if c.unknown != nil && !c.oneHot {
			numbers[0] = *c.unknown
		}
		return numbers, &n, nil
	case c.oneHot:
		numbers[i] = 1
	default:
		numbers[0] = float64(i)
	}
	x := float64(i)
	return numbers, &x, nil
}

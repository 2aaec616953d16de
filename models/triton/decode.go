package triton

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/models/triton/textformat"
)

// The pieces of a text.
type (
	value = textformat.Value
	field = textformat.Field

	// SyntaxError says what is wrong with a text and where.
	SyntaxError = textformat.SyntaxError
)

const (
	quoted  = textformat.Quoted
	word    = textformat.Word
	message = textformat.Message
	list    = textformat.List
)

// MaxTextBytes bounds the text of a configuration.
const MaxTextBytes = textformat.MaxBytes

// Bounds of a configuration.
const (
	MaxTensors    = 4096 // inputs, outputs, entries of a map
	MaxSteps      = 64   // of an ensemble
	MaxInstances  = 256  // over all groups
	MaxWarmups    = 64
	MaxSizes      = 256 // versions, preferred sizes, levels of priority
	MaxParameters = 1024
	MaxBatch      = 1 << 20
	maxWait       = 24 * time.Hour
	maxQueue      = 1 << 20
	maxWarnings   = 100
)

// Warning names a key that has no effect here.
type Warning struct {
	Line    int
	Key     string // with the keys around it, such as "optimization.graph"
	Message string
}

func (w Warning) String() string { return fmt.Sprintf("line %d: %s: %s", w.Line, w.Key, w.Message) }

// Parse reads the text of a config.pbtxt. An error is a *SyntaxError unless the text as a whole is too large. The
// result is what the text says, which need not be complete or make sense together; Validate tells.
func Parse(text []byte) (*Config, []Warning, error) {
	v, err := textformat.Read(text)
	if err != nil {
		return nil, nil, err
	}
	return decode(v, false)
}

func decode(v value, json bool) (*Config, []Warning, error) {
	d := &decoder{json: json}
	c := &Config{}
	if err := d.config(c, v); err != nil {
		return nil, nil, err
	}
	return c, d.warnings, nil
}

// decoder understands values, and remembers where it is for messages.
type decoder struct {
	json     bool // the values come from JSON, where maps are objects and names of enumerations strings
	path     []string
	warnings []Warning
}

func (d *decoder) failf(line int, format string, args ...any) error {
	return textformat.Failf(line, "%s: %s", strings.Join(d.path, "."), fmt.Sprintf(format, args...))
}

func (d *decoder) warnf(line int, format string, args ...any) {
	if len(d.warnings) < maxWarnings {
		d.warnings = append(d.warnings, Warning{line, strings.Join(d.path, "."), fmt.Sprintf(format, args...)})
	}
}

// many are the fields that may occur more than once in their message.
var many = map[string]bool{
	"input": true, "output": true, "dims": true, "shape": true, "versions": true, "preferred_batch_size": true,
	"priority_queue_policy": true, "instance_group": true, "gpus": true, "profile": true, "secondary_devices": true,
	"model_warmup": true, "inputs": true, "parameters": true, "step": true, "input_map": true, "output_map": true,
	"batch_input": true, "batch_output": true, "cc_model_filenames": true, "metric_tags": true,
}

// fields visits those of a message. visit returns false for a field that it does not know, which becomes a warning.
func (d *decoder) fields(v value, visit func(name string, v value) (bool, error)) error {
	if v.Kind != message {
		return d.failf(v.Line, "want a message in braces, not %s", v.Kind)
	}
	seen := map[string]bool{}
	for i := range v.Fields {
		f := &v.Fields[i]
		name := f.Name
		if d.json {
			name = snake(name)
		}
		d.path = append(d.path, name)
		known, err := visit(name, f.Value)
		switch {
		case err != nil:
			return err
		case !known:
			d.warnf(f.Line, "unknown key, which has no effect here")
		case seen[name] && !many[name]:
			return d.failf(f.Line, "it is said twice")
		}
		seen[name] = true
		d.path = d.path[:len(d.path)-1]
	}
	return nil
}

// snake turns a name in camel case, which JSON allows, into that of the field.
func snake(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c >= 'A' && c <= 'Z' && i > 0 {
			b.WriteByte('_')
			b.WriteByte(c | 0x20)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// each visits the values of a field that may have several.
func (d *decoder) each(v value, visit func(v value) error) error {
	if v.Kind != list {
		return visit(v)
	}
	for i := range v.Items {
		if err := visit(v.Items[i]); err != nil {
			return err
		}
	}
	return nil
}

// entries visits those of a map.
func (d *decoder) entries(v value, visit func(key, v value) error) error {
	if d.json && v.Kind == message {
		for i := range v.Fields {
			f := &v.Fields[i]
			if err := visit(value{Line: f.Line, Kind: quoted, Text: f.Name}, f.Value); err != nil {
				return err
			}
		}
		return nil
	}
	return d.each(v, func(v value) error {
		var key, val value
		err := d.fields(v, func(name string, v value) (bool, error) {
			switch name {
			case "key":
				key = v
			case "value":
				val = v
			default:
				return false, nil
			}
			return true, nil
		})
		switch {
		case err != nil:
			return err
		case key.Kind == 0:
			return d.failf(v.Line, "an entry has no key")
		case val.Kind == 0:
			return d.failf(v.Line, "an entry has no value")
		}
		return visit(key, val)
	})
}

// room refuses to add to what has most already.
func (d *decoder) room(line, have, most int) error {
	if have >= most {
		return d.failf(line, "more than %d are not allowed", most)
	}
	return nil
}

func (d *decoder) text(v value, into *string) error {
	if v.Kind != quoted {
		return d.failf(v.Line, "want a string in quotes, not %s", v.Kind)
	}
	*into = v.Text
	return nil
}

// integer reads one between least and most.
func (d *decoder) integer(v value, least, most int64) (int64, error) {
	if v.Kind != word && !(d.json && v.Kind == quoted) {
		return 0, d.failf(v.Line, "want a number, not %s", v.Kind)
	}
	s, base := strings.TrimPrefix(v.Text, "-"), 10
	if rest, ok := strings.CutPrefix(strings.ToLower(s), "0x"); ok {
		s, base = rest, 16
	} else if len(s) > 1 && s[0] == '0' {
		s, base = s[1:], 8
	}
	n, err := strconv.ParseUint(s, base, 64)
	switch {
	case errors.Is(err, strconv.ErrRange), err == nil && n > math.MaxInt64:
		return 0, d.failf(v.Line, "%s is outside of %d to %d", v.Text, least, most)
	case err != nil:
		return 0, d.failf(v.Line, "%q is no whole number", v.Text)
	}
	i := int64(n)
	if v.Text[0] == '-' {
		i = -i
	}
	if i < least || i > most {
		return 0, d.failf(v.Line, "%d is outside of %d to %d", i, least, most)
	}
	return i, nil
}

func (d *decoder) count(v value, most int, into *int) error {
	n, err := d.integer(v, 0, int64(most))
	*into = int(n)
	return err
}

func (d *decoder) unsigned(v value, into *uint64) error {
	n, err := d.integer(v, 0, math.MaxInt64)
	*into = uint64(n)
	return err
}

func (d *decoder) microseconds(v value, into *time.Duration) error {
	n, err := d.integer(v, 0, int64(maxWait/time.Microsecond))
	*into = time.Duration(n) * time.Microsecond
	return err
}

func (d *decoder) boolean(v value, into *bool) error {
	if v.Kind == word {
		switch v.Text {
		case "true", "True", "t", "1":
			*into = true
			return nil
		case "false", "False", "f", "0":
			*into = false
			return nil
		}
	}
	return d.failf(v.Line, "want true or false")
}

// enumeration reads one of names, by name or by its index.
func (d *decoder) enumeration(v value, names []string, into *string) error {
	if v.Kind == word || d.json && v.Kind == quoted {
		if slices.Contains(names, v.Text) {
			*into = v.Text
			return nil
		}
		if i, err := strconv.Atoi(v.Text); err == nil && i >= 0 && i < len(names) {
			*into = names[i]
			return nil
		}
		return d.failf(v.Line, "%q is none of %s", v.Text, strings.Join(names, ", "))
	}
	return d.failf(v.Line, "want one of %s without quotes", strings.Join(names, ", "))
}

// dims appends the dimensions of a field.
func (d *decoder) dims(v value, into []int64) ([]int64, error) {
	if into == nil {
		into = []int64{}
	}
	err := d.each(v, func(v value) error {
		if err := d.room(v.Line, len(into), tensor.MaxRank); err != nil {
			return err
		}
		n, err := d.integer(v, -1, math.MaxInt64)
		if err == nil && n == 0 {
			err = d.failf(v.Line, "a dimension is 1 or more, or -1 where it varies")
		}
		into = append(into, n)
		return err
	})
	return into, err
}

// counts appends the numbers of a field.
func (d *decoder) counts(v value, least, most int64, into []int) ([]int, error) {
	err := d.each(v, func(v value) error {
		if err := d.room(v.Line, len(into), MaxSizes); err != nil {
			return err
		}
		n, err := d.integer(v, least, most)
		into = append(into, int(n))
		return err
	})
	return into, err
}

// pairs reads a map from texts to texts; a key that is there already is refused.
func (d *decoder) pairs(v value, into *map[string]string) error {
	return d.entries(v, func(key, v value) error {
		if *into == nil {
			*into = map[string]string{}
		}
		if err := d.room(v.Line, len(*into), MaxTensors); err != nil {
			return err
		}
		var k, s string
		if err := d.text(key, &k); err != nil {
			return err
		}
		if err := d.text(v, &s); err != nil {
			return err
		}
		if _, there := (*into)[k]; there {
			return d.failf(key.Line, "the key %q is said twice", k)
		}
		(*into)[k] = s
		return nil
	})
}

// empty reports whether a value says nothing beyond the field's default.
func empty(v value) bool {
	switch v.Kind {
	case list:
		return len(v.Items) == 0
	case message:
		return !slices.ContainsFunc(v.Fields, func(f field) bool { return !empty(f.Value) })
	}
	return v.Text == "" || v.Text == "0" || v.Text == "false" || v.Text == "FORMAT_NONE" || v.Text == "PRIORITY_DEFAULT"
}

// ignored warns about a value with the reason why it has no effect, unless it is empty.
func (d *decoder) ignored(v value, reason string) {
	if !empty(v) {
		d.warnf(v.Line, "has no effect here: %s", reason)
	}
}

// refused is an error for what would change answers and cannot be done, unless the value is empty.
func (d *decoder) refused(v value, reason string) error {
	if !empty(v) {
		return d.failf(v.Line, "%s", reason)
	}
	return nil
}

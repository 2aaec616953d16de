package triton

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Format writes the configuration as the text of a config.pbtxt, which Parse reads back as the same.
func Format(c *Config) []byte {
	p := &printer{}
	p.string("name", c.Name)
	p.string("platform", c.Platform)
	p.string("backend", c.Backend)
	p.string("default_model_filename", c.DefaultFile)
	if c.MaxBatchSaid || c.MaxBatchSize != 0 {
		p.line("max_batch_size: %d", c.MaxBatchSize)
	}
	for i := range c.Inputs {
		in := &c.Inputs[i]
		p.open("input")
		p.tensor(in.Name, in.DataType, in.Dims, in.Reshape)
		p.bool("optional", in.Optional)
		p.close()
	}
	for i := range c.Outputs {
		out := &c.Outputs[i]
		p.open("output")
		p.tensor(out.Name, out.DataType, out.Dims, out.Reshape)
		p.string("label_filename", out.LabelFilename)
		p.close()
	}
	switch v := &c.VersionPolicy; {
	case v.All:
		p.line("version_policy { all {} }")
	case len(v.Specific) > 0:
		p.line("version_policy { specific { versions: %s } }", numbers(v.Specific))
	case v.Latest > 0:
		p.line("version_policy { latest { num_versions: %d } }", v.Latest)
	}
	p.dynamicBatching(c.DynamicBatching)
	for i := range c.InstanceGroups {
		g := &c.InstanceGroups[i]
		p.open("instance_group")
		p.string("name", g.Name)
		p.word("kind", g.Kind)
		p.number("count", int64(g.Count))
		if len(g.GPUs) > 0 {
			p.line("gpus: %s", numbers(g.GPUs))
		}
		p.close()
	}
	for i := range c.Warmup {
		p.warmup(&c.Warmup[i])
	}
	for _, v := range c.Parameters {
		p.line("parameters { key: %s value { string_value: %s } }", quote(v.Key), quote(v.Value))
	}
	if len(c.Ensemble) > 0 {
		p.open("ensemble_scheduling")
		for i := range c.Ensemble {
			s := &c.Ensemble[i]
			p.open("step")
			p.string("model_name", s.ModelName)
			p.line("model_version: %d", s.ModelVersion)
			p.pairs("input_map", s.InputMap)
			p.pairs("output_map", s.OutputMap)
			p.close()
		}
		p.close()
	}
	if c.ResponseCache {
		p.line("response_cache { enable: true }")
	}
	return p.out
}

// printer writes lines, indented as deep as messages are open. Fields at their default are left out.
type printer struct {
	out   []byte
	depth int
}

func (p *printer) line(format string, args ...any) {
	p.out = append(p.out, strings.Repeat("  ", p.depth)...)
	p.out = fmt.Appendf(p.out, format+"\n", args...)
}

func (p *printer) open(name string) {
	p.line("%s {", name)
	p.depth++
}

func (p *printer) close() {
	p.depth--
	p.line("}")
}

func (p *printer) string(key, s string) {
	if s != "" {
		p.line("%s: %s", key, quote(s))
	}
}

func (p *printer) word(key, s string) {
	if s != "" {
		p.line("%s: %s", key, s)
	}
}

func (p *printer) number(key string, n int64) {
	if n != 0 {
		p.line("%s: %d", key, n)
	}
}

func (p *printer) bool(key string, b bool) {
	if b {
		p.line("%s: true", key)
	}
}

func (p *printer) tensor(name, datatype string, dims []int64, reshape *[]int64) {
	p.string("name", name)
	p.word("data_type", datatype)
	if dims != nil {
		p.line("dims: %s", numbers(dims))
	}
	if reshape != nil {
		p.line("reshape { shape: %s }", numbers(*reshape))
	}
}

func (p *printer) dynamicBatching(b *DynamicBatching) {
	if b == nil {
		return
	}
	p.open("dynamic_batching")
	if len(b.Preferred) > 0 {
		p.line("preferred_batch_size: %s", numbers(b.Preferred))
	}
	p.number("max_queue_delay_microseconds", int64(b.MaxQueueDelay/time.Microsecond))
	p.bool("preserve_ordering", b.PreserveOrdering)
	p.number("priority_levels", int64(b.PriorityLevels))
	p.number("default_priority_level", int64(b.DefaultPriorityLevel))
	if b.QueuePolicy != (QueuePolicy{}) {
		p.policy("default_queue_policy", &b.QueuePolicy)
	}
	for _, level := range slices.Sorted(maps.Keys(b.PriorityPolicies)) {
		p.open("priority_queue_policy")
		p.line("key: %d", level)
		policy := b.PriorityPolicies[level]
		p.policy("value", &policy)
		p.close()
	}
	p.close()
}

func (p *printer) policy(name string, q *QueuePolicy) {
	p.open(name)
	if q.Delay {
		p.line("timeout_action: DELAY")
	}
	p.number("default_timeout_microseconds", int64(q.DefaultTimeout/time.Microsecond))
	p.bool("allow_timeout_override", q.AllowTimeoutOverride)
	p.number("max_queue_size", int64(q.MaxQueueSize))
	p.close()
}

func (p *printer) warmup(w *Warmup) {
	p.open("model_warmup")
	p.string("name", w.Name)
	p.number("batch_size", int64(w.BatchSize))
	p.number("count", int64(w.Count))
	for i := range w.Inputs {
		in := &w.Inputs[i]
		p.open("inputs")
		p.line("key: %s", quote(in.Name))
		p.open("value")
		p.word("data_type", in.DataType)
		if in.Dims != nil {
			p.line("dims: %s", numbers(in.Dims))
		}
		p.bool("zero_data", in.Zero)
		p.bool("random_data", in.Random)
		p.string("input_data_file", in.File)
		p.close()
		p.close()
	}
	p.close()
}

func (p *printer) pairs(name string, m map[string]string) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		p.line("%s { key: %s value: %s }", name, quote(k), quote(m[k]))
	}
}

func numbers[T int | int64](list []T) string {
	out := []byte("[")
	for i, n := range list {
		if i > 0 {
			out = append(out, ", "...)
		}
		out = strconv.AppendInt(out, int64(n), 10)
	}
	return string(append(out, ']'))
}

// quote writes a string that the text format reads back; it may not hold control characters as they are.
func quote(s string) string {
	out := []byte{'"'}
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			out = append(out, '\\', byte(r))
		case r == '\n':
			out = append(out, `\n`...)
		case r < ' ' || r == 0x7f:
			out = fmt.Appendf(out, `\%03o`, r)
		default:
			out = utf8.AppendRune(out, r)
		}
	}
	return string(append(out, '"'))
}

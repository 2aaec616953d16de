package triton

import (
	"math"
)

func (d *decoder) dynamicBatching(b *DynamicBatching, v value) error {
	return d.fields(v, func(name string, v value) (known bool, err error) {
		switch name {
		case "preferred_batch_size":
			b.Preferred, err = d.counts(v, 1, MaxBatch, b.Preferred)
		case "max_queue_delay_microseconds":
			err = d.microseconds(v, &b.MaxQueueDelay)
		case "preserve_ordering":
			err = d.boolean(v, &b.PreserveOrdering)
		case "priority_levels":
			err = d.unsigned(v, &b.PriorityLevels)
		case "default_priority_level":
			err = d.unsigned(v, &b.DefaultPriorityLevel)
		case "default_queue_policy":
			err = d.queuePolicy(&b.QueuePolicy, v)
		case "priority_queue_policy":
			err = d.entries(v, func(key, v value) error {
				if err := d.room(v.Line, len(b.PriorityPolicies), MaxSizes); err != nil {
					return err
				}
				level, err := d.integer(key, 1, math.MaxInt64)
				if err != nil {
					return err
				}
				if _, there := b.PriorityPolicies[uint64(level)]; there {
					return d.failf(key.Line, "the level %d is said twice", level)
				}
				var p QueuePolicy
				if err := d.queuePolicy(&p, v); err != nil {
					return err
				}
				if b.PriorityPolicies == nil {
					b.PriorityPolicies = map[uint64]QueuePolicy{}
				}
				b.PriorityPolicies[uint64(level)] = p
				return nil
			})
		default:
			return false, nil
		}
		return true, err
	})
}

func (d *decoder) queuePolicy(p *QueuePolicy, v value) error {
	return d.fields(v, func(name string, v value) (known bool, err error) {
		switch name {
		case "timeout_action":
			var action string
			err = d.enumeration(v, timeoutActions, &action)
			p.Delay = action == "DELAY"
		case "default_timeout_microseconds":
			err = d.microseconds(v, &p.DefaultTimeout)
		case "allow_timeout_override":
			err = d.boolean(v, &p.AllowTimeoutOverride)
		case "max_queue_size":
			err = d.count(v, maxQueue, &p.MaxQueueSize)
		default:
			return false, nil
		}
		return true, err
	})
}

func (d *decoder) instanceGroup(c *Config, v value) error {
	if err := d.room(v.Line, len(c.InstanceGroups), MaxSizes); err != nil {
		return err
	}
	var g InstanceGroup
	err := d.fields(v, func(name string, v value) (known bool, err error) {
		switch name {
		case "name":
			err = d.text(v, &g.Name)
		case "kind":
			if err = d.enumeration(v, instanceKinds, &g.Kind); err == nil && g.Kind == "KIND_MODEL" {
				d.warnf(v.Line, "no backend here places instances by itself; KIND_AUTO is taken")
				g.Kind = "KIND_AUTO"
			}
		case "count":
			err = d.count(v, MaxInstances, &g.Count)
		case "gpus":
			g.GPUs, err = d.counts(v, 0, 1<<16, g.GPUs)
		case "passive":
			err = d.refused(v, "passive instances would answer nothing")
		case "rate_limiter":
			d.ignored(v, "how much runs at a time is bounded by the cores")
		case "profile", "secondary_devices", "host_policy":
			d.ignored(v, "it is for other devices")
		default:
			return false, nil
		}
		return true, err
	})
	c.InstanceGroups = append(c.InstanceGroups, g)
	return err
}

func (d *decoder) warmup(c *Config, v value) error {
	if err := d.room(v.Line, len(c.Warmup), MaxWarmups); err != nil {
		return err
	}
	var w Warmup
	err := d.fields(v, func(name string, v value) (known bool, err error) {
		switch name {
		case "name":
			err = d.text(v, &w.Name)
		case "batch_size":
			err = d.count(v, MaxBatch, &w.BatchSize)
		case "count":
			err = d.count(v, 10_000, &w.Count)
		case "inputs":
			err = d.entries(v, func(key, v value) error {
				if err := d.room(v.Line, len(w.Inputs), MaxTensors); err != nil {
					return err
				}
				var in WarmupInput
				if err := d.text(key, &in.Name); err != nil {
					return err
				}
				err := d.warmupInput(&in, v)
				w.Inputs = append(w.Inputs, in)
				return err
			})
		default:
			return false, nil
		}
		return true, err
	})
	c.Warmup = append(c.Warmup, w)
	return err
}

func (d *decoder) warmupInput(in *WarmupInput, v value) error {
	err := d.fields(v, func(name string, v value) (known bool, err error) {
		switch name {
		case "data_type":
			err = d.enumeration(v, dataTypes, &in.DataType)
		case "dims":
			in.Dims, err = d.dims(v, in.Dims)
		case "zero_data":
			err = d.boolean(v, &in.Zero)
		case "random_data":
			err = d.boolean(v, &in.Random)
		case "input_data_file":
			err = d.text(v, &in.File)
		default:
			return false, nil
		}
		return true, err
	})
	choices := 0
	for _, chosen := range []bool{in.Zero, in.Random, in.File != ""} {
		if chosen {
			choices++
		}
	}
	if err == nil && choices != 1 {
		err = d.failf(v.Line, "input %q wants one of zero_data, random_data and input_data_file", in.Name)
	}
	return err
}

// parameters have a text each, inside a message of its own.
func (d *decoder) parameters(c *Config, v value) error {
	return d.entries(v, func(key, v value) error {
		if err := d.room(v.Line, len(c.Parameters), MaxParameters); err != nil {
			return err
		}
		var p Parameter
		if err := d.text(key, &p.Key); err != nil {
			return err
		}
		for _, have := range c.Parameters {
			if have.Key == p.Key {
				return d.failf(key.Line, "the key %q is said twice", p.Key)
			}
		}
		err := d.only(v, "string_value", func(v value) error { return d.text(v, &p.Value) })
		c.Parameters = append(c.Parameters, p)
		return err
	})
}

func (d *decoder) ensemble(c *Config, v value) error {
	return d.fields(v, func(name string, v value) (bool, error) {
		switch name {
		case "step":
			return true, d.each(v, func(v value) error { return d.step(c, v) })
		case "max_inflight_requests":
			d.ignored(v, "the queue bounds the requests")
			return true, nil
		}
		return false, nil
	})
}

func (d *decoder) step(c *Config, v value) error {
	if err := d.room(v.Line, len(c.Ensemble), MaxSteps); err != nil {
		return err
	}
	s := EnsembleStep{ModelVersion: -1}
	err := d.fields(v, func(name string, v value) (known bool, err error) {
		switch name {
		case "model_name":
			err = d.text(v, &s.ModelName)
		case "model_version":
			s.ModelVersion, err = d.integer(v, -1, math.MaxInt64)
		case "input_map":
			err = d.pairs(v, &s.InputMap)
		case "output_map":
			err = d.pairs(v, &s.OutputMap)
		case "model_namespace":
			err = d.refused(v, "there is one repository; leave it out")
		default:
			return false, nil
		}
		return true, err
	})
	if s.ModelVersion == 0 {
		s.ModelVersion = -1 // what the text format has for "not said"
	}
	c.Ensemble = append(c.Ensemble, s)
	return err
}

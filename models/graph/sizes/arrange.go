package sizes

import (
	"math"
	"slices"
)

// The operators below arrange, repeat and cut. Each returns an open shape where something that it needs is not known.

func scaled(x value, by []float64) value {
	if !x.Ranked || len(by) != len(x.Dims) {
		return value{Shape: Shape{Bits: x.Bits}}
	}
	dims := slices.Clone(x.Dims)
	for i := range dims {
		if dims[i] >= 0 {
			dims[i] = dimension(math.Floor(float64(dims[i]) * by[i]))
		} else if by[i] > 1 {
			dims[i] = dimension(math.Floor(by[i])) // at least
		}
	}
	return value{Shape: Shape{true, dims, x.Bits}}
}

func (c *call) resized(x value) value {
	scales, sizes := c.arg(2).values, c.arg(3).values
	if len(c.in) == 2 { // before operator set 11
		scales = c.arg(1).values
	}
	switch {
	case len(sizes) > 0 && x.Ranked && len(sizes) == len(x.Dims):
		return as(sizes, x.Bits)
	case len(scales) > 0:
		return scaled(x, scales)
	}
	return value{Shape: Shape{Bits: x.Bits}}
}

func (c *call) ranged(start value) value {
	limit, delta := c.arg(1).values, c.arg(2).values
	if len(start.values) != 1 || len(limit) != 1 || len(delta) != 1 || delta[0] == 0 {
		return value{Shape: Shape{true, []int64{-1}, start.Bits}}
	}
	n := dimension(max(math.Ceil((limit[0]-start.values[0])/delta[0]), 0))
	out := value{Shape: Shape{true, []int64{n}, start.Bits}}
	if n >= 0 && n <= MaxValues {
		out.values = make([]float64, n)
		for i := range out.values {
			out.values[i] = start.values[0] + float64(i)*delta[0]
		}
	}
	return out
}

// measured is Shape and Size.
func (c *call) measured(x value) value {
	if c.node.Op == "Size" {
		out := value{Shape: Shape{true, nil, 64}}
		if x.Ranked && !slices.Contains(x.Dims, -1) {
			out.values = []float64{float64(Least(x.Dims))}
		}
		return out
	}
	if !x.Ranked {
		return value{Shape: Shape{true, []int64{-1}, 64}}
	}
	from, to := bound(c.number("start", 0), len(x.Dims)), bound(c.number("end", float64(len(x.Dims))), len(x.Dims))
	dims := x.Dims[from:max(from, to)]
	out := value{Shape: Shape{true, []int64{int64(len(dims))}, 64}}
	if !slices.Contains(dims, -1) {
		out.values = make([]float64, len(dims))
		for i, d := range dims {
			out.values[i] = float64(d)
		}
	}
	return out
}

// bound turns an index that may count from the end into one between 0 and n.
func bound(at float64, n int) int {
	if at < 0 {
		at += float64(n)
	}
	if !(at >= 0) {
		return 0
	}
	return int(min(at, float64(n)))
}

func (c *call) reshaped(x value) value {
	to := c.list("shape", 1)
	if to == nil {
		return value{Shape: Shape{Bits: x.Bits}}
	}
	out := as(to, x.Bits)
	rest, whole := -1, uint64(1)
	for i, v := range to {
		if v == 0 && c.number("allowzero", 0) == 0 {
			out.Dims[i] = -1
			if x.Ranked && i < len(x.Dims) {
				out.Dims[i] = x.Dims[i]
			}
		}
		if v == -1 {
			rest = i
		} else if out.Dims[i] < 0 {
			whole = 0
		} else {
			whole = times(whole, uint64(out.Dims[i]))
		}
	}
	if rest >= 0 && whole > 0 && x.Ranked && !slices.Contains(x.Dims, -1) {
		out.Dims[rest] = int64(Least(x.Dims) / whole)
	}
	if x.values != nil && Least(out.Dims) == uint64(len(x.values)) {
		out.values = x.values
	}
	return out
}

func (c *call) transposed(x value) value {
	if !x.Ranked {
		return value{Shape: Shape{Bits: x.Bits}}
	}
	dims := slices.Clone(x.Dims)
	if perm := c.list("perm", -1); len(perm) == len(dims) {
		for i, p := range perm {
			dims[i] = x.Dims[bound(p, len(dims)-1)]
		}
	} else {
		slices.Reverse(dims)
	}
	return value{Shape: Shape{true, dims, x.Bits}}
}

// refolded is for what changes the dimensions but not the elements.
func (c *call) refolded(x value) value {
	out := value{Shape: Shape{Bits: x.Bits}, values: x.values}
	if !x.Ranked {
		return out
	}
	axes := c.list("axes", 1)
	switch {
	case c.node.Op == "Flatten":
		at := bound(c.number("axis", 1), len(x.Dims))
		for _, part := range [][]int64{x.Dims[:at], x.Dims[at:]} {
			d := int64(-1)
			if !slices.Contains(part, -1) {
				d = int64(Least(part))
			}
			out.Dims = append(out.Dims, d)
		}
	case c.node.Op == "Unsqueeze" && len(axes) > 0 && len(axes) <= maxRank:
		out.Dims = slices.Clone(x.Dims)
		sorted := make([]int, len(axes))
		for i, a := range axes {
			sorted[i] = bound(a, len(x.Dims)+len(axes)-1)
			if a < 0 {
				sorted[i] = bound(a, len(x.Dims)+len(axes))
			}
		}
		slices.Sort(sorted)
		for _, at := range sorted {
			out.Dims = slices.Insert(out.Dims, min(at, len(out.Dims)), 1)
		}
	case c.node.Op == "Squeeze" && axes != nil:
		drop := make([]bool, len(x.Dims)+1)
		for _, a := range axes {
			drop[bound(a, len(x.Dims))] = true
		}
		for i, d := range x.Dims {
			if !drop[i] {
				out.Dims = append(out.Dims, d)
			}
		}
	case c.node.Op == "Squeeze" && len(c.node.In) < 2 && !slices.Contains(x.Dims, -1):
		out.Dims = slices.DeleteFunc(slices.Clone(x.Dims), func(d int64) bool { return d == 1 })
	default:
		return out
	}
	out.Ranked = true
	return out
}

func (c *call) concatenated() value {
	if len(c.in) == 0 || !c.in[0].Ranked || len(c.in[0].Dims) == 0 {
		return value{}
	}
	out := value{Shape: Shape{true, slices.Clone(c.in[0].Dims), c.in[0].Bits}}
	rank := len(out.Dims)
	at := min(bound(c.number("axis", 0), rank), rank-1)
	var values []float64
	sum, known := int64(0), rank == 1
	for _, v := range c.in {
		if !v.Ranked || len(v.Dims) != rank {
			return value{Shape: Shape{Bits: out.Bits}}
		}
		sum = min(sum+max(v.Dims[at], 0), 1<<52)
		if v.Dims[at] < 0 {
			sum = min(sum+1, 1<<52) // at least, as everywhere
		}
		if v.values == nil || len(values)+len(v.values) > MaxValues {
			known = false
		}
		if known {
			values = append(values, v.values...)
		}
	}
	if out.Dims[at] = sum; known {
		out.values = values
	}
	return out
}

func (c *call) gathered(x value) value {
	indices := c.arg(1)
	if !x.Ranked || !indices.Ranked || len(x.Dims) == 0 || len(x.Dims)+len(indices.Dims) > maxRank {
		return value{Shape: Shape{Bits: x.Bits}}
	}
	at := min(bound(c.number("axis", 0), len(x.Dims)), len(x.Dims)-1)
	out := value{Shape: Shape{true, slices.Concat(x.Dims[:at], indices.Dims, x.Dims[at+1:]), x.Bits}}
	if x.values != nil && len(x.Dims) == 1 && indices.values != nil && len(x.values) > 0 {
		out.values = make([]float64, len(indices.values))
		for i, v := range indices.values {
			out.values[i] = x.values[min(bound(v, len(x.values)), len(x.values)-1)]
		}
	}
	return out
}

// sliced keeps numbers of a list; of anything else only the rank is known.
func (c *call) sliced(x value) value {
	out := value{Shape: Shape{Bits: x.Bits}}
	if !x.Ranked {
		return out
	}
	out.Ranked, out.Dims = true, slices.Repeat([]int64{-1}, len(x.Dims))
	starts, ends := c.list("starts", 1), c.list("ends", 2)
	steps := c.arg(4).values
	if len(x.Dims) != 1 || x.values == nil || len(starts) != 1 || len(ends) != 1 || len(c.node.In) > 4 && (len(steps) != 1 || steps[0] != 1) {
		return out
	}
	from, to := bound(starts[0], len(x.values)), bound(ends[0], len(x.values))
	out.values = x.values[from:max(from, to)]
	out.Dims[0] = int64(len(out.values))
	return out
}

func padded(x value, pads []float64, axes value) value {
	if !x.Ranked || len(pads) != 2*len(x.Dims) || axes.Ranked {
		return value{Shape: Shape{Bits: x.Bits}}
	}
	dims := slices.Clone(x.Dims)
	for i := range dims {
		switch more := pads[i] + pads[len(dims)+i]; {
		case dims[i] >= 0:
			dims[i] = dimension(float64(dims[i]) + more)
		case more > 0:
			dims[i] = dimension(1 + more) // at least
		}
	}
	return value{Shape: Shape{true, dims, x.Bits}}
}

func (c *call) oneHot(x value) value {
	depth := c.arg(1).values
	if !x.Ranked || len(depth) != 1 || len(x.Dims) >= maxRank {
		return value{}
	}
	at := int(c.number("axis", -1))
	if at < 0 {
		at += len(x.Dims) + 1
	}
	return value{Shape: Shape{true, slices.Insert(slices.Clone(x.Dims), min(max(at, 0), len(x.Dims)), dimension(depth[0])), c.arg(2).Bits}}
}

// product is MatMul.
func product(a, b value) value {
	if !a.Ranked || !b.Ranked || len(a.Dims) == 0 || len(b.Dims) == 0 {
		return value{Shape: Shape{Bits: a.Bits}}
	}
	left, right := a.Dims, b.Dims
	if len(left) == 1 {
		left = []int64{1, left[0]}
	}
	if len(right) == 1 {
		right = []int64{right[0], 1}
	}
	out := stretch(Shape{true, left[:len(left)-2], a.Bits}, Shape{true, right[:len(right)-2], a.Bits})
	if len(a.Dims) > 1 {
		out.Dims = append(out.Dims, left[len(left)-2])
	}
	if len(b.Dims) > 1 {
		out.Dims = append(out.Dims, right[len(right)-1])
	}
	return out
}

func (c *call) gemm(a, b value) value {
	if !a.Ranked || !b.Ranked || len(a.Dims) != 2 || len(b.Dims) != 2 {
		return value{Shape: Shape{Bits: a.Bits}}
	}
	rows, columns := a.Dims[0], b.Dims[1]
	if c.number("transA", 0) != 0 {
		rows = a.Dims[1]
	}
	if c.number("transB", 0) != 0 {
		columns = b.Dims[0]
	}
	return value{Shape: Shape{true, []int64{rows, columns}, a.Bits}}
}

// windowed is convolution and pooling.
func (c *call) windowed(x value) value {
	open := value{Shape: Shape{Bits: x.Bits}}
	if !x.Ranked || len(x.Dims) < 3 {
		return open
	}
	spatial := len(x.Dims) - 2
	dims := []int64{x.Dims[0], x.Dims[1]}
	kernel := c.list("kernel_shape", -1)
	if c.node.Op == "Conv" || c.node.Op == "ConvTranspose" {
		w := c.arg(1)
		if !w.Ranked || len(w.Dims) != len(x.Dims) {
			return open
		}
		if dims[1] = w.Dims[0]; c.node.Op == "ConvTranspose" {
			dims[1] = dimension(float64(w.Dims[1]) * c.number("group", 1))
		}
		kernel = nil
		for _, d := range w.Dims[2:] {
			kernel = append(kernel, float64(max(d, 1)))
		}
	}
	if auto := c.attribute("auto_pad"); len(kernel) != spatial || auto != nil && auto.Text != "" && auto.Text != "NOTSET" {
		return value{Shape: Shape{true, append(dims, slices.Repeat([]int64{-1}, spatial)...), x.Bits}}
	}
	at := func(name string, i int, otherwise float64) float64 {
		if l := c.list(name, -1); i < len(l) {
			return l[i]
		}
		return otherwise
	}
	fixed := c.list("output_shape", -1)
	for i := range spatial {
		in, d := float64(x.Dims[2+i]), int64(-1)
		pads := at("pads", i, 0) + at("pads", spatial+i, 0)
		stride, reach := max(at("strides", i, 1), 1), at("dilations", i, 1)*(kernel[i]-1)+1
		switch {
		case c.node.Op == "ConvTranspose" && len(fixed) == spatial:
			d = dimension(fixed[i])
		case in < 0:
			if pads > reach { // even of one element
				d = dimension(math.Floor((1+pads-reach)/stride) + 1)
			}
		case c.node.Op == "ConvTranspose":
			d = dimension(stride*(in-1) + at("output_padding", i, 0) + reach - pads)
		case c.number("ceil_mode", 0) != 0:
			d = -1
		default:
			d = dimension(math.Floor((in+pads-reach)/stride) + 1)
		}
		dims = append(dims, d)
	}
	return value{Shape: Shape{true, dims, x.Bits}}
}

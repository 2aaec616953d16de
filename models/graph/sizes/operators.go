package sizes

import (
	"math"
	"slices"
)

// call is a node with what is known of its inputs.
type call struct {
	node *Node
	in   []value
}

// random are operators that give something else each time, so that nobody computes them beforehand.
var random = map[string]bool{"RandomNormal": true, "RandomUniform": true, "RandomNormalLike": true, "RandomUniformLike": true, "Multinomial": true, "Bernoulli": true, "Dropout": true}

// alike are operators whose first output has the shape of their first input.
var alike = set("Identity Cast CastLike Relu LeakyRelu Elu Selu Celu Gelu Mish ThresholdedRelu Sigmoid HardSigmoid HardSwish " +
	"Softplus Softsign Tanh Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh Acosh Atanh Exp Log Sqrt Reciprocal Neg Abs Sign Ceil Floor Round " +
	"Erf Not BitwiseNot IsNaN IsInf Clip Softmax LogSoftmax Hardmax Dropout BatchNormalization InstanceNormalization LayerNormalization " +
	"GroupNormalization RMSNormalization LpNormalization MeanVarianceNormalization LRN Shrink CumSum Trilu EyeLike " +
	"RandomNormalLike RandomUniformLike Bernoulli ScatterND ScatterElements Scatter ReverseSequence QuantizeLinear DequantizeLinear")

// joining are operators whose inputs are stretched to one shape.
var joining = set("Add Sub Mul Div Mod Pow PRelu And Or Xor BitwiseAnd BitwiseOr BitwiseXor BitShift " +
	"Equal Greater GreaterOrEqual Less LessOrEqual Where Max Min Sum Mean")

func set(words string) map[string]bool {
	out := map[string]bool{}
	start := 0
	for i := 0; i <= len(words); i++ {
		if i == len(words) || words[i] == ' ' {
			out[words[start:i]] = true
			start = i + 1
		}
	}
	return out
}

func (c *call) arg(i int) value {
	if i < len(c.in) {
		return c.in[i]
	}
	return value{}
}

func (c *call) attribute(name string) *Attribute {
	for i := range c.node.Attributes {
		if c.node.Attributes[i].Name == name {
			return &c.node.Attributes[i]
		}
	}
	return nil
}

func (c *call) number(name string, otherwise float64) float64 {
	if a := c.attribute(name); a != nil {
		return a.Number
	}
	return otherwise
}

// list returns numbers that an attribute holds, or an input since a later operator set.
func (c *call) list(name string, input int) []float64 {
	if a := c.attribute(name); a != nil && len(a.Values) <= MaxValues {
		return a.Values
	}
	if input >= 0 {
		return c.arg(input).values
	}
	return nil
}

func (c *call) constant() value {
	for i := range c.node.Attributes {
		switch a := &c.node.Attributes[i]; a.Name {
		case "value":
			if a.Tensor != nil {
				return value{Shape: a.Tensor.Shape, values: a.Tensor.Values}
			}
		case "value_int", "value_float":
			return value{Shape: Shape{true, nil, 64}, values: []float64{a.Number}}
		case "value_ints", "value_floats":
			if len(a.Values) <= MaxValues {
				return value{Shape: Shape{true, []int64{int64(len(a.Values))}, 64}, values: a.Values}
			}
		}
	}
	return value{}
}

// as makes a shape out of numbers.
func as(values []float64, bits uint64) value {
	if values == nil {
		return value{}
	}
	dims := make([]int64, len(values))
	for i, v := range values {
		dims[i] = dimension(v)
	}
	return value{Shape: Shape{true, dims, bits}}
}

func (c *call) bitsOf(name string, otherwise uint64) uint64 {
	if a := c.attribute(name); a != nil {
		return BitsOf(uint64(a.Number))
	}
	return otherwise
}

// shapes follows an operator of ONNX; what is not known stays open.
func (c *call) shapes() []value {
	if c.node.Domain != "" {
		return nil
	}
	x := c.arg(0)
	switch op := c.node.Op; {
	case alike[op]:
		return []value{c.alike(x)}
	case joining[op]:
		return []value{c.joined()}
	}
	switch c.node.Op {
	case "ConstantOfShape":
		width := uint64(32)
		if a := c.attribute("value"); a != nil && a.Tensor != nil {
			width = a.Tensor.Shape.Bits
		}
		return []value{as(x.values, width)}
	case "RandomNormal", "RandomUniform":
		return []value{as(c.list("shape", -1), c.bitsOf("dtype", 32))}
	case "Expand":
		return []value{stretch(x.Shape, as(c.arg(1).values, x.Bits).Shape)}
	case "Tile":
		return []value{scaled(x, c.arg(1).values)}
	case "Upsample":
		return []value{scaled(x, c.list("scales", 1))}
	case "Resize":
		return []value{c.resized(x)}
	case "Range":
		return []value{c.ranged(x)}
	case "Shape", "Size":
		return []value{c.measured(x)}
	case "Reshape":
		return []value{c.reshaped(x)}
	case "Transpose":
		return []value{c.transposed(x)}
	case "Squeeze", "Unsqueeze", "Flatten":
		return []value{c.refolded(x)}
	case "Concat":
		return []value{c.concatenated()}
	case "Gather":
		return []value{c.gathered(x)}
	case "Slice":
		return []value{c.sliced(x)}
	case "MatMul":
		return []value{product(x, c.arg(1))}
	case "Gemm":
		return []value{c.gemm(x, c.arg(1))}
	case "Pad":
		return []value{padded(x, c.list("pads", 1), c.arg(3))}
	case "OneHot":
		return []value{c.oneHot(x)}
	case "CenterCropPad":
		if c.attribute("axes") == nil {
			return []value{as(c.arg(1).values, x.Bits)}
		}
	case "AffineGrid":
		if size := c.arg(1).values; len(size) > 2 {
			v := as(append(append([]float64{size[0]}, size[2:]...), float64(len(size)-2)), x.Bits)
			return []value{v}
		}
	case "HannWindow", "HammingWindow", "BlackmanWindow":
		return []value{as(x.values, 32)}
	case "MaxUnpool":
		return []value{as(c.arg(2).values, x.Bits)}
	case "Conv", "MaxPool", "AveragePool", "LpPool", "ConvTranspose":
		return []value{c.windowed(x)}
	case "RoiAlign":
		if r := c.arg(1); x.Ranked && len(x.Dims) == 4 && r.Ranked && len(r.Dims) == 2 {
			return []value{{Shape: Shape{true, []int64{r.Dims[0], x.Dims[1], dimension(c.number("output_height", 1)), dimension(c.number("output_width", 1))}, x.Bits}}}
		}
	}
	return nil
}

func (c *call) alike(x value) value {
	switch c.node.Op {
	case "Cast":
		x.Bits = c.bitsOf("to", x.Bits)
	case "CastLike":
		x.Bits = c.arg(1).Bits
	case "QuantizeLinear":
		x.Bits = 8
	case "DequantizeLinear":
		x.Bits = 32
	case "EyeLike", "RandomNormalLike", "RandomUniformLike", "Bernoulli":
		x.Bits = c.bitsOf("dtype", x.Bits)
	case "Not", "IsNaN", "IsInf":
		x.Bits = 8
	}
	switch c.node.Op {
	case "Identity":
	case "Cast":
		if a := c.attribute("to"); a == nil || a.Number != 1 && a.Number != 11 {
			x.values = each(x.values, math.Trunc)
		}
	case "Neg":
		x.values = each(x.values, func(v float64) float64 { return -v })
	case "Floor":
		x.values = each(x.values, math.Floor)
	case "Ceil":
		x.values = each(x.values, math.Ceil)
	default:
		x.values = nil
	}
	return x
}

func each(in []float64, f func(float64) float64) []float64 {
	if in == nil {
		return nil
	}
	out := make([]float64, len(in))
	for i, v := range in {
		out[i] = f(v)
	}
	return out
}

// stretch is how ONNX brings two shapes to one.
func stretch(a, b Shape) value {
	if !a.Ranked || !b.Ranked {
		return value{Shape: Shape{Bits: a.Bits}}
	}
	if len(a.Dims) < len(b.Dims) {
		a.Dims, b.Dims = b.Dims, a.Dims
	}
	dims := slices.Clone(a.Dims)
	for i := range b.Dims {
		x, y := &dims[len(dims)-len(b.Dims)+i], b.Dims[i]
		switch {
		case *x == 0 || y == 0:
			*x = 0
		case *x == 1 || *x < 0 && y > 1:
			*x = y
		}
	}
	return value{Shape: Shape{true, dims, a.Bits}}
}

func (c *call) joined() value {
	if len(c.in) == 0 {
		return value{}
	}
	out := c.in[0]
	out.values = nil
	for _, v := range c.in[1:] {
		width := out.Bits
		if out = stretch(out.Shape, v.Shape); !out.Ranked {
			return out
		}
		out.Bits = width
	}
	switch c.node.Op {
	case "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual":
		out.Bits = 8
	case "Where":
		out.Bits = c.arg(1).Bits
	case "Add", "Sub", "Mul", "Div", "Max", "Min":
		out.values = arithmetic(c.node.Op, c.in, Least(out.Dims))
	}
	return out
}

// arithmetic computes with lists of the same length, and with single numbers.
func arithmetic(op string, in []value, n uint64) []float64 {
	if len(in) != 2 || n > MaxValues {
		return nil
	}
	out := make([]float64, n)
	for i := range out {
		var v [2]float64
		for j := range v {
			switch values := in[j].values; {
			case len(values) == 1:
				v[j] = values[0]
			case uint64(len(values)) == n:
				v[j] = values[i]
			default:
				return nil
			}
		}
		switch op {
		case "Add":
			out[i] = v[0] + v[1]
		case "Sub":
			out[i] = v[0] - v[1]
		case "Mul":
			out[i] = v[0] * v[1]
		case "Div":
			if out[i] = v[0] / v[1]; out[i] != math.Trunc(out[i]) { // whole numbers or not: it is not known
				return nil
			}
		case "Max":
			out[i] = max(v[0], v[1])
		case "Min":
			out[i] = min(v[0], v[1])
		}
	}
	return out
}

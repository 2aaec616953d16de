package jsontensor

import (
	"encoding/binary"
	"math"
	"math/bits"
)

// Numbers are read eight digits at a time: one load, one comparison that finds where the digits end, and three
// multiplications that make a number of them, however many there are.

// digits returns how many of the eight bytes in w, first byte lowest, are digits before the first that is not, and w with
// the digits as their values.
func digits(w uint64) (values uint64, n int) {
	values = w ^ 0x3030303030303030
	// A value above 9 reaches the highest bit of its byte; a carry only touches bytes behind the first such.
	odd := (values + 0x7676767676767676 | values) & 0x8080808080808080
	return values, bits.TrailingZeros64(odd) >> 3
}

// number returns the number that the first n values are, n being at most 8.
func number(values uint64, n int) uint64 {
	values <<= 64 - 8*n // zeros come to stand before them
	values = values*10 + values>>8
	return (values&0x000000ff000000ff*(100+1000000<<32) + values>>16&0x000000ff000000ff*(1+10000<<32)) >> 32
}

var powers = [...]uint64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8}

// decimal is a number as it is written: mantissa * 10^exponent.
type decimal struct {
	mantissa uint64
	exponent int
	negative bool
}

// scanDecimal reads the number at data[i:] and returns where it ends. What is longer than 19 digits, stands within 32 bytes
// of the end, or is no number is not ok: then whoever reads more slowly finds out what it is.
func scanDecimal(data []byte, i int) (d decimal, end int, ok bool) {
	if len(data)-i < 32 {
		return d, i, false
	}
	if data[i] == '-' {
		d.negative = true
		i++
	}
	values, n := digits(binary.LittleEndian.Uint64(data[i:]))
	if n == 0 || n > 1 && data[i] == '0' {
		return d, i, false
	}
	d.mantissa = number(values, n)
	read := n // digits, so that the mantissa cannot overflow
	i += n
	for n == 8 {
		if read > 11 || len(data)-i < 16 {
			return d, i, false
		}
		values, n = digits(binary.LittleEndian.Uint64(data[i:]))
		d.mantissa = d.mantissa*powers[n] + number(values, n)
		read += n
		i += n
	}
	if data[i] == '.' {
		i++
		if d.mantissa == 0 {
			read = 0
		}
		point := i
		for n = 8; n == 8; {
			if len(data)-i < 16 {
				return d, i, false
			}
			values, n = digits(binary.LittleEndian.Uint64(data[i:]))
			if read += n; read > 19 {
				return d, i, false
			}
			d.mantissa = d.mantissa*powers[n] + number(values, n)
			i += n
		}
		if i == point {
			return d, i, false
		}
		d.exponent = point - i
	}
	if data[i]|0x20 != 'e' {
		return d, i, true
	}
	i++
	negative := data[i] == '-'
	if negative || data[i] == '+' {
		i++
	}
	if len(data)-i < 8 {
		return d, i, false
	}
	values, n = digits(binary.LittleEndian.Uint64(data[i:]))
	if n == 0 || n > 3 {
		return d, i, false
	}
	e := int(number(values, n))
	if negative {
		e = -e
	}
	d.exponent += e
	return d, i + n, true
}

var (
	floatPowers = [...]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22}
	fives       = func() (p [28]uint64) { // all powers of five below 2^64
		p[0] = 1
		for i := 1; i < len(p); i++ {
			p[i] = 5 * p[i-1]
		}
		return p
	}()
)

// float64 returns the float64 nearest to d, unless it takes more than one multiplication or division to know it.
func (d decimal) float64() (float64, bool) {
	var v float64
	switch m, e := d.mantissa, d.exponent; {
	case m == 0:
	case m < 1<<53 && e <= 0 && e >= -22:
		// Both are float64s as they are, and so the division is the only thing that rounds.
		v = float64(m) / floatPowers[-e]
	case m < 1<<53 && e > 0 && e <= 22:
		v = float64(m) * floatPowers[e]
	case e < 0 && e >= -27:
		q, exponent, rest := d.quotient()
		v = math.Float64frombits(round(q, exponent, rest, 53, 1023))
	default:
		return 0, false
	}
	if d.negative {
		v = -v
	}
	return v, true
}

// float32 returns the float32 nearest to d, unless it takes more than one multiplication or division to know it.
func (d decimal) float32() (float32, bool) {
	var v float32
	switch m, e := d.mantissa, d.exponent; {
	case m == 0:
	case m < 1<<24 && e <= 0 && e >= -10:
		v = float32(m) / float32(floatPowers[-e])
	case m < 1<<53 && e <= 0 && e >= -22:
		wide := float64(m) / floatPowers[-e]
		// It rounds to the same float32 as the number itself does, unless it lies where two float32s meet: its last 29 bits
		// are then half of their range, give or take what the first rounding moved. No float32 is too small or too large here.
		if tail := math.Float64bits(wide) & (1<<29 - 1); tail-(1<<28-1) <= 2 {
			return 0, false
		}
		v = float32(wide)
	case e < 0 && e >= -27:
		q, exponent, rest := d.quotient()
		v = math.Float32frombits(uint32(round(q, exponent, rest, 24, 127)))
	default:
		return 0, false
	}
	if d.negative {
		v = -v
	}
	return v, true
}

// quotient divides the mantissa, which is not 0, by ten to the negative exponent: the value is q * 2^exponent and a rest of
// less than one q, if there is one. q has 63 or 64 bits, more than any float keeps.
func (d decimal) quotient() (q uint64, exponent int, rest bool) {
	divisor := fives[-d.exponent]
	up, upDivisor := bits.LeadingZeros64(d.mantissa), bits.LeadingZeros64(divisor)
	m := d.mantissa << up
	q, r := bits.Div64(m>>1, m<<63, divisor<<upDivisor)
	return q, upDivisor - up - 63 + d.exponent, r != 0
}

// round makes the bits of a float of so many bits of precision from q * 2^exponent, and a bit more if there is a rest. It is
// within the range of normal floats.
func round(q uint64, exponent int, rest bool, precision, bias int) uint64 {
	drop := bits.Len64(q) - precision
	half := uint64(1) << (drop - 1)
	below := q & (half<<1 - 1)
	q >>= drop
	if below > half || below == half && (rest || q&1 == 1) {
		q++ // may carry into the exponent, which is what it should do
	}
	return uint64(exponent+drop+precision-1+bias-1)<<(precision-1) + q
}

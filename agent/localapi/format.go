package localapi

import (
	"math"
	"strconv"
	"strings"
	"time"
)

// none stands where there is no number.
const none = "–"

// formatSeconds writes a time to two or three digits: 850 µs, 1.2 ms, 35 ms, 1.4 s; none when it is 0.
func formatSeconds(s float64) string {
	switch {
	case s <= 0 || math.IsNaN(s):
		return none
	case s < 0.9995e-3:
		return digits(s*1e6) + " µs"
	case s < 0.9995:
		return digits(s*1e3) + " ms"
	}
	return digits(s) + " s"
}

// digits writes a number to two digits, or to the whole.
func digits(v float64) string {
	if v < 9.95 {
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return formatCount(uint64(math.Round(v)))
}

// formatRate writes a number of requests a second.
func formatRate(v float64) string {
	switch {
	case v <= 0 || math.IsNaN(v):
		return "0"
	case v < 0.095:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	return digits(v)
}

// formatCount writes a number with its thousands apart.
func formatCount(n uint64) string {
	s := strconv.FormatUint(n, 10)
	var b strings.Builder
	for i, c := range []byte(s) {
		if i > 0 && (len(s)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteByte(c)
	}
	return b.String()
}

// formatShort writes a number to two or three digits once it is long: 99,999, 120 k, 1.2 M.
func formatShort(n uint64) string {
	switch {
	case n < 100_000:
		return formatCount(n)
	case n < 999_500:
		return digits(float64(n)/1e3) + " k"
	case n < 999_500_000:
		return digits(float64(n)/1e6) + " M"
	}
	return digits(float64(n)/1e9) + " G"
}

func formatBytes(n uint64) string {
	units := []string{"bytes", "KiB", "MiB", "GiB", "TiB"}
	v, i := float64(n), 0
	for v >= 1023.5 && i < len(units)-1 {
		v /= 1024
		i++
	}
	if i == 0 {
		return formatCount(n) + " bytes"
	}
	return digits(v) + " " + units[i]
}

// formatAge writes how long ago something was, in the two largest units: 3 d 4 h, 5 min 7 s.
func formatAge(d time.Duration) string {
	d = max(d, 0)
	units := []struct {
		size time.Duration
		name string
	}{{24 * time.Hour, " d"}, {time.Hour, " h"}, {time.Minute, " min"}, {time.Second, " s"}}
	for i, u := range units {
		n := d / u.size
		if n == 0 && i < len(units)-1 {
			continue
		}
		out := strconv.Itoa(int(n)) + u.name
		if i+1 < len(units) {
			if rest := (d % u.size) / units[i+1].size; rest > 0 {
				out += " " + strconv.Itoa(int(rest)) + units[i+1].name
			}
		}
		return out
	}
	return "0 s"
}

// formatPercent writes a part of a whole; what is not nothing does not become 0.
func formatPercent(part, whole uint64) string {
	if whole == 0 || part == 0 {
		return "0 %"
	}
	p := 100 * float64(part) / float64(whole)
	switch {
	case p < 0.1:
		return "< 0.1 %"
	case p < 9.95 || p > 99 && part < whole:
		return strconv.FormatFloat(math.Floor(p*10)/10, 'f', 1, 64) + " %"
	}
	return strconv.Itoa(int(p+0.5)) + " %"
}

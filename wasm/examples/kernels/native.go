package kernels

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"math"
	"sort"
)

const (
	side   = 224
	pixels = side * side
)

var (
	photo  []byte
	planes []float32
	scale  = [3]float32{1 / (255 * float32(0.229)), 1 / (255 * float32(0.224)), 1 / (255 * float32(0.225))}
	bias   = [3]float32{-float32(0.485) / float32(0.229), -float32(0.456) / float32(0.224), -float32(0.406) / float32(0.225)}
)

// Normalise turns n photos of 224x224 RGB bytes, interleaved, into planes of floats.
func Normalise(n int32) int64 {
	if photo == nil {
		photo, planes = make([]byte, 3*pixels), make([]float32, 3*pixels)
		x := uint32(1)
		for i := range photo {
			x = x*1664525 + 1013904223
			photo[i] = byte(x >> 24)
		}
	}
	for range n {
		normalise(planes, photo)
	}
	sum := uint64(0)
	for i := 0; i < len(planes); i += 97 {
		sum = sum*31 + uint64(math.Float32bits(planes[i]))
	}
	return int64(sum)
}

func normalise(planes []float32, photo []byte) {
	r, g, b := planes[:pixels], planes[pixels:2*pixels], planes[2*pixels:3*pixels]
	for i := range pixels {
		p := photo[3*i : 3*i+3 : 3*i+3]
		// The conversions keep a compiler from fusing the two operations, which would round once instead of twice.
		r[i] = float32(float32(p[0])*scale[0]) + bias[0]
		g[i] = float32(float32(p[1])*scale[1]) + bias[1]
		b[i] = float32(float32(p[2])*scale[2]) + bias[2]
	}
}

// Xorshift makes n steps of a random number generator.
func Xorshift(n int32) int64 {
	x := uint64(88172645463325252)
	for range n {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
	}
	return int64(x)
}

// Add sums the numbers below n.
func Add(n int32) int64 {
	sum := int64(0)
	for i := range n {
		sum += int64(i)
	}
	return sum
}

// Heapsort sorts n numbers, at most 65,536.
func Heapsort(n int32) int64 {
	a := make([]uint32, min(max(n, 0), 1<<16))
	x := uint32(1)
	for i := range a {
		x = x*1664525 + 1013904223
		a[i] = x
	}
	for i := len(a)/2 - 1; i >= 0; i-- {
		sift(a, i)
	}
	for end := len(a) - 1; end > 0; end-- {
		a[0], a[end] = a[end], a[0]
		sift(a[:end], 0)
	}
	sum := uint64(0)
	for _, v := range a {
		sum = sum*31 + uint64(v)
	}
	return int64(sum)
}

func sift(a []uint32, root int) {
	v := a[root]
	for {
		child := 2*root + 1
		if child >= len(a) {
			break
		}
		if child+1 < len(a) && a[child] < a[child+1] {
			child++
		}
		if v >= a[child] {
			break
		}
		a[root], root = a[child], child
	}
	a[root] = v
}

// Matmul multiplies two 128x128 matrices n times.
func Matmul(n int32) int64 {
	const size = 128
	var a, b, c [size][size]float64
	for i := range size {
		for j := range size {
			a[i][j] = float64((i*7+j*3)%17 - 8)
			b[i][j] = float64((i*5+j*11)%13 - 6)
		}
	}
	for range n {
		for i := range size {
			for j := range size {
				sum := 0.0
				for k := range size {
					sum += a[i][k] * b[k][j]
				}
				c[i][j] = sum
			}
		}
	}
	sum := uint64(0)
	for i := range size {
		for j := range size {
			sum = sum*31 + uint64(int64(c[i][j]))
		}
	}
	return int64(sum)
}

// Fib is Fibonacci's number by two calls of itself.
func Fib(n int32) int64 {
	if n < 2 {
		return int64(n)
	}
	return Fib(n-1) + Fib(n-2)
}

// SHA256 hashes n KiB and returns the first eight bytes of the digest.
func SHA256(n int32) int64 {
	var data [1024]byte
	for i := range data {
		data[i] = byte(i * 7)
	}
	h := sha256.New()
	for range n {
		_, _ = h.Write(data[:])
	}
	return int64(binary.BigEndian.Uint64(h.Sum(nil)))
}

var ring []uint32

// Chase makes n steps along a random ring through 32 MiB.
func Chase(n int32) int64 {
	if ring == nil {
		ring = make([]uint32, 1<<23)
		for i := range ring {
			ring[i] = uint32(i)
		}
		x := uint64(88172645463325252)
		for i := len(ring) - 1; i > 0; i-- {
			x ^= x << 13
			x ^= x >> 7
			x ^= x << 17
			j := (x >> 32) * uint64(i) >> 32
			ring[i], ring[j] = ring[j], ring[i]
		}
	}
	at := uint32(0)
	for range n {
		at = ring[at]
	}
	return int64(at)
}

type row struct {
	Name  string    `json:"name"`
	Score float64   `json:"score"`
	Tags  []string  `json:"tags"`
	Box   [4]int    `json:"box"`
	Parts []float32 `json:"parts,omitempty"`
}

// JSONSort writes n detections as JSON, reads them back and sorts them by score: what a post-processing step does.
func JSONSort(n int32) int64 {
	rows := make([]row, max(n, 0))
	x := uint32(1)
	for i := range rows {
		x = x*1664525 + 1013904223
		rows[i] = row{
			Name: "object " + string(rune('a'+x>>24%26)), Score: float64(x>>8) / (1 << 24),
			Tags: []string{"left", "بعيد"}, Box: [4]int{int(x >> 28), int(x >> 20 & 255), int(x >> 12 & 255), i},
			Parts: []float32{float32(x>>16) / 65536},
		}
	}
	text, err := json.Marshal(rows)
	if err != nil {
		return -1
	}
	var back []row
	if err := json.Unmarshal(text, &back); err != nil {
		return -1
	}
	sort.Slice(back, func(i, j int) bool { return back[i].Score < back[j].Score })
	sum := uint64(len(text))
	for i := range back {
		sum = sum*31 + uint64(back[i].Box[3])
	}
	return int64(sum)
}

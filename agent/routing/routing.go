// Package routing decides which variant of a model answers a request.
//
// A request id has a point in [0, 1,000,000); a Split divides that range among variants. The same id therefore meets
// the same variant on every node and after every restart, for as long as the shares stay, and when a share changes
// only the requests between the old and the new share change sides: candidates grow from the ends of the range, the
// first from the bottom, the second from the top, and the baseline has what they leave. (From the third candidate on
// they follow the first one upward, so that a change of an earlier one also shifts the later ones.)
//
// Everything here is a pure function and allocates nothing; a Split is read-only and safe for concurrent use.
package routing

import "math/bits"

// Whole is all of a model's requests.
const Whole = 1_000_000

// Share is what one variant is to get.
type Share struct {
	// Millionths of the requests.
	Millionths uint32
	// Baseline has what the others leave, whatever its Millionths say.
	Baseline bool
}

// span is a range of points that belongs to a variant.
type span struct {
	from, to uint32
	variant  int
}

// Split is a division of all points. The zero value has no variant.
type Split struct {
	variants int
	spans    []span
	rest     int // the variant that has all other points
}

// NewSplit divides the points among shares. It always divides all of them: shares beyond the whole are cut in order,
// and what no share covers goes to the first baseline, or to the first variant when there is no baseline.
func NewSplit(shares []Share) Split {
	s := Split{variants: len(shares)}
	for i := range shares {
		if shares[i].Baseline {
			s.rest = i
			break
		}
	}
	var bottom, top uint32 = 0, Whole
	for i, nth := 0, 0; i < len(shares); i++ {
		if i == s.rest || shares[i].Millionths == 0 {
			// The place of a candidate without traffic is kept, so that pausing one does not move another.
			if i != s.rest {
				nth++
			}
			continue
		}
		n := min(shares[i].Millionths, top-bottom)
		if nth == 1 {
			s.spans = append(s.spans, span{top - n, top, i})
			top -= n
		} else {
			s.spans = append(s.spans, span{bottom, bottom + n, i})
			bottom += n
		}
		nth++
	}
	return s
}

// Pick returns the index of the variant that has the point, or -1 when there is no variant.
func (s *Split) Pick(point uint32) int {
	for i := range s.spans {
		if point >= s.spans[i].from && point < s.spans[i].to {
			return s.spans[i].variant
		}
	}
	return s.Rest()
}

// Rest returns the index of the variant that has what the candidates leave, or -1 when there is no variant.
func (s *Split) Rest() int {
	if s.variants == 0 {
		return -1
	}
	return s.rest
}

// Point is where a request id lies. It depends on the model, so that the ids that meet one model's candidate are not
// the very ones that meet another's. It is part of what nodes agree on and never changes.
func Point(model, id string) uint32 {
	// FNV-1a over both strings, each ended by a byte that text does not contain, then a finaliser, since FNV's high
	// bits hardly depend on the last characters.
	const offset, prime = 0xcbf29ce484222325, 0x100000001b3
	h := uint64(offset)
	for i := range len(model) {
		h = (h ^ uint64(model[i])) * prime
	}
	h = (h ^ 0xff) * prime
	for i := range len(id) {
		h = (h ^ uint64(id[i])) * prime
	}
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	h ^= h >> 33
	point, _ := bits.Mul64(h, Whole)
	return uint32(point)
}

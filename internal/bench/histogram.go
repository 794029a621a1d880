package bench

import (
	"math/bits"
	"time"
)

// Histogram counts durations in fixed buckets, 64 to each power of two, so that it
// neither allocates nor forgets: a quantile is exact to 1.6 %. It belongs to one
// goroutine; others keep their own, to be merged.
type Histogram struct {
	counts [buckets]uint64
	total  uint64
	max    time.Duration
}

const (
	fineBits = 6  // 64 buckets to a power of two
	longBits = 40 // durations up to 2^40 ns, 18 minutes; longer ones count as that
	buckets  = (longBits - fineBits + 1) << fineBits
)

// Record counts d; a negative d counts as 0.
func (h *Histogram) Record(d time.Duration) { h.record(d, 1) }

func (h *Histogram) record(d time.Duration, n uint64) {
	h.counts[bucket(d)] += n
	h.total += n
	h.max = max(h.max, d)
}

// Merge adds what o counted.
func (h *Histogram) Merge(o *Histogram) {
	for i, n := range o.counts {
		h.counts[i] += n
	}
	h.total += o.total
	h.max = max(h.max, o.max)
}

// Count returns how many durations were recorded.
func (h *Histogram) Count() uint64 { return h.total }

// Max returns the longest duration, exactly.
func (h *Histogram) Max() time.Duration { return h.max }

// Quantile returns the duration that the share q (0 to 1) of the recorded ones did not
// exceed, and 0 when there are none.
func (h *Histogram) Quantile(q float64) time.Duration {
	rank, seen := uint64(q*float64(h.total)), uint64(0)
	for i, n := range h.counts {
		if seen += n; seen > rank || n > 0 && seen == h.total {
			return min(longest(i), h.max)
		}
	}
	return 0
}

// bucket returns the bucket of d: below 64 ns the number itself, above that the six
// bits after the leading one, in the row of that leading bit.
func bucket(d time.Duration) int {
	v := uint64(min(max(d, 0), 1<<longBits-1))
	row := max(bits.Len64(v)-1-fineBits, 0)
	if v < 1<<fineBits {
		return int(v)
	}
	return (row+1)<<fineBits + int(v>>row)&(1<<fineBits-1)
}

// longest returns the longest duration of bucket i.
func longest(i int) time.Duration {
	if i < 1<<fineBits {
		return time.Duration(i)
	}
	row := i>>fineBits - 1
	return time.Duration((1<<fineBits+i&(1<<fineBits-1)+1)<<row - 1)
}

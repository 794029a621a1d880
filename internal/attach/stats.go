package attach

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Stats tells what a front end has done since it was started.
type Stats struct {
	Read, Write, Zero, Flush OpStats

	InFlight  int    // requests that the backend has
	Again     uint64 // requests of a predecessor that were done again
	Malformed uint64 // requests that were refused before they reached the backend
}

// OpStats is what was done of one operation.
type OpStats struct {
	Bytes   uint64
	Errors  uint64 // of Latency.Count, that failed
	Latency Histogram
}

// The buckets of a Histogram: four for each doubling, from 1 µs to half an hour.
const (
	bucketsPerDoubling = 4
	doublings          = 31
	buckets            = bucketsPerDoubling * doublings
)

// Since returns what was done after before was taken, of the same front end.
func (s Stats) Since(before Stats) Stats {
	s.Read, s.Write = s.Read.since(before.Read), s.Write.since(before.Write)
	s.Zero, s.Flush = s.Zero.since(before.Zero), s.Flush.since(before.Flush)
	s.Again -= before.Again
	s.Malformed -= before.Malformed
	return s
}

func (s OpStats) since(before OpStats) OpStats {
	s.Bytes -= before.Bytes
	s.Errors -= before.Errors
	s.Latency.Sum -= before.Latency.Sum
	for i := range s.Latency.Counts {
		s.Latency.Counts[i] -= before.Latency.Counts[i]
	}
	return s
}

// Histogram counts durations. Its buckets grow by a fifth or so, which is how exact
// a quantile is.
type Histogram struct {
	Counts [buckets]uint64
	Sum    time.Duration
}

// Count returns how many durations there are.
func (h *Histogram) Count() (n uint64) {
	for _, c := range h.Counts {
		n += c
	}
	return n
}

// Quantile returns a duration that the share q of all, from 0 to 1, do not exceed;
// 0 when there are none.
func (h *Histogram) Quantile(q float64) time.Duration {
	total := h.Count()
	if total == 0 {
		return 0
	}
	rank := min(uint64(q*float64(total)), total-1)
	for i, c := range h.Counts {
		if rank < c {
			return BucketEnd(i)
		}
		rank -= c
	}
	return BucketEnd(buckets - 1)
}

// BucketEnd returns the duration below which those in bucket i of a Histogram are; the
// last bucket also has all that are longer.
func BucketEnd(i int) time.Duration {
	doubling, part := i/bucketsPerDoubling, i%bucketsPerDoubling
	return (bucketsPerDoubling + time.Duration(part) + 1) << doubling * time.Microsecond / bucketsPerDoubling
}

// bucketOf returns the bucket that d belongs in.
func bucketOf(d time.Duration) int {
	quarters := uint64(max(0, d)) / uint64(time.Microsecond/bucketsPerDoubling)
	if quarters < bucketsPerDoubling {
		return 0
	}
	doubling := bits.Len64(quarters) - 3 // quarters is at least 1<<2
	i := doubling*bucketsPerDoubling + int(quarters>>doubling) - bucketsPerDoubling
	return min(i, buckets-1)
}

// Meter collects Stats: one goroutine counts, any may read.
type Meter struct {
	ops       [ops]opMeter
	inFlight  atomic.Int64
	again     atomic.Uint64
	malformed atomic.Uint64
}

type opMeter struct {
	bytes, errors atomic.Uint64
	sum           atomic.Int64
	counts        [buckets]atomic.Uint64
}

// Begin counts a request that goes to the backend.
func (m *Meter) Begin() { m.inFlight.Add(1) }

// End counts a request that the backend has done, after it took for took.
func (m *Meter) End(r *Request, took time.Duration) {
	o := &m.ops[r.Op]
	o.bytes.Add(uint64(r.Length))
	if r.Err != nil {
		o.errors.Add(1)
	}
	o.sum.Add(int64(took))
	o.counts[bucketOf(took)].Add(1)
	m.inFlight.Add(-1)
}

// Again counts a request of a predecessor that is done again.
func (m *Meter) Again() { m.again.Add(1) }

// Malformed counts a request that is refused.
func (m *Meter) Malformed() { m.malformed.Add(1) }

// Stats returns what was counted.
func (m *Meter) Stats() Stats {
	return Stats{
		Read: m.ops[Read].stats(), Write: m.ops[Write].stats(), Zero: m.ops[Zero].stats(), Flush: m.ops[Flush].stats(),
		InFlight: int(m.inFlight.Load()), Again: m.again.Load(), Malformed: m.malformed.Load(),
	}
}

func (o *opMeter) stats() OpStats {
	s := OpStats{Bytes: o.bytes.Load(), Errors: o.errors.Load()}
	s.Latency.Sum = time.Duration(o.sum.Load())
	for i := range o.counts {
		s.Latency.Counts[i] = o.counts[i].Load()
	}
	return s
}

package coordinator

import "time"

// Limits bound what a volume's user may do, each 0 for no bound. They may be changed at
// any time.
type Limits struct {
	Reads, Writes         float64 // requests per second; zeroings are writes
	ReadBytes, WriteBytes float64 // per second; zeroings have none
}

// Resyncs bound what bringing replicas up to date may do. They may be changed at any time.
type Resyncs struct {
	Bytes float64 // per second, that all of the volume move together; 0 is no bound
	Pause bool    // none goes on
}

// SetResyncs changes what resyncs may do.
func (c *Coordinator) SetResyncs(r Resyncs) {
	c.resyncs = r
	c.pace.set(r.Bytes)
}

// SetLimits changes what the user may do.
func (c *Coordinator) SetLimits(l Limits) {
	c.reads.requests.set(l.Reads)
	c.reads.bytes.set(l.ReadBytes)
	c.writes.requests.set(l.Writes)
	c.writes.bytes.set(l.WriteBytes)
}

// bucket is a rate that time fills. What is taken may be more than there is: then the
// next one waits for longer.
type bucket struct {
	rate  float64 // a second; 0 is no bound
	level float64
	at    time.Duration
}

// buckets are those of one kind of requests.
type buckets struct{ requests, bytes bucket }

// bucketSpan is how much a bucket holds: a volume that was idle may catch up that long.
const bucketSpan = 100 * time.Millisecond

func (b *bucket) set(rate float64) {
	if b.rate == 0 {
		b.level = rate * bucketSpan.Seconds()
	}
	b.rate = rate
}

func (b *bucket) fill(now time.Duration) {
	b.level = min(b.level+b.rate*(now-b.at).Seconds(), b.rate*bucketSpan.Seconds())
	b.at = now
}

// wait returns how long to wait before something may be taken.
func (b *bucket) wait(now time.Duration) time.Duration {
	if b.rate == 0 {
		return 0
	}
	if b.fill(now); b.level > 0 {
		return 0
	}
	return time.Duration(-b.level/b.rate*float64(time.Second)) + time.Microsecond
}

// holds reports whether there would be something left after n are taken.
func (b *bucket) holds(n int64) bool { return b.rate == 0 || b.level > float64(n) }

func (b *bucket) take(now time.Duration, n int64) {
	if b.rate != 0 {
		b.fill(now)
		b.level -= float64(n)
	}
}

// throttled reports whether a request has to wait for the volume's limits, and takes its
// share if not.
func (c *Coordinator) throttled(now time.Duration, q *Request, fx *Effects) bool {
	if q.Op == Flush || q.copy != nil {
		return false
	}
	b := &c.writes
	if q.Op == Read {
		b = &c.reads
	}
	if b.requests.rate == 0 && b.bytes.rate == 0 {
		return false
	}
	if wait := max(b.requests.wait(now), b.bytes.wait(now)); wait > 0 {
		fx.alarm(now + wait)
		return true
	}
	b.requests.take(now, 1)
	if q.Op != Zero {
		b.bytes.take(now, q.Extent.Bytes())
	}
	return false
}

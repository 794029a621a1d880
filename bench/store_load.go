package main

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/holdfast-io/holdfast/internal/bench"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/store"
)

// load is a number of operations of one size, depth of them in flight.
type load struct {
	depth  int
	blocks int // of each operation
	// next says where the next operation goes; more is false when there are no more.
	next func(now time.Time) (at block.Index, more bool)
	// ended, unless nil, is told of every operation.
	ended func(began, now time.Time)
}

// lane makes one place of a load's depth: start begins an operation of so many blocks,
// and done reports its end, never from inside start.
type lane func(blocks int, done func(error)) (start func(at block.Index))

// run does the load's operations on what lane leads to, which is on disk d.
func (l load) run(ctx context.Context, d host.Disk, lane lane) (bench.Cost, error) {
	return l.runOn(ctx, polled{ctx, d}, lane)
}

// engine is what has operations begin and end.
type engine interface {
	// drive calls begin, and returns when nothing is running.
	drive(p *progress) error
}

// progress is how far a load has come. All but idle belongs to whoever begins operations.
type progress struct {
	begin   func()
	running int
	failed  error
	idle    chan struct{} // closed when nothing is running any more
}

// ended counts one operation less, after its successor was begun.
func (p *progress) ended() {
	if p.running--; p.running == 0 {
		close(p.idle)
	}
}

// polled is the engine of a disk that this goroutine polls.
type polled struct {
	ctx  context.Context
	disk host.Disk
}

func (e polled) drive(p *progress) error {
	d := e.disk
	p.begin()
	for p.running > 0 {
		if d.Poll(-1) == 0 && d.InFlight() == 0 && p.running > 0 {
			return fault.Bug("bench: nothing is in flight, and %d operations are not done", p.running)
		}
		if err := e.ctx.Err(); err != nil && p.failed == nil {
			p.failed = err
		}
	}
	return nil
}

// runOn is run with another engine.
func (l load) runOn(ctx context.Context, e engine, lane lane) (bench.Cost, error) {
	p := &progress{idle: make(chan struct{})}
	latency := new(bench.Histogram)
	cost := new(bench.Cost)
	starts, began := make([]func(block.Index), l.depth), make([]time.Time, l.depth)
	begin := func(i int, now time.Time) {
		if p.failed != nil {
			return
		}
		if at, more := l.next(now); more {
			began[i] = now
			p.running++
			starts[i](at)
		}
	}
	for i := range starts {
		starts[i] = lane(l.blocks, func(err error) {
			now := time.Now()
			latency.Record(now.Sub(began[i]))
			cost.Ops++
			if l.ended != nil {
				l.ended(began[i], now)
			}
			if err == nil {
				err = ctx.Err()
			}
			if err != nil && p.failed == nil {
				p.failed = err
			}
			begin(i, now)
			p.ended()
		})
	}
	p.begin = func() {
		p.running++ // so that the end of the first is not the end of all
		for i := range starts {
			begin(i, time.Now())
		}
		p.ended()
	}
	measured, err := bench.Measure(func(c *bench.Cost) error {
		cost = c
		if err := e.drive(p); err != nil {
			return err
		}
		c.Bytes = c.Ops * int64(l.blocks) * block.Size
		return p.failed
	})
	if e, ok := e.(polled); ok {
		for e.disk.InFlight() > 0 { // what the store does behind its requests
			e.disk.Poll(-1)
		}
	}
	measured.Latency = latency
	return measured, err
}

// rawLane leads to a plain file through the disk, where block n is at n times its size.
func rawLane(d host.Disk, f host.File, kind host.Kind) lane {
	return func(blocks int, done func(error)) func(block.Index) {
		op := &host.Op{Kind: kind, File: f, Buf: noise(blocks), Done: func(op *host.Op) { done(op.Err) }}
		kept := []*host.Op{op} // Submit(op) would allocate it
		return func(at block.Index) {
			op.Offset = at.Offset()
			d.Submit(kept...)
		}
	}
}

// storeLane leads to a replica as of gen, 0 for the live one. A write's checksums are
// computed for every write, as they are where data enters Holdfast.
func storeLane(r *store.Replica, verb store.Verb, gen block.Generation) lane {
	return func(blocks int, done func(error)) func(block.Index) {
		q := &store.Request{Verb: verb, Generation: gen, Data: noise(blocks), Sums: make([]block.Sum, blocks),
			Extent: block.Extent{Count: uint64(blocks)}, Done: func(q *store.Request) { done(q.Err) }}
		return func(at block.Index) {
			if verb == store.Write {
				block.Checksums(q.Sums, q.Data)
			}
			q.Extent.Start = at
			r.Submit(q)
		}
	}
}

// noise returns blocks of random bytes, aligned.
func noise(blocks int) []byte {
	b := host.Buffer(blocks * block.Size)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

// order is a sequence of places for a load.
type order func() (at block.Index, more bool)

// randomly goes to every block of a volume before it goes to one again, for ever: writes
// that overlap must not be in flight together.
func randomly(blocks int) order {
	places, i := rand.Perm(blocks), 0
	return func() (block.Index, bool) {
		at := places[i]
		if i++; i == blocks {
			i = 0
		}
		return block.Index(at), true
	}
}

// inTurn goes from the start of a volume to its end, by step, for ever.
func inTurn(blocks, step int) order {
	at := -step
	return func() (block.Index, bool) {
		if at += step; at+step > blocks {
			at = 0
		}
		return block.Index(at), true
	}
}

// once goes through a volume from its start to its end, by step.
func once(blocks, step int) order {
	at := -step
	return func() (block.Index, bool) {
		at += step
		return block.Index(at), at+step <= blocks
	}
}

// shuffled goes to count of the volume's blocks, each once, at random.
func shuffled(blocks, count int) order {
	places := rand.Perm(blocks)[:count]
	return func() (block.Index, bool) {
		if len(places) == 0 {
			return 0, false
		}
		at := places[0]
		places = places[1:]
		return block.Index(at), true
	}
}

// spread is o with its places so many times as far apart.
func (o order) spread(by block.Index) order {
	return func() (block.Index, bool) {
		at, more := o()
		return at * by, more
	}
}

// all is the load that goes to every place of o.
func (o order) all(depth, blocks int) load {
	return load{depth: depth, blocks: blocks, next: func(time.Time) (block.Index, bool) { return o() }}
}

// lasting is the load that goes to places of o for a time.
func (o order) lasting(t time.Duration, depth, blocks int) load {
	var end time.Time
	return load{depth: depth, blocks: blocks, next: func(now time.Time) (block.Index, bool) {
		if end.IsZero() {
			end = now.Add(t)
		}
		at, more := o()
		return at, more && now.Before(end)
	}}
}

package coordinator

import (
	"slices"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/resync"
	"github.com/holdfast-io/holdfast/internal/wire"
)

// copyStep is how many blocks are compared, and kept from everybody else, at a time:
// 1 MiB is one frame of data, some milliseconds.
const copyStep = 256

// runsMax is how many runs of one copy may be under way, where they are not moved together
// (see moveTogether): what keeps a copy of every second block from waiting for each.
const runsMax = 32

// copying makes an extent the same in all members that it names as it is in the first
// one: compare checksums, move the blocks that differ. A copy of the live generation has
// the extent to itself meanwhile.
type copying struct {
	extent  block.Extent     // at most copyStep blocks
	gen     block.Generation // 0 is the live one
	members []int            // the first gives, unless it can't
	sync    *syncing         // it is for a member that catches up, the second one; else all count
	then    func(now time.Duration, err error, fx *Effects)

	hold   Request // its place in the queue
	sums   [][]block.Sum
	refill bool // the member that catches up can't say what it holds: it gets all of it
	asks   int
	runs   []copyRun
	flying int
	over   bool
	failed error
	moved  int64
}

// copyRun is a run of blocks that some member lacks.
type copyRun struct {
	extent block.Extent
	from   int // index of the giving member
	zero   bool
	alone  bool    // it could not be read together with others
	tried  members // for a member that catches up: those that count and can't read it
}

// submitCopy puts a copy in line behind the requests that came before it.
func (c *Coordinator) submitCopy(k *copying) {
	c.copying++
	k.hold = Request{Op: Write, Extent: k.extent, copy: k}
	c.queue = append(c.queue, &k.hold)
}

// beginCopy asks everybody for checksums.
func (c *Coordinator) beginCopy(now time.Duration, k *copying, fx *Effects) {
	k.sums = make([][]block.Sum, len(k.members))
	for i, m := range k.members {
		if c.members[m].promised != c.rec.Epoch {
			k.fail(errGone)
			continue
		}
		gen := k.gen
		if k.sync != nil && i > 0 {
			gen = 0 // a snapshot is filled in the member's live generation
		}
		k.asks++
		c.ask(m, &wire.Verify{Epoch: c.rec.Epoch, Generation: gen, Extent: k.extent}, fx, func(now time.Duration, m int, msg wire.Message, fx *Effects) {
			k.asks--
			switch v := msg.(type) {
			case *wire.Verified:
				if len(v.Sums) == int(k.extent.Count) {
					k.sums[i] = slices.Clone(v.Sums)
				}
			case *wire.Fail:
				if k.sync != nil && i > 0 && v.Status == fault.Corrupt {
					k.refill, k.sums[i] = true, make([]block.Sum, k.extent.Count)
					break
				}
				if k.sync == nil && c.others(m) > 0 && v.Status != fault.Fenced { // it can't say what it holds
					c.blame(m, failureOf(msg))
				}
				k.fail(failureOf(msg))
				if k.sync != nil && i == 0 && (v.Status == fault.Corrupt || v.Status == fault.Media) {
					k.sync.badSource = true
				}
			}
			if k.sums[i] == nil {
				k.fail(errGone)
			}
			if k.asks == 0 {
				c.compare(now, k, fx)
			}
		})
	}
	if k.asks == 0 {
		c.overCopy(now, k, fx)
	}
}

func (k *copying) fail(err error) {
	if k.failed == nil {
		k.failed = err
	}
}

// compare finds the runs to copy.
func (c *Coordinator) compare(now time.Duration, k *copying, fx *Effects) {
	if k.failed == nil && k.refill {
		for i, sum := range k.sums[0] {
			k.sums[1][i] = ^sum
		}
	}
	if k.failed == nil {
		for _, r := range resync.Runs(k.extent.Start, k.sums) {
			if r.Zero && fault.Planted("resync misses a discard") {
				continue
			}
			k.runs = append(k.runs, copyRun{extent: r.Extent, zero: r.Zero})
		}
	}
	c.moveRuns(now, k, fx)
}

// stale reports whether a copy is for an attempt to catch up that was given up. What it would
// still give could meet what the next attempt gives, which relies on the first one having
// ended with the promise that came between.
func (c *Coordinator) stale(k *copying) bool {
	return k.sync != nil && c.members[k.members[1]].sync != k.sync
}

// moveRuns begins to move runs, and ends the copy after the last one.
func (c *Coordinator) moveRuns(now time.Duration, k *copying, fx *Effects) {
	if c.stale(k) {
		k.fail(errGone)
	}
	c.moveTogether(k, fx)
	for k.failed == nil && k.flying < runsMax && len(k.runs) > 0 {
		run := k.runs[0]
		k.runs = k.runs[1:]
		for _, m := range k.members {
			if c.members[m].promised != c.rec.Epoch {
				k.fail(errGone)
			}
		}
		if k.failed == nil {
			c.moveRun(now, k, run, fx)
		}
	}
	if k.flying == 0 {
		c.overCopy(now, k, fx)
	}
}

// moveRun reads a run, unless it is zeros, and gives it to those that lack it.
func (c *Coordinator) moveRun(now time.Duration, k *copying, run copyRun, fx *Effects) {
	if run.zero {
		if k.refill {
			c.put(k, run, &wire.Fill{Epoch: c.rec.Epoch, Extent: run.extent, Hole: true}, fx)
			return
		}
		c.put(k, run, &wire.Zero{Epoch: c.rec.Epoch, Extent: run.extent, Unmap: true}, fx)
		return
	}
	gen := k.gen
	if k.sync != nil && run.from > 0 {
		gen = 0
	}
	k.flying++
	giver := k.members[run.from]
	if run.tried != 0 {
		giver = c.reader(run.tried)
	}
	c.ask(giver, &wire.Read{Epoch: c.rec.Epoch, Generation: gen, Extent: run.extent}, fx, func(now time.Duration, giver int, msg wire.Message, fx *Effects) {
		k.flying--
		switch d := msg.(type) {
		case *wire.ReadDone:
			if len(d.Data) != int(run.extent.Bytes()) || len(d.Sums) != int(run.extent.Count) || k.failed != nil {
				k.fail(errGone)
				break
			}
			data := host.Buffer(len(d.Data))
			copy(data, d.Data)
			if k.refill {
				c.put(k, run, &wire.Fill{Epoch: c.rec.Epoch, Extent: run.extent, Sums: slices.Clone(d.Sums), Data: data}, fx)
				break
			}
			c.put(k, run, &wire.Write{Epoch: c.rec.Epoch, Extent: run.extent, Sums: slices.Clone(d.Sums), Data: data}, fx)
		case *wire.Fail:
			c.unreadable(k, run, giver, d)
		default:
			k.fail(errGone)
		}
		c.moveRuns(now, k, fx)
	})
}

// moveTogether moves all runs that the first member can give by one message, if everybody
// knows how: a copy of every second block of 1 MiB is two messages then, not 256.
func (c *Coordinator) moveTogether(k *copying, fx *Effects) {
	together := func(r copyRun) bool { return r.from == 0 && !r.zero && !r.alone && r.tried == 0 && !k.refill }
	first := slices.IndexFunc(k.runs, together)
	if k.failed != nil || first < 0 || !slices.ContainsFunc(k.runs[first+1:], together) {
		return
	}
	for _, m := range k.members {
		if c.members[m].version < wire.V2 || c.members[m].promised != c.rec.Epoch {
			return
		}
	}
	var b wire.Blocks
	for _, r := range k.runs {
		if together(r) {
			b.Add(r.extent)
		}
	}
	k.runs = slices.DeleteFunc(k.runs, together)
	k.flying++
	c.ask(k.members[0], &wire.ReadBlocks{Epoch: c.rec.Epoch, Generation: k.gen, Blocks: b}, fx, func(now time.Duration, _ int, msg wire.Message, fx *Effects) {
		k.flying--
		switch d := msg.(type) {
		case *wire.ReadDone:
			if len(d.Data) != b.Count()*block.Size || len(d.Sums) != b.Count() || k.failed != nil {
				k.fail(errGone)
				break
			}
			data := host.Buffer(len(d.Data))
			copy(data, d.Data)
			c.putTogether(k, &wire.WriteBlocks{Epoch: c.rec.Epoch, Blocks: b, Sums: slices.Clone(d.Sums), Data: data}, fx)
		case *wire.Fail:
			if d.Status != fault.Corrupt && d.Status != fault.Media {
				k.fail(failureOf(d))
			}
			for e := b.Next(0); !e.Empty(); e = b.Next(e.End()) {
				k.runs = append(k.runs, copyRun{extent: e, alone: true})
			}
		default:
			k.fail(errGone)
		}
		c.moveRuns(now, k, fx)
	})
}

// putTogether gives each member what it lacks of the blocks.
func (c *Coordinator) putTogether(k *copying, all *wire.WriteBlocks, fx *Effects) {
	for i, m := range k.members[1:] {
		msg := all
		if len(k.members) > 2 {
			msg = k.lacks(i+1, all)
		}
		if len(msg.Data) > 0 {
			c.give(k, m, msg, fx)
		}
	}
}

// lacks returns those of the runs that member i lacks something of.
func (k *copying) lacks(i int, all *wire.WriteBlocks) *wire.WriteBlocks {
	some := &wire.WriteBlocks{Epoch: all.Epoch}
	at := 0
	for e := all.Blocks.Next(0); !e.Empty(); e = all.Blocks.Next(e.End()) {
		n, from := int(e.Count), int(e.Start-k.extent.Start)
		if !slices.Equal(k.sums[i][from:from+n], k.sums[0][from:from+n]) {
			some.Blocks.Add(e)
			some.Sums = append(some.Sums, all.Sums[at:at+n]...)
			some.Data = append(some.Data, all.Data[at*block.Size:(at+n)*block.Size]...)
		}
		at += n
	}
	return some
}

// unreadable decides what becomes of a run that its giver can't read: block by block, and
// among copies that count any of them will do. What none of them can read stays as it is,
// unreadable everywhere.
func (c *Coordinator) unreadable(k *copying, run copyRun, giver int, f *wire.Fail) {
	switch {
	case f.Status != fault.Corrupt && f.Status != fault.Media:
		k.fail(failureOf(f))
	case run.extent.Count > 1:
		for i := range run.extent.Count {
			k.runs = append(k.runs, copyRun{extent: block.Extent{Start: run.extent.Start + block.Index(i), Count: 1}, from: run.from})
		}
	case k.sync != nil: // it must not count with something else in that block
		if run.tried.add(giver); c.reader(run.tried) < 0 {
			k.fail(failureOf(f))
			return
		}
		k.runs = append(k.runs, run)
	case run.from+1 < len(k.members):
		run.from++
		k.runs = append(k.runs, run)
	}
}

// put gives a run to those members whose checksums are others than the giver's.
func (c *Coordinator) put(k *copying, run copyRun, msg wire.Message, fx *Effects) {
	at := int(run.extent.Start - k.extent.Start)
	end := at + int(run.extent.Count)
	for i, m := range k.members {
		if i == run.from || slices.Equal(k.sums[i][at:end], k.sums[run.from][at:end]) {
			continue
		}
		c.give(k, m, msg, fx)
	}
}

// give has a member make a change.
func (c *Coordinator) give(k *copying, m int, msg wire.Message, fx *Effects) {
	if c.members[m].promised != c.rec.Epoch || c.stale(k) {
		k.fail(errGone)
		return
	}
	k.moved += int64(len(wire.Data(msg)))
	k.flying++
	c.ask(m, msg, fx, func(now time.Duration, m int, msg wire.Message, fx *Effects) {
		k.flying--
		if _, ok := msg.(*wire.Done); !ok {
			k.fail(failureOf(msg))
			if f, isFail := msg.(*wire.Fail); isFail && f.Status != fault.Fenced && k.sync == nil {
				c.blame(m, failureOf(msg))
			}
		}
		c.moveRuns(now, k, fx)
	})
}

// overCopy ends a copy: at once when nobody waits for the extent, else in its turn.
func (c *Coordinator) overCopy(now time.Duration, k *copying, fx *Effects) {
	if k.over {
		return
	}
	k.over = true
	if k.hold.copy == nil {
		c.endCopy(now, k, fx)
	}
}

// finishCopy gives the extent free.
func (c *Coordinator) finishCopy(now time.Duration, q *Request, fx *Effects) bool {
	c.release(q.slot)
	c.endCopy(now, q.copy, fx)
	return true
}

func (c *Coordinator) endCopy(now time.Duration, k *copying, fx *Effects) {
	c.copying--
	c.stats.Copied += k.moved
	c.pace.take(now, k.moved+compareCost)
	k.then(now, k.failed, fx)
}

// compareCost is what a comparison counts for, beside what it moves: the checksums of a
// step, from two members.
const compareCost = 2 * 4 * copyStep

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

// runsMax is how many runs of one copy may be under way: what keeps a copy of every
// second block from waiting for each.
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
				if k.sync == nil && c.others(m) > 0 && v.Status != fault.Fenced { // it can't say what it holds
					c.blame(m, failureOf(msg))
				}
				k.fail(failureOf(msg))
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

// moveRuns begins to move runs, and ends the copy after the last one.
func (c *Coordinator) moveRuns(now time.Duration, k *copying, fx *Effects) {
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
		c.put(k, run, &wire.Zero{Epoch: c.rec.Epoch, Extent: run.extent, Unmap: true}, fx)
		return
	}
	gen := k.gen
	if k.sync != nil && run.from > 0 {
		gen = 0
	}
	k.flying++
	c.ask(k.members[run.from], &wire.Read{Epoch: c.rec.Epoch, Generation: gen, Extent: run.extent}, fx, func(now time.Duration, _ int, msg wire.Message, fx *Effects) {
		k.flying--
		switch d := msg.(type) {
		case *wire.ReadDone:
			if len(d.Data) != int(run.extent.Bytes()) || len(d.Sums) != int(run.extent.Count) || k.failed != nil {
				k.fail(errGone)
				break
			}
			data := host.Buffer(len(d.Data))
			copy(data, d.Data)
			c.put(k, run, &wire.Write{Epoch: c.rec.Epoch, Extent: run.extent, Sums: slices.Clone(d.Sums), Data: data}, fx)
		case *wire.Fail:
			c.unreadable(k, run, d)
		default:
			k.fail(errGone)
		}
		c.moveRuns(now, k, fx)
	})
}

// unreadable decides what becomes of a run that its giver can't read: block by block, and
// among copies that count any of them will do. What none of them can read stays as it is,
// unreadable everywhere.
func (c *Coordinator) unreadable(k *copying, run copyRun, f *wire.Fail) {
	switch {
	case f.Status != fault.Corrupt && f.Status != fault.Media:
		k.fail(failureOf(f))
	case run.extent.Count > 1:
		for i := range run.extent.Count {
			k.runs = append(k.runs, copyRun{extent: block.Extent{Start: run.extent.Start + block.Index(i), Count: 1}, from: run.from})
		}
	case k.sync != nil:
		k.fail(failureOf(f)) // it must not count with something else in that block
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
		if c.members[m].promised != c.rec.Epoch {
			k.fail(errGone)
			continue
		}
		if _, data := msg.(*wire.Write); data {
			k.moved += run.extent.Bytes()
		}
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

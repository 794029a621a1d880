package coordinator

import (
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/resync"
	"github.com/holdfast-io/holdfast/internal/wire"
)

// copyStep is how many blocks are compared, and kept from everybody else, at a time:
// 1 MiB is one frame of data, some milliseconds.
const copyStep = 256

// copying makes an extent the same in some members as it is in one: compare checksums,
// move the blocks that differ. It has the extent to itself meanwhile.
type copying struct {
	extent  block.Extent // at most copyStep blocks
	source  int
	targets []int
	then    func(ok bool, fx *Effects)

	hold   Request // its place in the queue
	sums   map[int][]block.Sum
	asks   int
	runs   []copyRun
	over   bool
	failed bool
	copied int64
}

// copyRun is a run of blocks that a target lacks.
type copyRun struct {
	target int
	extent block.Extent
}

// beginCopy asks everybody for checksums.
func (c *Coordinator) beginCopy(k *copying, fx *Effects) {
	k.sums = make(map[int][]block.Sum)
	for _, m := range append([]int{k.source}, k.targets...) {
		if c.members[m].promised != c.rec.Epoch {
			k.failed = true
			continue
		}
		k.asks++
		c.ask(m, &wire.Verify{Epoch: c.rec.Epoch, Extent: k.extent}, fx, func(_ time.Duration, m int, msg wire.Message, fx *Effects) {
			k.asks--
			v, ok := msg.(*wire.Verified)
			if ok && len(v.Sums) == int(k.extent.Count) {
				k.sums[m] = append([]block.Sum(nil), v.Sums...)
			} else {
				k.failed = true
			}
			if k.asks == 0 {
				c.compare(k, fx)
			}
		})
	}
	if k.asks == 0 {
		k.over = true
	}
}

// compare finds the runs to copy.
func (c *Coordinator) compare(k *copying, fx *Effects) {
	if !k.failed {
		for _, m := range k.targets {
			for _, run := range resync.Differing(k.extent.Start, k.sums[k.source], k.sums[m], copyStep) {
				k.runs = append(k.runs, copyRun{m, run})
			}
		}
	}
	c.copyNext(k, fx)
}

// copyNext moves the next run.
func (c *Coordinator) copyNext(k *copying, fx *Effects) {
	if k.failed || len(k.runs) == 0 {
		k.over = true
		return
	}
	run := k.runs[0]
	k.runs = k.runs[1:]
	if c.members[k.source].promised != c.rec.Epoch || c.members[run.target].promised != c.rec.Epoch {
		k.failed, k.over = true, true
		return
	}
	at := int(run.extent.Start - k.extent.Start)
	if resync.AllZero(k.sums[k.source][at : at+int(run.extent.Count)]) {
		if fault.Planted("resync misses a discard") {
			c.copyNext(k, fx)
			return
		}
		c.put(k, run, &wire.Zero{Epoch: c.rec.Epoch, Extent: run.extent, Unmap: true}, fx)
		return
	}
	c.ask(k.source, &wire.Read{Epoch: c.rec.Epoch, Extent: run.extent}, fx, func(_ time.Duration, _ int, msg wire.Message, fx *Effects) {
		d, ok := msg.(*wire.ReadDone)
		if !ok || c.members[run.target].promised != c.rec.Epoch {
			k.failed, k.over = true, true
			return
		}
		c.put(k, run, &wire.Write{Epoch: c.rec.Epoch, Extent: run.extent,
			Sums: append([]block.Sum(nil), d.Sums...), Data: append([]byte(nil), d.Data...)}, fx)
	})
}

// put gives a run to its target.
func (c *Coordinator) put(k *copying, run copyRun, msg wire.Message, fx *Effects) {
	k.copied += run.extent.Bytes()
	c.ask(run.target, msg, fx, func(_ time.Duration, m int, msg wire.Message, fx *Effects) {
		if _, ok := msg.(*wire.Done); !ok {
			k.failed, k.over = true, true
			if f, isFail := msg.(*wire.Fail); isFail && f.Status != fault.Fenced {
				c.blame(m, failureOf(msg))
			}
			return
		}
		c.copyNext(k, fx)
	})
}

// finishCopy gives the extent free.
func (c *Coordinator) finishCopy(q *Request, fx *Effects) bool {
	k := q.copy
	c.release(q.slot)
	c.copying--
	c.stats.Copied += k.copied
	k.then(!k.failed, fx)
	return true
}

package sim

import (
	"slices"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/coordinator"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/store"
)

// restore gives the volume what a snapshot has, as package node does it: without a client,
// and after a safety snapshot. What a replica on the node says that was written since is
// read, of both, and what differs is written; without one it is all of it.
type restore struct {
	h      *head
	g      block.Generation
	x      *snapshot // what it may have; nil when that is not known
	losses int
	todo   []block.Extent
}

// restoreBlocksMax is the size of volumes that are restored: larger ones take too long.
const restoreBlocksMax = 2 * block.PerRegion

// snapshotOf returns one of the volume's snapshots, 0 if there is none.
func (h *head) snapshotOf() block.Generation {
	list := h.coord.Record().Snapshots
	if len(list) == 0 {
		return 0
	}
	return list[h.c.rand.IntN(len(list))]
}

func (h *head) restore() {
	c := h.c
	g := h.snapshotOf()
	if g == 0 || h.quiet || len(c.model.blocks) > restoreBlocksMax {
		return
	}
	h.quiet = true
	r := &restore{h: h, g: g, x: c.model.snapshots[g]}
	c.log("%s restores snapshot %d", h.name, g)
	h.snapshot(0)
	c.after(c.lease/10, r.wait)
}

// wait begins when the client has nothing under way.
func (r *restore) wait() {
	h, c := r.h, r.h.c
	switch {
	case !h.alive() || h.left >= 0:
	case h.using > 0 || len(h.orders) > 0:
		c.after(c.lease/10, r.wait)
	case !slices.Contains(h.coord.Record().Snapshots, r.g): // deleted meanwhile
		r.end()
	default:
		r.losses = c.losses
		r.differing()
	}
}

// end lets the client go on.
func (r *restore) end() {
	r.h.quiet = r.h.c.healed || r.h.left >= 0
}

// differing finds what to look at.
func (r *restore) differing() {
	h, c := r.h, r.h.c
	all := block.Extent{Count: uint64(len(c.model.blocks))}
	r.todo = []block.Extent{all}
	rec := h.coord.Record()
	if i := rec.Find(h.node.holds); i >= 0 && rec.Members[i].State == spec.InSync && h.node.replica != nil && !h.node.failing {
		life := h.node.life
		h.node.store.Changed(r.g, 0, 0, block.Regions(rec.Size), func(list []block.Extent, _ block.Region, err error) {
			switch {
			case h.node.life != life || !h.alive():
			case err != nil:
				r.failed("what was written since", err)
			default:
				r.todo = slices.Clone(list)
				for i := range r.todo {
					r.todo[i] = r.todo[i].Clip(all)
				}
				r.next()
			}
		})
		return
	}
	r.next()
}

func (r *restore) failed(what string, err error) {
	r.h.c.log("%s has not restored snapshot %d: %s: %v", r.h.name, r.g, what, err)
	r.end()
}

// next makes the next extent alike.
func (r *restore) next() {
	r.todo = slices.DeleteFunc(r.todo, block.Extent.Empty)
	if len(r.todo) == 0 {
		r.compare(0)
		return
	}
	e := r.todo[0]
	e.Count = min(e.Count, 256)
	r.todo[0].Start += block.Index(e.Count)
	r.todo[0].Count -= e.Count
	r.both(e, func(live, old []byte) {
		first, last := int(e.Count), -1
		for i := range int(e.Count) {
			if string(live[i*block.Size:(i+1)*block.Size]) != string(old[i*block.Size:(i+1)*block.Size]) {
				first, last = min(first, i), i
			}
		}
		if last < 0 {
			r.next()
			return
		}
		r.write(block.Extent{Start: e.Start + block.Index(first), Count: uint64(last - first + 1)}, old[first*block.Size:(last+1)*block.Size])
	})
}

// both reads an extent as it is and as the snapshot has it.
func (r *restore) both(e block.Extent, done func(live, old []byte)) {
	r.read(e, 0, func(live []byte) {
		r.read(e, r.g, func(old []byte) { done(live, old) })
	})
}

func (r *restore) read(e block.Extent, g block.Generation, done func([]byte)) {
	h := r.h
	if !h.alive() {
		return
	}
	q := &coordinator.Request{Op: coordinator.Read, Extent: e, Generation: g, Data: host.Buffer(int(e.Bytes())), Sums: make([]block.Sum, e.Count)}
	h.using++
	h.submit(q, func(q *coordinator.Request) {
		if q.Err != nil {
			r.failed("reading", q.Err)
			return
		}
		done(q.Data)
	})
}

// write writes what the snapshot has: for the model that are writes of a block each, of
// the tags that it holds, under one request.
func (r *restore) write(e block.Extent, data []byte) {
	h, c := r.h, r.h.c
	var debts []*debt
	for i := range int(e.Count) {
		tag, err := tagOf(data[i*block.Size : (i+1)*block.Size])
		if err != nil { // torn when somebody died
			if c.deaths == 0 {
				c.found("snapshot %d: %v", r.g, err)
			}
			r.failed("a torn block", err)
			return
		}
		debts = append(debts, &debt{tag: tag, b: int(e.Start) + i})
	}
	for _, d := range debts {
		d.at = c.model.beginAgain(d.b, d.tag)
	}
	own := host.Buffer(len(data))
	copy(own, data)
	sums := make([]block.Sum, e.Count)
	block.Checksums(sums, own)
	h.using++
	h.changeAll(&coordinator.Request{Op: coordinator.Write, Extent: e, Data: own, Sums: sums}, debts, func(err error) {
		if err != nil {
			r.failed("writing", err)
			return
		}
		r.next()
	})
}

// compare holds that all is as in the snapshot, from a block on.
func (r *restore) compare(from int) {
	h, c := r.h, r.h.c
	if from >= len(c.model.blocks) {
		c.log("%s has restored snapshot %d", h.name, r.g)
		c.counts.Restored++
		r.end()
		return
	}
	e := extentOf(from, min(256, len(c.model.blocks)-from))
	r.both(e, func(live, old []byte) {
		for i := range int(e.Count) {
			if c.losses == r.losses && string(live[i*block.Size:(i+1)*block.Size]) != string(old[i*block.Size:(i+1)*block.Size]) {
				a, _ := tagOf(live[i*block.Size : (i+1)*block.Size])
				b, _ := tagOf(old[i*block.Size : (i+1)*block.Size])
				c.found("%s restored snapshot %d: block %d is write %d, and %d in the snapshot", h.name, r.g, from+i, a, b)
				return
			}
		}
		r.compare(from + int(e.Count))
	})
}

// clone is a replica of another volume that begins as a snapshot of this one.
type clone struct {
	node *node
	dir  string
	of   block.Generation
	x    *snapshot
}

// cloneMax is how many are made in a run.
const cloneMax = 5

// clone makes a clone of one replica. Once it is there it needs nobody: whatever becomes of
// the snapshot and the volume, and of the machine, it has what the snapshot has.
func (c *cluster) clone() {
	h := c.owner()
	n := c.nodes[c.rand.IntN(len(c.nodes))]
	if h == nil || c.bad.rot || c.bad.breaks || c.cloned == cloneMax {
		return
	}
	g := h.snapshotOf()
	x := c.model.snapshots[g]
	if x == nil || !n.up || n.replica == nil || n.failing || !slices.Contains(n.store.Manifest().Snapshots, g) {
		return
	}
	c.cloned++
	k := &clone{node: n, dir: n.dir() + "-clone-" + string(rune('a'+c.cloned)), of: g, x: x}
	life := n.life
	n.store.Clone(g, k.dir, store.Spec{Volume: block.VolumeID{2}, Replica: block.ReplicaID{255, byte(c.cloned)}, Size: int64(len(c.model.blocks)) * block.Size}, func(err error) {
		c.log("node %d cloned snapshot %d: %v", n.i, g, err)
		if err == nil && n.life == life {
			c.clonesMade = append(c.clonesMade, k)
		} else if n.life == life && !fault.Is(err, fault.NoSpace) && !fault.Is(err, fault.NotFound) && !fault.Is(err, fault.Media) {
			c.found("node %d: clone: %v", n.i, err)
		}
	})
}

// compareClones opens the clones and holds that they have what the snapshots had.
func (c *cluster) compareClones() {
	for _, k := range c.clonesMade {
		over := false
		store.Open(k.node.disk, k.dir, k.node.options(), func(r *store.Replica, err error) {
			if err != nil {
				c.found("node %d: the clone of snapshot %d can't be opened: %v", k.node.i, k.of, err)
				return
			}
			readAll(r, len(k.x.tags), 0, func(data []byte, err error) {
				if err == nil {
					err = k.x.check(data, c.deaths > 0)
				}
				if err != nil {
					c.found("node %d: the clone of snapshot %d: %v", k.node.i, k.of, err)
				}
				over = true
				r.Abandon()
			})
		})
		c.run(c.now+300*time.Second, func() bool { return over })
		if c.err == nil && !over {
			c.found("node %d: the clone of snapshot %d can't be read", k.node.i, k.of)
		}
		c.counts.Cloned++
	}
}

package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/host/simdisk"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/wire"
)

// badness says what goes wrong with disks in a run.
type badness struct {
	rot     bool // bits flip
	reads   bool // reads fail
	breaks  bool // writes and syncs fail
	full    bool // there is no space
	slow    bool // operations take very long
	version bool // processes of another version are started
}

// spoil does something to a disk, or to a process, of the kinds that the run has.
func (c *cluster) spoil() {
	n := c.nodes[c.rand.IntN(len(c.nodes))]
	var kinds []func(*node)
	for _, k := range []struct {
		has bool
		do  func(*node)
	}{{c.bad.rot, (*node).rot}, {c.bad.reads, (*node).failReads}, {c.bad.breaks, (*node).breakDisk}, {c.bad.full, (*node).fill},
		{c.bad.slow, (*node).slowDown}, {c.bad.version, (*node).otherVersion}} {
		if k.has {
			kinds = append(kinds, k.do)
		}
	}
	if n.up && n.replica != nil && len(kinds) > 0 {
		kinds[c.rand.IntN(len(kinds))](n)
	}
}

// failReads makes reads of data fail, a few times.
func (n *node) failReads() {
	times := 1 + n.c.rand.IntN(3)
	n.c.log("node %d: %d reads of data fail", n.i, times)
	n.disk.Inject(simdisk.Rule{Kind: host.OpRead, Path: n.dir() + "/chunks/*", Times: times, Effect: simdisk.Fail})
}

// breakDisk makes a write or a sync fail; sometimes the owner dies before anybody has
// noted that.
func (n *node) breakDisk() {
	c := n.c
	kind := host.OpWrite
	if c.chance(50) {
		kind, n.drops = host.OpSync, true
	}
	c.log("node %d: the next operation %d fails", n.i, kind)
	n.disk.Inject(simdisk.Rule{Kind: kind, Path: n.dir() + "/chunks/*", Effect: simdisk.Fail})
	n.fatal = c.chance(50)
}

// slowDown makes the disk slow for a while.
func (n *node) slowDown() {
	c := n.c
	long := c.between(c.lease, 8*c.lease)
	odds := simdisk.Odds{Stall: c.rand.Float64() / 2, StallMax: c.lease}
	if c.chance(50) { // all of it, for long enough to be left behind for it
		long += 4 * c.lease
		odds.Stall = 1
	}
	c.log("node %d has a slow disk for %v: %+v", n.i, long, odds)
	n.disk.SetOdds(odds)
	c.after(long, func() { n.disk.SetOdds(simdisk.Odds{}) })
}

// otherVersion restarts the process as another version, or as ours again.
func (n *node) otherVersion() {
	c := n.c
	n.kill(false)
	n.odd = c.chance(70)
	c.log("node %d will be of another version: %v", n.i, n.odd)
	c.after(c.between(time.Millisecond, c.lease), n.start)
}

// heal ends all that is wrong with a node.
func (n *node) heal() {
	n.disk.Heal()
	n.disk.SetCapacity(simdisk.CapacityDefault)
	n.full, n.odd = false, false
	n.unrot()
}

// fill makes the node's pool full for a while: either its reserve is reached, or the disk
// itself has no more space, because somebody else took the reserve.
func (n *node) fill() {
	c := n.c
	long := c.between(time.Millisecond, c.lease*4)
	hard := c.chance(30)
	c.log("node %d is full for %v, the disk itself %v", n.i, long, hard)
	n.full = true
	if hard {
		n.disk.SetCapacity(1)
	}
	c.after(long, func() {
		n.full = false
		n.disk.SetCapacity(simdisk.CapacityDefault)
	})
}

// Admit is store.Space.
func (n *node) Admit(int64) error {
	if n.full {
		return fault.Errorf("sim", fault.NoSpace, "node %d is full", n.i)
	}
	return nil
}

// rotten is a bit that flipped in a replica's data. The budget is that another replica that
// counts has a good copy: when there would be none, the bit flips back, as if nothing had
// been.
type rotten struct {
	path  string
	bit   int64
	block []byte // as it is with the flipped bit
}

// dataStart is where data begins in a chunk file (see package store).
const dataStart = 2 * block.RegionsPerChunk * 12 << 10

// rot flips a bit of the replica's data, if another one has the same data, and the store
// can tell.
func (n *node) rot() {
	c := n.c
	if !c.another(n) || len(n.rots) > 3 || !n.store.Settled() {
		return
	}
	var files []simdisk.Info
	for _, f := range n.disk.Files() {
		if strings.HasPrefix(f.Path, n.dir()+"/chunks/") && f.Size > dataStart {
			files = append(files, f)
		}
	}
	if len(files) == 0 {
		return
	}
	f := files[c.rand.IntN(len(files))]
	slot := int64(c.rand.IntN(min(len(c.model.blocks), 64)))
	if c.chance(60) { // of what was written first, which is what is read most
		slot %= 12
	}
	at := dataStart + slot*block.Size
	if c.chance(20) { // of a table
		at = int64(c.rand.IntN(6)) * block.Size
	}
	bit := at*8 + int64(c.rand.IntN(8*block.Size))
	here := func(x rotten) bool { return x.path == f.Path && x.bit/8/block.Size == at/block.Size }
	if slices.ContainsFunc(n.rots, here) || at+block.Size > f.Size || n.disk.FlipBit(f.Path, bit) != nil {
		return
	}
	x := rotten{path: f.Path, bit: bit}
	if x.block = n.blockAt(x); x.block == nil {
		c.found("node %d: what rotted can't be read", n.i)
	}
	c.log("node %d: bit %d of %s flips", n.i, bit, f.Path)
	n.rots = append(n.rots, x)
}

// blockAt returns the block that a rotten bit is in, nil if there is none any more.
func (n *node) blockAt(x rotten) []byte {
	b, err := n.disk.ReadFile(x.path)
	at := x.bit / 8 / block.Size * block.Size
	if err != nil || int64(len(b)) < at+block.Size {
		return nil
	}
	return b[at : at+block.Size]
}

// unrot flips back what is still rotten.
func (n *node) unrot() {
	for _, x := range n.rots {
		if string(n.blockAt(x)) != string(x.block) {
			n.c.repaired++
			continue // it was written again, or is no more
		}
		if err := n.disk.FlipBit(x.path, x.bit); err != nil {
			n.c.found("node %d: %v", n.i, err)
		}
	}
	n.rots = nil
}

// another reports whether a node other than n, with nothing rotten, has a replica that
// counts.
func (c *cluster) another(n *node) bool {
	for _, m := range c.nodes {
		if i := c.record.Find(m.holds); m != n && i >= 0 && c.record.Members[i].State == spec.InSync && len(m.rots) == 0 && !m.holds.IsZero() {
			return true
		}
	}
	return false
}

// keepBudget sees to it that of what is rotten there is a good copy.
func (c *cluster) keepBudget() {
	for _, n := range c.nodes {
		if len(n.rots) > 0 && !c.another(n) {
			n.unrot()
		}
	}
}

// lose notes that a node lost what was not flushed. When all that count did, nobody is
// owed it any more.
func (c *cluster) lose(n *node) {
	if c.healed {
		return
	}
	c.happened++
	c.lossy[n.i] = c.happened
	c.lostAll()
}

// lostAll looks whether all replicas that count lack what was not flushed.
func (c *cluster) lostAll() {
	if len(c.lossy) == 0 {
		return
	}
	for _, m := range c.nodes {
		if i := c.record.Find(m.holds); i >= 0 && c.record.Members[i].State == spec.InSync {
			if _, lost := c.lossy[m.i]; !lost {
				return
			}
		}
	}
	c.log("what was not flushed is lost")
	c.losses++
	c.model.powerLost()
}

// rejoined forgets what nodes lost whose replicas begin to count with the next record: they
// have all that the others have, unless they died again after they were filled.
func (c *cluster) rejoined(h *head, next spec.Record) {
	for _, n := range c.nodes {
		was, is := c.record.Find(n.holds), next.Find(n.holds)
		if was < 0 || is < 0 || c.record.Members[was].State == spec.InSync || next.Members[is].State != spec.InSync {
			continue
		}
		for _, k := range h.conns {
			if k != nil && k.node == n && k.open && n.up && k.life == n.life && !n.failing {
				delete(c.lossy, n.i)
			}
		}
	}
}

// flushedSince forgets what nodes lost before a flush that was complete began.
func (c *cluster) flushedSince(happened int) {
	for i, when := range c.lossy {
		if when <= happened {
			delete(c.lossy, i)
		}
	}
}

// understands reports whether two processes come to an agreement, by the real handshake.
func (n *node) understands(m *node) bool {
	ours, theirs := n.hello(), m.hello()
	_, err := wire.Agree(&ours, &theirs)
	return err == nil
}

// hello is what the node's process says of itself.
func (n *node) hello() wire.Hello {
	h := wire.Hello{Lowest: wire.Lowest, Highest: wire.Highest, Node: n.id, Incarnation: n.incarnation, Boot: n.boot, Name: fmt.Sprintf("node-%d", n.i)}
	if n.odd { // of a release to come, which does not speak ours any more
		h.Lowest, h.Highest = wire.Highest+1, wire.Highest+2
	}
	return h
}

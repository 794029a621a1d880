package sim

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/coordinator"
	"github.com/holdfast-io/holdfast/internal/host/simdisk"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/wire"
)

var errUnavailable = errors.New("the record can't be asked")

// cluster is everything in one run.
type cluster struct {
	*world
	name   string // in the trace; "" where there is one only
	nodes  []*node
	heads  []*head
	record spec.Record
	model  *model
	checks map[*coordinator.Request]check

	// Drawn by the seed.
	lease    time.Duration
	netMax   time.Duration
	diskMax  time.Duration
	depth    int
	requests int
	power    bool // machines lose power, not only processes
	faults   int  // per cent of chances that are taken
	// favourite is a kind of fault that most are of; -1 none. Some faults only show what
	// is wrong when they come again and again.
	favourite  int
	patience   time.Duration // before a silent replica is left behind
	cleanEvery time.Duration
	drift      bool    // clocks run at rates far apart, so that leases overlap
	bad        badness // what goes wrong with disks
	changes    bool    // snapshots come and go, and the volume grows, more often than by chance
	restores   bool    // the volume is given back what a snapshot has
	clones     bool    // clones are made of snapshots

	recordDown bool
	cutRecord  []bool
	cuts       map[[2]int]bool // node i can't be reached from node j
	healed     bool
	losses     int         // how often what was not flushed was lost everywhere
	happened   int         // counts what nodes lost
	lossy      map[int]int // nodes that lost what was not flushed, and counted; value: when
	deaths     int         // how often a process died
	submitted  int
	repaired   int // what had rotted and was written again
	counts     counts
	cloned     int // clones that were begun
	clonesMade []*clone
	onStep     func(step)                  // sees what happens between nodes; nil for nobody
	onTick     func(*head)                 // has a head look for what else there is to do; nil for nothing
	reserved   int                         // blocks at the volume's beginning that its own client leaves alone
	contents   map[block.Generation][]byte // of the snapshots, at the end
	nextInc    uint64
	replicas   byte // how many were made
	sessions   uint64
}

// step is something that arrives somewhere: a message of a head at a node or the other way
// round, or a proposal at the record or its answer at the head. Who watches may have
// somebody die of it, before it has an effect.
type step struct {
	head *head
	node *node // nil: it is the record
	msg  wire.Message
}

func (c *cluster) step(s step) {
	if c.onStep != nil {
		c.onStep(s)
	}
}

// Result is what a run did.
type Result struct {
	Hash     uint64 // of the trace: the same seed gives the same
	Requests int
	Epoch    block.Epoch
	Heads    int
	Time     time.Duration // simulated
	Stats    coordinator.Stats

	Groups, GroupsFailed int // snapshots of both volumes
	counts
}

// counts are what happened in a run beside what the heads count.
type counts struct{ Deaths, Losses, Snapshots, Deleted, Grown, Restored, Cloned int }

// Run runs the cluster of a seed, or two of them, and returns what it found. trace may be
// nil.
func Run(seed uint64, trace func(string)) (Result, error) {
	w := newWorld(seed, trace)
	var r Result
	if w.option("two volumes").IntN(pairEvery) == 0 {
		p := newPair(w)
		w.guarded(p.live)
		r = Result{Groups: p.taken, GroupsFailed: p.failed}
		for _, c := range p.volumes {
			r.add(c)
		}
	} else {
		c := w.cluster()
		c.build(c.draw())
		w.guarded(c.live)
		r.add(c)
	}
	r.Hash, r.Time = w.hash, w.now
	return r, w.err
}

// pairEvery is of how many seeds one has two volumes.
const pairEvery = 12

// add counts what a cluster did, and ends it.
func (r *Result) add(c *cluster) {
	r.Requests += c.submitted
	r.Epoch += c.record.Epoch
	r.Heads += len(c.heads)
	r.Deaths += c.deaths
	r.Losses += c.losses
	r.Snapshots += c.counts.Snapshots
	r.Deleted += c.counts.Deleted
	r.Grown += c.counts.Grown
	r.Restored += c.counts.Restored
	r.Cloned += c.counts.Cloned
	for _, h := range c.heads {
		s := h.coord.Stats()
		r.Stats.Ejected += s.Ejected
		r.Stats.Resynced += s.Resynced
		r.Stats.Repaired += s.Repaired
		r.Stats.Gated += s.Gated
		r.Stats.Copied += s.Copied
		r.Stats.Slow += s.Slow
	}
	c.end()
}

// end gives back what the stores have in memory.
func (c *cluster) end() {
	for _, n := range c.nodes {
		if n.store != nil {
			n.store.Abandon()
		}
	}
}

// guarded plays a run. A broken invariant is a find as any other.
func (w *world) guarded(live func()) {
	defer func() {
		if p := recover(); p != nil {
			w.found("panic: %v\n%s", p, debug.Stack())
		}
	}()
	live()
}

// live is the whole run.
func (c *cluster) live() {
	c.chaos()
	if c.changes || c.restores || c.clones {
		c.goOnChanging()
	}
	c.run(20*time.Second, func() bool { return c.submitted >= c.requests && len(c.checks) == 0 })
	if c.err == nil {
		c.converge()
	}
}

func (w *world) cluster() *cluster {
	return &cluster{world: w, lease: 300 * time.Millisecond, checks: make(map[*coordinator.Request]check), cuts: make(map[[2]int]bool), lossy: make(map[int]int)}
}

// log is world's, with the cluster's name.
func (c *cluster) log(format string, args ...any) { c.world.log(c.name+format, args...) }

// draw draws what a run is like.
func (c *cluster) draw() shape {
	of := func(name string, n int) int { return c.option(c.name + name).IntN(n) }
	percent := func(name string, n int) bool { return of(name, 100) < n }
	c.netMax = []time.Duration{200 * time.Microsecond, 2 * time.Millisecond, 20 * time.Millisecond}[of("net", 3)]
	c.diskMax = []time.Duration{100 * time.Microsecond, time.Millisecond, 5 * time.Millisecond}[of("disk", 3)]
	c.depth = 1 + of("depth", 12)
	c.requests = 100 + of("requests", 400)
	c.power = percent("power", 40)
	c.faults = of("faults", 100)
	c.patience = c.lease / time.Duration(1<<of("patience", 4))
	c.cleanEvery = []time.Duration{1, c.lease / 10, c.lease * 4}[of("clean", 3)]
	c.drift = percent("drift", 15)
	c.bad = badness{rot: percent("rot", 30), reads: percent("reads", 30), breaks: percent("breaks", 30), full: percent("full", 30),
		slow: percent("slow", 30), version: percent("version", 20)}
	c.changes, c.restores, c.clones = percent("changes", 40), percent("restores", 45), percent("clones", 55)
	switch c.favourite = -1; of("favourite", 7) {
	case 0:
		c.favourite = cutOwner
	case 1:
		c.favourite, c.power = blackout, true
		if percent("clean regions", 60) { // where the first write to one is slow, and there are many
			c.diskMax, c.cleanEvery = 5*time.Millisecond, 1
		}
	case 2:
		c.favourite, c.power = afterFlush, true
	case 3:
		c.favourite = afterServing
	case 4:
		c.favourite, c.diskMax = again, 5*time.Millisecond
	case 5:
		c.favourite = breakAll
	}
	if c.favourite >= 0 && percent("little else", 70) {
		c.drift, c.bad, c.changes, c.restores, c.clones = false, badness{}, false, false, false
	}
	s := shape{count: 1 + of("replicas", 3), spare: of("spare", 3)}
	s.blocks = []int{8, 64, block.PerRegion + 40, 6 * block.PerRegion}[of("blocks", 4)]
	switch { // where the favourite shows best
	case (c.favourite == again || c.favourite == breakAll) && percent("few blocks", 70):
		s.blocks = 8
	case (c.favourite == blackout || c.favourite == afterFlush) && percent("many blocks", 50), // regions that were not written before
		c.favourite == afterServing && percent("many blocks", 70):
		s.blocks = 16 * block.PerRegion
	}
	return s
}

// shape is what a cluster begins with.
type shape struct {
	count  int // replicas, each on a node of its own
	spare  int // nodes without one
	blocks int // of the volume
}

// build starts the nodes, and makes the replicas.
func (c *cluster) build(s shape) {
	made := 0
	c.model = newModel(s.blocks)
	c.cutRecord = make([]bool, s.count+s.spare)
	c.record = spec.Record{Version: 1, Volume: block.VolumeID{1}, Size: int64(s.blocks) * block.Size, Epoch: 1}
	for i := range s.count + s.spare {
		n := &node{c: c, i: i, id: block.NodeID{byte(i + 1)}, rate: 1 + (c.rand.Float64()-0.5)*0.04, boot: 1}
		if c.drift {
			n.rate = 0.6 + c.rand.Float64()*0.8
		}
		n.disk = simdisk.New(simdisk.Options{Seed: c.rand.Uint64(), Schedule: n.schedule})
		c.nodes = append(c.nodes, n)
		n.start()
		if i < s.count {
			c.replicas++
			id := block.ReplicaID{c.replicas}
			c.record.Members = append(c.record.Members, spec.Member{Replica: id, Node: n.id, State: spec.InSync})
			n.create(id, func() { made++ })
		}
	}
	c.run(time.Hour, func() bool { return made == s.count })
	c.log("%d nodes, %d blocks, depth %d, %d requests, net %v, disk %v, power %v, drift %v, disks %+v, changes %v, restores %v, clones %v, faults %d%%", s.count, s.blocks, c.depth, c.requests, c.netMax, c.diskMax, c.power, c.drift, c.bad, c.changes, c.restores, c.clones, c.faults)
}

func states(r spec.Record) string {
	var b strings.Builder
	for _, m := range r.Members {
		fmt.Fprintf(&b, "%v since %d, ", m.State, m.Since)
	}
	return b.String()
}

// cut reports whether what a node sends does not reach another one.
func (c *cluster) cut(from, to *node) bool { return from != to && c.cuts[[2]int{to.i, from.i}] }

// apart reports whether no connection can be made between two nodes: that takes both ways.
func (c *cluster) apart(a, b *node) bool { return c.cut(a, b) || c.cut(b, a) }

// chaos draws a fault now and then, and sees to it that somebody attaches the volume.
func (c *cluster) chaos() {
	if c.healed {
		return
	}
	pause := c.lease * 2
	if c.favourite == again || c.favourite == breakAll {
		pause = c.lease / 2
	}
	c.after(c.between(c.lease/20, pause), c.chaos)
	c.attachSomewhere()
	if !c.chance(c.faults) {
		return
	}
	n := c.nodes[c.rand.IntN(len(c.nodes))]
	if c.chance(30) {
		c.spoil()
		return
	}
	kind := c.rand.IntN(18)
	if c.favourite >= 0 && c.chance(70) {
		kind = c.favourite
	}
	switch kind {
	case 17:
		if n.up && n.replica != nil {
			n.leave(func() {
				n.kill(false)
				c.after(c.between(time.Millisecond, c.lease), n.start)
			})
		}
	case again, afterServing:
		if h := c.owner(); h != nil {
			c.attach(h.node) // as after the death of the data process alone
		}
	case 0, 1:
		if n.up {
			n.kill(c.power && c.chance(60))
			c.after(c.between(time.Millisecond, c.lease*4), func() {
				n.start()
			})
		}
	case 2:
		m := c.nodes[c.rand.IntN(len(c.nodes))]
		both := c.chance(50)
		long := c.between(time.Millisecond, c.lease*4)
		c.log("node %d does not hear node %d, nor the other way round %v, for %v", n.i, m.i, both, long)
		c.sever(n, m, long)
		if both {
			c.sever(m, n, long)
		}
	case breakAll:
		for _, h := range c.heads {
			for _, k := range h.conns {
				if k != nil && c.chance(30) {
					c.log("connection of %s to node %d breaks", h.name, k.node.i)
					k.cutOff()
				}
			}
		}
	case 4:
		c.recordDown = true
		c.after(c.between(time.Millisecond, c.lease*4), func() { c.recordDown = false })
	case 5:
		c.cutRecord[n.i] = true
		c.after(c.between(time.Millisecond, c.lease*4), func() { c.cutRecord[n.i] = false })
	case 6:
		if n.up && c.chance(50) {
			c.attach(n) // whether or not somebody else has it
		}
	case cutOwner, 8:
		c.isolateOwner()
	case 10:
		c.detach()
	case 11, 12:
		c.reconfigure()
	case 13, 14, 15, 16:
		c.change()
	case blackout:
		if c.power {
			c.blackout()
		}
	}
}

// Kinds of faults that may be favourites.
const (
	cutOwner     = 7  // the owner is cut off, and the volume attached elsewhere
	blackout     = 9  // a whole room without power
	breakAll     = 3  // connections break, with much on its way
	again        = 18 // the volume is attached again where it is
	afterServing = 19 // the owner dies just after it began to serve
	afterFlush   = 20 // the power fails just after a flush
)

func (c *cluster) blackout() {
	for _, n := range c.nodes {
		if n.up {
			n.kill(true)
		}
		c.after(c.between(time.Millisecond, c.lease), n.start)
	}
}

// strike draws faults that come right after something was promised.
func (c *cluster) strike(kind int) {
	if c.healed || c.favourite != kind || !c.chance(25) {
		return
	}
	n := c.nodes[c.rand.IntN(len(c.nodes))]
	c.after(c.between(time.Microsecond, 4*c.diskMax), func() {
		switch {
		case c.healed:
		case kind == afterFlush && c.chance(50):
			c.blackout()
		case kind == afterServing:
			if h := c.owner(); h != nil {
				h.node.kill(false)
				c.after(c.between(time.Millisecond, c.lease), h.node.start)
			}
		case n.up:
			n.kill(true)
			c.after(c.between(time.Millisecond, c.lease), n.start)
		}
	})
}

// isolateOwner cuts the node of a living head off, and has the volume attached on
// another one: the old head must stop by itself.
func (c *cluster) isolateOwner() {
	for _, h := range c.heads {
		if !h.alive() {
			continue
		}
		long := c.between(c.lease, c.lease*8)
		oneWay := c.chance(20)
		for _, n := range c.nodes {
			if n != h.node {
				c.sever(n, h.node, long)
				if !oneWay {
					c.sever(h.node, n, long)
				}
			}
		}
		i := h.node.i
		h.readsOnly = c.chance(70)
		c.cutRecord[i] = true
		c.after(long, func() { c.cutRecord[i] = false })
		for _, n := range c.nodes {
			if n != h.node && n.up {
				c.after(c.between(time.Millisecond, c.lease/2), func() {
					if n.up && !c.healed {
						c.patience = c.lease / 8
						c.attach(n)
						c.patience = 0
					}
				})
				break
			}
		}
		c.log("node %d, of %s, is cut off for %v", i, h.name, long)
		return
	}
}

// sever keeps what one node sends from another for some time.
func (c *cluster) sever(to, from *node, long time.Duration) {
	key := [2]int{to.i, from.i}
	c.cuts[key] = true
	c.after(long, func() { delete(c.cuts, key) })
}

// attachSomewhere attaches the volume when nobody has it.
func (c *cluster) attachSomewhere() {
	for _, h := range c.heads {
		if h.alive() && h.coord.Stopped() == nil {
			return
		}
	}
	for range c.nodes {
		if n := c.nodes[c.rand.IntN(len(c.nodes))]; n.up {
			c.attach(n)
			return
		}
	}
}

func (c *cluster) nodeDied(n *node) {
	c.deaths++
	for _, h := range c.heads {
		for _, k := range h.conns {
			if k != nil && (k.node == n || h.node == n) {
				k.cutOff()
			}
		}
	}
	c.forget()
}

// forget drops the requests of heads that are gone.
func (c *cluster) forget() {
	live := 0
	for _, h := range c.heads {
		if h.alive() {
			live += h.using
		}
	}
	if live == 0 {
		clear(c.checks)
	}
}

// converge ends all faults; then everything must become well again.
func (c *cluster) converge() {
	c.heal()
	c.becomeWell()
}

// heal ends all faults.
func (c *cluster) heal() {
	c.healed = true
	c.log("all faults end")
	c.recordDown = false
	clear(c.cuts)
	clear(c.cutRecord)
	for _, n := range c.nodes {
		n.heal()
		n.start()
	}
	for i, h := range c.heads { // nobody attaches the volume twice any more
		if i < len(c.heads)-1 && h.alive() {
			h.end()
		}
	}
	var settle func()
	settle = func() {
		for _, h := range c.heads { // the record went to a head that is gone: whoever is left lost it
			if h.alive() && h.coord.Serving(h.node.now()) && c.record.Incarnation != h.incarnation {
				h.end()
			}
		}
		c.attachSomewhere()
		for _, h := range c.heads {
			h.quiet = true
		}
		c.after(c.lease/4, settle)
	}
	settle()
}

// becomeWell waits until everything is well, and compares the replicas.
func (c *cluster) becomeWell() {
	end := c.now + 120*time.Second
	c.run(c.now+3*c.lease, func() bool { return false }) // what just happened is noticed
	c.run(end, c.well)
	if c.err != nil {
		return
	}
	if c.now >= end-c.lease {
		for _, h := range c.heads {
			if h.alive() {
				c.log("%s: %s", h.name, h.coord.Debug(h.node.now()))
				for _, x := range h.coord.Health(h.node.now()) {
					c.log("%s: %v: %s; %s", h.name, x.Kind, x.Cause, x.Cure)
				}
			}
		}
		c.found("not well again after %v: in sync %v", 120*time.Second, states(c.record))
		return
	}
	c.compare()
}

// well reports whether the volume is served, nobody waits, and all replicas count.
func (c *cluster) well() bool {
	for _, h := range c.heads {
		if h.owns() && h.using == 0 && c.record.InSync() == len(c.record.Members) {
			return true
		}
	}
	return false
}

// compare reads the volume through its owner, which opens every gate, then every
// replica: they must agree.
func (c *cluster) compare() {
	for _, h := range c.heads {
		if h.owns() {
			h.readAll(0)
			c.run(c.now+600*time.Second, func() bool { return h.read == len(c.model.blocks) })
			if c.err == nil && h.read < len(c.model.blocks) {
				c.found("at the end: block %d can't be read: %s", h.read, h.coord.Debug(h.node.now()))
			}
			break
		}
	}
	c.run(c.now+300*time.Second, c.well)
	c.compareGeneration(0, len(c.model.blocks))
	for _, g := range c.record.Snapshots {
		blocks := len(c.model.blocks)
		x := c.model.snapshots[g]
		if x != nil {
			blocks = len(x.tags)
		}
		data := c.compareGeneration(g, blocks)
		if c.contents != nil {
			c.contents[g] = data
		}
		if c.err == nil && x != nil {
			if err := x.check(data, c.deaths > 0); err != nil {
				c.found("snapshot %d: %v", g, err)
			}
		}
	}
	c.compareClones()
	for _, g := range slices.Sorted(maps.Keys(c.model.snapshots)) {
		if !slices.Contains(c.record.Snapshots, g) {
			c.found("snapshot %d was taken and is not in the record", g)
		}
	}
}

// compareGeneration reads a generation of every replica: they must agree.
func (c *cluster) compareGeneration(g block.Generation, blocks int) []byte {
	var contents [][]byte
	left := len(c.record.Members)
	for _, n := range c.nodes {
		if c.record.Find(n.holds) < 0 {
			continue
		}
		n.content(blocks, g, func(data []byte, err error) {
			if err != nil {
				c.found("%v", err)
			}
			contents = append(contents, data)
			left--
		})
	}
	c.run(c.now+300*time.Second, func() bool { return left == 0 })
	switch {
	case c.err != nil:
		return nil
	case left > 0:
		c.found("the replicas can't be read")
		return nil
	}
	for i := 1; i < len(contents); i++ {
		for b := range blocks {
			x, y := contents[0][b*block.Size:(b+1)*block.Size], contents[i][b*block.Size:(b+1)*block.Size]
			if !bytes.Equal(x, y) {
				tx, _ := tagOf(x)
				ty, _ := tagOf(y)
				c.found("at the end replicas differ: block %d of generation %d is %d in one, %d in another", b, g, tx, ty)
				return nil
			}
		}
	}
	return contents[0]
}

package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/coordinator"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/replica"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/wire"
)

// head is a coordinator on a node, with a client that uses it.
type head struct {
	c           *cluster
	name        string
	node        *node
	life        int
	coord       *coordinator.Coordinator
	conns       []*conn
	busy        []bool
	using       int // requests of the client that are not complete
	quiet       bool
	stop        bool
	orders      map[*coordinator.Change]func(error)
	left        int     // detaching: how often power was lost before; -1 when not
	read        int     // blocks read at the end
	owed        []*debt // writes without an answer
	served      bool
	readsOnly   bool // its client has no more to write
	wrote       int  // writes completed
	incarnation uint64
	slow        int                               // how often it found a replica too slow
	slowNow     []block.ReplicaID                 // those that it said were slow, at the last tick
	parole      map[block.ReplicaID]time.Duration // until when those are left alone that were too slow
}

// attach starts a coordinator on node n, from the record as it is now.
func (c *cluster) attach(n *node) *head {
	h := &head{c: c, name: fmt.Sprintf("head %d", len(c.heads)), node: n, life: n.life, left: -1, parole: make(map[block.ReplicaID]time.Duration), orders: make(map[*coordinator.Change]func(error)), busy: make([]bool, len(c.model.blocks))}
	c.nextInc++
	h.incarnation = c.nextInc
	h.coord = coordinator.New(c.record, coordinator.Options{Node: n.id, Incarnation: c.nextInc, Lease: c.lease, ReplicaTimeout: c.patience, CleanEvery: c.cleanEvery, SlowAfter: c.lease / slowAfter, SlowFor: c.lease / slowFor})
	c.heads = append(c.heads, h)
	c.log("%s attaches on node %d", h.name, n.i)
	h.tick()
	return h
}

func (h *head) alive() bool { return !h.stop && h.node.up && h.node.life == h.life }

// owns reports whether the head serves, and the record knows of nobody newer.
func (h *head) owns() bool {
	return h.alive() && h.coord.Serving(h.node.now()) && h.c.record.Incarnation == h.incarnation
}

// tick drives the coordinator's time and the client.
func (h *head) tick() {
	if !h.alive() {
		return
	}
	h.step(coordinator.Tick{})
	if h.coord.Stopped() != nil {
		h.c.log("%s stops: %v", h.name, h.coord.Stopped())
		h.stopped()
		h.end()
		return
	}
	if h.c.bad.slow {
		h.slowNow = nil
		for _, x := range h.coord.Health(h.node.now()) {
			if x.Kind == coordinator.Slow {
				h.slowNow = append(h.slowNow, x.Replica)
			}
		}
	}
	h.use()
	if h.c.onTick != nil {
		h.c.onTick(h)
	}
	h.c.after(h.c.between(h.c.lease/100, h.c.lease/20), h.tick)
}

// end takes the head away.
func (h *head) end() {
	h.stop = true
	for _, k := range h.conns {
		if k != nil {
			k.cutOff()
		}
	}
}

// readAll reads the whole volume, some blocks after the others.
func (h *head) readAll(b int) {
	c := h.c
	if h.read = b; b == len(c.model.blocks) {
		return
	}
	count := min(64, len(c.model.blocks)-b)
	q := &coordinator.Request{Op: coordinator.Read, Extent: extentOf(b, count), Data: host.Buffer(count * block.Size), Sums: make([]block.Sum, count)}
	from := c.model.ackedNow(b, count)
	h.using++
	h.submit(q, func(q *coordinator.Request) {
		if q.Err != nil {
			c.found("at the end: %v", q.Err)
			return
		}
		for i := range count {
			tag, err := tagOf(q.Data[i*block.Size : (i+1)*block.Size])
			switch {
			case err == nil:
				if err := c.model.seen(b+i, from[i], tag); err != nil {
					c.found("at the end: %v", err)
				}
			case c.deaths == 0:
				c.found("at the end: block %d: %v", b+i, err)
			}
		}
		c.after(time.Microsecond, func() { h.readAll(b + count) })
	})
}

func (h *head) step(ev coordinator.Event) {
	if h.alive() {
		fx := h.coord.Step(h.node.now(), ev)
		h.watchSlow()
		if !h.served && h.coord.Serving(h.node.now()) {
			h.serves()
		}
		h.perform(fx)
	}
}

// slowAfter and slowFor are when a replica is too slow, in parts of a lease.
const slowAfter, slowFor = 4, 2

// watchSlow holds what is promised of a replica that is too slow: it is never the last one,
// and who asks after the volume's health was told. It is left alone for a while: see propose.
func (h *head) watchSlow() {
	count := int(h.coord.Stats().Slow)
	if count == h.slow {
		return
	}
	h.slow = count
	h.c.log("%s finds a replica too slow", h.name)
	if h.coord.Record().InSync() < 2 {
		h.c.found("%s finds the last replica too slow", h.name)
	}
	if len(h.slowNow) == 0 && h.c.bad.slow {
		h.c.found("%s finds a replica too slow, and has said of none that it is slow", h.name)
	}
	if len(h.slowNow) == 1 {
		h.parole[h.slowNow[0]] = h.node.now() + 4*h.c.lease/slowFor
	}
}

func (h *head) perform(fx coordinator.Effects) {
	complete, changed := slices.Clone(fx.Complete), slices.Clone(fx.Changed) // the next step may come from inside
	for _, m := range fx.Unlink {
		h.drop(m)
	}
	for _, s := range fx.Send {
		if k := h.conn(s.Member); k != nil {
			k.ask(s.ID, s.Msg)
		}
	}
	for _, m := range fx.Link {
		h.link(m)
	}
	if fx.Alarm != 0 {
		h.c.after(max(0, time.Duration(float64(fx.Alarm-h.node.now())/h.node.rate)), func() { h.step(coordinator.Tick{}) })
	}
	if fx.Propose != nil {
		h.c.propose(h, fx.Propose.Clone())
	}
	for _, q := range complete {
		h.completed(q)
	}
	for _, ch := range changed {
		h.changed(ch)
	}
}

// conn returns the connection to member m, or nil.
func (h *head) conn(m int) *conn {
	for len(h.conns) <= m {
		h.conns = append(h.conns, nil)
	}
	return h.conns[m]
}

// drop ends the connection to a member, which the coordinator does not want any more.
func (h *head) drop(m int) {
	k := h.conn(m)
	if k == nil || !k.open {
		return // its end is about to be told
	}
	k.cutOff()
}

// link makes a connection to a member: it is refused when the process is not there, and
// takes for ever when the network is cut.
func (h *head) link(m int) {
	if old := h.conn(m); old != nil {
		h.c.found("%s links member %d, which is linked", h.name, m)
		return
	}
	who := h.coord.Member(m).Node
	var n *node
	for _, x := range h.c.nodes {
		if x.id == who {
			n = x
		}
	}
	var try func()
	began := h.c.now
	try = func() {
		if !h.alive() {
			return
		}
		switch {
		case h.c.apart(h.node, n) && h.c.now-began < h.c.lease:
			h.c.after(50*time.Millisecond, try)
		case h.c.apart(h.node, n) || !h.node.understands(n) || !n.up || n.replica == nil || n.holds != h.coord.Member(m).Replica:
			h.step(coordinator.Unlinked{Member: m})
		default:
			h.c.sessions++
			k := &conn{c: h.c, head: h, member: m, node: n, life: n.life, session: replica.Session(h.c.sessions), open: true, served: true}
			n.sessions[k.session] = k
			h.conns[m] = k
			h.step(coordinator.Linked{Member: m, Version: wire.Highest})
		}
	}
	h.c.after(h.c.between(20*time.Microsecond, h.c.netMax), try)
}

func (h *head) unlinked(k *conn) {
	if h.conns[k.member] == k {
		h.conns[k.member] = nil
		h.step(coordinator.Unlinked{Member: k.member})
	}
}

func (h *head) received(k *conn, id uint64, msg wire.Message) {
	if h.conns[k.member] == k {
		h.step(coordinator.Received{Member: k.member, ID: id, Msg: msg})
	}
}

// use submits requests for the client, a few at a time.
func (h *head) use() {
	c := h.c
	for n := c.rand.IntN(4); n > 0 && !h.quiet && h.using < c.depth && h.coord.Room() > 0 && c.submitted < c.requests; n-- {
		c.submitted++
		blocks := len(c.model.blocks) - c.reserved
		b := c.reserved + c.rand.IntN(blocks)
		if c.chance(50) {
			b = c.reserved + c.rand.IntN(min(16, blocks))
		} else if c.chance(50) {
			b = max(b/block.PerRegion*block.PerRegion, c.reserved) // where others come too
		}
		count := 1 + c.rand.IntN(min(4, len(c.model.blocks)-b))
		h.using++
		switch k := c.rand.IntN(10); {
		case h.readsOnly:
			h.get(b, count)
		case k < 4:
			h.write(b, count, nil)
		case k < 5:
			h.zero(b, count)
		case k < 9:
			h.get(b, count)
		default:
			h.flush()
		}
	}
}

// check is what is done when a request of the client completes.
type check func(q *coordinator.Request)

func (h *head) completed(q *coordinator.Request) {
	h.using--
	done := h.c.checks[q]
	delete(h.c.checks, q)
	done(q)
}

func (h *head) submit(q *coordinator.Request, done check) {
	h.c.checks[q] = done
	h.step(coordinator.Submit{Request: q})
}

func extentOf(b, count int) block.Extent {
	return block.Extent{Start: block.Index(b), Count: uint64(count)}
}

// write writes a new tag, which it returns, and calls done, if it is not nil, with what
// became of it, unless the head dies.
func (h *head) write(b, count int, done func(error)) (tag uint64) {
	h.c.model.tag++
	tag = h.c.model.tag
	data, sums := pattern(count, tag)
	at := h.c.model.begin(b, count, tag)
	h.c.log("%s writes %d to %d+%d", h.name, tag, b, count)
	h.change(&coordinator.Request{Op: coordinator.Write, Extent: extentOf(b, count), Data: data, Sums: sums}, &debt{tag: tag, b: b, at: at, done: done})
	return tag
}

// zero is a write of a tag of its own kind: zeros can't name their write, so zeroings of
// one block are alike.
func (h *head) zero(b, count int) {
	at := h.c.model.begin(b, count, 0)
	h.change(&coordinator.Request{Op: coordinator.Zero, Extent: extentOf(b, count)}, &debt{b: b, at: at})
}

// debt is a write that nobody has had an answer for.
type debt struct {
	tag uint64
	b   int
	at  []int // its position in the history of each block
	old bool  // a younger head serves: what it did is done

	done func(error)
}

// change submits a write or a zeroing, and tells the model what became of it.
func (h *head) change(q *coordinator.Request, d *debt) {
	q.FUA = h.c.chance(10)
	h.changeAll(q, []*debt{d}, d.done)
}

// changeAll is change for a request that is several writes to the model.
func (h *head) changeAll(q *coordinator.Request, list []*debt, done func(error)) {
	h.owed = append(h.owed, list...)
	losses := h.c.losses
	h.submit(q, func(q *coordinator.Request) {
		h.c.log("%s wrote %d to %v: %v", h.name, list[0].tag, q.Extent, q.Err)
		if done != nil {
			defer func() { done(q.Err) }()
		}
		if q.Err != nil && h.coord.Stopped() != nil {
			return // it may have taken effect, or do so until somebody else serves
		}
		h.owed = slices.DeleteFunc(h.owed, func(o *debt) bool { return slices.Contains(list, o) })
		if q.Err != nil {
			return
		}
		h.wrote++
		h.everybodyHas(list)
		if h.c.losses != losses {
			return // done before it was lost, perhaps, and only heard of now
		}
		for _, d := range list {
			h.c.model.ack(d.b, d.at)
			if q.FUA {
				h.c.model.durable(d.b, d.at)
			}
		}
	})
}

// everybodyHas holds that what is complete has reached every replica that counts: one that
// fails, or is slow, is left behind in the record first. What the owner before hears of late
// may have been filled in to those that count with the next.
func (h *head) everybodyHas(list []*debt) {
	if h.c.record.Incarnation != h.incarnation {
		return
	}
	for _, n := range h.c.nodes {
		if i := h.c.record.Find(n.holds); i < 0 || h.c.record.Members[i].State != spec.InSync {
			continue
		}
		for _, d := range list {
			if d.tag != 0 && !n.has[d.tag] {
				h.c.found("%s completed write %d, which the replica of node %d lacks, that counts", h.name, d.tag, n.i)
			}
		}
	}
}

// serves notes that the head serves for the first time. What others have under way has
// taken effect by now or never will, and its own takes effect after what they did.
func (h *head) serves() {
	h.served = true
	h.c.log("%s serves", h.name)
	for _, o := range h.c.heads {
		if o != h && o.served {
			o.settle(true)
		}
	}
	h.settle(false)
	if h.c.favourite == afterServing && h.c.chance(50) {
		h.using++
		h.c.after(1, h.flush)
	}
	h.c.strike(afterServing)
}

// settle puts what the head has under way behind all that others did.
func (h *head) settle(old bool) {
	for _, d := range h.owed {
		if !d.old {
			d.at, d.old = h.c.model.begin(d.b, len(d.at), d.tag), old
		}
	}
	if !h.alive() || h.coord.Stopped() != nil {
		h.owed = nil
	}
}

func (h *head) get(b, count int) {
	from := h.c.model.ackedNow(b, count)
	losses := h.c.losses
	q := &coordinator.Request{Op: coordinator.Read, Extent: extentOf(b, count), Data: host.Buffer(count * block.Size), Sums: make([]block.Sum, count)}
	h.submit(q, func(q *coordinator.Request) {
		if q.Err != nil || h.c.drift && h.c.record.Incarnation != h.incarnation {
			return // with clocks that far apart, an owner of before may read for longer than it should
		}
		for i := range count {
			p := q.Data[i*block.Size : (i+1)*block.Size]
			if block.Checksum(p) != q.Sums[i] {
				h.c.found("block %d: its checksum is not that of its data", b+i)
			}
			tag, err := tagOf(p)
			if err != nil {
				if h.c.deaths == 0 {
					h.c.found("block %d: %v", b+i, err)
				}
				continue // torn when a process or a machine died, and not complete or flushed
			}
			if h.c.losses == losses {
				err = h.c.model.seen(b+i, from[i], tag)
			}
			if h.c.losses != losses {
				err = h.c.model.glimpsed(b+i, tag)
			}
			if err != nil {
				h.c.found("%s: %v", h.name, err)
			}
		}
	})
}

func (h *head) flush() {
	c := h.c
	at := c.model.ackedNow(0, len(c.model.blocks))
	losses, happened := c.losses, c.happened
	h.submit(&coordinator.Request{Op: coordinator.Flush}, func(q *coordinator.Request) {
		c.log("%s flushed: %v", h.name, q.Err)
		if q.Err == nil && c.losses == losses {
			c.model.flushed(at)
		}
		if q.Err == nil {
			c.flushedSince(happened)
		}
		c.strike(afterFlush)
	})
}

// propose carries a proposal to the record and its answer back.
func (c *cluster) propose(h *head, next spec.Record) {
	c.after(c.between(100*time.Microsecond, 20*time.Millisecond), func() {
		if c.recordDown || c.cutRecord[h.node.i] {
			c.after(c.lease/4, func() {
				h.step(coordinator.Recorded{Err: errUnavailable})
			})
			return
		}
		if c.step(step{head: h}); !h.alive() && c.onStep != nil {
			return // it died before it was sent
		}
		ok := next.Version == c.record.Version+1
		for _, m := range next.Members {
			if i := c.record.Find(m.Replica); ok && i >= 0 && m.State == spec.InSync && c.record.Members[i].State != spec.InSync && h.node.now() < h.parole[m.Replica] {
				c.found("%s lets a replica count again that was too slow just now", h.name)
			}
		}
		if ok {
			c.rejoined(h, next)
			c.record = next.Clone()
			c.keepBudget()
			c.lostAll()
			c.log("record: version %d epoch %d owner %v in sync %v", next.Version, next.Epoch, h.name, states(next))
		}
		now := c.record.Clone()
		lostAnswer := !c.healed && c.chance(5)
		c.after(c.between(100*time.Microsecond, 20*time.Millisecond), func() {
			if lostAnswer {
				h.step(coordinator.Recorded{Err: errUnavailable})
				return
			}
			c.step(step{head: h})
			h.step(coordinator.Recorded{OK: ok, Record: now})
		})
	})
}

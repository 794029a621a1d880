package sim

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/host/simdisk"
	"github.com/holdfast-io/holdfast/internal/lineage"
	"github.com/holdfast-io/holdfast/internal/replica"
	"github.com/holdfast-io/holdfast/internal/store"
	"github.com/holdfast-io/holdfast/internal/wire"
)

// node is a machine with one disk and at most one replica on it.
type node struct {
	c    *cluster
	i    int
	id   block.NodeID
	disk *simdisk.Disk
	rate float64 // how fast its clock runs

	holds       block.ReplicaID // zero: no replica
	made        bool            // its creation is complete
	was         bool            // it was in the record
	up          bool
	life        int // counts processes: what an earlier one left in the air is dropped
	boot        uint64
	incarnation uint64
	store       *store.Replica
	replica     *replica.Replica
	sessions    map[replica.Session]*conn
	flying      []*store.Request // changes in the store
	asked       int              // operations of the store that have not ended
	has         map[uint64]bool  // writes that the replica has been given, whoever gave them
	failing     bool             // the store failed, and is to be opened anew
	times       uint64           // it was

	full bool // see fill
	odd  bool // the process is of another version
	// fatal: when the store fails the owner dies.
	fatal bool
	// drops: a sync of its disk failed or will. What it should have made durable is gone from
	// then on, and a read may find that before the store has heard of the failure.
	drops bool
	rots  []rotten
}

func (n *node) now() time.Duration { return time.Duration(float64(n.c.now) * n.rate) }

func (n *node) options() store.Options {
	return store.Options{Boot: n.boot, Space: n, TablesMax: 16, FilesMax: 8, JournalBlocks: 64}
}

func (n *node) schedule(delay time.Duration, fire func()) {
	n.c.after(delay+n.c.between(20*time.Microsecond, n.c.diskMax), fire)
}

// dir is where the replica lies.
func (n *node) dir() string { return fmt.Sprintf("replica-%d", n.holds[0]) }

// create makes an empty replica, and calls done when the node serves it.
func (n *node) create(id block.ReplicaID, done func()) {
	n.holds, n.made, n.has = id, false, make(map[uint64]bool)
	life := n.life
	store.Create(n.disk, n.dir(), store.Spec{Volume: n.c.record.Volume, Replica: id, Size: n.c.record.Size}, n.options(),
		func(err error) {
			if !n.up || n.life != life {
				return
			}
			if fault.Is(err, fault.NoSpace) || fault.Is(err, fault.Media) {
				n.holds = block.ReplicaID{} // nobody was told of it
				return
			}
			if err != nil {
				n.c.found("node %d: create: %v", n.i, err)
				return
			}
			n.c.log("node %d has made replica %d", n.i, id[0])
			n.made = true
			n.open()
			done()
		})
}

// start begins a process: it opens the replica, and serves it when that is done.
func (n *node) start() {
	if n.up {
		return
	}
	n.up = true
	n.c.nextInc++
	n.incarnation = n.c.nextInc
	n.sessions = make(map[replica.Session]*conn)
	n.c.log("node %d starts, incarnation %d, boot %d", n.i, n.incarnation, n.boot)
	if n.holds != (block.ReplicaID{}) {
		n.open()
	}
}

func (n *node) open() {
	life, holds := n.life, n.holds
	store.Open(n.disk, n.dir(), n.options(), func(r *store.Replica, err error) {
		if !n.up || n.life != life || n.holds != holds {
			return
		}
		if fault.Is(err, fault.Media) || fault.Is(err, fault.NoSpace) { // again, later
			n.c.log("node %d can't open its replica: %v", n.i, err)
			n.c.after(n.c.lease/2, func() {
				if n.up && n.life == life && n.holds == holds {
					n.open()
				}
			})
			return
		}
		if err != nil {
			n.c.found("node %d: open: %v", n.i, err)
			return
		}
		n.store, n.failing, n.flying, n.asked = r, false, nil, 0
		n.replica = replica.New(n.self())
		n.replica.Quarantine(n.now() + n.c.lease)
		n.c.log("node %d serves, promised %d, %v", n.i, n.self().Promised, n.self().Doubt)
	})
}

// self is what the replica is now.
func (n *node) self() replica.Self {
	m := n.store.Manifest()
	return replica.Self{Size: m.Size, Generation: m.Generation, Snapshots: m.Snapshots,
		Promised: m.Promised, Incarnation: n.incarnation + n.times<<32, Boot: n.boot, Doubt: replica.Doubt(n.store.Lost(), n.store.Forgot())}
}

// failed notices that the store failed: it serves nothing, and is opened anew later.
func (n *node) failed() {
	n.c.log("node %d: %v", n.i, n.store.Err())
	n.failing = true
	n.c.deaths++ // as after a death blocks may be torn
	n.c.lose(n)
	n.unrot()
	if h := n.c.owner(); h != nil && n.fatal && h.node != n && !n.c.healed {
		n.fatal = false
		h.node.kill(false)
		n.c.after(n.c.between(time.Millisecond, n.c.lease), h.node.start)
	}
	life, was := n.life, n.replica
	n.perform(was.Step(n.now(), replica.Failed{Err: n.store.Err()}))
	n.c.after(n.c.between(time.Millisecond, n.c.lease*2), func() { n.reopen(life, was) })
}

func (n *node) reopen(life int, was *replica.Replica) {
	if !n.up || n.life != life || n.replica != was {
		return
	}
	if n.asked > 0 { // they end soon, in vain
		n.c.after(time.Millisecond, func() { n.reopen(life, was) })
		return
	}
	n.store.Close(func(error) {
		if n.up && n.life == life && n.replica == was {
			n.times++
			n.open()
		}
	})
}

// deleteAll deletes snapshots one after the other.
func (n *node) deleteAll(list []block.Generation, done func(error)) {
	if len(list) == 0 {
		done(nil)
		return
	}
	n.store.DeleteSnapshot(list[0], func(err error) {
		if err != nil {
			done(err)
			return
		}
		n.deleteAll(list[1:], done)
	})
}

// giveUp forgets the replica, which is in the record no more.
func (n *node) giveUp() {
	n.c.log("node %d gives replica %d up", n.i, n.holds[0])
	n.unrot()
	if n.store != nil {
		n.store.Abandon()
	}
	n.store, n.replica, n.holds, n.flying = nil, nil, block.ReplicaID{}, nil
	for s, k := range n.sessions {
		delete(n.sessions, s)
		k.cutOff()
	}
}

// leave ends the process on purpose: once nobody relies on the replica any more, or after
// a while.
func (n *node) leave(end func()) {
	n.c.log("node %d is about to leave", n.i)
	life := n.life
	n.perform(n.replica.Step(n.now(), replica.Leave{Why: "restart"}))
	until := n.c.now + n.c.lease
	var look func()
	look = func() {
		switch {
		case !n.up || n.life != life || n.replica == nil:
		case n.replica.Relied() && n.c.now < until:
			n.c.after(time.Millisecond, look)
		default:
			end()
		}
	}
	look()
}

// kill ends the process, and with power the machine's memory.
func (n *node) kill(power bool) {
	n.c.log("node %d dies, power %v", n.i, power)
	n.up, n.failing, n.odd = false, false, false
	n.life++
	n.unrot()
	// Until a loss is accepted, the process that comes next forgets what was not flushed.
	forgets := power || n.store != nil && n.store.Lost() != nil
	if n.store != nil {
		n.store.Abandon()
	}
	n.store, n.replica, n.flying = nil, nil, nil
	if !n.made { // nobody was told of the replica
		n.holds = block.ReplicaID{}
	}
	if forgets {
		n.c.lose(n)
	}
	if power {
		n.disk = n.disk.Crash(simdisk.KeepSome)
		n.boot++
	} else {
		n.disk = n.disk.Kill()
	}
	n.c.nodeDied(n)
}

// receive hands a message of a session to the replica.
func (n *node) receive(s replica.Session, id uint64, msg wire.Message) {
	if n.replica == nil {
		return
	}
	n.perform(n.replica.Step(n.now(), replica.Received{Session: s, ID: id, Msg: msg}))
}

func (n *node) closed(s replica.Session) {
	delete(n.sessions, s)
	if n.replica != nil {
		n.perform(n.replica.Step(n.now(), replica.Closed{Session: s}))
	}
}

// perform does what the replica wants done.
func (n *node) perform(fx replica.Effects) {
	if n.store.Err() != nil && !n.failing {
		n.c.after(0, func() {
			if n.store != nil && n.store.Err() != nil && !n.failing {
				n.failed()
			}
		})
	}
	fx.Store, fx.Send = slices.Clone(fx.Store), slices.Clone(fx.Send) // the next step may come from inside
	for _, op := range fx.Store {
		n.storeOp(op)
	}
	if fx.Promise != 0 {
		life, was := n.life, n.replica
		n.asked++
		n.store.Promise(fx.Promise, func(err error) {
			if n.up && n.life == life && n.replica == was {
				n.asked--
				n.perform(n.replica.Step(n.now(), replica.PromiseStored{Err: err}))
			}
		})
	}
	for _, s := range fx.Send {
		if c := n.sessions[s.Session]; c != nil {
			c.reply(s.ID, s.Msg)
		}
	}
}

// storeOp performs a request on the store and tells the replica.
func (n *node) storeOp(op replica.Store) {
	life, was := n.life, n.replica
	n.asked++
	done := func(answer wire.Message, err error) {
		if !n.up || n.life != life || n.replica != was {
			return
		}
		n.asked--
		if fault.Is(err, fault.Corrupt) && !n.c.bad.rot && !n.drops {
			n.c.found("node %d: %v", n.i, err)
			return
		}
		if err == nil {
			n.given(op.Msg)
		}
		self := n.self()
		n.perform(n.replica.Step(n.now(), replica.Stored{Session: op.Session, ID: op.ID, Answer: answer, Err: err, Changed: &self}))
	}
	incarnation := n.self().Incarnation
	ok := &wire.Done{Incarnation: incarnation}
	submit := func(q *store.Request, answer func() wire.Message) {
		n.alone(q)
		q.Done = func(q *store.Request) {
			n.flying = slices.DeleteFunc(n.flying, func(o *store.Request) bool { return o == q })
			if q.Err != nil {
				done(nil, q.Err)
				return
			}
			done(answer(), nil)
		}
		n.store.Submit(q)
	}
	plain := func() wire.Message { return ok }
	change := func(q *store.Request, durable bool) {
		if !durable {
			submit(q, plain)
			return
		}
		n.alone(q)
		q.Done = func(q *store.Request) {
			n.flying = slices.DeleteFunc(n.flying, func(o *store.Request) bool { return o == q })
			if q.Err != nil {
				done(nil, q.Err)
			} else if n.up && n.life == life && n.replica == was {
				submit(&store.Request{Verb: store.Flush}, plain)
			}
		}
		n.store.Submit(q)
	}
	each := func(b wire.Blocks, answer wire.Message, request func(e block.Extent, at int) *store.Request) {
		var list []*store.Request
		var failed error
		at, left := 0, 0
		for e := b.Next(0); !e.Empty(); e = b.Next(e.End()) {
			q := request(e, at)
			q.Done = func(q *store.Request) {
				n.flying = slices.DeleteFunc(n.flying, func(o *store.Request) bool { return o == q })
				if q.Err != nil && failed == nil {
					failed = q.Err
				}
				if left--; left == 0 {
					done(answer, failed)
				}
			}
			list, at = append(list, q), at+int(e.Count)
		}
		left = len(list)
		for _, q := range list {
			n.alone(q)
			n.store.Submit(q)
		}
	}
	simple := func(err error) { done(ok, err) }
	switch m := op.Msg.(type) {
	case *wire.Write:
		change(&store.Request{Verb: store.Write, Extent: m.Extent, Data: m.Data, Sums: m.Sums}, m.FUA)
	case *wire.Zero:
		change(&store.Request{Verb: store.Zero, Extent: m.Extent}, m.FUA)
	case *wire.Fill:
		q := &store.Request{Verb: store.Zero, Extent: m.Extent}
		if !m.Hole {
			q.Verb, q.Data, q.Sums = store.Write, m.Data, m.Sums
		}
		n.fillWith(q, done, plain)
	case *wire.Read:
		q := &store.Request{Verb: store.Read, Extent: m.Extent, Generation: m.Generation,
			Data: host.Buffer(int(m.Extent.Bytes())), Sums: make([]block.Sum, m.Extent.Count)}
		submit(q, func() wire.Message { return &wire.ReadDone{Data: q.Data, Sums: q.Sums} })
	case *wire.WriteBlocks:
		each(m.Blocks, ok, func(e block.Extent, at int) *store.Request {
			return &store.Request{Verb: store.Write, Extent: e, Data: m.Data[at*block.Size:][:e.Bytes()], Sums: m.Sums[at:][:e.Count]}
		})
	case *wire.ReadBlocks:
		sums, data := make([]block.Sum, m.Blocks.Count()), host.Buffer(m.Blocks.Count()*block.Size)
		each(m.Blocks, &wire.ReadDone{Data: data, Sums: sums}, func(e block.Extent, at int) *store.Request {
			return &store.Request{Verb: store.Read, Extent: e, Generation: m.Generation,
				Data: data[at*block.Size:][:e.Bytes()], Sums: sums[at:][:e.Count]}
		})
	case *wire.Verify:
		q := &store.Request{Verb: store.Verify, Extent: m.Extent, Generation: m.Generation, Sums: make([]block.Sum, m.Extent.Count)}
		submit(q, func() wire.Message { return &wire.Verified{Sums: q.Sums} })
	case *wire.Flush:
		mark := n.store.Mark()
		answer := &wire.Flushed{Incarnation: incarnation, Mark: mark}
		if m.Whole {
			n.store.Accept(func(err error) { done(answer, err) })
			return
		}
		submit(&store.Request{Verb: store.Flush}, func() wire.Message { return answer })
	case *wire.Clean:
		n.store.Clean(m.Mark)
		done(ok, nil)
	case *wire.Regions:
		list := n.store.Regions(m.From, int(m.Limit))
		answer := &wire.RegionList{Last: len(list) < int(m.Limit)}
		for _, r := range list {
			answer.List = append(answer.List, wire.RegionState{Region: r.Region, Epoch: r.Epoch, Dirty: r.Dirty})
			answer.Next = r.Region + 1
		}
		n.c.log("node %d lists regions %v", n.i, answer.List)
		done(answer, nil)
	case *wire.Snapshot:
		n.store.Snapshot(m.Generation, simple)
	case *wire.Seal:
		replica.Seal(n.store, m, simple)
	case *wire.Grow:
		n.store.Grow(m.Size, simple)
	case *wire.Generations:
		n.deleteAll(lineage.Surplus(lineage.Line{Snapshots: m.List}, lineage.Line{Snapshots: n.store.Manifest().Snapshots}), simple)
	case *wire.Changed:
		n.store.Changed(m.Since, m.Generation, m.From, int(m.Limit), func(list []block.Extent, next block.Region, err error) {
			if err != nil {
				done(nil, err)
				return
			}
			done(replica.Changes(list, next, block.Region(block.Regions(n.store.Manifest().Size))), nil)
		})
	default:
		n.c.found("node %d: no store operation for %T", n.i, op.Msg)
	}
}

// given notes the writes that a message brought, which is done.
func (n *node) given(msg wire.Message) {
	switch msg.(type) {
	case *wire.Write, *wire.WriteBlocks, *wire.Fill:
		for data := wire.Data(msg); len(data) > 0; data = data[block.Size:] {
			n.has[binary.LittleEndian.Uint64(data)] = true
		}
	}
}

// fillWith carries out a Fill: a region whose metadata is damaged is given up for it.
func (n *node) fillWith(q *store.Request, done func(wire.Message, error), plain func() wire.Message) {
	reset := false
	n.alone(q)
	q.Done = func(q *store.Request) {
		if fault.Is(q.Err, fault.Corrupt) && !reset {
			reset = true
			n.store.Reset(q.Extent.FirstRegion(), func(err error) {
				if err != nil {
					done(nil, err)
					return
				}
				n.store.Submit(q)
			})
			return
		}
		n.flying = slices.DeleteFunc(n.flying, func(o *store.Request) bool { return o == q })
		done(plain(), q.Err)
	}
	n.store.Submit(q)
}

// alone checks the store's one demand: no two changes of a block are in flight together,
// also not one of an owner that has gone.
func (n *node) alone(q *store.Request) {
	if q.Verb != store.Write && q.Verb != store.Zero {
		return
	}
	for _, o := range n.flying {
		if o.Extent.Overlaps(q.Extent) {
			n.c.found("node %d: changes of %v and %v are in the store together", n.i, o.Extent, q.Extent)
		}
	}
	n.flying = append(n.flying, q)
}

// content reads the whole replica as of a generation, for the comparison at the end.
func (n *node) content(blocks int, gen block.Generation, done func([]byte, error)) {
	readAll(n.store, blocks, gen, func(data []byte, err error) {
		if err != nil {
			err = fmt.Errorf("node %d: %w", n.i, err)
		}
		done(data, err)
	})
}

// readAll reads a generation of a replica.
func readAll(r *store.Replica, blocks int, gen block.Generation, done func([]byte, error)) {
	data := make([]byte, 0, blocks*block.Size)
	var next func()
	next = func() {
		at := len(data) / block.Size
		if at == blocks {
			done(data, nil)
			return
		}
		count := min(128, blocks-at)
		q := &store.Request{Verb: store.Read, Generation: gen, Extent: block.Extent{Start: block.Index(at), Count: uint64(count)},
			Data: host.Buffer(count * block.Size), Sums: make([]block.Sum, count)}
		q.Done = func(q *store.Request) {
			if q.Err != nil {
				done(nil, q.Err)
				return
			}
			data = append(data, q.Data...)
			next()
		}
		r.Submit(q)
	}
	next()
}

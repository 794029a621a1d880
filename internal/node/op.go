package node

import (
	"sync"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/lineage"
	"github.com/holdfast-io/holdfast/internal/replica"
	"github.com/holdfast-io/holdfast/internal/store"
	"github.com/holdfast-io/holdfast/internal/turns"
	"github.com/holdfast-io/holdfast/internal/wire"
	"github.com/holdfast-io/holdfast/internal/wire/link"
)

// op is one operation of a resident's store, with the memory that it needs until its
// answer was sent.
type op struct {
	r       *resident
	session replica.Session
	id      uint64
	request store.Request
	turn    turns.Ticket[*op]
	entered bool         // it has a turn, or waits for one
	asked   wire.Message // what is no I/O, until its turn
	frame   *link.Frame  // the message came in it
	debt    *debt        // what its answer takes is owed there; nil to nobody
	owed    int64
	hold    link.Holder  // of a local message's data
	buffer  *link.Buffer // what was read is in it
	sums    []block.Sum
	rare    bool // it may change what the replica is
	durable bool // the change is to be flushed before it is answered
	some    some // of a message for scattered blocks
	whole   bool // a flush after which the replica has all that others have
	filling bool // a region whose metadata is damaged is to be given up for it

	done     wire.Done
	readDone wire.ReadDone
	verified wire.Verified
	flushed  wire.Flushed
	regions  wire.RegionList
}

// ops are free ones. Whoever has sent an answer gives its op back: any goroutine.
type ops struct {
	mu   sync.Mutex
	free []*op
}

func (p *ops) get() *op {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.free); n > 0 {
		o := p.free[n-1]
		p.free = p.free[:n-1]
		return o
	}
	o := &op{}
	o.request.Done, o.turn.Of = o.stored, o
	return o
}

// Release gives the op back: its answer was sent, or nobody wants it.
func (o *op) Release() {
	p := &o.r.n.ops
	o.releaseMessage()
	if o.buffer != nil {
		o.buffer.Release()
	}
	if o.debt != nil {
		o.debt.pay(o.owed)
		o.debt = nil
	}
	q := &o.request // keeps what the store allocated for it
	q.Extent, q.Generation, q.Data, q.Sums, q.Err = block.Extent{}, 0, nil, nil, nil
	o.some.reset()
	o.r, o.buffer, o.durable, o.rare, o.whole, o.filling = nil, nil, false, false, false, false
	o.readDone, o.verified = wire.ReadDone{}, wire.Verified{}
	p.mu.Lock()
	p.free = append(p.free, o)
	p.mu.Unlock()
}

// owe notes whom the operation's answer is for, until it was sent.
func (o *op) owe(d *debt, bytes int64) {
	if bytes > 0 {
		o.debt, o.owed = d, bytes
		d.bytes.Add(bytes)
	}
}

// releaseMessage gives back what the request's data lies in.
func (o *op) releaseMessage() {
	if o.frame != nil {
		o.frame.Release()
		o.frame = nil
	}
	if o.hold != nil {
		o.hold.Release()
		o.hold = nil
	}
}

// begin performs the message on the store, when it is its turn. Its end is a call of stored
// or finish.
func (o *op) begin(msg wire.Message, into destination) {
	q := &o.request
	switch m := msg.(type) {
	case *wire.Write:
		q.Verb, q.Extent, q.Data, q.Sums = store.Write, m.Extent, aligned(m.Data), m.Sums
		o.durable = m.FUA
	case *wire.Fill:
		if m.Generation != 0 {
			o.finish(nil, fault.Errorf("node.Fill", fault.Unsupported, "only the live generation can be filled"))
			return
		}
		if q.Verb, q.Extent = store.Zero, m.Extent; !m.Hole {
			q.Verb, q.Data, q.Sums = store.Write, aligned(m.Data), m.Sums
		}
		o.filling = true
	case *wire.WriteBlocks:
		o.takeBlocks(store.Write, &m.Blocks, 0, aligned(m.Data), m.Sums)
	case *wire.ReadBlocks:
		if n := m.Blocks.Count(); !dense(&m.Blocks) {
			o.readDone = wire.ReadDone{Data: o.room(n * block.Size), Sums: o.sumsFor(n)}
			o.takeBlocks(store.Read, &m.Blocks, m.Generation, o.readDone.Data, o.readDone.Sums)
			break
		}
		o.some.picked = m.Blocks
		span := m.Blocks.Span()
		q.Verb, q.Extent, q.Generation = store.Read, span, m.Generation
		q.Data, q.Sums = o.room(int(span.Bytes())), o.sumsFor(int(span.Count))
	case *wire.Zero:
		q.Verb, q.Extent = store.Zero, m.Extent
		o.durable = m.FUA
	case *wire.Read:
		q.Verb, q.Extent, q.Generation = store.Read, m.Extent, m.Generation
		if into.data != nil {
			q.Data, q.Sums = into.data, into.sums
		} else {
			q.Data, q.Sums = o.room(int(m.Extent.Bytes())), o.sumsFor(int(m.Extent.Count))
		}
	case *wire.Verify:
		q.Verb, q.Extent, q.Generation, q.Sums = store.Verify, m.Extent, m.Generation, o.sumsFor(int(m.Extent.Count))
	case *wire.Flush:
		q.Verb = store.Flush
		o.whole, o.rare = m.Whole, m.Whole
	default:
		o.asked = msg
	}
	o.entered = true
	if o.r.pool.turns.Enter(&o.r.line, &o.turn, o.cost()) {
		o.submit()
	}
}

// cost is what the operation counts at its disk. What has no data is one request.
func (o *op) cost() int { return turns.Cost(len(o.request.Data)/block.Size, len(o.some.parts)) }

// submit gives the operation to the store.
func (o *op) submit() {
	switch s := o.r.store; {
	case o.asked != nil:
		msg := o.asked
		o.asked = nil
		o.beginRare(msg)
	case len(o.some.parts) > 0:
		o.beginParts()
	default:
		if o.request.Verb == store.Flush {
			o.flushed.Mark = s.Mark()
		}
		s.Submit(&o.request)
	}
}

// beginRare performs what is no I/O.
func (o *op) beginRare(msg wire.Message) {
	o.rare = true
	s := o.r.store
	simple := func(err error) { o.finish(&o.done, err) }
	switch m := msg.(type) {
	case *wire.Clean:
		s.Clean(m.Mark)
		simple(nil)
	case *wire.Regions:
		o.regions = regionList(s.Regions(m.From, int(m.Limit)), int(m.Limit))
		o.finish(&o.regions, nil)
	case *wire.Snapshot:
		s.Snapshot(m.Generation, simple)
	case *wire.Seal:
		replica.Seal(s, m, simple)
	case *wire.DeleteSnapshot:
		s.DeleteSnapshot(m.Generation, simple)
	case *wire.Generations:
		deleteAll(s, lineage.Surplus(lineage.Line{Snapshots: m.List}, lineage.Line{Snapshots: s.Manifest().Snapshots}), simple)
	case *wire.Grow:
		s.Grow(m.Size, simple)
	case *wire.Changed:
		s.Changed(m.Since, m.Generation, m.From, int(m.Limit), func(list []block.Extent, next block.Region, err error) {
			end := block.Region((s.Manifest().Size + block.RegionSize - 1) / block.RegionSize)
			o.finish(replica.Changes(list, next, end), err)
		})
	default:
		o.finish(nil, fault.Errorf("node", fault.Unsupported, "no store operation for %s", msg.Kind()))
	}
}

// deleteAll deletes snapshots one after the other.
func deleteAll(s *store.Replica, list []block.Generation, done func(error)) {
	if len(list) == 0 {
		done(nil)
		return
	}
	s.DeleteSnapshot(list[0], func(err error) {
		if err != nil {
			done(err)
			return
		}
		deleteAll(s, list[1:], done)
	})
}

func regionList(list []store.RegionInfo, limit int) wire.RegionList {
	answer := wire.RegionList{Last: len(list) < limit}
	for _, r := range list {
		answer.List = append(answer.List, wire.RegionState{Region: r.Region, Epoch: r.Epoch, Dirty: r.Dirty})
		answer.Next = r.Region + 1
	}
	return answer
}

// stored is what the store calls.
func (o *op) stored(q *store.Request) {
	if q.Err != nil {
		if o.filling && fault.Is(q.Err, fault.Corrupt) {
			o.giveUp(q)
			return
		}
		o.finish(nil, q.Err)
		return
	}
	if o.whole {
		o.accept()
		return
	}
	if o.durable && q.Verb != store.Flush { // only then is it done
		q.Verb = store.Flush
		o.r.store.Submit(q)
		return
	}
	switch q.Verb {
	case store.Read:
		if o.some.picked.Count() > 0 {
			q.Data, q.Sums = pick(&o.some.picked, q.Data, q.Sums)
		}
		o.readDone = wire.ReadDone{Data: q.Data, Sums: q.Sums}
		o.finish(&o.readDone, nil)
	case store.Verify:
		o.verified = wire.Verified{Sums: q.Sums}
		o.finish(&o.verified, nil)
	case store.Flush:
		if o.durable {
			o.finish(&o.done, nil)
			return
		}
		o.flushed.Incarnation = o.r.incarnation
		o.finish(&o.flushed, nil)
	default:
		o.finish(&o.done, nil)
	}
}

// giveUp gives up the region that can't be written because its metadata is damaged, and
// tries again: all of it is about to be filled.
func (o *op) giveUp(q *store.Request) {
	o.filling = false
	o.r.log.Warn("a region's metadata is damaged: the region is filled anew", "region", q.Extent.FirstRegion(), "err", q.Err)
	o.r.store.Reset(q.Extent.FirstRegion(), func(err error) {
		if err != nil {
			o.finish(nil, err)
			return
		}
		o.r.store.Submit(q)
	})
}

// accept notes that what the replica may have lost was made up for.
func (o *op) accept() {
	o.r.store.Accept(func(err error) {
		if err != nil {
			o.finish(nil, err)
			return
		}
		o.flushed.Incarnation = o.r.incarnation
		o.finish(&o.flushed, nil)
	})
}

// finish tells the replica what became of the operation.
func (o *op) finish(answer wire.Message, err error) {
	if o.entered {
		o.entered = false
		o.r.pool.left(o)
	}
	o.done.Incarnation = o.r.incarnation
	o.releaseMessage()
	var changed *replica.Self
	if o.rare {
		changed = o.r.changed()
	}
	o.r.step(residentEvent{stored: replica.Stored{Session: o.session, ID: o.id, Answer: answer, Err: err, Changed: changed}, op: o})
}

// room returns n bytes for what is read: of the node's pool, or, when that has no more,
// of the heap, because a replica that can't answer would be left behind.
func (o *op) room(n int) []byte {
	if o.buffer = o.r.n.frames.TryGet(n); o.buffer != nil {
		return o.buffer.Data[:n:n]
	}
	return host.Buffer(n)
}

func (o *op) sumsFor(n int) []block.Sum {
	if cap(o.sums) < n {
		o.sums = make([]block.Sum, max(n, wire.DataBlocksMax))
	}
	return o.sums[:n]
}

// aligned returns data, or a copy, that begins where a disk wants it to. What comes by
// a connection or from a device does; what a coordinator copied for itself may not.
func aligned(data []byte) []byte {
	if host.Aligned(data) {
		return data
	}
	b := host.Buffer(len(data))
	copy(b, data)
	return b
}

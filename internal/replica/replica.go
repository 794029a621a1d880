// Package replica is a replica's side of the conversation with a coordinator: it admits
// an epoch and refuses lower ones, drains what they have in flight, grants leases, and
// passes what it admits to its store.
//
// It promises: after Promised(e) was sent, nothing of an epoch below e takes effect or
// is answered; an epoch is promised while the lease of an owner on another node runs
// only after that lease has run out here; what is promised survives a restart, because
// the store makes it durable first.
//
// A [Replica] decides, it does nothing: Step takes an event and returns what the world
// must now do. The caller owns it and calls it from one goroutine at a time.
package replica

import (
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/wire"
)

// InFlightMax is how many operations of the store may be in flight for one replica. A
// request above it is refused with Busy; a coordinator keeps below it.
const InFlightMax = 1024

// LeaseMax bounds what an owner may ask for, so that a dead one is waited for no longer.
const LeaseMax = 30 * time.Second

// Session names one conversation, on one connection: a new connection is a new session.
type Session uint64

// Self is what a replica is, as its store says when it is opened.
type Self struct {
	Size        int64
	Generation  block.Generation
	Snapshots   []block.Generation
	Promised    block.Epoch
	Incarnation uint64 // of this process; never 0
	Boot        uint64
	Doubt       wire.State // wire.Lost or wire.Forgot while what was not flushed may be missing; else 0
}

// Replica is the state of one replica's conversations.
type Replica struct {
	self Self

	owner      Session // the session that holds the promised epoch; 0 none
	ownerNode  block.NodeID
	ownerInc   uint64
	leaseUntil time.Duration // 0: no lease is running
	lease      time.Duration
	quarantine time.Duration

	pending  *promise // waits for the drain, then for the store
	inflight int      // operations in the store
	fx       Effects
	failed   error // the store serves nothing any more
	leaving  bool  // the process is about to end
}

// promise is a Promise that was admitted and is not answered yet.
type promise struct {
	session Session
	id      uint64
	msg     wire.Promise
	storing block.Epoch // what the store is making durable; 0 nothing yet
}

// New returns the state of a replica that was just opened: no lease is running, because
// leases do not outlive the process; the caller keeps a restarted replica from promising
// until the longest lease has run out (see Quarantine).
func New(self Self) *Replica { return &Replica{self: self} }

// Quarantine makes the replica behave as if somebody's lease ran until then: a process
// that died took with it the knowledge of the lease that it had granted. Only the epoch
// that is promised already is admitted meanwhile, because it has one owner, and a node
// whose dead process it was that the lease was granted to (wire.Promise.SameNode).
func (r *Replica) Quarantine(until time.Duration) { r.quarantine = until }

// Self returns what the replica is now.
func (r *Replica) Self() Self { return r.self }

// Relied reports whether an owner still relies on the replica. A process that ends on
// purpose waits until it is not so, for a moment: the last replica of a volume is relied
// on for as long as there is no other.
func (r *Replica) Relied() bool { return r.owner != 0 }

// Vacant reports whether no lease runs here. Who had the volume can't be serving it then,
// as long as the record counts this replica: it serves only with the leases of all.
func (r *Replica) Vacant(now time.Duration) bool { return now >= r.leaseUntil && now >= r.quarantine }

// Doubt returns what Self.Doubt is, given what the store says.
func Doubt(lost error, forgot bool) wire.State {
	switch {
	case lost != nil:
		return wire.Lost
	case forgot:
		return wire.Forgot
	}
	return 0
}

// Event is something that happened to a replica.
type Event interface{ event() }

// Received is a message of a session.
type Received struct {
	Session Session
	ID      uint64
	Msg     wire.Message
}

// Stored tells that an operation of the store has ended. Answer is the reply for the
// session, or nil after an error.
type Stored struct {
	Session Session
	ID      uint64
	Answer  wire.Message
	Err     error
	// What the operation changed of Self, if it did.
	Changed *Self
}

// PromiseStored tells that the store has made a promise durable.
type PromiseStored struct{ Err error }

// Failed tells that the store lost something and serves nothing any more: it must be
// opened anew, as another Replica.
type Failed struct{ Err error }

// Closed tells that a session has ended.
type Closed struct{ Session Session }

// Leave tells that the process is about to end on purpose. The owner is told, so that it
// goes on without this replica at once instead of waiting for it; see Relied.
type Leave struct{ Why string }

func (Received) event()      {}
func (Stored) event()        {}
func (PromiseStored) event() {}
func (Failed) event()        {}
func (Closed) event()        {}
func (Leave) event()         {}

// Effects are what the world must now do, in this order: first Store and Promise, then
// Send. They are valid until the next Step.
type Effects struct {
	Store   []Store
	Promise block.Epoch // make this promise durable in the store, then say PromiseStored; 0 none
	Send    []Send
}

// Store is an operation for the store: perform what Msg says, then say Stored.
type Store struct {
	Session Session
	ID      uint64
	Msg     wire.Message
}

// Send is an answer for a session. It is dropped when the session has ended.
type Send struct {
	Session Session
	ID      uint64
	Msg     wire.Message
}

// Step takes one event and returns what the world must now do.
func (r *Replica) Step(now time.Duration, ev Event) Effects {
	fx := r.begin()
	switch ev := ev.(type) {
	case Received:
		r.received(now, ev, fx)
	case Stored:
		r.stored(now, ev, fx)
	case PromiseStored:
		r.promiseStored(now, ev, fx)
	case Failed:
		r.failed = ev.Err
	case Leave:
		r.leaving = true
		if r.owner != 0 {
			r.send(fx, r.owner, 0, &wire.Leave{Text: wire.Clip(ev.Why)})
		}
	case Closed:
		if r.owner == ev.Session {
			r.owner = 0 // the lease runs on: the owner may still read
		}
	default:
		panic(fault.Bug("replica: unknown event"))
	}
	return *fx
}

// Receive is Step for a Received, and Finish for a Stored, without the allocation that
// makes an Event of one.
func (r *Replica) Receive(now time.Duration, ev Received) Effects {
	fx := r.begin()
	r.received(now, ev, fx)
	return *fx
}

// Finish is Step for a Stored; see Receive.
func (r *Replica) Finish(now time.Duration, ev Stored) Effects {
	fx := r.begin()
	r.stored(now, ev, fx)
	return *fx
}

func (r *Replica) begin() *Effects {
	fx := &r.fx
	clear(fx.Store)
	clear(fx.Send)
	*fx = Effects{Store: fx.Store[:0], Send: fx.Send[:0]}
	return fx
}

func (r *Replica) received(now time.Duration, ev Received, fx *Effects) {
	switch m := ev.Msg.(type) {
	case *wire.Open:
		r.send(fx, ev.Session, ev.ID, r.opened())
	case *wire.Promise:
		r.promise(now, ev, *m, fx)
	case *wire.Renew:
		if !r.admitted(ev, m.Epoch, fx) {
			return
		}
		r.leaseUntil = now + r.lease
		r.send(fx, ev.Session, ev.ID, &wire.Renewed{Sequence: m.Sequence})
	case *wire.Release:
		if !r.admitted(ev, m.Epoch, fx) {
			return
		}
		r.leaseUntil, r.owner = 0, 0
		r.send(fx, ev.Session, ev.ID, &wire.Done{Incarnation: r.self.Incarnation})
	default:
		epoch, ok := epochOf(ev.Msg)
		if !ok {
			r.fail(fx, ev.Session, ev.ID, wire.Fail{Status: fault.Unsupported, Text: "not a request to a replica"})
			return
		}
		if !r.admitted(ev, epoch, fx) {
			return
		}
		if r.inflight >= InFlightMax {
			r.fail(fx, ev.Session, ev.ID, wire.Fail{Status: fault.Busy, Text: "too many requests in flight"})
			return
		}
		r.inflight++
		fx.Store = append(fx.Store, Store(ev))
	}
}

func (r *Replica) opened() *wire.Opened {
	state := wire.Serving
	switch {
	case r.failed != nil:
		state = wire.Failed
	case r.self.Doubt != 0:
		state = r.self.Doubt
	case r.leaving:
		state = wire.Leaving
	}
	return &wire.Opened{Size: r.self.Size, Generation: r.self.Generation, Promised: r.self.Promised,
		Incarnation: r.self.Incarnation, Boot: r.self.Boot, State: state, Snapshots: r.self.Snapshots}
}

// admitted reports whether a request of epoch may be served now, and answers Fenced if
// not: only the session that was promised an epoch may use it.
func (r *Replica) admitted(ev Received, epoch block.Epoch, fx *Effects) bool {
	if fault.Planted("old owner not fenced") {
		return r.failed == nil
	}
	late := fault.Planted("late duplicate admitted") && ev.Session != r.owner && r.owner != 0
	if epoch == r.self.Promised && (ev.Session == r.owner || late) && r.pending == nil && r.failed == nil {
		return true
	}
	if r.failed != nil {
		r.fail(fx, ev.Session, ev.ID, wire.Fail{Status: fault.Media, Text: "the replica failed and must be opened anew"})
		return false
	}
	r.fail(fx, ev.Session, ev.ID, wire.Fail{Status: fault.Fenced, Epoch: r.self.Promised, Text: "another epoch was promised"})
	return false
}

// promise admits an epoch, or says why not.
func (r *Replica) promise(now time.Duration, ev Received, m wire.Promise, fx *Effects) {
	same := m.Owner == r.ownerNode
	switch {
	case r.failed != nil:
		r.fail(fx, ev.Session, ev.ID, wire.Fail{Status: fault.Media, Text: "the replica failed and must be opened anew"})
	case m.Epoch < r.self.Promised, r.pending != nil && m.Epoch < r.pending.msg.Epoch:
		r.fail(fx, ev.Session, ev.ID, wire.Fail{Status: fault.Fenced, Epoch: r.self.Promised, Text: "a higher epoch was promised"})
	case m.Epoch == r.self.Promised && r.ownerInc != 0 && m.Incarnation != r.ownerInc:
		r.fail(fx, ev.Session, ev.ID, wire.Fail{Status: fault.Fenced, Epoch: r.self.Promised, Text: "the epoch was promised to another process"})
	case fault.Planted("lease of the owner before ignored") && r.pending == nil:
		r.pending = &promise{session: ev.Session, id: ev.ID, msg: m}
		r.drained(fx)
	case now < r.leaseUntil && !same && !r.ownerNode.IsZero():
		r.fail(fx, ev.Session, ev.ID, wire.Fail{Status: fault.Busy, Wait: r.leaseUntil - now, Text: "the lease of the owner before has not run out"})
	case now < r.quarantine && m.Epoch != r.self.Promised && !m.SameNode:
		r.fail(fx, ev.Session, ev.ID, wire.Fail{Status: fault.Busy, Wait: r.quarantine - now, Text: "a lease from before the restart may still run"})
	default:
		if p := r.pending; p != nil { // an older promise loses its place
			r.fail(fx, p.session, p.id, wire.Fail{Status: fault.Fenced, Epoch: m.Epoch, Text: "a higher epoch was promised"})
			p.session, p.id, p.msg = ev.Session, ev.ID, m
		} else {
			r.pending = &promise{session: ev.Session, id: ev.ID, msg: m}
		}
		r.drained(fx)
	}
}

// drained goes on with the promise once nothing of an earlier epoch is in flight.
func (r *Replica) drained(fx *Effects) {
	if p := r.pending; p != nil && p.storing == 0 && (r.inflight == 0 || fault.Planted("no drain before a promise")) {
		p.storing = p.msg.Epoch
		fx.Promise = p.storing
	}
}

func (r *Replica) promiseStored(now time.Duration, ev PromiseStored, fx *Effects) {
	p := r.pending
	if ev.Err != nil {
		r.pending = nil
		r.fail(fx, p.session, p.id, failure(ev.Err))
		return
	}
	r.self.Promised = max(r.self.Promised, p.storing)
	if p.msg.Epoch > p.storing { // a higher one came meanwhile
		p.storing = 0
		r.drained(fx)
		return
	}
	r.pending = nil
	r.owner, r.ownerNode, r.ownerInc = p.session, p.msg.Owner, p.msg.Incarnation
	r.quarantine = 0 // who might have had a lease has none, or is this owner
	r.lease = min(p.msg.Lease, LeaseMax)
	r.leaseUntil = now + r.lease
	r.send(fx, p.session, p.id, &wire.Promised{Epoch: p.msg.Epoch, Generation: r.self.Generation, Lease: r.lease})
}

func (r *Replica) stored(now time.Duration, ev Stored, fx *Effects) {
	r.inflight--
	if ev.Changed != nil {
		promised := r.self.Promised
		r.self = *ev.Changed
		r.self.Promised = max(promised, r.self.Promised)
	}
	if ev.Err == nil {
		r.send(fx, ev.Session, ev.ID, ev.Answer)
	} else {
		r.fail(fx, ev.Session, ev.ID, failure(ev.Err))
	}
	r.drained(fx)
}

func failure(err error) wire.Fail {
	return wire.Fail{Status: fault.KindOf(err), Text: wire.Clip(err.Error())}
}

func (r *Replica) send(fx *Effects, s Session, id uint64, m wire.Message) {
	fx.Send = append(fx.Send, Send{s, id, m})
}

func (r *Replica) fail(fx *Effects, s Session, id uint64, f wire.Fail) {
	r.send(fx, s, id, &f)
}

// epochOf returns the epoch that a request to the store carries.
func epochOf(m wire.Message) (block.Epoch, bool) {
	switch m := m.(type) {
	case *wire.Write:
		return m.Epoch, true
	case *wire.Zero:
		return m.Epoch, true
	case *wire.Read:
		return m.Epoch, true
	case *wire.Flush:
		return m.Epoch, true
	case *wire.Verify:
		return m.Epoch, true
	case *wire.Fill:
		return m.Epoch, true
	case *wire.ReadBlocks:
		return m.Epoch, true
	case *wire.WriteBlocks:
		return m.Epoch, true
	case *wire.Clean:
		return m.Epoch, true
	case *wire.Snapshot:
		return m.Epoch, true
	case *wire.Seal:
		return m.Epoch, true
	case *wire.DeleteSnapshot:
		return m.Epoch, true
	case *wire.Grow:
		return m.Epoch, true
	case *wire.Generations:
		return m.Epoch, true
	case *wire.Regions:
		return m.Epoch, true
	case *wire.Changed:
		return m.Epoch, true
	}
	return 0, false
}

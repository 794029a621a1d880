// Package coordinator is a volume's head: all I/O of the volume passes through it, on
// the node where the volume is attached.
//
// It promises: a write is complete only when every in-sync replica has it, and a replica
// is left out only after the volume's record says so; a read returns the last completed
// write; requests that overlap take effect in the order in which they came; nothing is
// served without the leases of all in-sync replicas; after an owner died, no block is
// shown before the copies agree on it; a snapshot shows one moment, on every replica that
// has it.
//
// A [Coordinator] decides, it does nothing: Step takes an event and returns what the
// world must now do. It reads no clock, starts no goroutine, and does no I/O; the caller
// owns it and calls it from one goroutine at a time.
//
// # Members
//
// Events and effects name replicas by a number, the member's, which stays the same while
// the coordinator lives; it is not the place in the record, which shifts when replicas
// come and go. Ask [Coordinator.Member] who a number is when it is among Effects.Link.
// The number of a replica that left the record is given to another one only after the
// connection has ended.
package coordinator

import (
	"fmt"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/wire"
)

// Options say who the coordinator is and how patient.
type Options struct {
	Node        block.NodeID
	Incarnation uint64 // of this process; never 0

	// Lease is asked of every replica. An owner that is cut off stops after it, and
	// another one can't start before it has run out. 3 s: see the design, §4.
	Lease time.Duration
	// Margin is the part of a lease that is not used, for clocks that run at different
	// speeds: 0.05 covers a drift of 5 %, a hundred times that of a bad quartz.
	Margin float64
	// ReplicaTimeout is the silence after which a replica is left behind.
	ReplicaTimeout time.Duration
	// SlowAfter is how long the others may wait for a replica before it is slow; SlowFor is
	// how long it may be so before it is left behind.
	SlowAfter, SlowFor time.Duration
	// CleanEvery is how often, at most, replicas are told which regions are the same
	// everywhere. A region that is written again pays an intent: not too often.
	CleanEvery time.Duration
	// QueueMax is how many requests may be accepted and not complete. Submit above it is
	// the caller's mistake: it must hold back (see Room).
	QueueMax int
}

// WithDefaults fills in what is zero.
func (o Options) WithDefaults() Options {
	if o.Lease == 0 {
		o.Lease = 3 * time.Second
	}
	if o.Margin == 0 {
		o.Margin = 0.05
	}
	if o.ReplicaTimeout == 0 {
		o.ReplicaTimeout = 3 * time.Second
	}
	if o.SlowAfter == 0 {
		o.SlowAfter = time.Second
	}
	if o.SlowFor == 0 {
		o.SlowFor = 5 * time.Second
	}
	if o.CleanEvery == 0 {
		o.CleanEvery = 10 * time.Second
	}
	if o.QueueMax == 0 {
		o.QueueMax = 256
	}
	return o
}

// MembersMax is how many replicas a volume may have, those on their way in or out
// included.
const MembersMax = 8

// phase is how far the coordinator has come.
type phase uint8

const (
	claiming  phase = iota + 1 // the record is to name it as the owner
	gathering                  // in-sync replicas are to promise its epoch
	gating                     // it learns which regions the owner before left unsettled
	serving
	stopped // it lost the volume, or was detached
)

// Coordinator is the state of one attached volume.
type Coordinator struct {
	opts   Options
	phase  phase
	rec    spec.Record // its members are by number; State 0: gone
	public spec.Record // the same as others know it
	why    error       // stopped: what requests are answered with

	proposed *spec.Record // a change of the record that is under way, members by number
	carries  *Change      // what proposed is for, if for a Change
	members  []*member
	since    time.Duration // when gathering began

	queue  []*Request // accepted, not started, in order
	active []*Request // started, in no order
	slots  []slot
	free   []int
	seq    uint64 // makes every id new
	fx     Effects
	now    time.Duration // of the step that is being made

	changes   []*Change // the first one is under way
	hold      *Change   // new writes wait while it is set
	holdUntil time.Duration
	sealed    block.Generation // a snapshot that replicas have, and the record does not list yet
	// unconfirmed are those that have it only until they lose power, for all that is known.
	unconfirmed members
	growing     int64 // the size that replicas are about to get
	leave       leaving

	resyncs       Resyncs
	reads, writes buckets // of the user
	pace          bucket  // of resyncs

	urgent  bool // somebody failed: all is to be looked at
	unknown bool // the outcome of a proposal was asked for in vain
	gate    gate
	copying int           // copies in the queue or started
	used    time.Duration // when the user's last request came
	heldAt  time.Duration // since when writes are held; 0 they are not
	lost    error
	cleaned time.Duration
	// vouched is the number of the flush whose marks are to be told to everybody; 0 none.
	vouched     uint64
	vouchAtOnce bool // whatever CleanEvery says
	rotate      int
	stats       Stats
}

// Stats counts what happened.
type Stats struct {
	Ejected  int // replicas left behind
	Resynced int // replicas brought up to date
	Repaired int // blocks repaired from another copy during a read
	Copied   int64
	Gated    int // regions made equal after an owner died
	Slow     int // of Ejected, those that were too slow
	// Held is how long writes were held for snapshots, all in all.
	Held time.Duration
}

// slot is what an id in flight stands for.
type slot struct {
	request *Request
	reply   reply // for everything else
	member  int   // that is to reply
	seq     uint64
	used    bool
}

// reply takes the answer to a question; nil when the connection ended first.
type reply func(now time.Duration, m int, msg wire.Message, fx *Effects)

// New returns a coordinator that will claim the volume of rec.
func New(rec spec.Record, o Options) *Coordinator {
	c := &Coordinator{opts: o.WithDefaults(), phase: claiming}
	c.read(rec)
	return c
}

// read takes a record before anything was done with its members.
func (c *Coordinator) read(rec spec.Record) {
	c.rec = rec.Clone()
	c.public = rec.Clone()
	c.members = nil
	for range rec.Members {
		c.members = append(c.members, &member{})
	}
}

// Event is something that happened.
type Event interface{ event() }

// Tick tells that time has passed: at least ten times per lease.
type Tick struct{}

// Submit accepts a request.
type Submit struct{ Request *Request }

// Order accepts a change of the volume itself.
type Order struct{ Change *Change }

// Linked tells that there is a connection to a member, a new one.
type Linked struct {
	Member  int
	Version wire.Version // that is spoken on it: what only newer ones know is not said
}

// Unlinked tells that a connection to a member ended or could not be made. It is said
// once for each Link and after each Unlink.
type Unlinked struct {
	Member int
	Why    error // the member's node answered and would not talk; nil: it can't be reached
}

// Received is an answer of a member. Data of a ReadDone is the coordinator's until the
// request it answers is complete.
type Received struct {
	Member int
	ID     uint64
	Msg    wire.Message
}

// Recorded answers Effects.Propose. With OK the record is what was proposed; without it
// Record is what stands there instead. Err is set when nobody knows: propose again.
type Recorded struct {
	OK     bool
	Record spec.Record
	Err    error
}

// Detach completes what was accepted, flushes, gives the leases and the volume back, and
// stops: then Detached is true. Requests that come after it are answered by the stop.
type Detach struct{}

// Abort stops at once: what is not complete fails. The record still names this owner, and
// the leases run out by themselves. It is how I/O that can't go on is ended.
type Abort struct{}

func (Tick) event()     {}
func (Submit) event()   {}
func (Order) event()    {}
func (Linked) event()   {}
func (Unlinked) event() {}
func (Received) event() {}
func (Recorded) event() {}
func (Detach) event()   {}
func (Abort) event()    {}

// Effects are what the world must now do, in this order. They are valid until the next
// Step.
type Effects struct {
	Unlink   []int // end the connection to these members, then say Unlinked
	Send     []Send
	Link     []int        // make a connection to these members, then say Linked or Unlinked
	Propose  *spec.Record // compare-and-swap the record from Version-1, then say Recorded
	Complete []*Request
	Changed  []*Change // are complete
	// Alarm is when to say Tick at the latest, a moment of Step's clock; 0 when the usual
	// ticks will do.
	Alarm time.Duration
}

// alarm asks for a Tick at some moment.
func (fx *Effects) alarm(at time.Duration) {
	if fx.Alarm == 0 || at < fx.Alarm {
		fx.Alarm = at
	}
}

func (fx *Effects) reset() {
	clear(fx.Send)
	clear(fx.Complete)
	clear(fx.Changed)
	*fx = Effects{Unlink: fx.Unlink[:0], Send: fx.Send[:0], Link: fx.Link[:0], Complete: fx.Complete[:0], Changed: fx.Changed[:0]}
}

// Send is a message for a member, on its connection, in order.
type Send struct {
	Member int
	ID     uint64
	Msg    wire.Message
	// Request is the one that Msg is sent for, nil for what the coordinator asks itself.
	// The data of a Write is the request's: it must not be used again before Msg has been
	// sent, even if the request is complete by then because the member was left behind.
	// A member in the same process may put what it reads right where the request wants it.
	Request *Request
}

// Step takes one event and returns what the world must now do.
func (c *Coordinator) Step(now time.Duration, ev Event) Effects {
	fx := &c.fx
	fx.reset()
	c.now = now
	if c.phase == stopped {
		c.refuse(ev, fx) // it owes nobody anything
		return *fx
	}
	switch ev := ev.(type) {
	case Tick:
		c.tick(now, fx)
	case Submit:
		if c.submit(now, ev.Request, fx) {
			return *fx
		}
	case Order:
		c.order(ev.Change, fx)
	case Linked:
		c.linked(now, ev, fx)
	case Unlinked:
		c.unlinked(now, ev, fx)
	case Received:
		return c.Receive(now, ev)
	case Recorded:
		c.recorded(now, ev, fx)
	case Detach:
		c.detach(fx)
	case Abort:
		c.stop(fault.E("coordinator", fault.Canceled, c.rec.Volume, fmt.Errorf("the volume's I/O was ended by force")), fx)
	default:
		panic(fault.Bug("coordinator: unknown event"))
	}
	c.goOn(now, fx)
	c.check()
	return *fx
}

// Receive is Step for a Received, without the allocation that makes an Event of one: there
// are several for each request.
func (c *Coordinator) Receive(now time.Duration, ev Received) Effects {
	fx := &c.fx
	fx.reset()
	c.now = now
	if c.phase == stopped || c.received(now, ev, fx) {
		return *fx
	}
	c.goOn(now, fx)
	c.check()
	return *fx
}

// Room returns how many more requests may be submitted.
func (c *Coordinator) Room() int {
	return c.opts.QueueMax - len(c.queue) - len(c.active) - len(c.leave.late)
}

// Serving reports whether the volume is attached and usable now.
func (c *Coordinator) Serving(now time.Duration) bool { return c.phase == serving && c.ready(now) }

// LeaseLeft returns for how long the volume may be used without a word from its replicas:
// the shortest of what is left of the leases of those in sync. It is negative when one has
// ended, and 0 while the volume is not served.
func (c *Coordinator) LeaseLeft(now time.Duration) (left time.Duration) {
	if c.phase != serving {
		return 0
	}
	first := true
	for m := range c.members {
		if c.inSync(m) && (first || c.members[m].lease-now < left) {
			left, first = c.members[m].lease-now, false
		}
	}
	return left
}

// Stopped returns why the coordinator has stopped, or nil.
func (c *Coordinator) Stopped() error {
	if c.phase == stopped {
		return c.why
	}
	return nil
}

// Detached reports whether the coordinator has stopped because it was told to, with
// everything written and the record saying so.
func (c *Coordinator) Detached() bool { return c.phase == stopped && c.leave.stage == gone }

// Record returns the record as the coordinator knows it. It is not to be changed.
func (c *Coordinator) Record() spec.Record { return c.public }

// Member returns who the member of that number is; its State is 0 when it is in the
// record no more.
func (c *Coordinator) Member(m int) spec.Member { return c.rec.Members[m] }

// Stats returns what happened so far.
func (c *Coordinator) Stats() Stats { return c.stats }

// refuse answers what comes after the stop.
func (c *Coordinator) refuse(ev Event, fx *Effects) {
	switch ev := ev.(type) {
	case Submit:
		ev.Request.reset()
		c.complete(ev.Request, c.why, fx)
	case Order:
		c.changed(ev.Change, c.why, fx)
	}
}

// submit accepts a request, and reports whether that is all there is to do.
func (c *Coordinator) submit(now time.Duration, q *Request, fx *Effects) bool {
	q.reset()
	c.used = now
	switch {
	case c.Room() <= 0:
		c.complete(q, fault.E("coordinator.Submit", fault.Busy, c.rec.Volume, fmt.Errorf("%d requests are waiting", c.opts.QueueMax)), fx)
	case q.Op != Flush && !c.whole(q.Extent):
		c.complete(q, fault.E("coordinator.Submit", fault.Invalid, c.rec.Volume, fmt.Errorf("blocks %v leave the volume", q.Extent)), fx)
	case c.leave.stage != staying:
		c.leave.late = append(c.leave.late, q)
	case c.startAtOnce(now, q, fx):
		return true
	default:
		c.queue = append(c.queue, q)
	}
	return false
}

func (c *Coordinator) complete(q *Request, err error, fx *Effects) {
	q.Err = err
	fx.Complete = append(fx.Complete, q)
}

// stop ends everything: the volume belongs to somebody else, or to nobody.
func (c *Coordinator) stop(why error, fx *Effects) {
	c.phase, c.why = stopped, why
	for _, list := range [][]*Request{c.active, c.queue, c.leave.late} {
		for _, q := range list {
			if !q.internal() {
				c.complete(q, why, fx)
			}
		}
	}
	for _, ch := range c.changes {
		if !ch.over {
			c.changed(ch, why, fx)
		}
	}
	c.active, c.queue, c.leave.late, c.changes, c.hold, c.proposed, c.carries = nil, nil, nil, nil, nil, nil, nil
	for i := range c.slots {
		c.slots[i] = slot{seq: c.slots[i].seq}
	}
}

// take hands out a number for messages; the answers come to the slot's owner, and to
// nobody after release.
func (c *Coordinator) take(s slot) int {
	c.seq++
	s.seq, s.used = c.seq, true
	if n := len(c.free); n > 0 {
		i := c.free[n-1]
		c.free = c.free[:n-1]
		c.slots[i] = s
		return i
	}
	c.slots = append(c.slots, s)
	return len(c.slots) - 1
}

func (c *Coordinator) release(i int) {
	if !c.slots[i].used {
		panic(fault.Bug("coordinator: slot %d released twice", i))
	}
	c.slots[i] = slot{seq: c.slots[i].seq}
	c.free = append(c.free, i)
}

const slotBits = 20

func (c *Coordinator) id(i int) uint64 { return c.slots[i].seq<<slotBits | uint64(i) }

// send sends msg to member m in the name of slot i.
func (c *Coordinator) send(m, i int, msg wire.Message, fx *Effects) {
	fx.Send = append(fx.Send, Send{Member: m, ID: c.id(i), Msg: msg, Request: c.slots[i].request})
}

// ask sends msg to member m and has its answer, or nil when the connection ends first,
// passed to then.
func (c *Coordinator) ask(m int, msg wire.Message, fx *Effects, then reply) {
	i := c.take(slot{reply: then, member: m})
	if c.members[m].asks++; c.members[m].asks == 1 {
		c.members[m].asked = c.now
	}
	c.send(m, i, msg, fx)
}

// asked takes the question in slot i back; its reply is the caller's to use.
func (c *Coordinator) asked(i int) reply {
	then := c.slots[i].reply
	c.members[c.slots[i].member].asks--
	c.release(i)
	return then
}

// received takes a message, and reports whether nothing follows from it but what was done.
func (c *Coordinator) received(now time.Duration, ev Received, fx *Effects) bool {
	m := c.members[ev.Member]
	if !m.linked {
		return true // it was unlinked, and this was on its way
	}
	m.heard = now
	if _, ok := ev.Msg.(*wire.Leave); ok {
		m.leaving = true
		return false
	}
	i := int(ev.ID & (1<<slotBits - 1))
	if i >= len(c.slots) || !c.slots[i].used || c.id(i) != ev.ID {
		return true // nobody waits for it any more
	}
	if f, ok := ev.Msg.(*wire.Fail); ok && f.Status == fault.Fenced && f.Epoch > c.rec.Epoch {
		c.fenced(f.Epoch, fx)
		return false
	}
	if q := c.slots[i].request; q != nil {
		c.answered(ev.Member, q, ev.Msg, fx)
		return c.finishOne(now, q, fx)
	}
	c.asked(i)(now, ev.Member, ev.Msg, fx)
	return false
}

// fenced stops the coordinator: a replica has promised a higher epoch than the record
// that it knows, so the volume has another owner.
func (c *Coordinator) fenced(epoch block.Epoch, fx *Effects) {
	if c.proposed != nil && c.proposed.Epoch >= epoch {
		return // its own next epoch
	}
	c.stop(fault.E("coordinator", fault.Fenced, c.rec.Volume, fmt.Errorf("epoch %d was promised to another owner, this one has %d: the volume was attached elsewhere", epoch, c.rec.Epoch)), fx)
}

// check panics when an invariant does not hold between events.
func (c *Coordinator) check() {
	for _, q := range c.active {
		if !c.slots[q.slot].used || c.slots[q.slot].request != q {
			panic(fault.Bug("coordinator: an active request has lost its slot"))
		}
	}
	if c.phase == serving && c.rec.Owner != c.opts.Node {
		panic(fault.Bug("coordinator: serving without being the owner"))
	}
}

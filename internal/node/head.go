package node

import (
	"log/slog"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/coordinator"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/wire"
	"github.com/holdfast-io/holdfast/internal/wire/link"
)

// head runs the coordinator of a volume that is attached here, or tended. The loop's.
type head struct {
	n       *Node
	log     *slog.Logger
	volume  block.VolumeID
	coord   *coordinator.Coordinator
	records *records

	links    map[int]conversation // by member; nil where there is none, or it is not made yet
	opening  map[int]uint64       // id of the Open that a member has not answered
	events   queue[headEvent]
	stepping bool
	timer    *host.Timer
	next     time.Duration // when the next usual tick is
	alarm    time.Duration // what the timer is set to, next or earlier
	serving  []func(error) // wait until the volume can be used
	over     bool
	stopped  func(error) // is called when the coordinator has stopped
	news     func()      // is called when others may want to look at the volume; may be nil
	seen     looks
}

// looks are what is compared to find out whether there is news: nobody needs to look at a
// volume all the time to see that it is well.
type looks struct {
	epoch   block.Epoch
	version uint64
	ills    int
	links   int
	repairs int
	serving bool
}

// conversation is with a replica, here or on another node.
type conversation interface {
	// send sends a message. hold, which may be nil, is released when the data that came
	// with it is no longer looked at.
	send(s coordinator.Send, hold link.Holder)
	// version is what is spoken.
	version() wire.Version
	// close ends it, without telling the head.
	close()
}

// headEvent is an event with what must be given back after it. Messages are by value:
// there are several for each request, and an Event made of one is an allocation.
type headEvent struct {
	ev       coordinator.Event // nil: it is received
	received coordinator.Received
	hold     link.Holder
}

// ticksPerLease is how often a coordinator is told that time passes.
const ticksPerLease = 12

// newHead returns a head that begins to claim the volume. stopped is called on the loop
// when it has lost the volume, or has detached it.
func (n *Node) newHead(rec spec.Record, r *records, stopped func(error)) *head {
	h := &head{n: n, volume: rec.Volume, log: n.log.With("volume", rec.Volume), records: r, stopped: stopped,
		links: make(map[int]conversation), opening: make(map[int]uint64)}
	h.coord = coordinator.New(rec, coordinator.Options{Node: n.o.Node, Incarnation: n.incarnation, Lease: n.o.Lease,
		ReplicaTimeout: n.o.ReplicaTimeout, QueueMax: queueMax})
	h.timer = n.loop.NewTimer(h.tick)
	n.heads[rec.Volume] = h
	n.paceResyncs()
	h.tick()
	return h
}

// queueMax is how many requests of a volume may be with its coordinator: those of
// a device, and the copies of a resync.
const queueMax = 1024

func (h *head) tick() {
	if h.over {
		return
	}
	h.step(coordinator.Tick{}, nil)
	if !h.over {
		// All heads tick together: what they say to other nodes goes with one message, and
		// an idle machine wakes up once for it.
		every := h.n.o.Lease / ticksPerLease
		h.next = (h.n.loop.Now()/every + 1) * every
		h.alarm = h.next
		h.timer.Set(h.next)
		h.tellNews()
	}
}

// tellNews tells that the volume looks different than before.
func (h *head) tellNews() {
	rec, now := h.coord.Record(), h.n.loop.Now()
	is := looks{rec.Epoch, rec.Version, len(h.coord.Health(now)), len(h.links), h.coord.Stats().Repaired, h.coord.Serving(now)}
	if is != h.seen && h.news != nil {
		h.seen = is
		h.news()
	}
}

// step has the coordinator decide about an event, after those before it.
func (h *head) step(ev coordinator.Event, hold link.Holder) {
	h.take(headEvent{ev: ev, hold: hold})
}

func (h *head) take(e headEvent) {
	h.events.push(e)
	if h.stepping {
		return
	}
	h.stepping = true
	defer func() { h.stepping = false }()
	for {
		e, ok := h.events.pop()
		if !ok {
			break
		}
		if e.ev == nil {
			h.perform(h.coord.Receive(h.n.loop.Now(), e.received))
		} else {
			h.perform(h.coord.Step(h.n.loop.Now(), e.ev))
		}
		if e.hold != nil {
			e.hold.Release()
		}
	}
	h.look()
}

// look notices what the coordinator has become.
func (h *head) look() {
	switch err := h.coord.Stopped(); {
	case err != nil && !h.over:
		h.end(err)
	case len(h.serving) > 0 && h.coord.Serving(h.n.loop.Now()):
		h.tellServing(nil)
	}
}

func (h *head) tellServing(err error) {
	waiting := h.serving
	h.serving = nil
	for _, f := range waiting {
		f(err)
	}
}

// whenServing has f called once the volume can be used, or never will be.
func (h *head) whenServing(f func(error)) {
	h.serving = append(h.serving, f)
	h.look()
}

// end takes the head away.
func (h *head) end(why error) {
	h.over = true
	h.timer.Stop()
	delete(h.n.heads, h.volume)
	for m := range h.links {
		h.drop(m)
	}
	h.log.Info("volume released", "why", why)
	h.tellServing(why)
	h.stopped(why)
}

// perform does what the coordinator wants done.
func (h *head) perform(fx coordinator.Effects) {
	for _, m := range fx.Unlink {
		h.drop(m)
		h.step(coordinator.Unlinked{Member: m}, nil)
	}
	for _, s := range fx.Send {
		h.send(s)
	}
	for _, m := range fx.Link {
		h.link(m)
	}
	if fx.Alarm != 0 && fx.Alarm < h.alarm {
		h.alarm = fx.Alarm
		h.timer.Set(h.alarm)
	}
	if fx.Propose != nil {
		h.records.propose(fx.Propose.Clone(), h.recorded)
	}
	for _, q := range fx.Complete {
		q.User.(user).completed(q)
	}
	for _, ch := range fx.Changed {
		ch.User.(func(error))(ch.Err)
	}
}

// order has the volume itself changed, and then called when that is done or refused.
func (h *head) order(ch *coordinator.Change, then func(error)) {
	ch.User = then
	h.step(coordinator.Order{Change: ch}, nil)
}

// user is whoever submits a request.
type user interface {
	completed(q *coordinator.Request)
	// held returns what must be released when a message's data is no longer looked at.
	held() link.Holder
}

func (h *head) send(s coordinator.Send) {
	to := h.links[s.Member]
	if to == nil {
		return // its end is on the way
	}
	if _, ok := s.Msg.(*wire.Open); ok {
		h.opening[s.Member] = s.ID
	}
	var hold link.Holder
	if s.Request != nil {
		if u, ok := s.Request.User.(user); ok { // not a copy
			hold = u.held()
		}
	}
	to.send(s, hold)
}

// link makes a connection to a member.
func (h *head) link(m int) {
	member := h.coord.Member(m)
	if member.Node != h.n.o.Node {
		h.n.peer(member.Node).connect(&remote{h: h, member: m, p: h.n.peer(member.Node)})
		return
	}
	r := h.n.residents[member.Replica]
	if r == nil {
		h.step(coordinator.Unlinked{Member: m}, nil)
		return
	}
	l := &local{h: h, member: m, r: r}
	l.session = r.join(l)
	h.linked(m, l)
}

// linked tells that there is a conversation.
func (h *head) linked(m int, c conversation) {
	if h.over {
		c.close()
		return
	}
	h.links[m] = c
	h.step(coordinator.Linked{Member: m, Version: c.version()}, nil)
}

// unlinked tells that a conversation has ended, or could not begin.
func (h *head) unlinked(m int, c conversation, why error) {
	if h.over || h.links[m] != nil && h.links[m] != c {
		return
	}
	delete(h.links, m)
	h.step(coordinator.Unlinked{Member: m, Why: why}, nil)
}

// received takes a message of a member.
func (h *head) received(m int, c conversation, id uint64, msg wire.Message, hold link.Holder) {
	if h.over || h.links[m] != c {
		if hold != nil {
			hold.Release()
		}
		return
	}
	if h.opening[m] == id {
		delete(h.opening, m)
		if f, ok := msg.(*wire.Fail); ok && (f.Status == fault.Unavailable || f.Status == fault.NotFound) {
			// Its node has only begun to look for what lies there: not a failure, to be tried again.
			h.drop(m)
			h.step(coordinator.Unlinked{Member: m}, hold)
			return
		}
	}
	if d, ok := msg.(*wire.ReadDone); ok && wrong(d) {
		msg = &wire.Fail{Status: fault.Corrupt, Text: "the data that arrived is not what its checksums say"}
	}
	h.take(headEvent{received: coordinator.Received{Member: m, ID: id, Msg: msg}, hold: hold})
}

// wrong reports whether data does not have its checksums.
func wrong(d *wire.ReadDone) bool {
	for i, sum := range d.Sums {
		if block.Checksum(d.Data[i*block.Size:(i+1)*block.Size]) != sum {
			return true
		}
	}
	return false
}

func (h *head) drop(m int) {
	if h.links[m] != nil {
		h.links[m].close()
		delete(h.links, m)
	}
}

// recorded tells what became of a proposal.
func (h *head) recorded(ev coordinator.Recorded) {
	if !h.over {
		h.step(ev, nil)
	}
	if !h.over {
		h.tellNews()
	}
}

// submit begins a request.
func (h *head) submit(q *coordinator.Request) { h.step(coordinator.Submit{Request: q}, nil) }

// abandon takes the head away as the end of the process would: another one goes on.
func (h *head) abandon() {
	if h.over {
		return
	}
	h.over = true
	h.timer.Stop()
	delete(h.n.heads, h.volume)
	for m := range h.links {
		h.drop(m)
	}
}

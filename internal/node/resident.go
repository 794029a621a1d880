package node

import (
	"fmt"
	"log/slog"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/replica"
	"github.com/holdfast-io/holdfast/internal/store"
	"github.com/holdfast-io/holdfast/internal/turns"
	"github.com/holdfast-io/holdfast/internal/wire"
	"github.com/holdfast-io/holdfast/internal/wire/link"
)

// resident is a replica that lies on this node and is open. The loop's.
type resident struct {
	n      *Node
	pool   *ownPool
	log    *slog.Logger
	id     block.ReplicaID
	volume block.VolumeID
	store  *store.Replica
	state  *replica.Replica

	line     turns.Line[*op] // at the pool's disk
	sessions map[replica.Session]sink
	events   queue[residentEvent]
	stepping bool
	inflight int         // operations and promises with the store
	closing  func(error) // set by close
	gone     bool        // the store is closed, or being closed
	self     replica.Self

	incarnation uint64 // of the store, as long as it is open
	failing     failing
}

// sink is where a session's answers go.
type sink interface {
	// answer takes a message, which is good until hold is released; hold may be nil.
	answer(id uint64, msg wire.Message, hold link.Holder)
}

// residentEvent is an event with what belongs to it. What each I/O has is by value: an
// Event made of it is an allocation.
type residentEvent struct {
	ev       replica.Event // nil: it is stored when there is an op, else received
	received replica.Received
	stored   replica.Stored
	frame    *link.Frame // of a message that came by a connection
	debt     *debt       // of that connection
	hold     link.Holder // of a message that came from a head of this process
	into     destination // of such a Read
	op       *op         // of a Stored
}

// destination is where a local read wants its data; the zero one is anywhere.
type destination struct {
	data []byte
	sums []block.Sum
}

// opened takes the store that was opened.
func (r *resident) opened(s *store.Replica) {
	r.store = s
	r.incarnation = r.n.incarnation + r.failing.times // the node's, unless it failed under this process
	r.self = r.selfNow()
	r.state = replica.New(r.self)
	if r.self.Promised > 0 { // else no lease was ever granted
		r.state.Quarantine(r.n.loop.Now() + r.n.o.Lease)
	}
	r.log.Info("replica open", "promised", r.self.Promised, "generation", r.self.Generation)
	if err := s.Lost(); err != nil {
		r.log.Warn("the replica failed earlier: it is to be brought up to date", "err", err)
	}
}

// selfNow asks the store what the replica is.
func (r *resident) selfNow() replica.Self {
	m := r.store.Manifest()
	return replica.Self{Size: m.Size, Generation: m.Generation, Snapshots: m.Snapshots, Promised: m.Promised,
		Incarnation: r.incarnation, Boot: r.pool.bootOf(), Doubt: replica.Doubt(r.store.Lost(), r.store.Forgot())}
}

// changed returns what the replica is, if that is not what its decider knows.
func (r *resident) changed() *replica.Self {
	m := r.store.Manifest()
	if r.self.Doubt == replica.Doubt(r.store.Lost(), r.store.Forgot()) && m.Size == r.self.Size && m.Generation == r.self.Generation && len(m.Snapshots) == len(r.self.Snapshots) {
		return nil
	}
	r.self = r.selfNow()
	now := r.self
	return &now
}

// receive takes a message of a session.
func (r *resident) receive(s replica.Session, id uint64, msg wire.Message, with residentEvent) {
	with.received = replica.Received{Session: s, ID: id, Msg: msg}
	r.step(with)
}

func (e *residentEvent) release() {
	if e.frame != nil {
		e.frame.Release()
	}
	if e.hold != nil {
		e.hold.Release()
	}
}

// join begins a session whose answers go to the sink.
func (r *resident) join(to sink) replica.Session {
	r.n.sessions++
	s := r.n.sessions
	r.sessions[s] = to
	return s
}

// leave ends a session.
func (r *resident) leave(s replica.Session) {
	if _, ok := r.sessions[s]; !ok {
		return
	}
	delete(r.sessions, s)
	r.step(residentEvent{ev: replica.Closed{Session: s}})
}

// step has the replica decide about an event, after those before it.
func (r *resident) step(e residentEvent) {
	r.events.push(e)
	if r.stepping {
		return
	}
	r.stepping = true
	defer func() { r.stepping = false }()
	for {
		e, ok := r.events.pop()
		if !ok {
			return
		}
		if _, ok := e.ev.(replica.PromiseStored); ok || e.op != nil {
			r.inflight--
		}
		if r.closing == nil {
			r.lookForFailure()
			r.perform(e, r.decide(e))
			continue
		}
		e.release()
		if e.op != nil {
			e.op.Release()
		}
		r.closeIdle()
	}
}

func (r *resident) decide(e residentEvent) replica.Effects {
	now := r.n.loop.Now()
	switch {
	case e.ev != nil:
		return r.state.Step(now, e.ev)
	case e.op != nil:
		return r.state.Finish(now, e.stored)
	}
	return r.state.Receive(now, e.received)
}

// perform does what the replica wants done.
func (r *resident) perform(e residentEvent, fx replica.Effects) {
	for _, s := range fx.Store { // of a Received: the message itself, at most one
		o := r.n.ops.get()
		o.r, o.session, o.id, o.frame, o.hold = r, s.Session, s.ID, e.frame, e.hold
		e.frame, e.hold = nil, nil
		if e.debt != nil {
			o.owe(e.debt, answerBytes(s.Msg))
		}
		r.inflight++
		o.begin(s.Msg, e.into)
	}
	if fx.Promise != 0 {
		r.inflight++
		r.store.Promise(fx.Promise, func(err error) { r.step(residentEvent{ev: replica.PromiseStored{Err: err}}) })
	}
	for _, s := range fx.Send {
		var hold link.Holder
		if e.op != nil && s.Session == e.op.session && s.ID == e.op.id {
			hold, e.op = e.op, nil
		}
		if to := r.sessions[s.Session]; to != nil {
			to.answer(s.ID, s.Msg, hold)
		} else if hold != nil {
			hold.Release()
		}
	}
	e.release()
	if e.op != nil {
		e.op.Release()
	}
}

// close answers nobody any more, and saves and closes the store when that has done what
// it was asked for.
func (r *resident) close(done func(error)) {
	if r.closing != nil {
		done(fault.E("node.close", fault.Busy, r.volume, fmt.Errorf("the replica is being closed")))
		return
	}
	r.closing = done
	r.closeIdle()
}

func (r *resident) closeIdle() {
	if r.inflight == 0 && !r.gone {
		r.gone = true
		if r.failing.shut {
			r.closing(nil)
			return
		}
		r.store.Close(r.closing)
	}
}

// open opens the replica; done is called with what kept it from being opened. It is found
// by its id then, which its store says, or not at all.
func (r *resident) open(done func(error)) {
	r.sessions = make(map[replica.Session]sink)
	store.Open(r.pool.disk, r.volume.String(), r.pool.options(), func(s *store.Replica, err error) {
		if err == nil {
			m := s.Manifest()
			if r.id = m.Replica; m.Volume != r.volume || r.n.residents[r.id] != nil {
				s.Abandon()
				done(fault.E("node.open", fault.Corrupt, r.volume, fmt.Errorf("it is replica %v of volume %v, which is here already", m.Replica, m.Volume)))
				return
			}
			r.log = r.n.log.With("volume", r.volume, "replica", r.id)
			r.n.residents[r.id] = r
			r.opened(s)
		}
		done(err)
	})
}

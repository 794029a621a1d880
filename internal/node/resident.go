package node

import (
	"log/slog"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/replica"
	"github.com/holdfast-io/holdfast/internal/store"
	"github.com/holdfast-io/holdfast/internal/wire"
	"github.com/holdfast-io/holdfast/internal/wire/link"
)

// resident is a replica that lies on this node and is open, or about to be. The loop's.
type resident struct {
	n      *Node
	log    *slog.Logger
	id     block.ReplicaID
	volume block.VolumeID
	store  *store.Replica
	state  *replica.Replica // nil until the store is open
	broken error            // why it can't be opened

	sessions map[replica.Session]sink
	events   queue[residentEvent]
	stepping bool
	closed   bool
	self     replica.Self
}

// sink is where a session's answers go.
type sink interface {
	// answer takes a message, which is good until hold is released; hold may be nil.
	answer(id uint64, msg wire.Message, hold link.Holder)
}

// residentEvent is an event with what belongs to it.
type residentEvent struct {
	ev    replica.Event
	frame *link.Frame  // of a message that came by a connection
	hold  link.Holder  // of a message that came from a head of this process
	into  *destination // of such a Read
	op    *op          // of a Stored
}

// destination is where a local read wants its data.
type destination struct {
	data []byte
	sums []block.Sum
}

// opened takes the store that was opened.
func (r *resident) opened(s *store.Replica) {
	r.store = s
	r.self = r.selfNow()
	r.state = replica.New(r.self)
	if r.self.Promised > 0 { // else no lease was ever granted
		r.state.Quarantine(r.n.loop.Now() + r.n.o.Lease)
	}
	r.log.Info("replica open", "promised", r.self.Promised, "generation", r.self.Generation)
}

// selfNow asks the store what the replica is.
func (r *resident) selfNow() replica.Self {
	m := r.store.Manifest()
	return replica.Self{Size: m.Size, Generation: m.Generation, Snapshots: m.Snapshots, Promised: m.Promised,
		Incarnation: r.n.incarnation, Boot: r.n.boot}
}

// changed returns what the replica is, if that is not what its decider knows.
func (r *resident) changed() *replica.Self {
	m := r.store.Manifest()
	if m.Size == r.self.Size && m.Generation == r.self.Generation && len(m.Snapshots) == len(r.self.Snapshots) {
		return nil
	}
	r.self = r.selfNow()
	now := r.self
	return &now
}

// receive takes a message of a session.
func (r *resident) receive(s replica.Session, id uint64, msg wire.Message, with residentEvent) {
	if r.state == nil {
		status, text := fault.Unavailable, "the replica is being opened"
		if r.broken != nil {
			status, text = fault.KindOf(r.broken), r.broken.Error()
		}
		if to := r.sessions[s]; to != nil {
			to.answer(id, &wire.Fail{Status: status, Text: wire.Clip(text)}, nil)
		}
		with.release()
		return
	}
	with.ev = replica.Received{Session: s, ID: id, Msg: msg}
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
	if r.state != nil {
		r.step(residentEvent{ev: replica.Closed{Session: s}})
	}
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
		if r.closed {
			e.release()
			if e.op != nil {
				e.op.Release()
			}
			continue
		}
		r.perform(e, r.state.Step(r.n.loop.Now(), e.ev))
	}
}

// perform does what the replica wants done.
func (r *resident) perform(e residentEvent, fx replica.Effects) {
	for _, s := range fx.Store { // of a Received: the message itself, at most one
		o := r.n.ops.get()
		o.r, o.session, o.id, o.frame, o.hold = r, s.Session, s.ID, e.frame, e.hold
		e.frame, e.hold = nil, nil
		o.begin(s.Msg, e.into)
	}
	if fx.Promise != 0 {
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

// close saves and closes the store.
func (r *resident) close(done func(error)) {
	r.closed = true
	if r.store == nil {
		done(nil)
		return
	}
	r.store.Close(done)
}

// open opens the replica in the directory dir of the disk.
func (n *Node) open(d host.Disk, dir string, volume block.VolumeID, id block.ReplicaID, o store.Options, done func(*resident, error)) {
	r := &resident{n: n, log: n.log.With("volume", volume, "replica", id), id: id, volume: volume, sessions: make(map[replica.Session]sink)}
	n.residents[id] = r
	o.Boot = n.boot
	store.Open(d, dir, o, func(s *store.Replica, err error) {
		if err != nil {
			r.broken = err
			r.log.Error("the replica can't be opened", "err", err)
		} else {
			r.opened(s)
		}
		done(r, err)
	})
}

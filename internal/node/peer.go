package node

import (
	"context"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/coordinator"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/wire"
	"github.com/holdfast-io/holdfast/internal/wire/link"
)

// peer is another node, and the connection to it that the heads of this node share. The
// loop's.
type peer struct {
	n        *Node
	id       block.NodeID
	conn     *link.Conn // nil while there is none
	dialing  bool
	waiting  []*remote // that want the connection
	channels map[uint32]*remote
	next     uint32
	full     bool           // the connection's queue has no room
	held     queue[*remote] // those with messages for which there was none, whose turn it is first
	renewals queue[renewal] // likewise, but they go first: a lease must not end because much is written
}

// message waits for room. Coordinators bound how many there are: see their QueueMax.
type message struct {
	send coordinator.Send
	hold link.Holder
}

// renewal is a wire.Renew that waits for room.
type renewal struct {
	r       *remote
	message message
}

// remote is a head's conversation with a replica on another node.
type remote struct {
	p       *peer
	h       *head
	member  int
	channel uint32
	ended   bool
	held    queue[message] // for which there was no room, in order
}

// peer returns the peer that is node id.
func (n *Node) peer(id block.NodeID) *peer {
	p := n.peers[id]
	if p == nil {
		p = &peer{n: n, id: id, channels: make(map[uint32]*remote)}
		n.peers[id] = p
	}
	return p
}

// connect begins a conversation: the head is told linked or unlinked.
func (p *peer) connect(r *remote) {
	if p.conn != nil {
		p.begin(r)
		return
	}
	p.waiting = append(p.waiting, r)
	if !p.dialing {
		p.dialing = true
		p.n.work(p.dial)
	}
}

func (p *peer) begin(r *remote) {
	if r.ended {
		return
	}
	p.next++
	r.channel = p.next
	p.channels[r.channel] = r
	r.h.linked(r.member, r)
}

// dial makes the connection, on a goroutine of its own.
func (p *peer) dial(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, p.n.o.Lease)
	defer cancel()
	address, err := p.n.o.Locate(ctx, p.id)
	var conn *link.Conn
	if err == nil {
		o := p.n.link
		o.Room = func() { p.n.loop.TryPost(p.roomAgain) }
		conn, err = link.Dial(ctx, link.Target{Network: "tcp", Address: address, Node: p.id}, o)
	}
	if !p.n.loop.Post(func() { p.dialed(conn, err) }) && conn != nil {
		conn.Close()
	}
}

func (p *peer) dialed(conn *link.Conn, err error) {
	p.dialing = false
	waiting := p.waiting
	p.waiting = nil
	if err != nil {
		p.n.log.Debug("no connection to a node", "peer", p.id, "err", err)
		why := err
		switch fault.KindOf(err) {
		case fault.Unsupported, fault.Denied, fault.Invalid: // it answered
		default:
			why = nil
		}
		for _, r := range waiting {
			r.endFor(why)
		}
		return
	}
	p.conn = conn
	p.n.serve(conn, func(f *link.Frame) { p.received(conn, f) }, func() { p.over(conn) })
	for _, r := range waiting {
		p.begin(r)
	}
}

func (p *peer) received(conn *link.Conn, f *link.Frame) {
	r := p.channels[f.Tag.Channel]
	if r == nil || p.conn != conn {
		f.Release()
		return
	}
	r.h.received(r.member, r, f.Tag.ID, f.Message, f)
}

// over tells every head that the connection is no more.
func (p *peer) over(conn *link.Conn) {
	if p.conn != conn {
		return
	}
	p.n.log.Debug("the connection to a node is over", "peer", p.id, "err", conn.Err())
	p.conn, p.full = nil, false
	channels := p.channels
	p.channels = make(map[uint32]*remote)
	p.renewals = queue[renewal]{} // nobody holds anything of them
	for r, ok := p.held.pop(); ok; r, ok = p.held.pop() {
		r.discard()
	}
	for _, r := range channels {
		r.end()
	}
}

// silence cuts the connection off when nothing came by it for long, although something
// should have: heads renew leases all the time.
func (p *peer) silence(now, limit time.Duration) {
	if p.conn == nil {
		return
	}
	switch quiet := now - p.conn.LastReceived(); {
	case quiet > limit:
		p.n.log.Warn("a node is silent: the connection to it is cut off", "peer", p.conn.Peer().Name, "for", quiet)
		p.conn.Close()
	case quiet > limit/3:
		_ = p.conn.TrySend(wire.Tag{}, &wire.Ping{}, nil) // a full queue is being written, or will be cut off
	}
}

func (r *remote) end() { r.endFor(nil) }

// endFor ends the conversation because of why, when the other end has said that it does not
// want one.
func (r *remote) endFor(why error) {
	if !r.ended {
		r.ended = true
		delete(r.p.channels, r.channel)
		r.h.unlinked(r.member, r, why)
	}
}

// close ends the conversation without telling the head.
func (r *remote) close() {
	r.ended = true
	delete(r.p.channels, r.channel)
}

// version is conversation.version.
func (r *remote) version() wire.Version { return r.p.conn.Version() }

// send is conversation.send. Who has messages waiting gets room in turn with others, one
// message at a time, so that a volume which says much does not keep another one waiting.
func (r *remote) send(s coordinator.Send, hold link.Holder) {
	p, m := r.p, message{s, hold}
	if _, ok := s.Msg.(*wire.Renew); ok {
		if p.full || !p.queue(r, m) {
			p.renewals.push(renewal{r, m})
		}
		return
	}
	if !p.full && r.held.count == 0 && p.queue(r, m) {
		return
	}
	if r.held.count == 0 {
		p.held.push(r)
	}
	r.held.push(m)
}

func (m *message) release() {
	if m.hold != nil {
		m.hold.Release()
	}
}

// discard drops what waits.
func (r *remote) discard() {
	for m, ok := r.held.pop(); ok; m, ok = r.held.pop() {
		m.release()
	}
}

// queue gives the message to the connection; false when that has no room.
func (p *peer) queue(r *remote, m message) bool {
	if p.conn == nil || r.ended {
		m.release()
		return true
	}
	hold := m.hold
	if len(wire.Data(m.send.Msg)) == 0 {
		hold = nil
	}
	err := p.conn.Queue(wire.Tag{Channel: r.channel, ID: m.send.ID}, m.send.Msg, hold)
	if fault.Is(err, fault.Busy) {
		p.full = true
		return false
	}
	if err != nil || hold == nil {
		m.release()
	}
	if err != nil && p.conn.Err() == nil {
		p.n.log.Error("a message can't be said", "kind", m.send.Msg.Kind(), "err", err)
		p.conn.Close()
	}
	p.n.flushLater(p.conn)
	return true
}

// roomAgain sends what waited, as far as there is room.
func (p *peer) roomAgain() {
	p.full = false
	for p.renewals.count > 0 {
		if x := p.renewals.first(); !p.queue(x.r, x.message) {
			return
		}
		p.renewals.pop()
	}
	for p.held.count > 0 {
		r := p.held.first()
		if !p.queue(r, r.held.first()) {
			return
		}
		r.held.pop()
		p.held.pop()
		if r.held.count > 0 {
			p.held.push(r)
		}
	}
}

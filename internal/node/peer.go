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
	overflow queue[message] // what the connection's queue had no room for
	full     bool
}

// message waits for room. Coordinators bound how many there are: see their QueueMax.
type message struct {
	r    *remote
	send coordinator.Send
	hold link.Holder
}

// remote is a head's conversation with a replica on another node.
type remote struct {
	p       *peer
	h       *head
	member  int
	channel uint32
	ended   bool
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
		for _, r := range waiting {
			r.end()
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
	p.conn = nil
	channels := p.channels
	p.channels = make(map[uint32]*remote)
	for m, ok := p.overflow.pop(); ok; m, ok = p.overflow.pop() {
		m.release()
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
		p.conn.Close()
	case quiet > limit/3:
		_ = p.conn.TrySend(wire.Tag{}, &wire.Ping{}, nil) // a full queue is being written, or will be cut off
	}
}

func (r *remote) end() {
	if !r.ended {
		r.ended = true
		delete(r.p.channels, r.channel)
		r.h.unlinked(r.member, r)
	}
}

// close ends the conversation without telling the head.
func (r *remote) close() {
	r.ended = true
	delete(r.p.channels, r.channel)
}

// version is conversation.version.
func (r *remote) version() wire.Version { return r.p.conn.Version() }

// send is conversation.send.
func (r *remote) send(s coordinator.Send, hold link.Holder) {
	m := message{r, s, hold}
	if r.p.full {
		r.p.overflow.push(m)
		return
	}
	r.p.queue(m)
}

func (m *message) release() {
	if m.hold != nil {
		m.hold.Release()
	}
}

// queue gives the message to the connection.
func (p *peer) queue(m message) {
	if p.conn == nil || m.r.ended {
		m.release()
		return
	}
	hold := m.hold
	if len(wire.Data(m.send.Msg)) == 0 {
		hold = nil
	}
	err := p.conn.Queue(wire.Tag{Channel: m.r.channel, ID: m.send.ID}, m.send.Msg, hold)
	switch {
	case fault.Is(err, fault.Busy):
		p.full = true
		p.overflow.push(m)
		return
	case err != nil || hold == nil:
		m.release()
	}
	if err != nil && p.conn.Err() == nil {
		p.n.log.Error("a message can't be said", "kind", m.send.Msg.Kind(), "err", err)
		p.conn.Close()
	}
	p.n.flushLater(p.conn)
}

// roomAgain sends what waited.
func (p *peer) roomAgain() {
	p.full = false
	for !p.full {
		m, ok := p.overflow.pop()
		if !ok {
			return
		}
		p.queue(m)
	}
}

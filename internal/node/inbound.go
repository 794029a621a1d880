package node

import (
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/replica"
	"github.com/holdfast-io/holdfast/internal/wire"
	"github.com/holdfast-io/holdfast/internal/wire/link"
)

// inbound is a connection that another node made, to talk to replicas here. The loop's.
type inbound struct {
	n        *Node
	conn     *link.Conn
	channels map[uint32]*channel
	debt     debt
	held     queue[*channel] // those with frames that wait, whose turn it is first
}

// channel is one conversation on it.
type channel struct {
	c        *inbound
	number   uint32
	resident *resident
	session  replica.Session
	held     queue[*link.Frame] // what waits until less is owed, in order
	over     bool
}

// channelsMax bounds the conversations on one connection: a node has no more volumes.
const channelsMax = 1 << 16

// received takes a frame.
func (c *inbound) received(f *link.Frame) {
	ch := c.channels[f.Tag.Channel]
	if open, ok := f.Message.(*wire.Open); ok {
		c.open(f.Tag, open)
		f.Release()
		return
	}
	if ch == nil {
		c.fail(f.Tag, fault.NotFound, "nothing was opened on this channel")
		f.Release()
		return
	}
	_, renews := f.Message.(*wire.Renew) // which asks nothing of the store, and must not be late
	if renews || ch.held.count == 0 && c.debt.fits(answerBytes(f.Message)) {
		ch.begin(f)
		return
	}
	if ch.held.count == 0 {
		c.held.push(ch)
	}
	ch.held.push(f)
}

func (ch *channel) begin(f *link.Frame) {
	ch.resident.receive(ch.session, f.Tag.ID, f.Message, residentEvent{frame: f, debt: &ch.c.debt})
}

// goOn begins what waited, one message of each conversation at a time, as far as it may.
func (c *inbound) goOn() {
	for c.held.count > 0 {
		ch := c.held.first()
		if ch.over {
			c.held.pop()
			continue
		}
		f := ch.held.first()
		if !c.debt.fits(answerBytes(f.Message)) {
			return
		}
		ch.held.pop()
		c.held.pop()
		if ch.held.count > 0 {
			c.held.push(ch)
		}
		ch.begin(f)
	}
}

// leave ends the conversation.
func (ch *channel) leave() {
	ch.over = true
	for f, ok := ch.held.pop(); ok; f, ok = ch.held.pop() {
		f.Release()
	}
	ch.resident.leave(ch.session)
}

// open begins a conversation, in place of the one that the channel had.
func (c *inbound) open(tag wire.Tag, m *wire.Open) {
	if old := c.channels[tag.Channel]; old != nil {
		old.leave()
		delete(c.channels, tag.Channel)
	}
	r := c.n.residents[m.Replica]
	switch {
	case len(c.channels) >= channelsMax:
		c.fail(tag, fault.NoSpace, "too many conversations on one connection")
		return
	case r == nil || r.volume != m.Volume:
		c.fail(tag, fault.NotFound, "there is no such replica here")
		return
	}
	ch := &channel{c: c, number: tag.Channel, resident: r}
	ch.session = r.join(ch)
	c.channels[tag.Channel] = ch
	copied := *m
	r.receive(ch.session, tag.ID, &copied, residentEvent{})
}

func (c *inbound) fail(tag wire.Tag, status fault.Kind, text string) {
	c.send(tag, &wire.Fail{Status: status, Text: text}, nil)
}

// answer is sink.answer.
func (ch *channel) answer(id uint64, msg wire.Message, hold link.Holder) {
	ch.c.send(wire.Tag{Channel: ch.number, ID: id}, msg, hold)
}

// send queues a message. A queue that is full means that the other end asks without
// reading: it is cut off.
func (c *inbound) send(tag wire.Tag, msg wire.Message, hold link.Holder) {
	if len(wire.Data(msg)) == 0 && hold != nil {
		defer hold.Release() // the head is copied
		hold = nil
	}
	if err := c.conn.Queue(tag, msg, hold); err != nil {
		if hold != nil {
			hold.Release()
		}
		if c.conn.Err() == nil {
			c.n.log.Warn("a node asks without reading the answers: it is cut off", "peer", c.conn.Peer().Name, "err", err)
		}
		c.conn.Close()
		return
	}
	c.n.flushLater(c.conn)
}

// expel ends what nodes say that were removed from the cluster after they connected. The
// loop's.
func (n *Node) expel() {
	cr := n.o.Credentials
	if cr == nil || cr.Removed == nil {
		return
	}
	for c := range n.inbounds {
		if cr.Removed(c.conn.Peer().Node) {
			n.log.Warn("a node that was removed is cut off", "peer", c.conn.Peer().Name)
			c.conn.Close()
		}
	}
}

// over ends all conversations: the connection is no more.
func (c *inbound) over() {
	for _, ch := range c.channels {
		ch.leave()
	}
	c.channels = nil
	delete(c.n.inbounds, c)
}

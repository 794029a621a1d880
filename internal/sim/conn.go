package sim

import (
	"time"

	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/replica"
	"github.com/holdfast-io/holdfast/internal/wire"
)

// conn is a connection from a head to a node: messages arrive late, but in order and
// once, until it breaks.
type conn struct {
	c       *cluster
	head    *head
	member  int
	node    *node
	life    int // of the node's process
	session replica.Session
	open    bool
	// served: the node still takes what comes. What was sent before the connection broke may
	// arrive after the head has another one.
	served bool
	stall  time.Duration // until when it lies in the node's buffers

	last  [2]time.Duration // when the last message on the way arrives, each way
	under [2][]func()      // messages on the way
}

// frame carries a message through the real codec.
func frame(c *cluster, id uint64, msg wire.Message) func() wire.Message {
	head, err := wire.Append(nil, wire.Tag{Channel: 1, ID: id}, msg)
	if err != nil {
		c.found("a message that can't be said: %v", err)
		return nil
	}
	var data []byte
	if d := wire.Data(msg); d != nil {
		data = host.Buffer(len(d))
		copy(data, d)
	}
	return func() wire.Message {
		var box wire.Box
		m, err := box.Decode(head)
		if err != nil {
			c.found("a message that can't be read: %v", err)
			return nil
		}
		if data != nil {
			wire.SetData(m, data)
		}
		return m
	}
}

// way is a direction.
type way int

const (
	toNode way = iota
	toHead
)

// deliver has do run after some delay, behind what was sent before. What is sent into a
// partition waits in the sender's buffers until it heals, or the connection breaks.
func (k *conn) deliver(w way, do func()) {
	at := max(k.c.now+k.c.between(10*time.Microsecond, k.c.netMax), k.last[w]+time.Nanosecond)
	k.last[w] = at
	k.under[w] = append(k.under[w], do)
	k.c.after(at-k.c.now, func() { k.arrive(w) })
}

// arrive lets the first message on its way arrive.
func (k *conn) arrive(w way) {
	from, to := k.head.node, k.node
	if w == toHead {
		from, to = to, from
	}
	switch {
	case w == toHead && !k.open, w == toNode && !k.served:
	case k.c.cut(from, to):
		k.c.after(10*time.Millisecond, func() { k.arrive(w) })
	case w == toNode && k.c.now < k.stall:
		k.c.after(k.stall-k.c.now, func() { k.arrive(w) })
	default:
		do := k.under[w][0]
		k.under[w] = k.under[w][1:]
		do()
	}
}

// ask sends a message to the node.
func (k *conn) ask(id uint64, msg wire.Message) {
	if !k.open {
		return
	}
	read := frame(k.c, id, msg)
	k.deliver(toNode, func() {
		if m := read(); m != nil && k.node.up && k.node.life == k.life {
			k.c.log("%s -> node %d: %s %d", k.head.name, k.node.i, m.Kind(), id)
			if k.c.step(step{k.head, k.node, m}); k.served && k.node.life == k.life {
				k.node.receive(k.session, id, m)
			}
		}
	})
}

// reply sends an answer to the head.
func (k *conn) reply(id uint64, msg wire.Message) {
	if !k.open {
		return
	}
	read := frame(k.c, id, msg)
	k.deliver(toHead, func() {
		if m := read(); m != nil {
			k.c.log("node %d -> %s: %s %d%s", k.node.i, k.head.name, m.Kind(), id, refusal(m))
			if k.c.step(step{k.head, k.node, m}); k.open {
				k.head.received(k, id, m)
			}
		}
	})
}

// cutOff breaks the connection; each side learns of it some time later.
func (k *conn) cutOff() {
	if !k.open {
		return
	}
	k.open = false
	k.c.after(k.c.between(10*time.Microsecond, 10*k.c.netMax), func() { k.head.unlinked(k) })
	late := k.c.between(10*time.Microsecond, 10*k.c.netMax)
	if !k.c.healed && (k.c.favourite == breakAll || k.c.chance(20)) {
		k.stall = k.c.now + k.c.between(late, late+k.c.lease) // long after there is another connection, perhaps
		late += k.stall - k.c.now
	}
	k.c.after(late, func() {
		k.served = false
		if k.node.up && k.node.life == k.life {
			k.node.closed(k.session)
		}
	})
}

// refusal is what a Fail says, for the trace.
func refusal(m wire.Message) string {
	if f, ok := m.(*wire.Fail); ok {
		return ": " + f.Text
	}
	return ""
}

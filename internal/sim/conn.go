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

	toNode, toHead time.Duration // when the last message on the way arrives
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

// deliver has do run after some delay, behind what was sent before. What is sent into a
// partition waits in the sender's buffers until it heals, or the connection breaks.
func (k *conn) deliver(last *time.Duration, do func()) {
	at := max(k.c.now+k.c.between(10*time.Microsecond, k.c.netMax), *last+time.Nanosecond)
	*last = at
	k.c.after(at-k.c.now, func() { k.arrive(do) })
}

func (k *conn) arrive(do func()) {
	if !k.open {
		return
	}
	if k.c.cut(k.head.node, k.node) {
		k.c.after(10*time.Millisecond, func() { k.arrive(do) })
		return
	}
	do()
}

// ask sends a message to the node.
func (k *conn) ask(id uint64, msg wire.Message) {
	if !k.open {
		return
	}
	read := frame(k.c, id, msg)
	k.deliver(&k.toNode, func() {
		if m := read(); m != nil && k.node.up && k.node.life == k.life {
			k.c.log("%s -> node %d: %s %d", k.head.name, k.node.i, m.Kind(), id)
			k.node.receive(k.session, id, m)
		}
	})
}

// reply sends an answer to the head.
func (k *conn) reply(id uint64, msg wire.Message) {
	if !k.open {
		return
	}
	read := frame(k.c, id, msg)
	k.deliver(&k.toHead, func() {
		if m := read(); m != nil {
			k.c.log("node %d -> %s: %s %d", k.node.i, k.head.name, m.Kind(), id)
			k.head.received(k, id, m)
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
	k.c.after(k.c.between(10*time.Microsecond, 10*k.c.netMax), func() {
		if k.node.up && k.node.life == k.life {
			k.node.closed(k.session)
		}
	})
}

package wire

import (
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// magic is the first thing in a Hello: "holdfast", read as a number.
const magic = 0x74736166_646c6f68

// Hello is the first frame in each direction of a connection: who this is. Its layout
// is the same in all versions.
type Hello struct {
	Lowest, Highest Version // that the sender speaks
	Cluster         block.ClusterID
	Node            block.NodeID
	Incarnation     uint64 // drawn at random when the process started, never 0
	Boot            uint64 // of the machine: what was not flushed may be lost when it changes
	Features        uint64 // bits; both have a feature when both say so. There are none yet
	Name            string // of the node, for people; at most NameMax bytes
}

// Kind returns KindHello.
func (*Hello) Kind() Kind { return KindHello }

func (m *Hello) code(c coder) coder {
	c.constant(magic)
	c.u16((*uint16)(&m.Lowest))
	c.u16((*uint16)(&m.Highest))
	c.id((*[16]byte)(&m.Cluster))
	c.id((*[16]byte)(&m.Node))
	c.u64(&m.Incarnation)
	c.u64(&m.Boot)
	c.u64(&m.Features)
	c.text(&m.Name, NameMax)
	if m.Lowest == 0 || m.Lowest > m.Highest {
		c.wrong("versions %d to %d", m.Lowest, m.Highest)
	}
	if m.Incarnation == 0 {
		c.wrong("no incarnation")
	}
	return c
}

// Refuse is the last frame in its direction: why the sender does not go on with this
// connection. Its layout is the same in all versions.
type Refuse struct {
	Status fault.Kind
	Text   string // for people; at most TextMax bytes
}

// Kind returns KindRefuse.
func (*Refuse) Kind() Kind { return KindRefuse }

func (m *Refuse) code(c coder) coder {
	c.status(&m.Status)
	c.text(&m.Text, TextMax)
	return c
}

// Leave announces that a replica, or on channel 0 all of the node's, will be gone for a
// moment on purpose, so that nobody waits for a time-out.
type Leave struct {
	Text string // why, for people; at most TextMax bytes
}

// Kind returns KindLeave.
func (*Leave) Kind() Kind { return KindLeave }

func (m *Leave) code(c coder) coder {
	c.text(&m.Text, TextMax)
	return c
}

// Ping asks for a Pong, on channel 0: is the other end there?
type Ping struct{}

// Kind returns KindPing.
func (*Ping) Kind() Kind { return KindPing }

func (*Ping) code(c coder) coder { return c }

// Pong answers a Ping.
type Pong struct{}

// Kind returns KindPong.
func (*Pong) Kind() Kind { return KindPong }

func (*Pong) code(c coder) coder { return c }

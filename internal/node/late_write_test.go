package node

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
)

// strait is a network between a node and another, which keeps back what is sent, and goes on
// delivering that when the sender is dead.
type strait struct {
	t    *testing.T
	l    net.Listener
	to   string
	gate sync.RWMutex // held: nothing passes
	back sync.RWMutex // the same for the way back
	sent chan struct{}
	over chan struct{} // has a value for each connection of which all was delivered
}

func newStrait(t *testing.T, to string) *strait {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = l.Close() }) // of the test
	s := &strait{t: t, l: l, to: to, sent: make(chan struct{}, 1), over: make(chan struct{}, 64)}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if err := c.(*net.TCPConn).SetReadBuffer(64 << 10); err != nil { // what is kept back is not with the kernel
				t.Error(err)
			}
			go s.carry(c)
		}
	}()
	return s
}

// carry connects one connection to the other side. The other side's stays open until all
// that was kept back has been delivered.
func (s *strait) carry(c net.Conn) {
	defer c.Close()
	d, err := net.Dial("tcp", s.to)
	if err != nil {
		return
	}
	defer func() { s.over <- struct{}{} }()
	defer d.Close()
	if err := d.(*net.TCPConn).SetReadBuffer(64 << 10); err != nil {
		s.t.Error(err)
	}
	go func() { _, _ = io.Copy(gated{c, &s.back}, d) }() // until one of the two is closed
	buf := make([]byte, 256<<10)
	for {
		n, err := c.Read(buf)
		if n > 0 {
			if n > block.Size { // a write's data
				select {
				case s.sent <- struct{}{}:
				default:
				}
			}
			s.gate.RLock()
			_, wErr := d.Write(buf[:n])
			s.gate.RUnlock()
			if wErr != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// gated writes while nobody holds the gate.
type gated struct {
	io.Writer
	gate *sync.RWMutex
}

func (g gated) Write(p []byte) (int, error) {
	g.gate.RLock()
	defer g.gate.RUnlock()
	return g.Writer.Write(p)
}

// TestALateWriteOfTheDeadDoesNotUndoANewerOne delays a write on the connection to a replica
// until its process is dead, and its successor has written the same block. The replica then
// gets it, and refuses it.
func TestALateWriteOfTheDeadDoesNotUndoANewerOne(t *testing.T) {
	g := newRig(t, 2)
	head, other := g.nodes[0], g.nodes[1]
	slow := newStrait(t, other.address)
	direct := head.Node.o.Locate
	head.do(func() {
		head.Node.o.Locate = func(ctx context.Context, id block.NodeID) (string, error) {
			if id == other.id {
				return slow.l.Addr().String(), nil
			}
			return direct(ctx, id)
		}
	})
	v := head.attach()
	v.write(0, 1, 4096)
	for len(slow.sent) > 0 {
		<-slow.sent
	}
	slow.gate.Lock()
	buf := host.Buffer(8192)
	for i := range buf {
		buf[i] = 2
	}
	late := &attach.Request{Op: attach.Write, Length: 8192, Buf: buf, Done: func(*attach.Request) {}}
	head.loop.Post(func() { v.b.Submit(late) })
	patiently.From(t, slow.sent) // it is on its way
	head.kill()
	head.start() // which goes straight
	w := head.attach()
	w.write(0, 3, 8192)
	must(t, w.request(attach.Flush, 0, nil, 0))
	slow.gate.Unlock()
	patiently.From(t, slow.over) // what was kept back has arrived
	w.write(8192, 4, 4096)
	w.holds(0, 3, 8192)
	head.stop()
	head.Node = nil
	x := other.attach() // reads its own replica
	x.holds(0, 3, 8192)
}

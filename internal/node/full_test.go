package node

import (
	"context"
	"testing"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/coordinator"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/wire"
	"github.com/holdfast-io/holdfast/internal/wire/link"
)

// TestAReplicaReturnsAfterItsConnectionWasFull writes until the connection to a node takes
// no more, and is then given up: the next one to the same node is spoken on again.
func TestAReplicaReturnsAfterItsConnectionWasFull(t *testing.T) {
	g := newRig(t, 3)
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
	slow.gate.Lock()
	const mib, count = 1 << 20, rigSize >> 20 // more than the connection's queue, and what the kernel takes of one that reads little
	b := newBackend(v.h, count)
	done := make(chan error, count)
	buf := host.Buffer(mib)
	head.do(func() {
		for i := range count {
			b.Submit(&attach.Request{Op: attach.Write, Slot: i, Offset: int64(i) * mib, Length: mib, Buf: buf, Done: func(r *attach.Request) { done <- r.Err }})
		}
	})
	var full *link.Conn
	patiently.True(t, "the connection takes no more", func() (yes bool) {
		head.do(func() { p := head.peers[other.id]; yes, full = p.full, p.conn })
		return yes
	})
	for range count { // the replica behind it is left behind
		must(t, patiently.From(t, done))
	}
	patiently.True(t, "the connection is given up", func() (over bool) {
		head.do(func() { over = head.peers[other.id].conn != full })
		return over
	})
	slow.gate.Unlock()
	g.await(func(r spec.Record) bool { return r.InSync() == 3 })
	v.write(0, 7, 4096)
	v.holds(0, 7, 4096)
}

// TestAConnectionThatEndsFullLeavesRoomForTheNext is the same where the last that the old
// connection says is that it is full.
func TestAConnectionThatEndsFullLeavesRoomForTheNext(t *testing.T) {
	g := newRig(t, 2)
	head, other := g.nodes[0], g.nodes[1]
	v := head.attach()
	head.do(func() { head.peers[other.id].full = true })
	head.cut()
	v.write(0, 7, 4096) // which waits for the connection, or for the record to leave the replica behind
	g.await(func(r spec.Record) bool { return r.InSync() == 2 })
}

// TestALeaseIsRenewedAheadOfWhatWaits has a head say something while the connection takes
// nothing: what renews leases is not behind what is written.
func TestALeaseIsRenewedAheadOfWhatWaits(t *testing.T) {
	g := newRig(t, 2)
	head, other := g.nodes[0], g.nodes[1]
	v := head.attach()
	done := make(chan error, 1)
	head.do(func() {
		p := head.peers[other.id]
		p.full = true
		v.b.Submit(&attach.Request{Op: attach.Write, Length: 4096, Buf: host.Buffer(4096), Done: func(r *attach.Request) { done <- r.Err }})
		for m, c := range v.h.links {
			if r, ok := c.(*remote); ok {
				r.send(coordinator.Send{Member: m, Msg: &wire.Renew{Epoch: v.h.coord.Record().Epoch}}, nil)
			}
		}
		if p.held.count != 1 || p.renewals.count != 1 {
			t.Errorf("%d conversations and %d renewals wait", p.held.count, p.renewals.count)
		}
		p.roomAgain()
		if p.held.count != 0 || p.renewals.count != 0 {
			t.Errorf("%d conversations and %d renewals still wait", p.held.count, p.renewals.count)
		}
	})
	must(t, patiently.From(t, done))
}

// What never is much does not take more and more memory, even if it never is nothing.
func TestAQueueIsAsLongAsTheMostThatWaited(t *testing.T) {
	var q queue[int]
	in, out := 0, 0
	for _, n := range []int{3, 9, 1, 40, 2} {
		for range n {
			q.push(in)
			in++
		}
		for range n - 1 {
			if got, ok := q.pop(); !ok || got != out {
				t.Fatalf("got %d, %v; want %d", got, ok, out)
			}
			out++
		}
	}
	for ; out < in; out++ {
		if got := q.first(); got != out {
			t.Fatalf("first is %d, want %d", got, out)
		}
		q.pop()
	}
	if _, ok := q.pop(); ok {
		t.Error("something is left")
	}
	for range 1000 {
		q.push(1)
		q.push(1)
		q.pop()
		q.pop()
		q.push(1)
		q.pop()
	}
	if len(q.items) > 64 {
		t.Errorf("%d places for what never was more than 40", len(q.items))
	}
}

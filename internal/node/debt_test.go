package node

import (
	"context"
	"testing"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
)

// TestWhoReadsMoreThanTheNetworkTakesIsNotCutOff reads a volume, whose only replica is on
// another node, faster than the network brings the answers.
func TestWhoReadsMoreThanTheNetworkTakesIsNotCutOff(t *testing.T) {
	g := newRig(t, 2)
	reader, other := g.nodes[0], g.nodes[1]
	slow := newStrait(t, other.address)
	reader.do(func() {
		reader.Node.o.Locate = func(context.Context, block.NodeID) (string, error) { return slow.l.Addr().String(), nil }
	})
	v := reader.attachFrom(other.second())
	conn := reader.peers[other.id].conn
	slow.back.Lock()
	const mib, count = 1 << 20, rigSize >> 20
	b := newBackend(v.h, count)
	done := make(chan error, count)
	reader.do(func() {
		for i := range count {
			b.Submit(&attach.Request{Op: attach.Read, Slot: i, Offset: int64(i) * mib, Length: mib, Buf: host.Buffer(mib), Done: func(r *attach.Request) { done <- r.Err }})
		}
	})
	patiently.True(t, "the other node waits for the network", func() (yes bool) {
		other.do(func() {
			for c := range other.inbounds {
				yes = yes || c.held.count > 0
			}
		})
		return yes
	})
	slow.back.Unlock()
	for range count {
		must(t, patiently.From(t, done))
	}
	if err := conn.Err(); err != nil {
		t.Error(err)
	}
}

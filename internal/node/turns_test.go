package node

import (
	"crypto/rand"
	"testing"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/store"
)

// second makes another volume whose replica lies in the node's pool, too.
func (n *rigNode) second() *book {
	t := n.g.t
	s := store.Spec{Size: rigSize}
	var err error
	s.Volume, err = block.NewVolumeID(rand.Reader)
	must(t, err)
	s.Replica, err = block.NewReplicaID(rand.Reader)
	must(t, err)
	must(t, n.wait(t.Context(), func(done func(error)) { store.Create(n.pool.disk, s.Volume.String(), s, n.pool.options(), done) }))
	must(t, n.pool.open(t.Context(), s.Volume))
	return &book{rec: spec.Record{Version: 1, Volume: s.Volume, Size: rigSize, Epoch: 1,
		Members: []spec.Member{{Replica: s.Replica, Node: n.id, State: spec.InSync}}}}
}

// resident returns the replica that the volume has on its node.
func (v *volume) resident() *resident {
	for _, r := range v.node.residents {
		if r.volume == v.h.volume {
			return r
		}
	}
	return nil
}

// TestAVolumeDoesNotWaitForAnothersQueue has the user of one volume ask for much at once,
// and then that of another one, on the same disk, for a block.
func TestAVolumeDoesNotWaitForAnothersQueue(t *testing.T) {
	n := newRig(t, 1).nodes[0]
	greedy, modest := n.attach(), n.attachFrom(n.second())
	greedy.write(0, 1, 4096)
	modest.write(0, 1, 4096)
	const count = 300
	done := make(chan error, count+1)
	ask := func(b *backend, slot int) {
		b.Submit(&attach.Request{Op: attach.Write, Slot: slot, Offset: int64(slot) * block.Size, Length: block.Size, Buf: host.Buffer(block.Size),
			Done: func(r *attach.Request) { done <- r.Err }})
	}
	n.do(func() {
		b := newBackend(greedy.h, count)
		for slot := range count {
			ask(b, slot)
		}
		ask(modest.b, 1)
		if g, m := greedy.resident().line.Waiting(), modest.resident().line.Waiting(); !g || m {
			t.Errorf("what the one with %d requests asks waits at the disk: %v; what the one with a single request does: %v", count, g, m)
		}
	})
	for range count + 1 {
		must(t, patiently.From(t, done))
	}
	n.do(func() {
		if !n.pool.turns.Idle() {
			t.Error("something waits although nothing is asked for")
		}
	})
}

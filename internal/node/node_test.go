package node

import (
	"testing"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/spec"
)

func TestWritesReachAllReplicas(t *testing.T) {
	g := newRig(t, 3)
	v := g.nodes[0].attach()
	v.write(0, 1, 4096)
	v.write(1<<20, 2, 1<<20)
	must(t, v.request(attach.Flush, 0, nil, 0))
	must(t, v.request(attach.Zero, 1<<20, nil, 8192))
	v.holds(0, 1, 4096)
	v.holds(1<<20+8192, 2, 1<<20-8192)
	v.holds(1<<20, 0, 8192)
	if r := g.record.now(); r.InSync() != 3 || r.Owner != g.nodes[0].id {
		t.Errorf("the record: %+v", r)
	}
}

// A volume goes on without a node that ended, and takes it back with what it missed.
func TestReplicaLeavesAndReturns(t *testing.T) {
	g := newRig(t, 3)
	v := g.nodes[0].attach()
	v.write(0, 1, 1<<20)
	g.nodes[2].stop()
	v.write(4096, 2, 4096)
	v.write(8<<20, 3, 4096)
	g.await(func(r spec.Record) bool { return r.InSync() == 2 })
	g.nodes[2].start()
	g.await(func(r spec.Record) bool { return r.InSync() == 3 })
	g.nodes[0].stop()
	g.nodes[1].stop()
	w := g.nodes[2].attach()
	w.holds(0, 1, 4096)
	w.holds(4096, 2, 4096)
	w.holds(8<<20, 3, 4096)
}

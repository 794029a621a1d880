package node

import (
	"testing"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// The filesystem of a node's pool goes away under a volume in use, and is there again: the
// volume goes on without that replica, whose files are all closed, and takes it back.
func TestAPoolThatGoesAwayAndComesBackCostsOneCopyMeanwhile(t *testing.T) {
	g := newRig(t, 3)
	v := g.nodes[0].attach()
	v.write(0, 1, block.Size)
	n := g.nodes[1]
	for round := range 3 {
		epoch := g.record.now().Epoch
		if !n.pool.quit(t.Context()) {
			t.Fatal("the node has ended")
		}
		g.await(lacks(n.replica))
		v.write(0, byte(2+round), block.Size)
		if err := n.pool.open(t.Context(), g.record.now().Volume); !fault.Is(err, fault.Unavailable) {
			t.Errorf("a replica is opened in a pool that is away: %v", err)
		}
		if !n.pool.quit(t.Context()) { // once more changes nothing
			t.Fatal("the node has ended")
		}
		disk, err := n.loop.Open(n.root())
		must(t, err)
		n.do(func() { n.pool.boot = randomNumber(); n.pool.back(disk, nil) })
		g.await(whole)
		if now := g.record.now().Epoch; now < epoch+2 {
			t.Errorf("the epoch was %d, and is %d", epoch, now)
		}
		v.holds(0, byte(2+round), block.Size)
	}
}

// With one replica all waits until the pool is back, and goes on then.
func TestAPoolWithTheOnlyCopyIsWaitedFor(t *testing.T) {
	g := newRig(t, 1)
	n := g.nodes[0]
	v := n.attach()
	v.write(0, 1, block.Size)
	must(t, v.request(attach.Flush, 0, nil, 0))
	if !n.pool.quit(t.Context()) {
		t.Fatal("the node has ended")
	}
	disk, err := n.loop.Open(n.root())
	must(t, err)
	n.do(func() { n.pool.boot = randomNumber(); n.pool.back(disk, nil) })
	v.holds(0, 1, block.Size)
	v.write(0, 2, block.Size)
	v.holds(0, 2, block.Size)
}

// A pool that goes away while its node is to end does not keep it.
func TestANodeEndsWhosePoolIsAway(t *testing.T) {
	g := newRig(t, 2)
	v := g.nodes[0].attach()
	v.write(0, 1, block.Size)
	g.nodes[1].pool.quit(t.Context())
	g.await(lacks(g.nodes[1].replica))
	g.nodes[1].stop()
	g.nodes[1].start()
	g.await(whole)
	v.holds(0, 1, block.Size)
}

package e2e

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
)

// on returns the names of the nodes that have a replica of a volume in sync.
func (c *cluster) on(ctx context.Context, volume string) (names []string) {
	names = []string{}
	nodes, err := c.nodes[0].api().Nodes.ListNodes(ctx, &v1.ListNodesRequest{})
	if err != nil {
		return nil
	}
	v, err := c.nodes[0].api().Volumes.GetVolume(ctx, &v1.GetVolumeRequest{Volume: volume})
	if err != nil {
		return nil
	}
	for _, n := range nodes.Nodes {
		for _, r := range v.Status.Replicas {
			if r.NodeId == n.Meta.Id && r.State == v1.ReplicaState_REPLICA_STATE_IN_SYNC {
				names = append(names, n.Meta.Name)
			}
		}
	}
	return names
}

// awaitOn waits until a volume's replicas are in sync on these nodes, and nowhere else.
func (c *cluster) awaitOn(volume string, want ...string) {
	c.t.Helper()
	var got []string
	c.await("the replicas of "+volume+" are on "+strings.Join(want, " and "), func(ctx context.Context) bool {
		got = c.on(ctx, volume)
		v, err := c.nodes[0].api().Volumes.GetVolume(ctx, &v1.GetVolumeRequest{Volume: volume})
		return err == nil && len(v.Status.Replicas) == len(want) && strings.Join(got, " ") == strings.Join(want, " ")
	})
}

// TestMoves has replicas change places, and nodes leave, while a volume is written.
func TestMoves(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 4)
	n1, n4 := c.nodes[0], c.nodes[3]
	n1.mustCLI("volume", "create", "db", "--size", "256Mi", "--repl", "3", "--nodes", "n1,n2,n3")
	n1.mustCLI("volume", "create", "second", "--size", "256Mi", "--repl", "2", "--nodes", "n1,n2")
	for _, volume := range []string{"db", "second"} { // from now on they may be anywhere
		_, err := n1.api().Volumes.UpdateVolume(t.Context(), &v1.UpdateVolumeRequest{Volume: volume, Placement: &v1.Placement{}})
		must(t, err)
	}
	w := newWriter(t, n1.attach("db"), 0)
	w.goesOn(c)
	sh(t, `dd if=/dev/urandom of="$1" bs=1M seek=16 count=64 oflag=direct conv=fsync status=none`, w.path)
	sum := sh(t, `dd if="$1" bs=1M skip=16 count=64 iflag=direct status=none | sha256sum`, w.path)
	intact := func() {
		t.Helper()
		w.goesOn(c)
		if got := sh(t, `dd if="$1" bs=1M skip=16 count=64 iflag=direct status=none | sha256sum`, w.path); got != sum {
			t.Errorf("%s is read, and was %s", got, sum)
		}
	}

	c.during(t, "AReplicaMovesUnderAWriter", func(t *testing.T) {
		n1.mustCLI("volume", "move", "db", "--from", "n2", "--to", "n4", "--wait")
		c.awaitOn("db", "n1", "n3", "n4")
		intact()
	})

	c.during(t, "ANodeIsDrainedUnderAWriter", func(t *testing.T) {
		n1.mustCLI("node", "drain", "n3", "--wait")
		c.awaitOn("db", "n1", "n2", "n4")
		intact()
		n1.mustCLI("node", "undrain", "n3")
	})

	c.during(t, "RebalancingSaysWhatItWouldDoAndDoesIt", func(t *testing.T) {
		heavy := []string{"heavy1", "heavy2", "heavy3", "heavy4"}
		for _, volume := range heavy {
			n1.mustCLI("volume", "create", volume, "--size", "600Mi", "--repl", "1", "--nodes", "n2")
			_, err := n1.api().Volumes.UpdateVolume(t.Context(), &v1.UpdateVolumeRequest{Volume: volume, Placement: &v1.Placement{}})
			must(t, err)
		}
		places := func() (all []string) {
			for _, volume := range heavy {
				all = append(all, c.on(t.Context(), volume)...)
			}
			return all
		}
		t.Logf("a dry run says:\n%s", n1.mustCLI("pool", "rebalance", "--dry-run", "--wait"))
		if now := places(); !slices.Equal(now, []string{"n2", "n2", "n2", "n2"}) {
			t.Errorf("after a dry run the replicas are on %v", now)
		}
		t.Logf("rebalancing says:\n%s", n1.mustCLI("pool", "rebalance", "--wait"))
		if now := places(); len(now) != len(heavy) || !slices.ContainsFunc(now, func(n string) bool { return n != "n2" }) {
			t.Errorf("after rebalancing the replicas are on %v", now)
		}
		n1.awaitHealth("db", v1.Health_HEALTH_HEALTHY)
		intact()
	})

	c.during(t, "AMachineReturnsWithItsOldDisk", func(t *testing.T) {
		if on := c.on(t.Context(), "db"); !strings.Contains(strings.Join(on, " "), "n4") {
			n1.mustCLI("volume", "move", "db", "--from", on[len(on)-1], "--to", "n4", "--wait")
		}
		before := n1.metric(`holdfast_volume_resync_bytes_total{volume="db"}`)
		n4.stop()
		must(t, os.RemoveAll(n4.path("data"))) // with its identity; the pool stays
		w.goesOn(c)
		n4.start()
		c.await("n4 is up", func(ctx context.Context) bool { return n1.isUp(ctx, "n4") })
		n1.awaitHealth("db", v1.Health_HEALTH_HEALTHY)
		if nodes := n1.mustCLI("node", "list", "-o", "json"); strings.Count(nodes, `"n4"`) != 1 {
			t.Errorf("the nodes are %s", nodes)
		}
		moved := n1.metric(`holdfast_volume_resync_bytes_total{volume="db"}`) - before
		if moved > 32<<20 { // the writer's 4 MiB, and not all that is there
			t.Errorf("%v bytes were moved to a replica that lacked almost nothing", moved)
		}
		intact()
	})

	c.during(t, "ANodeIsRemovedUnderAWriter", func(t *testing.T) {
		n1.mustCLI("volume", "create", "only", "--size", "64Mi", "--repl", "1", "--nodes", "n4")
		_, err := n1.api().Volumes.UpdateVolume(t.Context(), &v1.UpdateVolumeRequest{Volume: "only", Placement: &v1.Placement{}})
		must(t, err)
		t.Logf("the preview says:\n%s", n1.mustCLI("node", "remove", "n4", "--preview"))
		if out, err := n1.cli("node", "remove", "n4", "--wait"); err == nil || !strings.Contains(out, "would be lost") {
			t.Errorf("removing a node with the only copy says: %v\n%s", err, out)
		}
		n1.mustCLI("node", "drain", "n4", "--wait")
		n1.mustCLI("node", "remove", "n4", "--wait")
		c.awaitOn("db", "n1", "n2", "n3")
		intact()
		if nodes := n1.mustCLI("node", "list"); strings.Contains(nodes, "n4") {
			t.Errorf("the nodes are %s", nodes)
		}
	})

	must(t, w.end(c))
	w.verify(t, w.path)
	c.detach("db")
	w.verify(t, c.nodes[2].attach("db"))
	c.detach("db")
}

// TestARebootedNodeGetsOnlyWhatChanged counts the bytes that are moved to a replica that
// was away.
func TestARebootedNodeGetsOnlyWhatChanged(t *testing.T) {
	t.Parallel()
	const mib = 16
	c := newCluster(t, 3)
	n1, n2 := c.nodes[0], c.nodes[1]
	c.volume("db", 512<<20, 3)
	device := n1.attach("db")
	sh(t, `dd if=/dev/urandom of="$1" bs=1M count=256 oflag=direct conv=fsync status=none`, device)
	for _, away := range []struct {
		name      string
		goes      func()
		most      float64
		scattered bool
	}{
		{"which died", n2.crash, 1.2, false},
		{"which was stopped", n2.stop, 1.2, false},
		{"which died, and single blocks changed", n2.crash, 1.2, true},
	} {
		before := n1.metric(`holdfast_volume_resync_bytes_total{volume="db"}`)
		away.goes()
		c.await("the node is missed", func(ctx context.Context) bool {
			v, err := n1.api().Volumes.GetVolume(ctx, &v1.GetVolumeRequest{Volume: "db"})
			return err == nil && v.Status.Health == v1.Health_HEALTH_DEGRADED
		})
		changed := int64(mib << 20)
		if away.scattered {
			changed = 0
			for at := int64(0); at < 256<<20; at += 1 << 20 { // a block of each region and more
				sh(t, `dd if=/dev/urandom of="$1" bs=4k seek="$2" count=1 oflag=direct status=none`, device, itoa(at/blockSize))
				changed += blockSize
			}
			sh(t, `sync "$1"`, device)
		} else {
			sh(t, `dd if=/dev/urandom of="$1" bs=1M seek=64 count="$2" oflag=direct conv=fsync status=none`, device, itoa(mib))
		}
		began := time.Now()
		n2.start()
		n1.awaitHealth("db", v1.Health_HEALTH_HEALTHY)
		moved := n1.metric(`holdfast_volume_resync_bytes_total{volume="db"}`) - before
		t.Logf("to a node %s %v bytes were moved, where %d had changed, in %v from its start", away.name, moved, changed, time.Since(began).Round(10*time.Millisecond))
		if moved < float64(changed) || moved > away.most*float64(changed) {
			t.Errorf("that is not between 1 and %v times as much", away.most)
		}
	}
	c.detach("db")
	c.sameOnAllNodes("db")
}

package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
)

// load is fio, which writes a device and verifies what it wrote, again and again.
type load struct {
	device string
	ends   atomic.Bool
	runs   atomic.Int32
	done   chan error // what it ended with; nil when it was asked to
}

// newLoad starts one. Each of its runs writes 32 MiB of the first 64, in no order, and
// reads everything back; its checksums tell one run's blocks from another's.
func newLoad(t *testing.T, device string) *load {
	l := &load{device: device, done: make(chan error, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	dir := t.TempDir()
	go func() {
		var err error
		for !l.ends.Load() && err == nil {
			run := exec.CommandContext(ctx, "fio", "--name=load", "--filename="+device, "--direct=1", "--rw=randwrite", "--bs=4k", "--iodepth=16",
				"--ioengine=io_uring", "--size=64M", "--io_size=32M", "--rate_iops=3000", "--verify=crc32c", "--verify_backlog=1024", "--verify_fatal=1", "--randrepeat=0")
			run.Dir, run.WaitDelay = dir, time.Second
			var said []byte
			if said, err = run.CombinedOutput(); err != nil {
				err = fmt.Errorf("fio: %w\n%s", err, said)
			}
			l.runs.Add(1)
		}
		l.done <- err
	}()
	t.Cleanup(func() { l.ends.Store(true); cancel() })
	return l
}

// ended reports whether it has ended, and fails the test when nobody asked for that.
func (l *load) ended(c *cluster) bool {
	select {
	case err := <-l.done:
		l.done <- err
		if err != nil {
			c.t.Fatal(err)
		}
		return true
	default:
		return false
	}
}

// end waits until it has verified what it writes now.
func (l *load) end(c *cluster) {
	c.t.Helper()
	l.ends.Store(true)
	c.await("fio has verified all", func(context.Context) bool { return l.ended(c) })
}

// disturbance is what happens to a cluster while a volume is attached to its first node.
type disturbance struct {
	name  string
	short bool // it is in the short form, too
	does  func()
}

// disturbances are what a cluster's users must not notice, but for a wait.
func (c *cluster) disturbances(volume string) (list []disturbance) {
	short := []string{"the data process of n1 is killed", "the data process of n2 is killed", "who watches over n1 is killed, and started",
		"the member that leads etcd is killed", "n3 dies", "n1 is stopped in order", "n2 has no storage network", "n3 hears nothing"}
	add := func(name string, does func()) {
		list = append(list, disturbance{name, slices.Contains(short, name), does})
	}
	n1, n2, n3 := c.nodes[0], c.nodes[1], c.nodes[2]
	degraded := func() { c.nodes[0].awaitHealth(volume, v1.Health_HEALTH_DEGRADED) }
	for _, n := range c.nodes {
		add("the data process of "+n.name+" is killed", func() { n.restarts("data", n.kill) })
		add("control of "+n.name+" is killed", func() { n.restarts("control", n.kill) })
		add("who watches over "+n.name+" is killed, and started", func() {
			_ = n.cmd.Process.Kill()
			_ = n.cmd.Wait() // killed
			_ = n.log.Close()
			n.start()
		})
	}
	add("the member that leads etcd is killed", func() {
		if n := c.leader(); n != nil {
			n.restarts("control", n.kill)
		}
	})
	add("most members of etcd are killed", func() {
		n2.kill("control")
		n3.restarts("control", n3.kill)
	})
	for _, n := range []*node{n2, n3} {
		add(n.name+" dies", func() { n.crash(); degraded(); n.start() })
	}
	add("n2 is stopped in order", func() { n2.stop(); n2.start() })
	add("n1 is stopped in order", func() { n1.stop(); n1.start() })
	for _, cut := range []struct {
		name string
		of   *node
		what []string
	}{
		{"n3 is cut off", n3, everything},
		{"n2 has no storage network", n2, storage},
		{"n3 hears nothing", n3, []string{"input"}},
		{"n2 can say nothing", n2, []string{"output"}},
	} {
		add(cut.name, func() {
			c.wires.cut(cut.of, cut.what...)
			degraded()
			c.wires.mend(cut.of)
		})
	}
	add("n1, where it is attached, is cut off for a while", func() {
		c.wires.cut(n1, everything...)
		c.await("the others say that n1 is down", func(ctx context.Context) bool { return n2.says(ctx, "n1", v1.NodeState_NODE_STATE_DOWN) })
		c.wires.mend(n1)
	})
	return list
}

// says reports whether a node believes that a node is in a state.
func (n *node) says(ctx context.Context, name string, state v1.NodeState) bool {
	got, err := n.api().Nodes.GetNode(ctx, &v1.GetNodeRequest{Node: name})
	return err == nil && got.Status.GetState() == state
}

// leader returns the node whose member leads etcd.
func (c *cluster) leader() (leads *node) {
	c.await("a member of etcd leads", func(ctx context.Context) bool {
		for _, n := range c.nodes {
			status, err := n.api().Cluster.GetStatus(ctx, &v1.GetStatusRequest{})
			if err != nil {
				continue
			}
			for _, m := range status.Metadata.GetMembers() {
				for _, of := range c.nodes {
					if m.Leader && strings.Contains(m.Address, of.address()+":") {
						leads = of
						return true
					}
				}
			}
		}
		return false
	})
	return leads
}

// TestStorm has fio write a device and verify it, and users read and write the same few
// blocks of it at once, while processes are killed, nodes die and networks are cut: in the
// short form some of it, in the long form each in turn, and then at random. No request
// fails, nothing that is read is wrong, what the users saw is one order of what they did,
// and all copies are the same in the end.
func TestStorm(t *testing.T) {
	c := newWiredCluster(t, 3)
	n1 := c.nodes[0]
	c.volume("db", 128<<20, 3)
	device := n1.attach("db")
	l := newLoad(t, device)
	all := c.disturbances("db")
	random := drawn(t)
	h := newHistory(100 << 20 / blockSize) // behind fio's part
	var storm []disturbance
	for _, d := range all {
		if d.short || long {
			storm = append(storm, d)
		}
	}
	inTurn := len(storm)
	for range rounds(0, 30) {
		storm = append(storm, all[random.IntN(len(all))])
	}
	for i, d := range storm {
		began := time.Now()
		u := h.use(t, device, random.Uint64())
		u.goOn(c)
		d.does()
		c.await("after that "+d.name+": all is well", func(ctx context.Context) bool {
			if l.ended(c) {
				t.Fatal("the load has ended")
			}
			v, err := n1.api().Volumes.GetVolume(ctx, &v1.GetVolumeRequest{Volume: "db"})
			c.note(v, err)
			return err == nil && v.Status.GetHealth() == v1.Health_HEALTH_HEALTHY && n1.serves(ctx, "db") && c.threeVote(ctx)
		})
		u.goOn(c)
		if err := u.end(c); err != nil {
			t.Fatalf("%s: a user met an error: %v", d.name, err)
		}
		if err := h.end(device); err != nil {
			t.Fatalf("%s: %v", d.name, err)
		}
		t.Logf("%s: all was well after %v", d.name, time.Since(began).Round(10*time.Millisecond))
		if i >= inTurn { // a replica that fails again and again is left alone for a while
			runs := l.runs.Load()
			c.await("fio has verified some more", func(context.Context) bool { return l.ended(c) || l.runs.Load() > runs+3 })
		}
	}
	l.end(c)
	t.Logf("fio wrote and verified %d times, the users made %d accesses", l.runs.Load(), h.all)
	c.detach("db")
	c.sameOnAllNodes("db")
}

// sameOnAllNodes checks that a volume that is not attached reads the same on each node,
// which reads its own copy.
func (c *cluster) sameOnAllNodes(volume string) {
	c.t.Helper()
	sums := map[string]string{}
	for _, n := range c.nodes {
		sums[n.name] = sh(c.t, `sha256sum <"$1"`, n.attach(volume))
		c.detach(volume)
	}
	for name, sum := range sums {
		if sum != sums[c.nodes[0].name] {
			c.t.Errorf("the copies are different: %v; that of %s from that of n1", sums, name)
		}
	}
}

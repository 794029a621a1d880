package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
)

// groupRig is what group snapshots are taken of: volumes on two nodes, under chains of
// writes that go across them.
type groupRig struct {
	c       *cluster
	random  *rand.Rand
	volumes []string
	chains  []*chain
	taken   int
	failed  []string // why, each
}

// groupsAreOfOneMoment has snapshots of volumes on two nodes taken together, while numbers
// are written across them and processes are killed, and looks whether each is of one moment:
// what is in it of one volume is never later than what is in it of another.
func groupsAreOfOneMoment(t *testing.T, c *cluster, random *rand.Rand) {
	g := &groupRig{c: c, random: random, volumes: []string{"ga", "gb", "gc"}}
	var devices []string
	for i, name := range g.volumes {
		c.volume(name, 64<<20, 3)
		devices = append(devices, c.nodes[i%2].attach(name))
	}
	for i := range 4 {
		g.chains = append(g.chains, newChain(t, devices, i))
	}
	count := rounds(8, 200)
	for i := range count {
		g.round(t, i)
	}
	for _, w := range g.chains {
		w.goesOn(c)
		w.end(c)
		if last, err := w.verify(t, devices, w.acked.Load()); err != nil || last > w.acked.Load()+1 {
			t.Errorf("on the volumes themselves: %d, %v", last, err)
		}
	}
	for _, name := range g.volumes {
		c.remove(name)
	}
	t.Logf("%d of %d group snapshots were taken; the others failed:\n%s", g.taken, count, strings.Join(g.failed, "\n"))
	if g.taken < count/3 {
		t.Errorf("only %d of %d group snapshots were taken", g.taken, count)
	}
}

// disturbances are what happens while a group's snapshot is taken. Those that fail it for
// certain are rare.
func (g *groupRig) disturbance() (name string, disturb func()) {
	n := g.c.nodes
	switch k := g.random.IntN(10); k {
	case 0, 1:
		return fmt.Sprintf("the data process of %s is killed", n[k].name), func() { n[k].restarts("data", n[k].kill) }
	case 2, 3:
		return "the data process of a replica is killed", func() { n[2].restarts("data", n[2].kill) }
	case 4:
		return "the node of a replica dies", func() { n[2].crash(); n[2].start() }
	case 5:
		return "the data process of n2 freezes", func() {
			pid := n[1].pid("data")
			_ = syscall.Kill(pid, syscall.SIGSTOP)
			defer syscall.Kill(pid, syscall.SIGCONT)
			<-time.After(time.Duration(g.random.IntN(8000)) * time.Millisecond)
		}
	case 6:
		leader := n[g.random.IntN(3)]
		return "control is killed", func() { leader.restarts("control", leader.kill) }
	}
	return "nothing happens", func() {}
}

func (g *groupRig) round(t *testing.T, i int) {
	t.Helper()
	c := g.c
	before := make([]uint64, len(g.chains))
	for i, w := range g.chains {
		before[i] = w.acked.Load()
	}
	what, disturb := g.disturbance()
	delay := time.Duration(g.random.IntN(100)) * time.Millisecond
	var disturbed sync.WaitGroup
	disturbed.Go(func() {
		<-time.After(delay)
		disturb()
	})
	name := fmt.Sprintf("g%d", i)
	began := time.Now()
	err := g.take(name)
	took := time.Since(began).Round(time.Millisecond)
	disturbed.Wait()
	c.awaitNodes()
	for _, w := range g.chains {
		w.goesOn(c)
	}
	if err != nil {
		g.failed = append(g.failed, fmt.Sprintf("%s after %v (%s): %v", name, took, what, err))
		if !strings.Contains(err.Error(), "was not taken") || !strings.Contains(err.Error(), "take another") {
			t.Errorf("%s: %s: it does not fail clearly: %v", name, what, err)
		}
		g.nothingLeft(t, name)
		return
	}
	g.taken++
	t.Logf("%s in %v (%s)", name, took, what)
	devices := g.clones(name)
	for i, w := range g.chains {
		if _, err := w.verify(t, devices, before[i]); err != nil {
			t.Fatalf("%s (%s): chain %d is not of one moment: %v", name, what, i, err)
		}
	}
	g.drop(name)
}

// take takes a group's snapshot. What the API can't be asked for now is asked for again.
func (g *groupRig) take(name string) (err error) {
	g.c.await("group snapshot "+name+" is taken, or not", func(ctx context.Context) bool {
		for _, n := range g.c.nodes[:2] {
			_, err = n.api().Snapshots.CreateGroupSnapshot(ctx, &v1.CreateGroupSnapshotRequest{Volumes: g.volumes, Name: name, Wait: wait()})
			if err == nil || strings.Contains(err.Error(), "was not taken") {
				return true
			}
		}
		return false
	})
	return err
}

// nothingLeft waits until a group's snapshot that failed has left nothing.
func (g *groupRig) nothingLeft(t *testing.T, name string) {
	t.Helper()
	g.c.await("nothing is left of "+name, func(ctx context.Context) bool {
		out, err := g.c.nodes[0].api().Snapshots.ListSnapshots(ctx, &v1.ListSnapshotsRequest{PageSize: 1000})
		if err != nil {
			return false
		}
		for _, s := range out.Snapshots {
			if strings.HasPrefix(s.Meta.Name, name+"-") {
				if s.Status.Ready {
					t.Errorf("%s counts as taken, and its group failed", s.Meta.Name)
				}
				return false
			}
		}
		return true
	})
}

// clones makes a volume of each snapshot, and returns their devices.
func (g *groupRig) clones(name string) []string {
	g.c.t.Helper()
	devices := make([]string, len(g.volumes))
	g.each(func(i int, volume string, n *node) error {
		clone := name + "-copy-" + volume
		if out, err := n.cli("snapshot", "clone", name+"-"+volume, clone); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		a, err := n.api().Attachments.Attach(g.c.t.Context(), &v1.AttachRequest{Volume: clone, Node: n.name, Wait: wait()})
		devices[i] = a.GetStatus().GetDevice()
		return err
	})
	return devices
}

// drop takes away what a round has made: of some volumes the snapshot first, of others the
// clone.
func (g *groupRig) drop(name string) {
	g.c.t.Helper()
	g.each(func(i int, volume string, n *node) error {
		clone := name + "-copy-" + volume
		steps := [][]string{{"snapshot", "delete", name + "-" + volume}, {"volume", "detach", clone}, {"volume", "delete", clone}, {"volume", "purge", clone}}
		if i%2 == 1 {
			steps = append(steps[1:], steps[0])
		}
		for _, args := range steps {
			if out, err := n.cli(args...); err != nil {
				return fmt.Errorf("%v: %w: %s", args, err, out)
			}
		}
		return nil
	})
}

// each does something with all volumes at once, each through some node.
func (g *groupRig) each(f func(i int, volume string, n *node) error) {
	g.c.t.Helper()
	errs := make([]error, len(g.volumes))
	var all sync.WaitGroup
	for i, volume := range g.volumes {
		n := g.c.nodes[g.random.IntN(3)]
		_ = n.api() // made before others look
		all.Go(func() { errs[i] = f(i, volume, n) })
	}
	all.Wait()
	must(g.c.t, errors.Join(errs...))
}

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
)

// point is what a snapshot or a clone must hold.
type point struct {
	name  string
	image image
	least uint64 // number of the chain that was confirmed before
}

// verbRig is a volume of three replicas, under a chain of writes, of which snapshots and
// clones are made and deleted in any order while processes and nodes die.
type verbRig struct {
	c      *cluster
	random *rand.Rand
	device string
	now    image // but for the chain's blocks, which are the first
	chain  *chain
	stamp  uint64
	made   int
	snaps  []point
	clones []point
	did    map[string]int
}

const verbVolume = "vv"

// verbs does random things with a volume and its descendants, and looks at what they hold.
func verbs(t *testing.T, c *cluster, random *rand.Rand) {
	const size = 64 << 20
	c.volume(verbVolume, size, 3)
	v := &verbRig{c: c, random: random, device: c.nodes[0].attach(verbVolume), now: newImage(size), did: map[string]int{}}
	v.chain = newChain(t, []string{v.device}, 0)
	for range rounds(5, 250) {
		v.write(t)
		what, disturb := v.disturbance()
		var disturbed sync.WaitGroup
		disturbed.Go(disturb)
		verb := v.verb()
		v.did[verb]++
		t.Logf("%s, while %s", verb, what)
		v.do(t, verb)
		disturbed.Wait()
		c.awaitNodes()
		v.chain.goesOn(c)
	}
	t.Logf("done: %v", v.did)
	v.chain.goesOn(c)
	v.chain.end(c)
	c.nodes[0].awaitHealth(verbVolume, v1.Health_HEALTH_HEALTHY)
	c.detach(verbVolume)
	for _, n := range c.nodes {
		must(t, v.now.check(t, n.attach(verbVolume), chainSlots))
		c.detach(verbVolume)
	}
	// The source goes first, with all its snapshots.
	v.cli("volume", "delete", verbVolume)
	v.cli("volume", "purge", verbVolume)
	for len(v.clones) > 0 {
		v.do(t, "look at a clone")
		v.do(t, "delete a clone")
	}
}

// write writes some blocks, which nobody else writes.
func (v *verbRig) write(t *testing.T) {
	for range v.random.IntN(8) + 1 {
		v.stamp++
		count := v.random.IntN(64) + 1
		at := chainSlots + v.random.IntN(len(v.now)-chainSlots-count)
		if v.random.IntN(5) == 0 {
			v.now.discard(t, v.device, at, count)
		} else {
			v.now.write(t, v.device, at, count, v.stamp)
		}
	}
}

func (v *verbRig) disturbance() (what string, disturb func()) {
	n := v.c.nodes
	i := v.random.IntN(3)
	switch v.random.IntN(8) {
	case 0, 1:
		return "the data process of " + n[i].name + " is killed", func() { n[i].restarts("data", n[i].kill) }
	case 2:
		i = 1 + v.random.IntN(2)
		return "node " + n[i].name + " dies", func() { n[i].crash(); n[i].start() }
	case 3:
		return "control of " + n[i].name + " is killed", func() { n[i].restarts("control", n[i].kill) }
	}
	return "nothing happens", func() {}
}

// verb chooses what is done next.
func (v *verbRig) verb() string {
	var can []string
	add := func(verb string, when bool, weight int) {
		for range weight {
			if when {
				can = append(can, verb)
			}
		}
	}
	add("take a snapshot", len(v.snaps) < 5, 3)
	add("delete a snapshot", len(v.snaps) > 1, 2)
	add("make a clone", len(v.snaps) > 0 && len(v.clones) < 3, 3)
	add("look at a clone", len(v.clones) > 0, 2)
	add("delete a clone", len(v.clones) > 1, 1)
	add("clone and delete the snapshot", len(v.snaps) > 1 && len(v.clones) < 3, 2)
	add("grow", len(v.now) < 40<<10, 1)
	add("restore", len(v.snaps) > 0, 1)
	return can[v.random.IntN(len(can))]
}

func (v *verbRig) do(t *testing.T, verb string) {
	t.Helper()
	c := v.c
	v.made++
	switch verb {
	case "take a snapshot":
		p := point{fmt.Sprint("vv-snap-", v.made), v.now.clone(), v.chain.acked.Load()}
		v.cli("snapshot", "create", verbVolume, p.name)
		v.snaps = append(v.snaps, p)
	case "delete a snapshot":
		i := v.random.IntN(len(v.snaps))
		v.cli("snapshot", "delete", v.snaps[i].name)
		v.snaps = slices.Delete(v.snaps, i, i+1)
	case "make a clone":
		v.clone(v.snaps[v.random.IntN(len(v.snaps))])
	case "clone and delete the snapshot":
		i := v.random.IntN(len(v.snaps))
		v.clone(v.snaps[i])
		v.cli("snapshot", "delete", v.snaps[i].name)
		v.snaps = slices.Delete(v.snaps, i, i+1)
	case "look at a clone":
		v.look(t, &v.clones[v.random.IntN(len(v.clones))])
	case "delete a clone":
		i := v.random.IntN(len(v.clones))
		v.cli("volume", "delete", v.clones[i].name)
		v.cli("volume", "purge", v.clones[i].name)
		v.clones = slices.Delete(v.clones, i, i+1)
	case "grow":
		size := int64(len(v.now)+1024) * blockSize
		v.cli("volume", "update", verbVolume, "--size", fmt.Sprint(size))
		c.await("the device has grown", func(context.Context) bool {
			return sh(t, `blockdev --getsize64 "$1"`, v.device) == fmt.Sprint(size)
		})
		v.now = append(v.now, make(image, 1024)...)
	case "restore":
		v.restore(t, v.snaps[v.random.IntN(len(v.snaps))])
	}
}

// clone asks for a clone, without waiting: what comes next may come first.
func (v *verbRig) clone(of point) {
	v.c.t.Helper()
	p := point{fmt.Sprint("vv-clone-", v.made), of.image.clone(), of.least}
	v.c.await("clone "+p.name+" is asked for", func(ctx context.Context) bool {
		_, err := v.c.nodes[v.random.IntN(3)].api().Snapshots.CloneSnapshot(ctx, &v1.CloneSnapshotRequest{Snapshot: of.name, Name: p.name})
		return err == nil
	})
	v.clones = append(v.clones, p)
}

// look checks what a clone holds, on some node, and writes to it.
func (v *verbRig) look(t *testing.T, p *point) {
	t.Helper()
	n := v.c.nodes[v.random.IntN(3)]
	var device, why string
	deadline, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for device == "" {
		a, err := n.api().Attachments.Attach(deadline, &v1.AttachRequest{Volume: p.name, Node: n.name, Wait: wait()})
		if device = a.GetStatus().GetDevice(); err != nil {
			device, why = "", err.Error()
		}
		if deadline.Err() != nil {
			vol, _ := v.c.nodes[0].api().Volumes.GetVolume(t.Context(), &v1.GetVolumeRequest{Volume: p.name})
			t.Fatalf("clone %s can't be attached to %s: %s; it is %v", p.name, n.name, why, vol)
		}
	}
	if err := p.image.check(t, device, chainSlots); err != nil {
		t.Fatalf("clone %s, on %s: %v", p.name, n.name, err)
	}
	if p.least != never {
		if _, err := v.chain.verify(t, []string{device}, p.least); err != nil {
			t.Fatalf("clone %s, on %s: %v", p.name, n.name, err)
		}
	}
	v.stamp++
	p.image.write(t, device, chainSlots+v.random.IntN(1000), 16, v.stamp)
	v.cli("volume", "detach", p.name)
}

// never is the least of a point of which the chain's blocks are not looked at.
const never = ^uint64(0)

// restore gives the volume what a snapshot has.
func (v *verbRig) restore(t *testing.T, to point) {
	t.Helper()
	c := v.c
	v.chain.goesOn(c)
	v.chain.end(c)
	v.cli("volume", "detach", verbVolume)
	safety := point{fmt.Sprint("vv-safety-", v.made), v.now.clone(), v.chain.acked.Load()}
	var out *v1.RestoreSnapshotResponse
	c.await("the restore is asked for", func(ctx context.Context) (ok bool) {
		var err error
		out, err = c.nodes[0].api().Snapshots.RestoreSnapshot(ctx, &v1.RestoreSnapshotRequest{Volume: verbVolume, Snapshot: to.name, SafetyName: safety.name})
		return err == nil || out.GetOperation() != nil
	})
	c.await("the restore is over", func(ctx context.Context) bool {
		o, err := c.nodes[0].api().Operations.GetOperation(ctx, &v1.GetOperationRequest{Id: out.Operation.Id})
		if err == nil && o.Error != "" {
			t.Fatalf("the restore failed: %s", o.Error)
		}
		return err == nil && o.Done
	})
	v.snaps = append(v.snaps, safety)
	v.now = append(to.image.clone(), make(image, len(v.now)-len(to.image))...)
	c.await("it is attached again", func(ctx context.Context) bool {
		a, err := c.nodes[0].api().Attachments.Attach(ctx, &v1.AttachRequest{Volume: verbVolume, Node: "n1", Wait: wait()})
		v.device = a.GetStatus().GetDevice()
		return err == nil
	})
	must(t, v.now.check(t, v.device, chainSlots))
	if to.least != never {
		_, err := v.chain.verify(t, []string{v.device}, to.least)
		must(t, err)
	}
	// Another chain, whose numbers begin anew.
	sh(t, `blkdiscard --length "$2" "$1"`, v.device, fmt.Sprint(chainSlots*blockSize))
	v.chain = newChain(t, []string{v.device}, 0)
}

// cli runs a command until it succeeds: the API may be away meanwhile.
func (v *verbRig) cli(args ...string) {
	v.c.t.Helper()
	last := proto.String("")
	defer func() {
		if v.c.t.Failed() {
			v.c.t.Log(*last)
		}
	}()
	v.c.await("holdfast "+strings.Join(args, " "), func(context.Context) bool {
		out, err := v.c.nodes[v.random.IntN(3)].cli(args...)
		*last = out
		return err == nil
	})
}

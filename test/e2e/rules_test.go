package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
)

// cli runs a command as an administrator of the node would, and returns what it printed.
func (n *node) cli(args ...string) (out string, err error) {
	raw, err := exec.CommandContext(n.c.t.Context(), program, append(args, "--address", n.path("run/api.sock"))...).CombinedOutput()
	return strings.TrimSpace(string(raw)), err
}

// mustCLI is cli of a command that succeeds.
func (n *node) mustCLI(args ...string) string {
	n.c.t.Helper()
	out, err := n.cli(args...)
	if err != nil {
		n.c.t.Fatalf("holdfast %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// take attaches a volume here, whoever has it.
func (n *node) take(volume, mount string) *v1.Attachment {
	n.c.t.Helper()
	var a *v1.Attachment
	n.c.await(n.name+" takes "+volume, func(ctx context.Context) bool {
		var err error
		a, err = n.api().Attachments.Attach(ctx, &v1.AttachRequest{Volume: volume, Node: n.name, MountPath: mount, Force: true, Wait: durationpb.New(patience)})
		return err == nil
	})
	return a
}

// detach takes a volume's device away, wherever it is.
func (c *cluster) detach(volume string) {
	c.t.Helper()
	c.nodes[1].mustCLI("volume", "detach", volume)
}

func mounted(path string) bool {
	mounts, _ := os.ReadFile("/proc/self/mounts")
	return strings.Contains(string(mounts), " "+path+" ")
}

// standsStill reports whether all threads of a process are stopped, which a signal takes a
// while for.
func standsStill(pid int) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, name := range threads {
		raw, _ := os.ReadFile(name)
		if _, behind, _ := strings.Cut(string(raw), ") "); !strings.HasPrefix(behind, "T") {
			return false
		}
	}
	return len(threads) > 0
}

// awaitNodes waits until all nodes are up.
func (c *cluster) awaitNodes() {
	c.t.Helper()
	for _, n := range c.nodes {
		c.await("node "+n.name+" is up", func(ctx context.Context) bool { return n.isUp(ctx, n.name) })
	}
	c.await("all members of the metadata store are up", c.threeVote)
}

// TestRules holds the cluster to the ten rules that container storage is accepted by.
func TestRules(t *testing.T) {
	c := newCluster(t, 3)
	n1, n2, n3 := c.nodes[0], c.nodes[1], c.nodes[2]

	c.during(t, "VolumesCanBeCreatedAtRunTimeWithAnyParameters", func(t *testing.T) {
		n1.mustCLI("volume", "create", "name=inline,size=1Gi,repl=2")
		n2.mustCLI("volume", "create", "xfs", "--size", "400Mi", "--repl", "3", "--fs", "xfs")
		n3.mustCLI("volume", "create", "sector", "--size", "64Mi", "--repl", "1", "--sector", "512", "--nodes", "n3")
		dir := n1.path("mnt-xfs")
		n2.mustCLI("volume", "attach", "xfs", "--node", "n1", "--mount", dir)
		if kind := sh(t, `findmnt -no FSTYPE "$1"`, dir); kind != "xfs" {
			t.Errorf("the filesystem is %s", kind)
		}
		// From a node without a replica.
		if size := sh(t, `blockdev --getss "$1"`, n2.attach("sector")); size != "512" {
			t.Errorf("its sectors have %s bytes", size)
		}
		for _, volume := range []string{"inline", "xfs", "sector"} {
			c.detach(volume)
			n1.mustCLI("volume", "delete", volume)
		}
	})

	c.during(t, "UnevenMountsAndUnmountsDoNotStopALaterMount", func(t *testing.T) {
		c.volume("uneven", 256<<20, 3)
		for range 3 {
			sh(t, `echo here >"$1/file"`, n1.mount("uneven"))
		}
		c.detach("uneven")
		c.detach("uneven")
		dir := n2.mount("uneven")
		if got := sh(t, `cat "$1/file"`, dir); got != "here" {
			t.Errorf("the file has %q", got)
		}
		n2.mustCLI("volume", "unmount", "uneven")
		n2.mustCLI("volume", "unmount", "uneven")
		c.detach("uneven")
		sh(t, `cat "$1/file"`, n3.mount("uneven"))
		c.detach("uneven")
	})

	c.during(t, "ADaemonDownIsNotSeenByARunningContainer", func(t *testing.T) {
		c.volume("running", 256<<20, 3)
		w := newWriter(t, filepath.Join(n1.mount("running"), "file"), 0)
		w.goesOn(c)
		n1.daemonDown()
		n1.start()
		w.goesOn(c)
		must(t, w.end(c))
		w.verify(t, w.path)
		c.detach("running")
	})

	c.during(t, "CreationFailsWithAnErrorWhileTheDaemonIsDown", func(t *testing.T) {
		c.volume("refused", 64<<20, 2)
		n3.daemonDown()
		path := n3.path("mnt-refused")
		if out, err := n3.cli("volume", "create", "never", "--size", "1Gi"); err == nil || !strings.Contains(out, "holdfast") {
			t.Errorf("creating a volume says: %v\n%s", err, out)
		}
		if out, err := n3.cli("volume", "attach", "refused", "--mount", path); err == nil || out == "" {
			t.Errorf("mounting says: %v\n%s", err, out)
		}
		c.await("the cluster says that n3 is down", func(ctx context.Context) bool {
			got, err := n1.api().Nodes.GetNode(ctx, &v1.GetNodeRequest{Node: "n3"})
			return err == nil && got.Status.State == v1.NodeState_NODE_STATE_DOWN
		})
		out, err := n1.cli("volume", "attach", "refused", "--node", "n3", "--mount", path)
		if err == nil || !strings.Contains(out, "n3 is down") {
			t.Errorf("another node says: %v\n%s", err, out)
		}
		if mounted(path) {
			t.Error("it is mounted all the same")
		}
		n3.start()
		c.awaitNodes()
		n1.mustCLI("volume", "attach", "refused", "--node", "n3", "--mount", path)
		c.detach("refused")
	})

	c.during(t, "ALostUnmountDoesNotBlockTheMoveToAnotherNode", func(t *testing.T) {
		c.volume("lost", 256<<20, 3)
		w := newWriter(t, filepath.Join(n1.mount("lost"), "file"), 0)
		w.goesOn(c)
		n1.daemonDown() // and the container is ended, and nobody unmounts
		w.ends.Store(true)
		dir := n2.path("mnt-lost")
		n2.take("lost", dir)
		w.verify(t, filepath.Join(dir, "file"))
		w2 := newWriter(t, filepath.Join(dir, "file"), w.acked.Load())
		w2.goesOn(c)
		n1.start()
		if err := w.end(c); err == nil {
			t.Log("the last write was confirmed before the daemon was down")
		}
		w2.goesOn(c)
		c.awaitNodes()
		c.await("the old mount is gone from n1", func(context.Context) bool { return !mounted(n1.path("mnt-lost")) })
		must(t, w2.end(c))
		w2.verify(t, filepath.Join(dir, "file"))
		c.detach("lost")
		w2.verify(t, filepath.Join(n1.mount("lost"), "file"))
		c.detach("lost")
	})

	c.during(t, "APoweredOffNodesVolumeIsUsedElsewhere", func(t *testing.T) {
		c.volume("off", 256<<20, 3)
		w := newWriter(t, filepath.Join(n1.mount("off"), "file"), 0)
		w.goesOn(c)
		n1.crash()
		began := time.Now()
		dir := n3.mount("off") // at once, and without force: it waits until the leases of n1 have ended
		next := newWriter(t, filepath.Join(dir, "another"), 0)
		next.goesOn(c)
		t.Logf("from kill -9 of everything on the node to I/O on another: %v", time.Since(began).Round(10*time.Millisecond))
		var err error
		if w.ended(c, &err); err == nil {
			t.Error("the writer of the lost node saw no error")
		}
		w.verify(t, filepath.Join(dir, "file"))
		must(t, next.end(c))
		n1.start()
		c.awaitNodes()
		n3.awaitHealth("off", v1.Health_HEALTH_HEALTHY)
		c.detach("off")
		dir = n1.mount("off")
		w.verify(t, filepath.Join(dir, "file"))
		next.verify(t, filepath.Join(dir, "another"))
		c.detach("off")
	})

	c.during(t, "ARuntimesCrashThatEndsContainersLetsThemStartElsewhere", func(t *testing.T) {
		c.volume("ended", 256<<20, 3)
		dir := n1.mount("ended")
		w := newWriter(t, filepath.Join(dir, "file"), 0)
		w.goesOn(c)
		must(t, w.end(c)) // killed with its runtime, which therefore never unmounts
		out, err := n2.cli("volume", "attach", "ended", "--mount", n2.path("mnt-ended"))
		if err == nil || !strings.Contains(out, "attached to node n1") || !strings.Contains(out, "--force") {
			t.Errorf("a volume that is in use is given away: %v\n%s", err, out)
		}
		n2.take("ended", n2.path("mnt-ended"))
		w.verify(t, filepath.Join(n2.path("mnt-ended"), "file"))
		c.await("the old mount is gone from n1", func(context.Context) bool { return !mounted(dir) })
		c.await("n2 has it, and says so", func(ctx context.Context) bool { return n2.serves(ctx, "ended") })
		c.detach("ended")
	})

	c.during(t, "ARuntimesCrashThatLeavesContainersChangesNothing", func(t *testing.T) {
		c.volume("left", 256<<20, 3)
		w := newWriter(t, filepath.Join(n1.mount("left"), "file"), 0)
		w.goesOn(c)
		n1.restarts("control", n1.kill) // with its doors: what a runtime talks to
		w.goesOn(c)
		c.await("n1 has it", func(ctx context.Context) bool { return n1.serves(ctx, "left") })
		// The runtime is back, and mounts what its containers have, once more.
		c.await("n1 answers", func(ctx context.Context) bool { return n1.isUp(ctx, "n1") })
		n1.mount("left")
		must(t, w.end(c))
		w.verify(t, w.path)
		c.detach("left")
	})

	c.during(t, "AnAbortFreesADeviceThatHangs", func(t *testing.T) {
		c.volume("stuck", 64<<20, 2)
		device := n1.attach("stuck")
		sh(t, `dd if=/dev/urandom of="$1" bs=1M count=4 oflag=direct status=none`, device)
		sum := sh(t, `sha256sum <"$1"`, device)
		data := n1.pid("data")
		must(t, syscall.Kill(data, syscall.SIGSTOP))
		defer syscall.Kill(data, syscall.SIGCONT)
		c.await("the data process stands still", func(context.Context) bool { return standsStill(data) })
		hangs := exec.Command("dd", "if="+device, "of=/dev/null", "bs=4k", "count=1", "iflag=direct")
		must(t, hangs.Start())
		ended := make(chan error, 1)
		go func() { ended <- hangs.Wait() }()
		loop, err := filepath.EvalSymlinks(device)
		must(t, err)
		c.await("the read waits", func(context.Context) bool { // before the device is gone, and reads as an empty one
			raw, _ := os.ReadFile(filepath.Join("/sys/block", filepath.Base(loop), "inflight"))
			f := strings.Fields(string(raw))
			return len(f) == 2 && f[0] != "0"
		})
		n1.mustCLI("volume", "abort", "stuck", "--here", "--config", n1.path("run/node.yaml"))
		select {
		case err := <-ended:
			if err == nil {
				t.Error("a read that nobody served succeeded")
			}
		case <-time.After(patience):
			t.Fatal("the read hangs still")
		}
		must(t, syscall.Kill(data, syscall.SIGCONT))
		c.await("n1 has made another device", func(ctx context.Context) bool {
			return n1.serves(ctx, "stuck") && exec.CommandContext(ctx, "dd", "if="+device, "of=/dev/null", "bs=4k", "count=1", "iflag=direct").Run() == nil
		})
		if out := n1.mustCLI("volume", "abort", "stuck"); !strings.Contains(out, "holdfast volume detach stuck") || strings.Contains(out, "attaching") {
			t.Errorf("after an abort it says:\n%s", out)
		}
		c.detach("stuck")
		if got := sh(t, `sha256sum <"$1"`, n1.attach("stuck")); got != sum {
			t.Errorf("the volume has %s, want %s", got, sum)
		}
		c.detach("stuck")
	})

	c.during(t, "AFilesystemThatCantBeMountedIsSaidAtOnceAndNotOverwritten", func(t *testing.T) {
		n1.mustCLI("volume", "create", "spoiled", "--size", "320Mi", "--repl", "1", "--fs", "xfs")
		sh(t, `echo mine >"$1/file"`, n1.mount("spoiled"))
		n1.mustCLI("volume", "unmount", "spoiled")
		device := n1.path("dev/spoiled")
		sh(t, `dd if="$1" of="$2" bs=1M count=1 status=none; dd if=/dev/zero of="$1" bs=1M count=1 conv=fsync status=none`, device, n1.path("beginning"))
		out, err := n1.cli("volume", "mount", "spoiled", n1.path("mnt-spoiled"))
		if err == nil || !strings.Contains(out, "not mounted at") || !strings.Contains(out, "it is not blank") {
			t.Errorf("the mount says: %v\n%s", err, out)
		}
		n1.mustCLI("volume", "unmount", "spoiled")
		sh(t, `dd if="$2" of="$1" conv=fsync status=none`, device, n1.path("beginning"))
		c.detach("spoiled")
		if got := sh(t, `cat "$1/file"`, n1.mount("spoiled")); got != "mine" {
			t.Errorf("the file has %q", got)
		}
		c.detach("spoiled")
		n1.mustCLI("volume", "delete", "spoiled")
	})

	c.during(t, "ClientsOfNBDUseAVolumeUntilItIsTakenFromThem", c.exports)
}

// daemonDown kills all of a node but its keeper, as a crash of the daemon would that
// nobody restarts.
func (n *node) daemonDown() {
	_ = n.cmd.Process.Kill()
	n.kill("data")
	n.kill("control")
	_ = n.cmd.Wait() // killed
	n.cmd = nil
	_ = n.log.Close()
}

// TestPartitions holds the cluster to the rules about networks. Users of both sides share
// blocks: whatever either is answered is one order of what they did.
func TestPartitions(t *testing.T) {
	c := newWiredCluster(t, 3)
	random := drawn(t)
	n1, n2 := c.nodes[0], c.nodes[1]
	for _, part := range []struct {
		name string
		cut  []string
	}{
		{"APartitionedNodesVolumeIsUsedElsewhereAndTheOldSideGetsErrors", everything},
		{"ANodeWithoutItsStorageNetworkLikewise", storage},
		{"ANodeThatHearsNothingLikewise", []string{"input"}},
		{"ANodeThatCanSayNothingLikewise", []string{"output"}},
	} {
		c.during(t, part.name, func(t *testing.T) {
			c.volume("v", 256<<20, 3)
			behind := n1.attach("v")
			old := newWriter(t, behind, 0)
			old.goesOn(c)
			h := newHistory(2 * writerBlocks)
			oldUsers := h.use(t, behind, random.Uint64())
			oldUsers.goOn(c)
			c.wires.cut(n1, part.cut...)
			began := time.Now()
			device := n2.take("v", "").Status.Device
			w := newWriter(t, device, old.acked.Load())
			w.goesOn(c)
			t.Logf("from the cut to I/O on another node: %v", time.Since(began).Round(10*time.Millisecond))
			users := h.use(t, device, random.Uint64())
			users.goOn(c)
			before := old.acked.Load()
			c.wires.mend(n1)
			var err error
			if old.ended(c, &err); err == nil {
				t.Error("the old side saw no error")
			}
			if now := old.acked.Load(); now != before {
				t.Errorf("%d writes of the old side were confirmed after the volume had moved", now-before)
			}
			if oldUsers.end(c) == nil {
				t.Error("no user of the old side saw an error")
			}
			users.goOn(c)
			must(t, users.end(c))
			must(t, h.end(device))
			t.Logf("%d accesses of %d users", h.all, 2*usersOfDevice)
			c.awaitNodes()
			n2.awaitHealth("v", v1.Health_HEALTH_HEALTHY)
			must(t, w.end(c))
			w.verify(t, device)
			c.detach("v")
			w.verify(t, n1.attach("v"))
			c.detach("v")
			n2.mustCLI("volume", "delete", "v")
			n2.mustCLI("volume", "purge", "v")
		})
	}
	c.during(t, "AVolumeMovesFromNodeToNodeAndItsHistoryIsOne", func(t *testing.T) { c.moves(t, random) })
}

// moves has a volume go from node to node: the one that has it dies, is cut off, or gives it
// back, and its users with it. In the short form the node dies.
func (c *cluster) moves(t *testing.T, random *rand.Rand) {
	c.volume("v", 256<<20, 3)
	h := newHistory(0)
	at := 0
	device := c.nodes[at].attach("v")
	for i := range rounds(1, 30) {
		n := c.nodes[at]
		u := h.use(t, device, random.Uint64())
		u.goOn(c)
		var how string
		heal := func() {}
		switch way := random.IntN(5); {
		case i == 0 || way == 0:
			how = "dies"
			n.crash()
			heal = n.start
		case way == 1:
			how = "gives it back"
			if err := u.end(c); err != nil {
				t.Fatalf("round %d: %v", i, err)
			}
			c.detach("v")
		default:
			how = "is cut off"
			c.wires.cut(n, [][]string{everything, storage, {"input"}}[random.IntN(3)]...)
			heal = func() { c.wires.mend(n) }
		}
		at = (at + 1 + random.IntN(2)) % 3
		next := c.nodes[at].take("v", "").Status.Device
		v := h.use(t, next, random.Uint64())
		v.goOn(c)
		if i == 0 || random.IntN(2) == 0 { // before all copies are the same
			c.nodes[at].restarts("data", c.nodes[at].kill)
			v.goOn(c)
		}
		heal()
		if how != "gives it back" && u.end(c) == nil {
			t.Errorf("round %d: no user of the old side saw an error", i)
		}
		if err := v.end(c); err != nil {
			t.Fatalf("round %d: a user met an error: %v", i, err)
		}
		device = next
		if err := h.end(device); err != nil {
			t.Fatalf("round %d, %s %s: %v", i, n.name, how, err)
		}
		if long {
			c.awaitNodes()
			c.nodes[at].awaitHealth("v", v1.Health_HEALTH_HEALTHY)
			t.Logf("round %d: %s %s, %d accesses until now", i, n.name, how, h.all)
		}
	}
	t.Logf("%d accesses", h.all)
	if long {
		c.detach("v")
		c.sameOnAllNodes("v")
	}
}

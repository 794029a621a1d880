package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
)

// TestSnapshots does with points in time what users do, on volumes that are attached and
// busy, while processes and nodes die.
func TestSnapshots(t *testing.T) {
	c := newCluster(t, 3)
	random := drawn(t)
	for _, part := range []struct {
		name string
		test func(t *testing.T, c *cluster, random *rand.Rand)
	}{
		{"OfGroupsAreOfOneMoment", groupsAreOfOneMoment},
		{"ChangedBlocksAreThoseThatAComparisonFinds", changedBlocks},
		{"ARestoreSurvivesKillsAndKeepsWhatWas", restores},
		{"AnyVerbsInAnyOrderWhileReplicasFail", verbs},
		{"EachVerbDoesWhatItSays", everyDay},
		{"AFrozenFilesystemIsThawedWhateverIsKilled", thaws},
	} {
		c.during(t, part.name, func(t *testing.T) { part.test(t, c, random) })
	}
}

// changedBlocks compares what the API lists with what was written, for a volume whose only
// replica is on another node than its device, through every node.
func changedBlocks(t *testing.T, c *cluster, random *rand.Rand) {
	const size = 40 << 20
	c.nodes[0].mustCLI("volume", "create", "cb", "--size", fmt.Sprint(size), "--repl", "1", "--nodes", "n2", "--fs", "none")
	device := c.nodes[0].attach("cb")
	now := newImage(size)
	stamp := uint64(0)
	var names []string
	var images []image // at each snapshot
	touched := []map[int]bool{{}}
	for i := range 5 {
		for range random.IntN(12) + 1 {
			at := random.IntN(len(now))
			count := min(random.IntN(64)+1, len(now)-at)
			if stamp++; random.IntN(4) == 0 {
				now.discard(t, device, at, count)
			} else {
				now.write(t, device, at, count, stamp)
			}
			for b := at; b < at+count; b++ {
				touched[i][b] = true
			}
		}
		if i < 4 {
			names = append(names, fmt.Sprint("cb-", i))
			c.nodes[i%3].mustCLI("snapshot", "create", "cb", names[i])
			images, touched = append(images, now.clone()), append(touched, map[int]bool{})
		}
	}
	none := newImage(size)
	for to := range names {
		for from := -1; from < to; from++ {
			base, was := "", none
			if from >= 0 {
				base, was = names[from], images[from]
			}
			n := c.nodes[random.IntN(3)]
			listed := n.changed(t, names[to], base, int32(random.IntN(4)+1))
			compare(t, fmt.Sprintf("%s since %q, asked at %s", names[to], base, n.name), was, images[to], listed, touched[from+1:to+1])
		}
	}
	for _, n := range c.nodes {
		out, err := n.api().Snapshots.RestoreSnapshot(t.Context(), &v1.RestoreSnapshotRequest{Volume: "cb", Snapshot: names[1], Preview: true})
		must(t, err)
		least, most := int64(0), int64(0)
		for b := range now {
			if now[b] != images[1][b] {
				least += blockSize
			}
			if touched[2][b] || touched[3][b] || touched[4][b] {
				most += blockSize
			}
		}
		if out.ChangedBytes < least || out.ChangedBytes > most {
			t.Errorf("at %s the preview says that %d bytes would change; they are %d, and at most %d were written", n.name, out.ChangedBytes, least, most)
		}
	}
	c.remove("cb")
}

// changed lists the blocks that differ, page by page.
func (n *node) changed(t *testing.T, snapshot, base string, page int32) map[int]bool {
	t.Helper()
	listed := map[int]bool{}
	end := int64(0)
	for q := (&v1.ListChangedBlocksRequest{Snapshot: snapshot, Base: base, RangesMax: page}); ; {
		out, err := n.api().Snapshots.ListChangedBlocks(t.Context(), q)
		must(t, err)
		if len(out.Ranges) > int(page) {
			t.Errorf("%d ranges, where %d were asked for", len(out.Ranges), page)
		}
		for _, r := range out.Ranges {
			if r.Offset < end || r.Length <= 0 || r.Offset%blockSize != 0 || r.Length%blockSize != 0 {
				t.Errorf("the range %v comes after one that ended at %d", r, end)
			}
			end = r.Offset + r.Length
			for b := r.Offset / blockSize; b < end/blockSize; b++ {
				listed[int(b)] = true
			}
		}
		if q.Offset = out.NextOffset; q.Offset == 0 {
			return listed
		}
	}
}

// compare checks a list against a comparison, block by block. It may have blocks that were
// written with what they held.
func compare(t *testing.T, what string, was, is image, listed map[int]bool, touched []map[int]bool) {
	t.Helper()
	for b := range is {
		written := false
		for _, m := range touched {
			written = written || m[b]
		}
		switch {
		case was[b] != is[b] && !listed[b]:
			t.Fatalf("%s: block %d differs, and is not listed", what, b)
		case listed[b] && !written:
			t.Fatalf("%s: block %d is listed, and nobody wrote there", what, b)
		}
	}
}

// remove takes a volume away for good, with its snapshots.
func (c *cluster) remove(volume string) {
	c.t.Helper()
	n := c.nodes[1]
	n.mustCLI("volume", "detach", volume)
	n.mustCLI("volume", "delete", volume)
	n.mustCLI("volume", "purge", volume)
}

// restores gives a volume an earlier content again while the process that does it, or the
// whole node, is killed: in the end it has that content, on every replica, and what it had
// is in the safety snapshot.
func restores(t *testing.T, c *cluster, random *rand.Rand) {
	const size = 64 << 20
	c.volume("rs", size, 3)
	device := c.nodes[0].attach("rs")
	now := newImage(size)
	fill := func(count int, stamp uint64) {
		for range count {
			at := random.IntN(len(now) - 256)
			now.write(t, device, at, random.IntN(255)+1, stamp)
		}
	}
	fill(60, 1)
	for i := range rounds(1, 20) {
		name := fmt.Sprint("rs-", i)
		c.nodes[1].mustCLI("snapshot", "create", "rs", name)
		before := now.clone()
		fill(60, uint64(i+2))
		c.detach("rs")
		safety := name + "-safety"
		out, err := c.nodes[1].api().Snapshots.RestoreSnapshot(t.Context(), &v1.RestoreSnapshotRequest{Volume: "rs", Snapshot: name, SafetyName: safety})
		must(t, err)
		var killed string
		c.await("the restore has begun, or is over", func(ctx context.Context) bool {
			a, err := c.nodes[1].api().Volumes.GetVolume(ctx, &v1.GetVolumeRequest{Volume: "rs"})
			s, snapErr := c.nodes[1].api().Snapshots.GetSnapshot(ctx, &v1.GetSnapshotRequest{Snapshot: safety})
			if err != nil || snapErr != nil || !s.Status.Ready {
				return false
			}
			killed = a.Status.GetAttachment().GetNodeId()
			return true
		})
		victim := c.nodes[random.IntN(3)]
		for _, n := range c.nodes {
			if got, err := c.nodes[1].api().Nodes.GetNode(t.Context(), &v1.GetNodeRequest{Node: n.name}); err == nil && got.Meta.Id == killed {
				victim = n
			}
		}
		if random.IntN(2) == 0 {
			victim.restarts("data", victim.kill)
		} else {
			victim.crash()
			victim.start()
		}
		c.awaitNodes()
		c.await("the restore is over", func(ctx context.Context) bool {
			o, err := c.nodes[1].api().Operations.GetOperation(ctx, &v1.GetOperationRequest{Id: out.Operation.Id})
			if err == nil && o.Error != "" {
				t.Fatalf("the restore failed: %s", o.Error)
			}
			return err == nil && o.Done
		})
		c.nodes[0].awaitHealth("rs", v1.Health_HEALTH_HEALTHY)
		for _, n := range c.nodes {
			if err := before.check(t, n.attach("rs"), 0); err != nil {
				t.Fatalf("restored, on %s: %v", n.name, err)
			}
			c.detach("rs")
		}
		c.nodes[2].mustCLI("snapshot", "clone", safety, safety+"-copy")
		if err := now.check(t, c.nodes[2].attach(safety+"-copy"), 0); err != nil {
			t.Fatalf("the safety snapshot: %v", err)
		}
		c.remove(safety + "-copy")
		now = before
		device = c.nodes[0].attach("rs")
	}
	first := now.clone() // of rs-0 in the short form, which is restored once
	if long {
		c.nodes[1].mustCLI("snapshot", "create", "rs", "rs-last")
	}
	fill(60, 99)
	c.detach("rs")
	out, err := c.nodes[1].api().Snapshots.RestoreSnapshot(t.Context(), &v1.RestoreSnapshotRequest{Volume: "rs", Snapshot: map[bool]string{false: "rs-0", true: "rs-last"}[long], SafetyName: "rs-kept"})
	must(t, err)
	c.nodes[2].mustCLI("operation", "cancel", out.Operation.Id)
	var ended *v1.Operation
	c.await("the restore is given up", func(ctx context.Context) bool {
		ended, err = c.nodes[1].api().Operations.GetOperation(ctx, &v1.GetOperationRequest{Id: out.Operation.Id})
		return err == nil && ended.Done
	})
	if ended.Error == "" { // it was quicker
		now = first
	}
	t.Logf("the restore that was canceled: %q", ended.Error)
	device = c.nodes[0].attach("rs")
	if err := now.check(t, device, 0); err != nil {
		t.Fatalf("after a restore that was canceled: %v", err)
	}
	_, err = c.nodes[1].api().Snapshots.RestoreSnapshot(t.Context(), &v1.RestoreSnapshotRequest{Volume: "rs", Snapshot: "rs-0"})
	if err == nil || !strings.Contains(err.Error(), "attached to node n1") {
		t.Errorf("a volume in use is restored: %v", err)
	}
	c.remove("rs")
}

// everyDay does once what people do with snapshots, by commands.
func everyDay(t *testing.T, c *cluster, _ *rand.Rand) {
	n1, n2 := c.nodes[0], c.nodes[1]
	n1.mustCLI("volume", "create", "day", "--size", "400Mi", "--repl", "2", "--nodes", "n2,n3", "--fs", "xfs") // none where it is mounted
	dir := n1.mount("day")
	fill := func(name string) {
		sh(t, `dd if=/dev/urandom of="$1/$2" bs=1M count=24 conv=notrunc,fsync status=none`, dir, name)
	}
	used := func() int { // by all replicas, in MiB
		mib, err := strconv.Atoi(sh(t, `du -smc "$@" | tail -1 | cut -f1`, c.nodes[0].path("pool"), c.nodes[1].path("pool"), c.nodes[2].path("pool")))
		must(t, err)
		return mib
	}
	fill("a")
	n2.mustCLI("snapshot", "create", "day", "day-1", "--label", "keep=yes", "--freeze")
	fill("a") // to the same places
	n2.mustCLI("snapshot", "create", "day", "day-2", "--freeze")
	fill("a")
	n1.mustCLI("snapshot", "create", "day", "day-3")
	if out := n2.mustCLI("snapshot", "list", "--selector", "keep=yes"); !strings.Contains(out, "day-1") || strings.Contains(out, "day-2") {
		t.Errorf("by its label:\n%s", out)
	}
	n2.mustCLI("snapshot", "update", "day-2", "--name", "day-two", "--label", "keep=no")
	n1.mustCLI("snapshot", "clone", "day-1", "day-copy", "--repl", "1")
	tree := n2.mustCLI("snapshot", "tree", "day-copy")
	for _, name := range []string{"day-1", "  day-copy", "day-two", "day-3", "day "} {
		if !strings.Contains(tree, name) {
			t.Errorf("%q is not in the tree:\n%s", name, tree)
		}
	}

	// As many as the settings allow, and not one more.
	n1.mustCLI("cluster", "set", "snapshots_per_volume_max=3")
	if out, err := n1.cli("snapshot", "create", "day"); err == nil || !strings.Contains(out, "has 3 snapshots, and 3 is the most") || !strings.Contains(out, "delete some") {
		t.Errorf("a snapshot too many: %v\n%s", err, out)
	}
	n1.mustCLI("cluster", "set", "snapshots_per_volume_max=256")
	if long {
		for i := 3; i < 256; i++ {
			n1.mustCLI("snapshot", "create", "day", fmt.Sprint("day-many-", i))
		}
		if out, err := n1.cli("snapshot", "create", "day"); err == nil || !strings.Contains(out, "256 is the most") {
			t.Errorf("a snapshot too many: %v\n%s", err, out)
		}
		for i := 3; i < 256; i++ {
			n1.mustCLI("snapshot", "delete", fmt.Sprint("day-many-", i))
		}
	}

	// What each takes is said, and comes back when it is deleted, in any order.
	own := func(name string) (exclusive, shared int64) {
		s, err := n1.api().Snapshots.GetSnapshot(t.Context(), &v1.GetSnapshotRequest{Snapshot: name})
		must(t, err)
		return s.Status.GetExclusiveBytes(), s.Status.GetSharedBytes()
	}
	c.await("it is known what the snapshots take", func(context.Context) bool {
		one, _ := own("day-1")
		two, shared := own("day-two")
		return one+two > 20<<20 && shared > 0
	})
	sum, err := n1.api().Snapshots.GetSnapshot(t.Context(), &v1.GetSnapshotRequest{Snapshot: "day-1"})
	must(t, err)
	n2.mustCLI("volume", "delete", "day-copy", "--purge")
	before := used()
	for _, name := range []string{"day-two", "day-1"} {
		n2.mustCLI("snapshot", "delete", name)
	}
	c.await("their space is free", func(context.Context) bool { return used() <= before-2*int(sum.Status.ExclusiveBytes>>20) })

	// A snapshot is mounted, read-only.
	was := sh(t, `sha256sum <"$1/a"`, dir)
	fill("a")
	c.detach("day")
	n2.mustCLI("volume", "attach", "day", "--snapshot", "day-3", "--mount", n2.path("mnt-day-3"), "--mount-option", "norecovery", "--mount-option", "nouuid")
	if got := sh(t, `sha256sum <"$1/a"`, n2.path("mnt-day-3")); got != was {
		t.Errorf("the snapshot has %s, and the volume had %s", got, was)
	}
	if out, err := exec.Command("touch", n2.path("mnt-day-3/b")).CombinedOutput(); err == nil {
		t.Errorf("a snapshot was written to: %s", out)
	}
	c.detach("day")

	// It grows, attached or not, with its filesystem.
	n1.mustCLI("volume", "update", "day", "--size", "500Mi")
	dir = n1.mount("day")
	c.await("the filesystem has the size of the volume, that grew while it was detached", func(context.Context) bool { return dfMiB(t, dir) > 420 })
	n2.mustCLI("volume", "update", "day", "--size", "700Mi")
	c.await("the filesystem has grown in use", func(context.Context) bool { return dfMiB(t, dir) > 600 })
	fill("b")
	was = sh(t, `sha256sum <"$1/b"`, dir)
	c.detach("day")

	// In the trash it says for how long, and it comes back whole.
	n1.mustCLI("volume", "delete", "day")
	if out := n1.mustCLI("volume", "list", "--trash"); !strings.Contains(out, "GONE IN") || !strings.Contains(out, "24h0m") && !strings.Contains(out, "23h5") {
		t.Errorf("the trash has\n%s", out)
	}
	n1.mustCLI("volume", "restore", "day")
	if got := sh(t, `sha256sum <"$1/b"`, n1.mount("day")); got != was {
		t.Errorf("out of the trash the file has %s, not %s", got, was)
	}
	c.remove("day")
	if out := n1.mustCLI("volume", "list", "--trash"); strings.Contains(out, "day") {
		t.Errorf("it was deleted for good:\n%s", out)
	}
}

// dfMiB returns the size of the filesystem at a directory.
func dfMiB(t *testing.T, dir string) int {
	mib, err := strconv.Atoi(strings.TrimSpace(sh(t, `df -m --output=size "$1" | tail -1`, dir)))
	must(t, err)
	return mib
}

// thaws kills the data process while a filesystem is frozen for a snapshot, once with who
// froze it: files can be written again, and the snapshot is taken by the next process.
func thaws(t *testing.T, c *cluster, random *rand.Rand) {
	n := c.nodes[0]
	n.mustCLI("volume", "create", "cold", "--size", "320Mi", "--repl", "2", "--fs", "xfs")
	dir := n.mount("cold")
	for i := range rounds(2, 40) {
		name := fmt.Sprint("cold-", i)
		asked := make(chan error, 1)
		go func() {
			out, err := exec.Command(program, "snapshot", "create", "cold", name, "--freeze", "--address", c.nodes[1].path("run/api.sock")).CombinedOutput()
			if err != nil {
				err = fmt.Errorf("%w: %s", err, out)
			}
			asked <- err
		}()
		data := n.pid("data")
		frozen := 0 // who froze it
		c.await("it is frozen, or the snapshot taken", func(context.Context) bool {
			frozen = childNamed(data, dir)
			return frozen != 0 || len(asked) > 0
		})
		if i%2 == 0 && frozen != 0 {
			_ = syscall.Kill(-frozen, syscall.SIGKILL) // it has a session, and so a group, of its own
		}
		n.restarts("data", n.kill)
		wrote := make(chan error, 1)
		go func() {
			wrote <- exec.Command("sh", "-c", `echo "$2" >"$1/file" && sync "$1/file"`, "sh", dir, name).Run()
		}()
		c.await("the filesystem is thawed", func(context.Context) bool { return len(wrote) > 0 })
		must(t, <-wrote)
		c.await("the snapshot is taken", func(context.Context) bool { return len(asked) > 0 })
		must(t, <-asked)
	}
	c.remove("cold")
}

// childNamed returns the id of a process's child that has a word among its arguments.
func childNamed(parent int, word string) int {
	raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", parent, parent))
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
	for _, path := range tasks {
		more, _ := os.ReadFile(path)
		raw = append(append(raw, ' '), more...)
	}
	for _, child := range strings.Fields(string(raw)) {
		arguments, _ := os.ReadFile("/proc/" + child + "/cmdline")
		if id, err := strconv.Atoi(child); err == nil && strings.Contains(string(arguments), "freezer") && strings.Contains(string(arguments), word) {
			return id
		}
	}
	return 0
}

// wait is for calls that wait.
func wait() *durationpb.Duration { return durationpb.New(patience) }

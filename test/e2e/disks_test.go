package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
)

// TestDisks has the disks of nodes fill up, fail, rot and be slow under a volume in use.
func TestDisks(t *testing.T) {
	t.Parallel()
	c := prepare(t)
	c.poolSize = "640Mi"
	c.grow(2)
	// The image of the third is larger than the disk that it is on.
	n3 := c.next()
	must(t, os.MkdirAll(n3.path("pool"), 0o700))
	sh(t, `truncate -s 850M "$1/small"; mkfs.ext4 -q "$1/small"; mount -o loop "$1/small" "$2"; rmdir "$2/lost+found"`, c.dir, n3.path("pool"))
	c.grow(1)
	c.during(t, "BitRotOfOneCopyIsNotReadButRepairedAndCounted", c.rots)
	c.during(t, "AReadThatADiskRefusesIsServedByAnotherCopy", c.refusesReads)
	c.during(t, "AFullPoolIsLeftBehindAndComesBackByItself", c.fillsOnePool)
	c.during(t, "WhenAllPoolsAreFullThereIsNoSpaceUntilThereIs", c.fillsAllPools)
	c.during(t, "AFilesystemThatHasShutDownIsMountedAnew", c.shutsDown)
	if long {
		c.during(t, "ADiskThatRefusesWritesCostsOneCopyUntilItIsWell", c.refusesWrites)
		c.during(t, "AFullDiskBelowThePoolCostsOneCopy", c.fillsTheDiskBelow)
		c.during(t, "ASlowDiskIsSeenAndLeftBehind", c.slowsADisk)
	}
}

// TestANodeStartsWithoutADiskThatIsGone starts a node of which one of two disks is not there,
// and puts it back while the node runs. In the long form only.
func TestANodeStartsWithoutADiskThatIsGone(t *testing.T) {
	if !long {
		return
	}
	t.Parallel()
	c := prepare(t)
	n := c.next()
	second := filepath.Join(c.dir, "second")
	c.poolSize, c.args = "320Mi", []string{"--pool", second}
	c.grow(1)
	c.await("both pools are well", func(ctx context.Context) bool { return n.wellPools(ctx) == 2 })
	pool := func() string {
		n.c.t.Helper()
		list, err := n.api().Pools.ListPools(t.Context(), &v1.ListPoolsRequest{})
		must(t, err)
		for _, p := range list.Pools {
			if p.Status.GetPath() == second {
				return p.Meta.Name
			}
		}
		t.Fatalf("there is no pool at %s: %v", second, list)
		return ""
	}()
	for i := range 6 { // on both
		c.volume(fmt.Sprint("v", i), 16<<20, 1)
	}
	c.nodes[0].stop()
	must(t, os.Rename(filepath.Join(second, "pool.img"), filepath.Join(c.dir, "aside")))
	c.nodes[0].start()
	c.await("the pool whose disk is gone says why", func(ctx context.Context) bool {
		list, err := n.api().Pools.ListPools(ctx, &v1.ListPoolsRequest{})
		c.saw = fmt.Sprint(list, err)
		for _, p := range list.GetPools() {
			if p.Meta.Name == pool && !p.Status.GetHealthy() {
				return strings.Contains(fmt.Sprint(p.Status.GetConditions()), "is gone")
			}
		}
		return false
	})
	c.await("the other one is well", func(ctx context.Context) bool { return n.wellPools(ctx) == 1 })
	data := n.pid("data")
	must(t, os.Rename(filepath.Join(c.dir, "aside"), filepath.Join(second, "pool.img")))
	c.await("both pools are well again", func(ctx context.Context) bool { return n.wellPools(ctx) == 2 })
	for i := range 6 {
		c.nodes[0].awaitHealth(fmt.Sprint("v", i), v1.Health_HEALTH_HEALTHY)
	}
	if now := n.pid("data"); now != data {
		t.Errorf("the data process was %d, and is %d", data, now)
	}
}

// wellPools counts the pools that are healthy.
func (n *node) wellPools(ctx context.Context) (well int) {
	list, err := n.api().Pools.ListPools(ctx, &v1.ListPoolsRequest{})
	n.c.saw = fmt.Sprint(list, err)
	for _, p := range list.GetPools() {
		if p.Status.GetHealthy() {
			well++
		}
	}
	return well
}

// written attaches a volume to the first node, and writes bytes of it. It returns the
// device and what a read of them gives.
func (c *cluster) written(volume string, size int64, mib int) (device, sum string) {
	c.t.Helper()
	c.volume(volume, size, 3)
	device = c.nodes[0].attach(volume)
	sh(c.t, `dd if=/dev/urandom of="$1" bs=1M count="$2" oflag=direct conv=fsync status=none`, device, strconv.Itoa(mib))
	return device, c.read(device, mib)
}

// read reads the beginning of a device past the page cache.
func (c *cluster) read(device string, mib int) (sum string) {
	c.t.Helper()
	return sh(c.t, `dd if="$1" bs=1M count="$2" iflag=direct status=none | sha256sum`, device, strconv.Itoa(mib))
}

// gone deletes a volume for good.
func (c *cluster) gone(volume string) {
	c.t.Helper()
	c.detach(volume)
	n := c.nodes[1]
	n.mustCLI("volume", "delete", volume)
	n.mustCLI("volume", "purge", volume)
}

// chunks returns the files of a volume's replica on a node.
func (n *node) chunks(volume string) []string {
	n.c.t.Helper()
	v, err := n.api().Volumes.GetVolume(n.c.t.Context(), &v1.GetVolumeRequest{Volume: volume})
	must(n.c.t, err)
	files, err := filepath.Glob(filepath.Join(n.path("pool/mount/volumes"), v.Meta.Id, "chunks", "*"))
	must(n.c.t, err)
	if len(files) == 0 {
		files, err = filepath.Glob(filepath.Join(n.path("pool/mount"), "*", v.Meta.Id, "chunks", "*"))
		must(n.c.t, err)
	}
	if len(files) == 0 {
		n.c.t.Fatalf("%s has no files of volume %s", n.name, volume)
	}
	return files
}

// metric returns a figure of the node's metrics.
func (n *node) metric(line string) float64 {
	n.c.t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", n.path("run/api.sock"))
	}}}
	got, err := client.Get("http://holdfast/metrics")
	must(n.c.t, err)
	defer got.Body.Close()
	raw, err := io.ReadAll(got.Body)
	must(n.c.t, err)
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(line) + ` (\S+)$`).FindSubmatch(raw)
	if m == nil {
		n.c.t.Fatalf("there is no metric %s among\n%s", line, raw)
	}
	value, err := strconv.ParseFloat(string(m[1]), 64)
	must(n.c.t, err)
	return value
}

// awaitEvent waits until an event of that reason about a volume is there, and returns it.
func (c *cluster) awaitEvent(volume, reason string) (found *v1.Event) {
	c.t.Helper()
	c.await("the event "+reason, func(ctx context.Context) bool {
		list, err := c.nodes[0].api().Events.ListEvents(ctx, &v1.ListEventsRequest{})
		for _, e := range list.GetEvents() {
			if e.Reason == reason && e.ObjectName == volume {
				found = e
			}
		}
		return err == nil && found != nil
	})
	return found
}

// firstSlot is where the data of a chunk file begins: see package store.
const firstSlot = 393216

// rots flips bits in the copy that is read.
func (c *cluster) rots(t *testing.T) {
	const mib, slots = 16, 64
	device, sum := c.written("rot", 128<<20, mib)
	file := c.nodes[0].chunks("rot")[0]
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	good := make([]byte, slots*blockSize)
	_, err = f.ReadAt(good, firstSlot)
	must(t, err)
	bad := bytes.Clone(good)
	for at := 0; at < len(bad); at += blockSize {
		bad[at+at/blockSize] ^= 0x10
	}
	_, err = f.WriteAt(bad, firstSlot)
	must(t, err)
	must(t, f.Sync())
	if got := c.read(device, mib); got != sum {
		t.Errorf("with a rotten copy %s is read, and was %s", got, sum)
	}
	now := make([]byte, len(good))
	_, err = f.ReadAt(now, firstSlot)
	must(t, err)
	if !bytes.Equal(now, good) {
		t.Error("the rotten copy has not been repaired")
	}
	if n := c.nodes[0].metric(`holdfast_volume_repaired_blocks_total{volume="rot"}`); n < slots {
		t.Errorf("%v repaired blocks are counted, of %d", n, slots)
	}
	t.Logf("the event: %s", c.awaitEvent("rot", "BlocksRepaired").Message)
	c.gone("rot")
}

// refusesReads cuts the first node's image short: what was there can't be read any more.
func (c *cluster) refusesReads(t *testing.T) {
	const mib = 64
	n1 := c.nodes[0]
	device, sum := c.written("eio", 128<<20, mib)
	image := n1.path("pool/pool.img")
	info, err := os.Stat(image)
	must(t, err)
	sh(t, `sync -f "$1"`, n1.path("pool/mount"))
	// In the middle of the file's data: nothing but that lies behind.
	file := n1.chunks("eio")[0]
	must(t, os.Truncate(image, n1.lastExtent(file)))
	sh(t, `dd of="$1" oflag=nocache conv=notrunc,fdatasync count=0 status=none; dd if="$1" iflag=nocache count=0 status=none`, file)
	defer os.Truncate(image, info.Size()) // which reads as zeros
	if got := c.read(device, mib); got != sum {
		t.Errorf("with a disk that can't be read %s is read, and was %s", got, sum)
	}
	must(t, os.Truncate(image, info.Size()))
	c.await("it says that blocks were repaired, or a copy was", func(ctx context.Context) bool {
		return n1.metric(`holdfast_volume_repaired_blocks_total{volume="eio"}`) > 0
	})
	n1.awaitHealth("eio", v1.Health_HEALTH_HEALTHY)
	if got := c.read(device, mib); got != sum {
		t.Errorf("afterwards %s is read, and was %s", got, sum)
	}
	c.gone("eio")
}

// lastExtent returns where in the image the end of a file lies.
func (n *node) lastExtent(file string) int64 {
	n.c.t.Helper()
	// The last extent's first physical 512-byte sector.
	line := sh(n.c.t, `xfs_bmap "$1" | grep -v hole | tail -n 1`, file)
	m := regexp.MustCompile(`: (\d+)\.\.(\d+)`).FindStringSubmatch(line)
	if m == nil {
		n.c.t.Fatalf("xfs_bmap says %q", line)
	}
	first, err := strconv.ParseInt(m[1], 10, 64)
	must(n.c.t, err)
	last, err := strconv.ParseInt(m[2], 10, 64)
	must(n.c.t, err)
	return (first + (last-first)/2) / 8 * blockSize
}

// fill takes a node's pool to its reserve with a file of somebody else, and returns its
// path.
func (n *node) fill() string {
	n.c.t.Helper()
	file := n.path("pool/mount/filler")
	sh(n.c.t, `fallocate -l "$(($(stat -fc '%a * %S' "$2") - 8 * 1024 * 1024))" "$1"`, file, n.path("pool/mount"))
	return file
}

// fillsOnePool has the pool of one replica of three be full.
func (c *cluster) fillsOnePool(t *testing.T) {
	n1, n2 := c.nodes[0], c.nodes[1]
	c.volume("full1", 256<<20, 3)
	w := newWriter(t, n1.attach("full1"), 0)
	w.goesOn(c)
	filler := n2.fill()
	sh(t, `dd if=/dev/urandom of="$1" bs=1M seek=16 count=32 oflag=direct conv=fsync status=none`, w.path)
	n1.awaitHealth("full1", v1.Health_HEALTH_DEGRADED)
	n1.awaitReason("full1", "bytes are free")
	c.await("the pool says that it is full", func(ctx context.Context) bool {
		return strings.Contains(n1.poolCondition(ctx, n2), "Full")
	})
	w.goesOn(c)
	must(t, os.Remove(filler))
	n1.awaitHealth("full1", v1.Health_HEALTH_HEALTHY)
	must(t, w.end(c))
	w.verify(t, w.path)
	c.detach("full1")
	w.verify(t, n2.attach("full1"))
	c.gone("full1")
}

func reasonsOf(v *v1.Volume) (all string) {
	for _, s := range v.GetStatus().GetConditions() {
		all += s.Message + "; "
	}
	for _, s := range v.GetStatus().GetAttachment().GetConditions() {
		all += s.Message + "; "
	}
	return all
}

// awaitReason waits until a volume says something of its trouble.
func (n *node) awaitReason(volume, why string) {
	n.c.t.Helper()
	said := ""
	n.c.await(volume+" says: "+why, func(ctx context.Context) bool {
		v, err := n.api().Volumes.GetVolume(ctx, &v1.GetVolumeRequest{Volume: volume})
		n.c.note(v, err)
		said = reasonsOf(v)
		return strings.Contains(said, why)
	})
	n.c.t.Logf("it says: %s", said)
}

// poolCondition returns what is said of a node's pool.
func (n *node) poolCondition(ctx context.Context, of *node) (said string) {
	node, err := n.api().Nodes.GetNode(ctx, &v1.GetNodeRequest{Node: of.name})
	if err != nil {
		return err.Error()
	}
	pools, err := n.api().Pools.ListPools(ctx, &v1.ListPoolsRequest{})
	for _, p := range pools.GetPools() {
		if p.Spec.GetNodeId() == node.Meta.Id {
			for _, s := range p.Status.GetConditions() {
				said += s.Reason + ": " + s.Message + "; "
			}
		}
	}
	return fmt.Sprint(said, err)
}

// fillsAllPools has the pools of all replicas be full.
func (c *cluster) fillsAllPools(t *testing.T) {
	n1 := c.nodes[0]
	device, _ := c.written("full3", 256<<20, writerBlocks*blockSize>>20) // so that the writer only overwrites
	w := newWriter(t, device, 0)
	w.goesOn(c)
	var fillers []string
	for _, n := range c.nodes {
		fillers = append(fillers, n.fill())
	}
	err := c.writeAt(w.path, 128<<20, 32)
	if err != unix.ENOSPC {
		t.Errorf("writing to a new place says %v", err)
	}
	w.goesOn(c) // over what is there
	w.reads(t)
	for _, f := range fillers {
		must(t, os.Remove(f))
	}
	c.await("writing to new places goes on", func(context.Context) bool { return c.writeAt(w.path, 128<<20, 32) == nil })
	n1.awaitHealth("full3", v1.Health_HEALTH_HEALTHY)
	must(t, w.end(c))
	w.verify(t, w.path)
	c.gone("full3")
}

// writeAt writes so many MiB at a place of a device, and returns the first error.
func (c *cluster) writeAt(device string, at int64, mib int) error {
	c.t.Helper()
	f, err := os.OpenFile(device, os.O_WRONLY|unix.O_DIRECT, 0)
	must(c.t, err)
	defer f.Close()
	buf := aligned(c.t, 1<<20)
	for i := range buf {
		buf[i] = byte(i / blockSize)
	}
	for i := range mib {
		if _, err := unix.Pwrite(int(f.Fd()), buf, at+int64(i)<<20); err != nil {
			return err
		}
	}
	return nil
}

// refusesWrites has the disk of the third node's pool answer every write with EIO: its image
// is a file of ext4 that can't be changed. XFS shuts down over its log.
func (c *cluster) refusesWrites(t *testing.T) {
	n1, n3 := c.nodes[0], c.nodes[2]
	c.volume("refused", 256<<20, 3)
	c.volume("only", 64<<20, 3) // nobody writes to it meanwhile
	w := newWriter(t, n1.attach("refused"), 0)
	w.goesOn(c)
	image, data := n3.path("pool/pool.img"), n3.pid("data")
	sh(t, `chattr +i "$1"`, image)
	well := func() { sh(t, `chattr -i "$1"`, image) }
	defer well()
	n1.awaitHealth("refused", v1.Health_HEALTH_DEGRADED)
	n1.awaitReason("refused", "input/output error")
	c.await("the pool is said to have failed", func(ctx context.Context) bool {
		return strings.Contains(n1.poolCondition(ctx, n3), "Failed: ")
	})
	w.goesOn(c)
	w.reads(t)
	well()
	n1.awaitHealth("refused", v1.Health_HEALTH_HEALTHY)
	n1.awaitHealth("only", v1.Health_HEALTH_HEALTHY)
	c.await("the pool is well", func(ctx context.Context) bool { return n1.poolCondition(ctx, n3) == "<nil>" })
	if now := n3.pid("data"); now != data {
		t.Errorf("the data process was %d, and is %d", data, now)
	}
	must(t, w.end(c))
	w.verify(t, w.path)
	c.detach("refused")
	w.verify(t, n3.attach("refused"))
	c.gone("refused")
	c.gone("only")
}

// shutsDown has the filesystem of the second node's pool do what it does when it can't write
// its log.
func (c *cluster) shutsDown(t *testing.T) {
	n1, n2 := c.nodes[0], c.nodes[1]
	c.volume("shut", 256<<20, 3)
	w := newWriter(t, n1.attach("shut"), 0)
	w.goesOn(c)
	data := n2.pid("data")
	epoch := func(ctx context.Context) uint64 {
		v, err := n1.api().Volumes.GetVolume(ctx, &v1.GetVolumeRequest{Volume: "shut"})
		c.note(v, err)
		return v.GetStatus().GetEpoch()
	}
	before := epoch(t.Context())
	sh(t, `xfs_io -x -c shutdown "$1"`, n2.path("pool/mount"))
	c.await("the replica is left behind", func(ctx context.Context) bool { return epoch(ctx) > before })
	w.goesOn(c)
	n1.awaitHealth("shut", v1.Health_HEALTH_HEALTHY)
	if now := n2.pid("data"); now != data {
		t.Errorf("the data process was %d, and is %d", data, now)
	}
	must(t, w.end(c))
	w.verify(t, w.path)
	c.detach("shut")
	w.verify(t, n2.attach("shut"))
	c.gone("shut")
}

// fillsTheDiskBelow fills the disk that the image of the third node's pool is on, so that
// writes to the pool fail that its filesystem has room for.
func (c *cluster) fillsTheDiskBelow(t *testing.T) {
	n1, n3 := c.nodes[0], c.nodes[2]
	c.volume("below", 256<<20, 3)
	w := newWriter(t, n1.attach("below"), 0)
	w.goesOn(c)
	filler := n3.path("pool/filler")
	sh(t, `dd if=/dev/zero of="$1" bs=1M status=none 2>/dev/null || true`, filler)
	defer os.Remove(filler)
	must(t, c.writeAt(w.path, 64<<20, 64))
	n1.awaitHealth("below", v1.Health_HEALTH_DEGRADED)
	n1.awaitReason("below", "bytes are free")
	w.goesOn(c)
	must(t, os.Remove(filler))
	n1.awaitHealth("below", v1.Health_HEALTH_HEALTHY)
	must(t, w.end(c))
	w.verify(t, w.path)
	c.detach("below")
	w.verify(t, n3.attach("below"))
	c.gone("below")
}

// slowsADisk throttles the disk of one replica.
func (c *cluster) slowsADisk(t *testing.T) {
	n1, n2 := c.nodes[0], c.nodes[1]
	c.volume("slow", 256<<20, 3)
	w := newWriter(t, n1.attach("slow"), 0)
	w.goesOn(c)
	undo := n2.throttle()
	defer undo()
	n1.awaitReason("slow", "the others wait")
	n1.awaitHealth("slow", v1.Health_HEALTH_DEGRADED)
	n1.awaitReason("slow", "was slow")
	if n := n1.metric(`holdfast_volume_slow_ejections_total{volume="slow"}`); n < 1 {
		t.Errorf("%v replicas were left behind for being slow", n)
	}
	w.goesOn(c)
	undo()
	n1.awaitHealth("slow", v1.Health_HEALTH_HEALTHY)
	must(t, w.end(c))
	w.verify(t, w.path)
	c.gone("slow")
}

// throttle lets the data process of a node write no more than 1 KiB a second to its pool's
// disk, until undo is called.
func (n *node) throttle() (undo func()) {
	t := n.c.t
	device := sh(t, `lsblk -no MAJ:MIN "$(findmnt -no SOURCE "$1")" | tr -d ' '`, n.path("pool/mount"))
	group := filepath.Join("/sys/fs/cgroup/blkio", filepath.Base(n.c.dir))
	sh(t, `
		mkdir "$1"
		echo "$2 1024" >"$1/blkio.throttle.write_bps_device"
		echo "$3" >"$1/cgroup.procs"`, group, device, strconv.Itoa(n.pid("data")))
	done := false
	return func() {
		if done {
			return
		}
		done = true
		sh(t, `echo "$2 0" >"$1/blkio.throttle.write_bps_device"; echo "$3" >/sys/fs/cgroup/blkio/cgroup.procs; rmdir "$1"`, group, device, strconv.Itoa(n.pid("data")))
	}
}

package attachtest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/host/patiently"
)

// RunFilesystems puts filesystems on devices that outlive their process, and fio
// between them and the kills. It needs fio, mkfs.ext4, mkfs.xfs and fstrim.
func RunFilesystems(t *testing.T, s Suite) {
	if testing.Short() {
		t.Skip("filesystems and fio take their time")
	}
	for _, test := range []struct {
		name string
		run  func(t *testing.T, s Suite)
	}{
		{"VerifiedWritesThroughKills", fioRaw},
		{"Ext4ThroughKills", func(t *testing.T, s Suite) { fioThrough(t, s, ext4, kills(), (*outliving).killSometime) }},
		{"XFSThroughKills", func(t *testing.T, s Suite) { fioThrough(t, s, xfs, kills(), (*outliving).killSometime) }},
		{"XFSThroughUpgrades", func(t *testing.T, s Suite) { fioThrough(t, s, xfs, 8, (*outliving).upgradeSometime) }},
		{"ModelOnExt4ThroughUpgrades", func(t *testing.T, s Suite) { modelThrough(t, s, ext4, modelOps(), (*outliving).upgradeSometime) }},
		{"ModelOnXFSThroughKills", func(t *testing.T, s Suite) { modelThrough(t, s, xfs, modelOps(), (*outliving).killSometime) }},
		{"GrowsWithItsFilesystem", grow},
		{"TrimGivesSpaceBack", trim},
		{"WriterAndServerUnderOneMemoryLimit", tightMemory},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, s) })
	}
}

// modelOps is how many operations are checked against a model.
func modelOps() int { return 200 * kills() }

// filesystem is how to make one, and how to check it.
type filesystem struct {
	name  string
	make  []string
	check []string
}

var (
	ext4 = filesystem{"ext4", []string{"mkfs.ext4", "-q", "-F"}, []string{"e2fsck", "-f", "-n"}}
	xfs  = filesystem{"xfs", []string{"mkfs.xfs", "-q", "-f"}, []string{"xfs_repair", "-n"}}
)

const filesystemSize = 400 << 20 // XFS wants 300 MiB

// tool runs a command, which must succeed, and returns what it said.
func tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// mounted makes fs on the device and mounts it, until the test ends or the function
// that it returns is called.
func (o *outliving) mounted(fs filesystem) (dir string, unmount func()) {
	o.t.Helper()
	tool(o.t, fs.make[0], append(fs.make[1:], o.link())...)
	return o.mount(fs)
}

// mount mounts fs, which is on the device.
func (o *outliving) mount(fs filesystem) (dir string, unmount func()) {
	o.t.Helper()
	dir = o.t.TempDir()
	if err := unix.Mount(o.link(), dir, fs.name, unix.MS_NOATIME, ""); err != nil {
		o.t.Fatalf("mount %s: %v", fs.name, err)
	}
	done := false
	unmount = func() {
		o.t.Helper()
		if done {
			return
		}
		done = true
		if err := unix.Unmount(dir, 0); err != nil {
			o.t.Errorf("unmount %s: %v", dir, err)
			_ = unix.Unmount(dir, unix.MNT_DETACH) // the test has failed
		}
		o.released()
	}
	o.t.Cleanup(func() {
		if o.t.Failed() {
			o.rescue() // or the unmount would hang
		}
		unmount()
	})
	return dir, unmount
}

// disturbedMax is how long one command may take while it is disturbed all the time.
const disturbedMax = 5 * patience

// released waits until no filesystem uses the device: a namespace that was made meanwhile, of
// a container, has the mount too, and its end is the filesystem's.
func (o *outliving) released() {
	o.t.Helper()
	end := time.After(patience)
	for tick := time.NewTicker(10 * time.Millisecond); ; {
		fd, err := unix.Open(o.link(), unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
		if err == nil {
			_ = unix.Close(fd)
			return
		}
		if !errors.Is(err, unix.EBUSY) {
			return // it is gone, after a failure
		}
		select {
		case <-tick.C:
		case <-end:
			o.t.Errorf("%s: a filesystem is mounted from it still", o.link())
			return
		}
	}
}

// through runs a command, and disturbs the device again and again until it ends. It
// must succeed. The number of disturbances is returned.
func (o *outliving) through(disturb func(*outliving), name string, args ...string) (n int) {
	o.t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Dir = o.config.Dir // where fio leaves its states of verifying
	if err := cmd.Start(); err != nil {
		o.t.Fatal(err)
	}
	ended, limit := background(cmd.Wait), time.After(disturbedMax)
	for {
		select {
		case err := <-ended:
			if err != nil {
				o.t.Fatalf("%s after %d disturbances: %v\n%s", name, n, err, out.String())
			}
			return n
		case <-limit:
			o.t.Fatalf("%s goes on after %s and %d disturbances", name, disturbedMax, n)
		default:
			disturb(o)
			n++
		}
	}
}

// killSometime kills the process that serves after a while, and starts another.
func (o *outliving) killSometime() {
	o.t.Helper()
	o.killAndServe(func() { <-time.After(rand.N(200 * time.Millisecond)) })
}

// upgradeSometime has the process that serves hand over to another after a while.
func (o *outliving) upgradeSometime() {
	o.t.Helper()
	old := o.child
	next := o.serve(nil)
	<-time.After(rand.N(200 * time.Millisecond))
	old.tell("handover")
	old.end()
	next.await("ready")
}

// fio returns the arguments of a verified load of size bytes on a file or device.
func fio(name string, size int64, more ...string) []string {
	return append([]string{"--name=verify", "--filename=" + name, "--size=" + strconv.FormatInt(size, 10), "--ioengine=io_uring",
		"--iodepth=16", "--rw=randwrite", "--bsrange=4k-128k", "--blockalign=4k", "--verify=crc32c", "--verify_fatal=1",
		"--verify_backlog=256", "--randrepeat=0"}, more...)
}

func fioRaw(t *testing.T, s Suite) {
	o := newOutliving(t, s)
	o.serve(nil).await("ready")
	for n := 0; n < kills(); {
		n += o.through((*outliving).killSometime, "fio", fio(o.link(), volumeSize, "--direct=1", "--loops=3")...)
	}
	o.settle()
	o.end()
}

// settle waits until a process serves.
func (o *outliving) settle() {
	o.t.Helper()
	o.child.tell("are you there?") // answered once it serves
	o.child.await("are you there?")
}

// fioThrough disturbs a filesystem n times at least, under a load that reads back what
// it wrote, and finds the filesystem clean.
func fioThrough(t *testing.T, s Suite, fs filesystem, n int, disturb func(*outliving)) {
	o := newOutliving(t, s)
	o.config.Size = filesystemSize
	o.serve(nil).await("ready")
	dir, unmount := o.mounted(fs)
	for i := 0; n > 0; i++ {
		direct := fmt.Sprintf("--direct=%d", i%2)
		n -= o.through(disturb, "fio", fio(filepath.Join(dir, "file"), 48<<20, direct, "--fsync=32", "--end_fsync=1", "--loops=2")...)
	}
	unmount()
	tool(t, fs.check[0], append(fs.check[1:], o.link())...)
	o.settle()
	o.end()
}

// A volume grows while its filesystem is mounted, by a restart with another size. XFS
// then grows at once; ext4 would too, but wants CAP_SYS_RESOURCE for that, which is not
// to be had everywhere, so it is unmounted here.
func grow(t *testing.T, s Suite) {
	for _, fs := range []filesystem{ext4, xfs} {
		o := newOutliving(t, s)
		o.config.Size = filesystemSize
		o.serve(nil).await("ready")
		dir, unmount := o.mounted(fs)
		before := spaceOf(t, dir)
		old := o.child
		o.config.Size = 2 * filesystemSize
		next := o.serve(nil)
		old.tell("handover")
		old.end()
		next.await("ready")
		if fs.name == "ext4" {
			unmount()
			tool(t, "e2fsck", "-f", "-p", o.link())
			tool(t, "resize2fs", o.link())
			dir, unmount = o.mount(fs)
		} else {
			tool(t, "xfs_growfs", dir)
		}
		if after := spaceOf(t, dir); after < before+filesystemSize*9/10 {
			t.Errorf("%s has %d bytes, before it grew %d", fs.name, after, before)
		}
		unmount()
		tool(t, fs.check[0], append(fs.check[1:], o.link())...)
		o.end()
	}
}

func spaceOf(t *testing.T, dir string) int64 {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Blocks) * st.Bsize
}

// What a deleted file took is given back to the backend by fstrim.
func trim(t *testing.T, s Suite) {
	for _, fs := range []filesystem{ext4, xfs} {
		o := newOutliving(t, s)
		o.config.Size = filesystemSize
		o.serve(nil).await("ready")
		dir, unmount := o.mounted(fs)
		file := filepath.Join(dir, "big")
		if err := os.WriteFile(file, bytes.Repeat([]byte("x"), 100<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		syncAll(t, dir)
		full := o.allocated()
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		syncAll(t, dir)
		tick, freed := time.NewTicker(20*time.Millisecond), int64(0)
		for tries := 0; freed < 95<<20 && tries < 250; tries++ { // XFS frees in its own time
			<-tick.C
			tool(t, "fstrim", dir)
			freed = full - o.allocated()
		}
		if freed < 95<<20 {
			t.Errorf("%s: %d bytes were given back of 100 MiB", fs.name, freed)
		}
		unmount()
		tool(t, fs.check[0], append(fs.check[1:], o.link())...)
		o.end()
	}
}

// syncAll writes what a filesystem has not written, and no other's.
func syncAll(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		t.Fatal(err)
	}
}

// allocated returns the bytes that the backend's file takes.
func (o *outliving) allocated() int64 {
	o.t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(o.config.Dir, o.config.Name), &st); err != nil {
		o.t.Fatal(err)
	}
	return st.Blocks * 512
}

// The writer and the process that must write for it share a control group that has
// less memory than the writer dirties. A server that allocates hangs here.
func tightMemory(t *testing.T, s Suite) {
	o := newOutliving(t, s)
	o.config.Size = filesystemSize
	group := memoryGroup(t, 128<<20)
	o.serve(nil).await("ready")
	dir, unmount := o.mounted(ext4)
	group.add(t, o.child.cmd.Process.Pid)
	// The shell moves itself into the group, then becomes the writer.
	script := fmt.Sprintf("echo 0 >%s && exec dd if=/dev/zero of=%s bs=1M count=300 conv=fsync status=none",
		group.file("cgroup.procs"), filepath.Join(dir, "file"))
	done := background(func() error {
		out, err := exec.Command("/bin/sh", "-c", script).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	})
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(patience):
		t.Error("the writer hangs")
		o.rescue()
		patiently.From(t, done)
	}
	unmount()
	o.end()
}

// cgroup is a control group, by its directory.
type cgroup string

func (g cgroup) file(name string) string { return filepath.Join(string(g), name) }

func (g cgroup) add(t *testing.T, pid int) {
	t.Helper()
	if err := os.WriteFile(g.file("cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
		t.Fatal(err)
	}
}

// memoryGroup makes a control group with a limit of memory, for the time of the test.
func memoryGroup(t *testing.T, bytes int64) cgroup {
	t.Helper()
	root, limit := "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		root, limit = "/sys/fs/cgroup", "memory.max"
	}
	dir, err := os.MkdirTemp(root, "holdfast-test-")
	if err != nil {
		t.Fatal(err)
	}
	g := cgroup(dir)
	t.Cleanup(func() {
		for try := time.After(patience); ; { // the last of its processes may be ending
			err := os.Remove(dir)
			if err == nil || errors.Is(err, os.ErrNotExist) {
				return
			}
			select {
			case <-time.After(10 * time.Millisecond):
			case <-try:
				t.Errorf("the control group is left: %v", err)
				return
			}
		}
	})
	if err := os.WriteFile(g.file(limit), []byte(strconv.FormatInt(bytes, 10)), 0); err != nil {
		t.Fatal(err)
	}
	return g
}

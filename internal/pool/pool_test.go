package pool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

func TestImagePoolIsFoundAgainAfterAReboot(t *testing.T) {
	path := filepath.Join(needRoot(t), "pool")
	p := imagePool(t, path)
	id, check := p.Identity(), keep(t, p)
	if p.Mount() != filepath.Join(path, "mount") || p.Volumes() != filepath.Join(path, "mount", "volumes") {
		t.Errorf("mounted at %s, volumes at %s", p.Mount(), p.Volumes())
	}
	if name, err := filesystemOf(p.Mount()); name != "xfs" {
		t.Errorf("the image holds %s, %v", name, err)
	}
	loop := findLoop(filepath.Join(path, imageName))
	if size, _ := os.ReadFile("/sys/block/" + filepath.Base(loop) + "/queue/logical_block_size"); strings.TrimSpace(string(size)) != "4096" {
		t.Errorf("the loop device has blocks of %s", size)
	}
	must(t, p.Close())
	if mounted(path) || findLoop(filepath.Join(path, imageName)) != "" {
		t.Fatal("Close left the image mounted or attached")
	}

	for range 3 { // each as after a reboot: nothing mounted, no loop device
		p = mustOpen(t, path)
		check(p)
		if got := p.Identity(); got != id {
			t.Errorf("the identity is %+v, was %+v", got, id)
		}
		must(t, p.Close())
	}
}

func TestOpenUsesWhatIsMountedAlready(t *testing.T) {
	path := filepath.Join(needRoot(t), "pool")
	p := imagePool(t, path)
	check := keep(t, p)
	p.KeepMounted()
	must(t, p.Close())
	if !mounted(path) {
		t.Fatal("KeepMounted did not")
	}
	p = mustOpen(t, path)
	check(p)
	must(t, p.Close())
	if !mounted(path) {
		t.Error("Close unmounted what another had mounted")
	}
	must(t, Unmount(path))
	must(t, Unmount(path)) // a second time there is nothing to do
	if mounted(path) || findLoop(filepath.Join(path, imageName)) != "" {
		t.Error("Unmount left the image mounted or attached")
	}
}

// A process that was killed between setting up the loop device and mounting it leaves a
// loop device that detaches by itself; somebody's by hand does not, and is used.
func TestOpenUsesALoopDeviceThatIsThere(t *testing.T) {
	path := filepath.Join(needRoot(t), "pool")
	p := imagePool(t, path)
	check := keep(t, p)
	must(t, p.Close())
	loop, err := attachLoop(filepath.Join(path, imageName))
	must(t, err)
	defer loop.Close()
	p = mustOpen(t, path)
	check(p)
	if all := loopsBelow(path); len(all) != 1 {
		t.Errorf("the image is attached as %v", all)
	}
	loop.Close()
	must(t, p.Close())
}

func TestLoopDeviceWithoutDirectIOIsRefused(t *testing.T) {
	path := filepath.Join(needRoot(t), "pool")
	p := imagePool(t, path)
	must(t, p.Close())
	command(t, "losetup", "-f", filepath.Join(path, imageName))
	_, err := open(t, path)
	wantFault(t, err, fault.Unsupported, "direct I/O", "losetup -d /dev/loop")
	must(t, detachLoop(filepath.Join(path, imageName)))
}

func TestPoolMovesWithItsDirectory(t *testing.T) {
	dir := needRoot(t)
	p := imagePool(t, filepath.Join(dir, "here"))
	check := keep(t, p)
	must(t, p.Close())
	must(t, os.Rename(filepath.Join(dir, "here"), filepath.Join(dir, "there and elsewhere")))
	must(t, os.Symlink("there and elsewhere", filepath.Join(dir, "link")))
	check(mustOpen(t, filepath.Join(dir, "link")))
}

func TestDirectoryPoolOnFilesystemsAsTheyAre(t *testing.T) {
	dir := needRoot(t)
	for kind, size := range map[string]int64{"xfs": xfsBytesMin, "btrfs": 256 << 20, "ext4": 256 << 20} {
		t.Run(kind, func(t *testing.T) {
			path := filepath.Join(newFilesystem(t, dir, kind, size), "pool")
			o := CreateOptions{Path: path}
			if kind == "ext4" {
				o.Kind = Directory // not the default there
			}
			p := mustCreate(t, o)
			if p.Identity().Kind != Directory || p.Mount() != path {
				t.Errorf("made a pool of kind %s at %s", p.Identity().Kind, p.Mount())
			}
			check := keep(t, p)
			must(t, p.Close())
			p = mustOpen(t, path)
			check(p)
			if h := p.Health(); h.State != Ready {
				t.Errorf("health is %+v", h)
			}
			r, err := Inspect(path)
			must(t, err)
			if r.Filesystem != kind || (r.Note != "") != (kind == "ext4") || r.OwnerPID != os.Getpid() {
				t.Errorf("report is %+v", r)
			}
			if kind == "btrfs" {
				d, err := os.Open(filepath.Join(p.Volumes(), "kept"))
				must(t, err)
				defer d.Close()
				if flags, err := unix.IoctlGetUint32(int(d.Fd()), unix.FS_IOC_GETFLAGS); err != nil || flags&0x00800000 == 0 {
					t.Errorf("files in volumes are copied on write: flags %#x, %v", flags, err)
				}
			}
			must(t, p.Close())
		})
	}
}

func TestExt4DirectoryBecomesAnImageByDefault(t *testing.T) {
	dir := needRoot(t)
	path := filepath.Join(newFilesystem(t, dir, "ext4", 1<<30), "pool")
	p := mustCreate(t, CreateOptions{Path: path})
	if p.Identity().Kind != Image {
		t.Errorf("made a pool of kind %s", p.Identity().Kind)
	}
	must(t, p.Close())
}

func TestVolatileDirectoryIsRefusedUnlessForced(t *testing.T) {
	dir := needRoot(t)
	path := filepath.Join(dir, "ram")
	must(t, os.Mkdir(path, 0o700))
	must(t, unix.Mount("none", path, "tmpfs", 0, "size=16m"))
	t.Cleanup(func() { must(t, unix.Unmount(path, 0)) })
	o := CreateOptions{Path: filepath.Join(path, "pool"), Kind: Directory}
	_, err := create(t, o)
	wantFault(t, err, fault.Precondition, "tmpfs", "loses everything", "--force")
	o.Force = true
	p := mustCreate(t, o)
	if h := p.Health(); h.State != Ready {
		t.Errorf("health is %+v", h)
	}
	must(t, p.Close())
}

func TestSecondOpenIsRefusedAndNamesTheOwner(t *testing.T) {
	path := filepath.Join(needRoot(t), "pool")
	p := imagePool(t, path)
	_, err := open(t, path)
	wantFault(t, err, fault.Busy, fmt.Sprintf("process %d", os.Getpid()))
	must(t, p.Close())

	other := hold(t, path) // which runs the same program
	program, err := os.ReadFile("/proc/self/comm")
	must(t, err)
	pid := fmt.Sprintf("process %d (%s)", other.cmd.Process.Pid, strings.TrimSpace(string(program)))
	_, err = open(t, path)
	wantFault(t, err, fault.Busy, "in use by "+pid)
	wantFault(t, Unmount(path), fault.Busy, pid)
	wantFault(t, Wipe(context.Background(), path, WipeOptions{Pool: p.Identity().Pool}), fault.Busy, pid)
	r, err := Inspect(path) // looking is always possible
	must(t, err)
	if r.OwnerPID != other.cmd.Process.Pid || r.Health.State != Ready {
		t.Errorf("report is %+v", r)
	}
	other.stop()
	must(t, mustOpen(t, path).Close())
}

func TestPoolOfAKilledProcessIsOpenedAgain(t *testing.T) {
	path := filepath.Join(needRoot(t), "pool")
	p := imagePool(t, path)
	check := keep(t, p)
	must(t, p.Close())
	other := hold(t, path)
	must(t, other.cmd.Process.Kill())
	other.stop()
	p = mustOpen(t, path)
	check(p)
	if p.unmounts {
		t.Error("the killed process's mount was not used")
	}
	must(t, p.Close())
	must(t, Unmount(path))
}

func TestSameFilesystemUnderAnotherPathIsRefused(t *testing.T) {
	dir := needRoot(t)
	d := newDisk(t, dir, "disk", xfsBytesMin)
	p := mustCreate(t, CreateOptions{Path: filepath.Join(dir, "pool"), Device: d.device()})
	other := filepath.Join(dir, "other")
	must(t, os.Mkdir(other, 0o700))
	must(t, saveIdentity(other, p.Identity()))
	_, err := open(t, other)
	wantFault(t, err, fault.Busy, fmt.Sprintf("process %d", os.Getpid()))
	must(t, p.Close())
}

func TestPoolOfAnotherClusterIsRefusedWithTheCommandThatWipesIt(t *testing.T) {
	path := filepath.Join(needRoot(t), "pool")
	p := imagePool(t, path)
	id, check := p.Identity(), keep(t, p)
	must(t, p.Close())
	_, err := Open(context.Background(), path, OpenOptions{Cluster: clusterB})
	wantFault(t, err, fault.Precondition, "belongs to cluster "+clusterA.String(),
		fmt.Sprintf("holdfast pool wipe %s --pool %s", path, id.Pool))
	if mounted(path) {
		t.Error("it was mounted")
	}
	p, err = Open(context.Background(), path, OpenOptions{AnyCluster: true})
	must(t, err)
	check(p)
	must(t, p.Close())
	_, err = Open(context.Background(), path, OpenOptions{})
	wantFault(t, err, fault.Invalid)
}

func TestForeignFilesystemUnderThePoolsMountIsRefused(t *testing.T) {
	dir := needRoot(t)
	for _, name := range []string{"a", "b"} {
		must(t, imagePool(t, filepath.Join(dir, name)).Close())
	}
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	must(t, os.Rename(filepath.Join(a, imageName), filepath.Join(dir, "aside")))
	must(t, os.Rename(filepath.Join(b, imageName), filepath.Join(a, imageName)))
	_, err := open(t, a)
	wantFault(t, err, fault.Precondition, "should be pool", "umount")
}

func TestWhatIsNoPoolIsNotFound(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{dir, filepath.Join(dir, "nowhere")} {
		_, err := open(t, path)
		wantFault(t, err, fault.NotFound, "no pool at "+path, "holdfast pool create")
		_, err = Inspect(path)
		wantFault(t, err, fault.NotFound, "no pool at "+path)
		wantFault(t, Wipe(context.Background(), path, WipeOptions{Damaged: true}), fault.NotFound)
		wantFault(t, Unmount(path), fault.NotFound)
	}
	if got := names(t, dir); got != "" {
		t.Errorf("asking left %s behind", got)
	}
}

func TestSettingsAreKept(t *testing.T) {
	path := filepath.Join(needRoot(t), "pool")
	p := imagePool(t, path)
	measured := p.Identity().Measured.Class()
	must(t, p.SetReserve(20))
	must(t, p.SetClass(Low))
	wantFault(t, p.SetReserve(99), fault.Invalid, "reserve")
	wantFault(t, p.SetClass("fast"), fault.Invalid, "class")
	must(t, p.Close())
	p = mustOpen(t, path)
	if id := p.Identity(); id.ReservePercent != 20 || id.Class != Low || !id.ClassGiven {
		t.Errorf("the identity is %+v", id)
	}
	if u, err := p.Space().Usage(); err != nil || u.Reserve != u.Capacity/100*20 {
		t.Errorf("usage is %+v, %v", u, err)
	}
	must(t, p.SetClass(""))
	if id := p.Identity(); id.Class != measured || id.ClassGiven {
		t.Errorf("the class is %s, measured %s", id.Class, measured)
	}
	must(t, p.Close())
}

func TestFullPoolRefusesBeforeItsFilesystemIsFullAndHeals(t *testing.T) {
	path := filepath.Join(needRoot(t), "pool")
	clock := &hands{}
	p := mustCreate(t, CreateOptions{Path: path, Kind: Image, SizeBytes: xfsBytesMin, Clock: clock})
	defer p.Close()
	f, err := os.Create(filepath.Join(p.Volumes(), "big"))
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(xfsBytesMin)) // or XFS allocates ahead
	piece := make([]byte, 1<<20)
	for at := int64(0); ; at += int64(len(piece)) {
		clock.advance(time.Millisecond)
		err = p.Space().Admit(int64(len(piece)))
		if err != nil {
			break
		}
		_, err = f.WriteAt(piece, at)
		must(t, err) // it is refused before the filesystem is full
		must(t, f.Sync())
	}
	wantFault(t, err, fault.NoSpace, path, "reserve", "delete")
	u, err := p.Space().Usage()
	must(t, err)
	if u.Free < u.Reserve-64<<10 || u.Available > 2<<20 { // but for the filesystem's own
		t.Errorf("refused with %+v", u)
	}
	if h := p.Health(); u.Available == 0 && h.State != Full {
		t.Errorf("health is %+v", h)
	}
	must(t, p.SetReserve(ReserveDefault+2))
	h := p.Health()
	if h.State != Full || h.Cure == "" || !strings.Contains(h.Reason, "reserve") {
		t.Errorf("health is %+v", h)
	}

	// Reads and overwrites go on.
	_, err = f.WriteAt(piece, 0)
	must(t, err)
	must(t, f.Sync())
	_, err = io.ReadFull(io.NewSectionReader(f, 0, int64(len(piece))), piece)
	must(t, err)

	// Freeing heals, without a restart.
	must(t, f.Truncate(100<<20))
	must(t, f.Sync())
	clock.advance(spaceAgeMin)
	must(t, p.Space().Admit(1<<20))
	if h := p.Health(); h.State != Ready {
		t.Errorf("health is %+v", h)
	}
	must(t, f.Close())
	must(t, p.Close())
}

func TestImageNeverHasMoreRoomThanTheFilesystemAroundIt(t *testing.T) {
	dir := needRoot(t)
	around := newFilesystem(t, dir, "ext4", 600<<20)
	o := CreateOptions{Path: filepath.Join(around, "pool"), Kind: Image, SizeBytes: 2 << 30}
	_, err := create(t, o)
	wantFault(t, err, fault.NoSpace, "would not fit", "--force")
	o.Force = true
	p := mustCreate(t, o)
	u, err := p.Space().Usage()
	must(t, err)
	if u.Capacity < 1<<30 || u.Free > 600<<20 {
		t.Errorf("usage is %+v", u)
	}
	wantFault(t, p.Space().Admit(600<<20), fault.NoSpace)
	must(t, p.Close())
}

func TestDeletedDataIsGivenBackToTheFilesystemAroundAnImage(t *testing.T) {
	path := filepath.Join(needRoot(t), "pool")
	p := imagePool(t, path)
	allocated := func() int64 {
		t.Helper()
		var st unix.Stat_t
		must(t, unix.Stat(filepath.Join(path, imageName), &st))
		return st.Blocks * 512
	}
	empty := allocated()
	big := filepath.Join(p.Volumes(), "big")
	must(t, os.WriteFile(big, make([]byte, 64<<20), 0o600))
	must(t, syncAll(p.Mount()))
	full := allocated()
	must(t, os.Remove(big))
	must(t, p.Close()) // writes the log, and with it the discards
	if again := allocated(); full-empty < 60<<20 || again-empty > 8<<20 {
		t.Errorf("the image takes %d MiB empty, %d with data, %d after", empty>>20, full>>20, again>>20)
	}
}

func syncAll(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
}

func TestCloseOfAPoolInUseSaysSo(t *testing.T) {
	path := filepath.Join(needRoot(t), "pool")
	p := imagePool(t, path)
	f, err := os.Create(filepath.Join(p.Volumes(), "busy"))
	must(t, err)
	wantFault(t, p.Close(), fault.Busy, "fuser -vm")
	must(t, f.Close())
	must(t, Unmount(path))
}

func TestZeroClusterIsNoCluster(t *testing.T) {
	o := CreateOptions{Path: t.TempDir(), Kind: Directory}
	_, err := Create(context.Background(), o)
	wantFault(t, err, fault.Invalid, "cluster")
	_, err = Open(context.Background(), o.Path, OpenOptions{Cluster: block.ClusterID{}})
	wantFault(t, err, fault.Invalid)
}

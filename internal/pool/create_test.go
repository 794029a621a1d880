package pool

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
)

func TestEmptyDeviceBecomesAPoolAndIsFoundUnderAnotherName(t *testing.T) {
	dir := needRoot(t)
	path := filepath.Join(dir, "pool")
	d := newDisk(t, dir, "disk", xfsBytesMin)
	p := mustCreate(t, CreateOptions{Path: path, Device: d.device()})
	if p.Identity().Kind != Device {
		t.Errorf("made a pool of kind %s", p.Identity().Kind)
	}
	check, was := keep(t, p), d.device()
	must(t, p.Close())

	// The disk comes back as another device: the old name, which is free, goes to who comes
	// first, here or in another process.
	for n := 0; d.device() == was; n++ {
		if n == 10 {
			t.Fatalf("the disk is %s again and again", was)
		}
		d.takeOut()
		newDisk(t, dir, fmt.Sprint("first come ", n), 1<<20)
		d.putIn()
	}
	p = mustOpen(t, path)
	check(p)
	must(t, p.Close())

	d.takeOut()
	_, err := open(t, path)
	wantFault(t, err, fault.NotFound, p.Identity().Pool.String(), was, "attach the device again")
	r, err := Inspect(path)
	must(t, err)
	if r.Health.State != Missing || r.Health.Cure == "" {
		t.Errorf("health is %+v", r.Health)
	}
}

func TestTwoDevicesWithTheSameFilesystemAreNotChosenFrom(t *testing.T) {
	dir := needRoot(t)
	path := filepath.Join(dir, "pool")
	d := newDisk(t, dir, "disk", xfsBytesMin)
	p := mustCreate(t, CreateOptions{Path: path, Device: d.device()})
	must(t, p.Close())
	d.takeOut()
	command(t, "cp", "--sparse=always", d.image, filepath.Join(dir, "clone"))
	d.putIn()
	clone := &disk{t: t, image: filepath.Join(dir, "clone")}
	t.Cleanup(clone.takeOut)
	clone.putIn()
	_, err := findDevice(context.Background(), p.Identity().Pool, "/dev/loop-gone")
	wantFault(t, err, fault.Precondition, d.device(), clone.device(), "detach the copy")
}

func TestDeviceThatCarriesSomethingIsRefusedUnlessForced(t *testing.T) {
	for name, carry := range map[string]struct {
		put  func(t *testing.T, d *disk)
		says []string
	}{
		"filesystem": {func(t *testing.T, d *disk) {
			command(t, "mkfs.ext4", "-q", "-L", "photos", d.device())
		}, []string{"ext4", `labelled "photos"`, "UUID"}},
		"partition table": {putPartitionTable, []string{"dos partition table"}},
		"pool": {func(t *testing.T, d *disk) {
			command(t, "mkfs.xfs", "-q", "-L", filesystemLabel, d.device())
		}, []string{"xfs", `labelled "holdfast"`}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := needRoot(t)
			d := newDisk(t, dir, "disk", xfsBytesMin)
			carry.put(t, d)
			o := CreateOptions{Path: filepath.Join(dir, "pool"), Device: d.device()}
			_, err := create(t, o)
			wantFault(t, err, fault.Precondition, append(carry.says, d.device(), "--force")...)
			if exists(o.Path) {
				t.Errorf("the refusal left %s behind", o.Path)
			}
			o.Force = true
			p := mustCreate(t, o)
			if h := p.Health(); h.State != Ready {
				t.Errorf("health is %+v", h)
			}
			must(t, p.Close())
			found, err := contentsOf(context.Background(), d.device())
			must(t, err)
			if len(found) != 1 || !strings.HasPrefix(found[0], "xfs ") {
				t.Errorf("the device carries %q", found)
			}
		})
	}
}

// putPartitionTable writes an MBR with one Linux partition.
func putPartitionTable(t *testing.T, d *disk) {
	sector := make([]byte, 4096)
	copy(sector[446:], []byte{0, 0, 2, 0, 0x83, 0, 2, 0, 8, 0, 0, 0, 0, 64, 0, 0})
	sector[510], sector[511] = 0x55, 0xaa
	_, err := d.f.WriteAt(sector, 0)
	must(t, err)
	must(t, d.f.Sync())
}

func TestDeviceInUseIsRefusedEvenWhenForced(t *testing.T) {
	dir := needRoot(t)
	d := newDisk(t, dir, "disk", xfsBytesMin)
	command(t, "mkfs.ext4", "-q", d.device())
	mount := filepath.Join(dir, "mounted")
	must(t, os.Mkdir(mount, 0o700))
	must(t, unix.Mount(d.device(), mount, "ext4", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(mount, 0)) })
	for _, force := range []bool{false, true} {
		_, err := create(t, CreateOptions{Path: filepath.Join(dir, "pool"), Device: d.device(), Force: force})
		wantFault(t, err, fault.Busy, "is mounted at "+mount, "umount")
	}
}

func TestWhatIsNoDeviceIsRefused(t *testing.T) {
	dir := needRoot(t)
	for device, kind := range map[string]fault.Kind{
		filepath.Join(dir, "nothing"):            fault.NotFound,
		"/dev/null":                              fault.Invalid,
		newDisk(t, dir, "small", 1<<20).device(): fault.Invalid,
	} {
		_, err := create(t, CreateOptions{Path: filepath.Join(dir, "pool"), Device: device})
		wantFault(t, err, kind, device)
	}
}

func TestDirectoryThatHoldsSomethingIsRefused(t *testing.T) {
	path := needRoot(t)
	must(t, os.WriteFile(filepath.Join(path, "thesis.txt"), nil, 0o600))
	for _, kind := range []Kind{Directory, Image} {
		_, err := create(t, CreateOptions{Path: path, Kind: kind, SizeBytes: map[Kind]int64{Image: xfsBytesMin}[kind]})
		wantFault(t, err, fault.Precondition, "holds thesis.txt", "empty directory")
	}
	if got := names(t, path); got != "thesis.txt" {
		t.Errorf("the directory holds %s", got)
	}
}

func TestPoolIsNotMadeOverAPool(t *testing.T) {
	path := t.TempDir()
	p := mustCreate(t, CreateOptions{Path: path, Kind: Directory, Force: true})
	_, err := create(t, CreateOptions{Path: path, Kind: Directory})
	wantFault(t, err, fault.Exists, p.Identity().Pool.String(), "holdfast pool wipe")
}

func TestNonsenseIsRefused(t *testing.T) {
	needRoot(t)
	for name, o := range map[string]CreateOptions{
		"size of a directory": {Kind: Directory, SizeBytes: 1 << 30},
		"small image":         {Kind: Image, SizeBytes: 1 << 20},
		"kind":                {Kind: "tape"},
		"device and image":    {Kind: Image, Device: "/dev/null"},
		"reserve":             {Kind: Directory, ReservePercent: 80},
		"class":               {Kind: Directory, Class: "fast"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			o.Path = filepath.Join(dir, "pool")
			_, err := create(t, o)
			wantFault(t, err, fault.Invalid)
			if got := names(t, dir); got != "" {
				t.Errorf("left %s behind", got)
			}
		})
	}
}

func TestMissingProgramIsNamedAndNothingIsLeft(t *testing.T) {
	dir := needRoot(t)
	d := newDisk(t, dir, "disk", xfsBytesMin)
	t.Setenv("PATH", t.TempDir())
	dirs := sbin
	t.Cleanup(func() { sbin = dirs })
	sbin = nil
	path := filepath.Join(dir, "pool")
	_, err := create(t, CreateOptions{Path: path, Kind: Image, SizeBytes: xfsBytesMin})
	wantFault(t, err, fault.Unsupported, "mkfs.xfs is not installed", "apt-get install xfsprogs")
	_, err = create(t, CreateOptions{Path: path, Device: d.device()})
	wantFault(t, err, fault.Unsupported, "wipefs is not installed", "apt-get install util-linux")
	if exists(path) || len(loopsBelow(path)) > 0 {
		t.Errorf("the failure left %s or %v behind", path, loopsBelow(path))
	}
}

func TestInterruptedCreateLeavesNothing(t *testing.T) {
	path := filepath.Join(needRoot(t), "pool")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := Create(ctx, CreateOptions{Path: path, Cluster: clusterA, Kind: Image, SizeBytes: xfsBytesMin})
	wantFault(t, err, fault.Canceled)
	if exists(path) || len(loopsBelow(path)) > 0 {
		t.Errorf("left %s or %v behind", path, loopsBelow(path))
	}
}

func TestCreateKilledAtAnyStepCanBeDoneAgain(t *testing.T) {
	for _, step := range []string{lockName, unfinishedName, imageName, mountName, "mount/" + volumesName,
		"mount/" + volumesName + "/" + measureName, "mount/" + copyName, "mount/" + lockName, identityName} {
		t.Run(filepath.Base(step), func(t *testing.T) {
			path := filepath.Join(needRoot(t), "pool")
			ctx := patiently.Context(t)
			other := exec.CommandContext(ctx, os.Args[0])
			other.Env = append(os.Environ(), createEnv+"="+path)
			must(t, other.Start())
			died := make(chan struct{})
			go func() { other.Wait(); close(died) }()
			for ended := false; !ended && !exists(filepath.Join(path, step)); { // without a pause: steps are short
				select {
				case <-died: // we were too slow to see the step
					ended = true
				case <-ctx.Done():
					t.Fatalf("neither %s nor an end: %v", step, ctx.Err())
				default:
				}
			}
			_ = other.Process.Kill() // it may have ended
			patiently.From(t, died)

			p, err := open(t, path)
			if err == nil { // it was through
				must(t, p.Close())
				must(t, wipe(path, WipeOptions{Pool: p.Identity().Pool}))
			} else if !fault.Is(err, fault.NotFound) && !fault.Is(err, fault.Precondition) {
				t.Fatalf("what is left opens with %v", err)
			}
			must(t, imagePool(t, path).Close())
			must(t, mustOpen(t, path).Close())
		})
	}
}

// A create that was killed leaves unfinished.json and some of the rest, mounted or not.
func TestCreateThatWasKilledIsNoPoolAndCanBeDoneAgain(t *testing.T) {
	for _, kind := range []Kind{Directory, Image, Device} {
		for _, state := range []string{"early", "unmounted", "mounted"} {
			t.Run(string(kind)+" "+state, func(t *testing.T) {
				dir := needRoot(t)
				path := filepath.Join(dir, "pool")
				o := CreateOptions{Path: path, Kind: kind, Force: true}
				switch kind {
				case Image:
					o.SizeBytes = xfsBytesMin
				case Device:
					o.Device = newDisk(t, dir, "disk", xfsBytesMin).device()
				}
				p := mustCreate(t, o)
				old := p.Identity().Pool
				if state == "mounted" {
					p.KeepMounted()
				}
				must(t, p.Close())
				must(t, os.Rename(filepath.Join(path, identityName), filepath.Join(path, unfinishedName)))
				if state == "early" {
					must(t, os.RemoveAll(filepath.Join(path, copyName)))
					must(t, os.RemoveAll(filepath.Join(path, volumesName)))
					if kind == Device {
						must(t, wipeDevice(t.Context(), o.Device))
					}
				}

				_, err := open(t, path)
				wantFault(t, err, fault.Precondition, "half made", "holdfast pool wipe "+path+" --damaged")
				o.Force = false
				if kind == Directory {
					o.Force = true // wherever the test runs
				}
				p = mustCreate(t, o)
				if p.Identity().Pool == old {
					t.Error("it is the old pool")
				}
				must(t, p.Close())
				must(t, mustOpen(t, path).Close())
			})
		}
	}
}

func TestMeasurementGivesFiguresAndLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	f, err := measureDirectory(dir, 0)
	must(t, err)
	if f.ReadIOPS <= 0 || f.WriteIOPS <= 0 || f.SyncMicros < 0 {
		t.Errorf("figures are %+v", f)
	}
	t.Logf("%+v is %s", f, f.Class())
	if got := names(t, dir); got != "" {
		t.Errorf("left %s behind", got)
	}
}

func TestClassesOfFigures(t *testing.T) {
	for _, c := range []struct {
		name    string
		figures Figures
		want    Class
	}{
		{"local NVMe", Figures{90_000, 80_000, 50}, High},
		{"fast reads, slow flushes", Figures{90_000, 80_000, 3_000}, Medium},
		{"network disk", Figures{3_000, 3_000, 1_500}, Medium},
		{"spinning disk", Figures{180, 160, 12_000}, Low},
		{"slow flushes only", Figures{90_000, 80_000, 40_000}, Low},
		{"nothing", Figures{}, Low},
	} {
		if got := c.figures.Class(); got != c.want {
			t.Errorf("%s is %s, want %s", c.name, got, c.want)
		}
	}
}

func TestClassCanBeGiven(t *testing.T) {
	p := mustCreate(t, CreateOptions{Path: t.TempDir(), Kind: Directory, Force: true, Class: Low})
	if id := p.Identity(); id.Class != Low || !id.ClassGiven || id.Measured.ReadIOPS == 0 {
		t.Errorf("the identity is %+v", id)
	}
}

// The daemon that looks for its disk may be the one that serves a loop device.
func TestDevicesServedByProgramsAreNotReadInSearchOfADisk(t *testing.T) {
	dir := needRoot(t)
	d := newDisk(t, dir, "disk", xfsBytesMin)
	p := mustCreate(t, CreateOptions{Path: filepath.Join(dir, "pool"), Device: d.device()})
	must(t, p.Close())
	_, err := findDevice(context.Background(), p.Identity().Pool, "/dev/sdz")
	wantFault(t, err, fault.NotFound, "/dev/sdz")
}

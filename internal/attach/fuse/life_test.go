package fuse

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/attach/attachtest"
	"github.com/holdfast-io/holdfast/internal/attach/fusectl"
	"github.com/holdfast-io/holdfast/internal/attach/keeper"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
)

// desk is where front ends are made in this process.
type desk struct {
	t      *testing.T
	dir    string
	loop   *host.Loop
	memory *attachtest.Memory
	keeper *exec.Cmd
	client *keeper.Client
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("block devices need root")
	}
	d := &desk{t: t, dir: t.TempDir(), memory: attachtest.NewMemory()}
	t.Cleanup(func() { leaveNothing(t, d.dir) })
	d.keeper = startKeeper(t, d.dir)
	var err error
	if d.loop, err = host.NewLoop(host.Options{}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); d.loop.Run(context.Background()) }()
	t.Cleanup(func() { d.loop.Stop(); patiently.From(t, ended); d.loop.Close() })
	d.dial()
	return d
}

// dial connects to the keeper that answers now.
func (d *desk) dial() {
	d.t.Helper()
	c, err := keeper.Dial(patiently.Context(d.t), socketOf(d.dir))
	if err != nil {
		d.t.Fatal(err)
	}
	d.client = c
	d.t.Cleanup(c.Close)
}

func (d *desk) options() attach.Options {
	return attach.Options{Loop: d.loop, Backend: d.memory, Volume: block.VolumeID{1}, Node: attachtest.NodeOf(d.dir), Name: "vol",
		Size: 16 << 20, LinkDir: filepath.Join(d.dir, "dev")}
}

// make returns a front end that is not started, with what change makes of the options.
func (d *desk) make(change func(*attach.Options, *Config)) *Frontend {
	d.t.Helper()
	o, c := d.options(), Config{Keeper: d.client, Errand: errands(), Pool: newPool(d.t, 8, 2)}
	if change != nil {
		change(&o, &c)
	}
	f, err := New(o, c)
	if err != nil {
		d.t.Fatal(err)
	}
	return f
}

// start starts a front end, which is aborted when the test ends.
func (d *desk) start(change func(*attach.Options, *Config)) *Frontend {
	d.t.Helper()
	f := d.make(change)
	if err := f.Start(patiently.Context(d.t)); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() {
		if err := f.Abort(); err != nil {
			d.t.Error(err)
		}
		patiently.From(d.t, f.Ended())
	})
	return f
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantKind(t *testing.T, err error, kind fault.Kind) {
	t.Helper()
	if !fault.Is(err, kind) {
		t.Errorf("got %v (%v), want it %v", err, fault.KindOf(err), kind)
	}
}

func kill(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // killed
}

// Without its keeper a device goes on; in the next one it survives its process again.
func TestKeeperDiesAndIsReplaced(t *testing.T) {
	d := newDesk(t)
	f := d.start(nil)
	c := attachtest.OpenDevice(t, f.Device().Link)
	data := host.Buffer(4096)
	for range 3 {
		kill(d.keeper)
		patiently.From(t, d.client.Lost())
		must(t, c.Write(data, 0))
		wantKind(t, f.HandOver(patiently.Context(t)), fault.Unavailable)
		must(t, c.Write(data, 0)) // goes on here
		d.keeper = startKeeper(t, d.dir)
		d.dial()
		must(t, f.Keep(patiently.Context(t), d.client))
		must(t, c.Write(data, 4096))
		must(t, f.HandOver(patiently.Context(t)))
		f = d.start(nil)
		must(t, c.Read(data, 4096))
	}
	c.Close()
	must(t, f.Stop(patiently.Context(t)))
}

// Stopping needs no keeper that lives.
func TestDeviceIsStoppedWithoutItsKeeper(t *testing.T) {
	d := newDesk(t)
	f := d.start(nil)
	kill(d.keeper)
	patiently.From(t, d.client.Lost())
	wantKind(t, f.Stop(patiently.Context(t)), fault.Unavailable)
	must(t, f.Abort())
	patiently.From(t, f.Ended())
	must(t, f.Err())
}

// When keeper and server are both gone, I/O fails honestly, Sweep takes away what is
// left, and the volume can be attached anew.
func TestBothDieAndTheVolumeIsAttachedAnew(t *testing.T) {
	d := newDesk(t)
	d.client.Close()
	child := attachtest.StartChild(t, d.dir, "vol")
	link := filepath.Join(d.dir, "dev", "vol")
	c := attachtest.OpenDevice(t, link)
	data := host.Buffer(4096)
	must(t, c.Write(data, 0))
	dir := t.TempDir()
	mkfs(t, link)
	must(t, unix.Mount(link, dir, "ext4", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }) // Sweep did
	child.Kill()
	kill(d.keeper)
	if err := c.Write(data, 0); err == nil {
		t.Error("a write succeeded though nobody serves")
	}
	if err := c.Read(data, 0); err == nil {
		t.Error("a read succeeded though nobody serves")
	}

	sweep := attach.SweepOptions{Node: attachtest.NodeOf(d.dir), LinkDir: filepath.Join(d.dir, "dev")}
	left, err := attach.Sweep(patiently.Context(t), sweep)
	must(t, err)
	if len(left) != 1 || left[0].Volume != "vol" || left[0].Gone || len(left[0].Mounts) != 1 || left[0].Mounts[0] != dir {
		t.Fatalf("found %+v, want a device that is mounted at %s", left, dir)
	}
	sweep.Unmount = true
	left, err = attach.Sweep(patiently.Context(t), sweep)
	must(t, err)
	if len(left) != 1 || left[0].Gone { // c has it open
		t.Errorf("found %+v, want a device that is open", left)
	}
	c.Close()
	left, err = attach.Sweep(patiently.Context(t), sweep)
	must(t, err)
	if len(left) != 0 {
		t.Errorf("found %+v, want nothing", left)
	}
	if _, err := os.Lstat(link); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the link is still there (%v)", err)
	}

	d.keeper = startKeeper(t, d.dir)
	child = attachtest.StartChild(t, d.dir, "vol")
	must(t, unix.Mount(link, dir, "ext4", 0, ""))
	must(t, unix.Unmount(dir, 0))
	child.Stop()
}

func mkfs(t *testing.T, device string) {
	t.Helper()
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", device).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// Sweep spares what lives, and what is not ours.
func TestSweepSparesTheLiving(t *testing.T) {
	d := newDesk(t)
	f := d.start(nil)
	other := d.start(func(o *attach.Options, _ *Config) { o.Name, o.Node = "other", block.NodeID{0xff, 0xee} })
	plain := filepath.Join(d.dir, "dev", "plain")
	must(t, os.WriteFile(plain, nil, 0o600))
	elsewhere := filepath.Join(d.dir, "dev", "elsewhere")
	must(t, os.Symlink("/dev/null", elsewhere))
	stale := filepath.Join(d.dir, "dev", "stale")
	must(t, os.Symlink(f.Device().Path, stale))

	entries, err := d.client.List(patiently.Context(t))
	must(t, err)
	if v := Left(entries); len(v) != 2 || v[1].Name != "vol" || v[1].Volume != (block.VolumeID{1}) {
		t.Errorf("the keeper has %v", v)
	}
	left, err := attach.Sweep(patiently.Context(t), attach.SweepOptions{Node: attachtest.NodeOf(d.dir),
		LinkDir: filepath.Join(d.dir, "dev"), Keep: Connections(entries)})
	must(t, err)
	if len(left) != 0 {
		t.Errorf("found %+v", left)
	}
	for _, name := range []string{f.Device().Link, other.Device().Link, plain, elsewhere} {
		if _, err := os.Lstat(name); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Lstat(stale); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the stale link is there (%v)", err)
	}
	must(t, attachtest.OpenDevice(t, f.Device().Link).Write(host.Buffer(4096), 0))
	must(t, attachtest.OpenDevice(t, other.Device().Link).Write(host.Buffer(4096), 0))
}

// One command frees a device, whoever serves it.
func TestAbortFromOutside(t *testing.T) {
	d := newDesk(t)
	f := d.start(nil)
	c := attachtest.OpenDevice(t, f.Device().Link)
	wantKind(t, attach.Abort(attachtest.NodeOf(d.dir), "nothing"), fault.NotFound)
	wantKind(t, attach.Abort(block.NodeID{}, "vol"), fault.NotFound)
	must(t, c.Write(host.Buffer(4096), 0))
	must(t, attach.Abort(attachtest.NodeOf(d.dir), "vol"))
	patiently.From(t, f.Ended())
	wantKind(t, f.Err(), fault.Canceled)
	if err := c.Write(host.Buffer(4096), 0); err == nil {
		t.Error("a write succeeded")
	}
}

// An aborted device that nobody served meanwhile is made anew.
func TestAbortedWhileNobodyServes(t *testing.T) {
	d := newDesk(t)
	f := d.start(nil)
	c := attachtest.OpenDevice(t, f.Device().Link)
	must(t, f.HandOver(patiently.Context(t)))
	must(t, attach.Abort(attachtest.NodeOf(d.dir), "vol"))
	f = d.start(func(o *attach.Options, _ *Config) {
		o.Fence = func(func(error)) { t.Error("a new device calls the fence") }
	})
	if err := c.Write(host.Buffer(4096), 0); err == nil {
		t.Error("a write to the aborted device succeeded")
	}
	must(t, attachtest.OpenDevice(t, f.Device().Link).Write(host.Buffer(4096), 0))
}

// A successor that is told something else than the device is refuses, and leaves it.
func TestSuccessorMustAgreeWithTheDevice(t *testing.T) {
	d := newDesk(t)
	f := d.start(nil)
	c := attachtest.OpenDevice(t, f.Device().Link)
	must(t, f.HandOver(patiently.Context(t)))
	for _, change := range []func(*attach.Options, *Config){
		func(o *attach.Options, _ *Config) { o.BlockSize = 512 },
		func(o *attach.Options, _ *Config) { o.ReadOnly = true },
		func(o *attach.Options, _ *Config) { o.NoDiscard = true },
		func(o *attach.Options, _ *Config) { o.Size = 8 << 20 },
	} {
		f := d.make(change)
		wantKind(t, f.Start(patiently.Context(t)), fault.Precondition)
		patiently.From(t, f.Ended())
		wantKind(t, f.Err(), fault.Precondition)
		wantKind(t, f.Start(patiently.Context(t)), fault.Precondition) // once
	}
	f = d.make(func(o *attach.Options, _ *Config) { o.Volume = block.VolumeID{2} })
	wantKind(t, f.Start(patiently.Context(t)), fault.Exists)
	f = d.make(func(o *attach.Options, _ *Config) { o.Depth, o.LargeDepth = 9, 3 }) // after a clean hand-over
	must(t, f.Start(patiently.Context(t)))
	for i := range int64(20) {
		must(t, c.Write(host.Buffer(1<<20), i%16<<20))
	}
	must(t, f.HandOver(patiently.Context(t)))
	d.start(nil)
	must(t, c.Write(host.Buffer(4096), 0))
}

// What is in the slots of the dead can be found only with as many slots.
func TestSlotsOfTheDeadKeepTheirNumber(t *testing.T) {
	t.Setenv(slotsEnv, "1")
	d := newDesk(t)
	d.client.Close()
	child := attachtest.StartChild(t, d.dir, "vol")
	child.Kill()
	d.dial()
	change := func(depth int) func(o *attach.Options, c *Config) {
		return func(o *attach.Options, c *Config) {
			o.Volume, o.Size, o.Depth, c.FromSlots = attachtest.Volume, attachtest.VolumeSize, depth, true
		}
	}
	f := d.make(change(64))
	wantKind(t, f.Start(patiently.Context(t)), fault.Precondition)
	d.start(change(128))
}

// While the fence is awaited a device can be given up.
func TestAbortWhileTheFenceIsAwaited(t *testing.T) {
	d := newDesk(t)
	f := d.start(nil)
	must(t, f.HandOver(patiently.Context(t)))
	ctx, cancel := context.WithCancel(patiently.Context(t))
	f = d.make(func(o *attach.Options, _ *Config) { o.Fence = func(func(error)) { cancel() } })
	wantKind(t, f.Start(ctx), fault.Canceled)
	patiently.From(t, f.Ended())

	fencing := make(chan struct{})
	f = d.make(func(o *attach.Options, _ *Config) { o.Fence = func(func(error)) { close(fencing) } })
	started := make(chan error)
	go func() { started <- f.Start(patiently.Context(t)) }()
	patiently.From(t, fencing)
	must(t, f.Abort())
	wantKind(t, patiently.From(t, started), fault.Canceled)
	patiently.From(t, f.Ended())
	entries, err := d.client.List(patiently.Context(t))
	must(t, err)
	if len(entries) != 0 {
		t.Errorf("the keeper has %+v", entries)
	}
	d.start(nil)
}

// Errors of a start name what is missing.
func TestStartWithoutErrandsLeavesNothing(t *testing.T) {
	d := newDesk(t)
	before, err := fusectl.List()
	must(t, err)
	for _, command := range [][]string{{filepath.Join(d.dir, "nothing")}, {"/bin/true"}} {
		f := d.make(func(_ *attach.Options, c *Config) { c.Errand = command })
		if err := f.Start(patiently.Context(t)); err == nil || !strings.Contains(err.Error(), "errand") {
			t.Errorf("start with %q: %v", command, err)
		}
		patiently.From(t, f.Ended())
	}
	entries, err := d.client.List(patiently.Context(t))
	must(t, err)
	if len(entries) != 0 {
		t.Errorf("the keeper has %+v", entries)
	}
	after, err := fusectl.List()
	must(t, err)
	if len(after) > len(before) {
		t.Errorf("connections before %v, after %v", before, after)
	}
	d.start(nil)
}

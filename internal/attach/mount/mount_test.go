package mount

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// disk is a loop device over a sparse file.
type disk struct {
	t      *testing.T
	file   string
	device string
	dir    string // where it may be mounted
}

const diskSize = 320 << 20

func newDisk(t *testing.T, size int64) *disk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("loop devices need root")
	}
	d := &disk{t: t, file: filepath.Join(t.TempDir(), "disk"), dir: filepath.Join(t.TempDir(), "a dir", "mnt")}
	must(t, os.WriteFile(d.file, nil, 0o600))
	must(t, os.Truncate(d.file, size))
	d.device = strings.TrimSpace(shell(t, "losetup", "--find", "--show", "--direct-io=on", "--sector-size=4096", d.file))
	t.Cleanup(func() {
		for {
			if m, err := Of(d.device); err != nil || len(m) == 0 || unix.Unmount(m[0].Dir, unix.MNT_DETACH) != nil {
				break
			}
			if !t.Failed() {
				t.Errorf("%s is left mounted", d.device)
			}
		}
		shell(t, "losetup", "--detach", d.device)
	})
	return d
}

func shell(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (d *disk) allocated() int64 {
	d.t.Helper()
	var st unix.Stat_t
	must(d.t, unix.Stat(d.file, &st))
	return st.Blocks * 512
}

func (d *disk) space() int64 {
	d.t.Helper()
	var st unix.Statfs_t
	must(d.t, unix.Statfs(d.dir, &st))
	return int64(st.Blocks) * st.Bsize
}

func both(t *testing.T, test func(t *testing.T, kind Kind)) {
	for _, kind := range []Kind{Ext4, XFS} {
		t.Run(string(kind), func(t *testing.T) { test(t, kind) })
	}
}

// A volume and its clone are mounted on one node, though both filesystems have one UUID.
func TestACloneIsMountedBesideItsSource(t *testing.T) {
	both(t, func(t *testing.T, kind Kind) {
		ctx, source, clone := t.Context(), newDisk(t, diskSize), newDisk(t, diskSize)
		must(t, Make(ctx, source.device, MakeOptions{Kind: kind}))
		shell(t, "dd", "if="+source.device, "of="+clone.device, "bs=4M", "iflag=direct", "oflag=direct", "status=none")
		for _, d := range []*disk{source, clone} {
			must(t, Mount(ctx, d.device, d.dir, Options{}))
		}
		for _, d := range []*disk{source, clone} {
			must(t, Unmount(ctx, d.dir))
		}
	})
}

// The life of a filesystem, every step of it done twice.
func TestEveryStepCanBeRepeated(t *testing.T) {
	both(t, func(t *testing.T, kind Kind) {
		ctx, d := t.Context(), newDisk(t, diskSize)
		if f, err := Probe(ctx, d.device); err != nil || !f.Blank() {
			t.Errorf("a new disk carries %v (%v)", f, err)
		}
		must(t, Make(ctx, d.device, MakeOptions{Kind: kind, Label: "vol"}))
		if f, err := Probe(ctx, d.device); err != nil || f.Kind != kind || f.Label != "vol" || f.UUID == "" {
			t.Errorf("after mkfs it carries %+v (%v)", f, err)
		}
		link := filepath.Join(t.TempDir(), "vol") // devices go by several names
		must(t, os.Symlink(d.device, link))
		must(t, Check(ctx, link))
		must(t, Mount(ctx, link, d.dir, Options{Kind: kind, Flags: []string{"noatime", "discard"}}))
		must(t, Mount(ctx, d.device, d.dir, Options{}))
		m, err := Of(link)
		must(t, err)
		if len(m) != 1 || m[0].Dir != d.dir || m[0].Kind != string(kind) || m[0].ReadOnly || m[0].Root != "/" {
			t.Errorf("mounted: %+v", m)
		}
		must(t, os.WriteFile(filepath.Join(d.dir, "file"), []byte("bytes"), 0o600))

		if err := Make(ctx, d.device, MakeOptions{Kind: kind, Force: true}); !fault.Is(err, fault.Busy) {
			t.Errorf("mkfs of what is mounted: %v", err)
		}
		if err := Check(ctx, d.device); !fault.Is(err, fault.Busy) {
			t.Errorf("check of what is mounted: %v", err)
		}
		f, err := os.Open(filepath.Join(d.dir, "file"))
		must(t, err)
		if err := Unmount(ctx, d.dir); !fault.Is(err, fault.Busy) {
			t.Errorf("unmount of what is open: %v", err)
		}
		must(t, f.Close())
		must(t, Unmount(ctx, d.dir))
		must(t, Unmount(ctx, d.dir))
		must(t, Mount(ctx, d.device, d.dir, Options{ReadOnly: true}))
		if got, err := os.ReadFile(filepath.Join(d.dir, "file")); err != nil || string(got) != "bytes" {
			t.Errorf("read %q (%v)", got, err)
		}
		if err := os.WriteFile(filepath.Join(d.dir, "other"), nil, 0o600); !errors.Is(err, unix.EROFS) {
			t.Errorf("a write of what is mounted read-only: %v", err)
		}
		must(t, Unmount(ctx, d.dir))
	})
}

func TestWhatIsOnTheDeviceIsNotOverwritten(t *testing.T) {
	ctx, d := t.Context(), newDisk(t, diskSize)
	must(t, Make(ctx, d.device, MakeOptions{Kind: Ext4}))
	for _, kind := range []Kind{Ext4, XFS} {
		if err := Make(ctx, d.device, MakeOptions{Kind: kind}); !fault.Is(err, fault.Exists) {
			t.Errorf("%s over ext4: %v", kind, err)
		}
	}
	if err := Mount(ctx, d.device, d.dir, Options{Kind: XFS}); !fault.Is(err, fault.Precondition) {
		t.Errorf("mount of ext4 as XFS: %v", err)
	}
	must(t, Make(ctx, d.device, MakeOptions{Kind: XFS, Force: true}))
	must(t, Mount(ctx, d.device, d.dir, Options{Kind: XFS}))

	other := newDisk(t, diskSize)
	must(t, Make(ctx, other.device, MakeOptions{Kind: Ext4}))
	if err := Mount(ctx, other.device, d.dir, Options{}); !fault.Is(err, fault.Exists) {
		t.Errorf("mount over another: %v", err)
	}
	must(t, Unmount(ctx, d.dir))
	must(t, os.WriteFile(d.file, bytes.Repeat([]byte("x"), 1<<20), 0o600)) // truncates it, too
	if err := Mount(ctx, d.device, d.dir, Options{}); !fault.Is(err, fault.Precondition) {
		t.Errorf("mount of nothing: %v", err)
	}
}

// A filesystem that lost its beginning is not taken for a blank device.
func TestAFilesystemWithoutItsBeginningIsNotOverwritten(t *testing.T) {
	both(t, func(t *testing.T, kind Kind) {
		ctx, d := t.Context(), newDisk(t, diskSize)
		must(t, Make(ctx, d.device, MakeOptions{Kind: kind}))
		for _, lost := range []string{"64", "8192"} { // KiB
			shell(t, "dd", "if=/dev/zero", "of="+d.device, "bs=1K", "count="+lost, "conv=fsync", "status=none")
			if f, err := Probe(ctx, d.device); err != nil || !f.Blank() {
				t.Errorf("it carries %+v (%v)", f, err)
			}
			if err := Make(ctx, d.device, MakeOptions{Kind: kind}); !fault.Is(err, fault.Exists) {
				t.Errorf("mkfs after %s KiB were lost: %v", lost, err)
			}
		}
		must(t, Make(ctx, d.device, MakeOptions{Kind: kind, Force: true}))
	})
}

func TestWhatCantBeIsRefused(t *testing.T) {
	ctx, d := t.Context(), newDisk(t, 64<<20)
	for _, test := range []struct {
		what string
		err  error
		want fault.Kind
	}{
		{"a kind that nobody knows", Make(ctx, d.device, MakeOptions{Kind: "ntfs"}), fault.Invalid},
		{"XFS on a small device", Make(ctx, d.device, MakeOptions{Kind: XFS}), fault.Invalid},
		{"a file", Make(ctx, d.file, MakeOptions{Kind: Ext4}), fault.Invalid},
		{"no device", Mount(ctx, "/dev/no-such-device", d.dir, Options{}), fault.NotFound},
		{"an empty device", Mount(ctx, d.device, d.dir, Options{}), fault.Precondition},
		{"growing nothing", Grow(ctx, d.device), fault.Precondition},
		{"freezing nothing", Frozen(ctx, d.dir, func() error { return nil }), fault.Precondition},
	} {
		if !fault.Is(test.err, test.want) {
			t.Errorf("%s: %v, want %v", test.what, test.err, test.want)
		}
	}
}

func TestGrowsToTheDevice(t *testing.T) {
	both(t, func(t *testing.T, kind Kind) {
		ctx, d := t.Context(), newDisk(t, diskSize)
		must(t, Make(ctx, d.device, MakeOptions{Kind: kind}))
		must(t, Mount(ctx, d.device, d.dir, Options{}))
		before := d.space()
		must(t, os.Truncate(d.file, 2*diskSize))
		shell(t, "losetup", "--set-capacity", d.device)
		err := Grow(ctx, d.device)
		if kind == Ext4 && !canResize() { // root without CAP_SYS_RESOURCE, as in some containers
			if !fault.Is(err, fault.Denied) {
				t.Errorf("grow without the right to: %v", err)
			}
			must(t, Unmount(ctx, d.dir))
			must(t, Grow(ctx, d.device))
			must(t, Mount(ctx, d.device, d.dir, Options{}))
			err = nil
		}
		must(t, err)
		if after := d.space(); after < before+diskSize*9/10 {
			t.Errorf("%d bytes became %d", before, after)
		}
		if kind == XFS {
			must(t, Grow(ctx, d.device)) // there is nothing to do
		}
		must(t, Unmount(ctx, d.dir))
		must(t, Check(ctx, d.device))
	})
}

func TestTrimGivesBack(t *testing.T) {
	both(t, func(t *testing.T, kind Kind) {
		ctx, d := t.Context(), newDisk(t, diskSize)
		must(t, Make(ctx, d.device, MakeOptions{Kind: kind}))
		must(t, Mount(ctx, d.device, d.dir, Options{}))
		if empty := d.allocated(); empty > 100<<20 {
			t.Errorf("an empty filesystem takes %d bytes", empty)
		}
		if n, err := Trim(ctx, d.dir); err != nil || n < diskSize/2 {
			t.Errorf("trim gave %d bytes back (%v)", n, err)
		}
		must(t, Unmount(ctx, d.dir))
	})
}

func TestFrozenIsAlwaysThawed(t *testing.T) {
	both(t, func(t *testing.T, kind Kind) {
		ctx, d := t.Context(), newDisk(t, diskSize)
		must(t, Make(ctx, d.device, MakeOptions{Kind: kind}))
		must(t, Mount(ctx, d.device, d.dir, Options{}))
		broken := errors.New("broken")
		err := Frozen(ctx, d.dir, func() error {
			if err := Frozen(ctx, d.dir, func() error { return nil }); !fault.Is(err, fault.Busy) {
				t.Errorf("frozen twice: %v", err)
			}
			return broken
		})
		if !errors.Is(err, broken) {
			t.Errorf("the work's error became %v", err)
		}
		must(t, os.WriteFile(filepath.Join(d.dir, "file"), nil, 0o600)) // would hang
		must(t, Frozen(ctx, d.dir, func() error { return nil }))
		must(t, os.WriteFile(filepath.Join(d.dir, "file"), nil, 0o600))
		must(t, Unmount(ctx, d.dir))
	})
}

func TestFrozenIsThawedWhenTheProcessDies(t *testing.T) {
	if dir := os.Getenv(frozenEnv); dir != "" {
		err := Frozen(t.Context(), dir, func() error { return unix.Kill(os.Getpid(), unix.SIGKILL) })
		t.Fatalf("still alive: %v", err)
	}
	ctx, d := t.Context(), newDisk(t, diskSize)
	must(t, Make(ctx, d.device, MakeOptions{Kind: Ext4}))
	must(t, Mount(ctx, d.device, d.dir, Options{}))
	cmd := exec.Command(os.Args[0], "-test.run=^TestFrozenIsThawedWhenTheProcessDies$")
	cmd.Env = append(os.Environ(), frozenEnv+"="+d.dir)
	if err := cmd.Run(); cmd.ProcessState.Exited() {
		t.Fatalf("the process was not killed: %v", err)
	}
	must(t, os.WriteFile(filepath.Join(d.dir, "file"), nil, 0o600)) // would hang
	must(t, Unmount(ctx, d.dir))
}

const frozenEnv = "HOLDFAST_MOUNT_TEST_FROZEN"

func TestVerbsGiveUpWithTheirContext(t *testing.T) {
	d := newDisk(t, diskSize)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Make(ctx, d.device, MakeOptions{Kind: Ext4}); !fault.Is(err, fault.Canceled) {
		t.Errorf("make: %v", err)
	}
}

func TestTableIsRead(t *testing.T) {
	const table = `22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 22 7:3 / /mnt/with\040space ro,noatime - xfs /dev/loop3 rw,attr2
31 22 7:3 /sub /srv rw - xfs /dev/loop3 rw
32 22 0:44 / /proc rw shared:5 master:1 - proc proc rw
short line
33 22 x:y / /bad rw - ext4 /dev/bad rw
`
	list, err := parse(strings.NewReader(table))
	must(t, err)
	want := Mounted{Device: unix.Mkdev(7, 3), Root: "/", Dir: "/mnt/with space", ReadOnly: true, Kind: "xfs", Source: "/dev/loop3"}
	if len(list) != 4 || list[1] != want || list[2].Root != "/sub" || !slices.ContainsFunc(list, func(m Mounted) bool { return m.Kind == "proc" }) {
		t.Errorf("read %+v", list)
	}
	if list, err = List(); err != nil || len(list) == 0 {
		t.Errorf("this machine has %d mounts (%v)", len(list), err)
	}
}

// A node that was started again took a volume that it had not mounted for one that was
// mounted at "", its working directory: it wished to unmount the machine's root.
func TestNothingIsMountedAtNoPath(t *testing.T) {
	t.Chdir("/")
	if m, found, err := At(""); found || err != nil {
		t.Errorf("it is %+v, %v", m, err)
	}
}

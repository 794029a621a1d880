package pool

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// wantHealth looks at an open pool from inside and from outside.
func wantHealth(t *testing.T, p *Pool, state State, cure string) {
	t.Helper()
	r, err := Inspect(p.Path())
	must(t, err)
	for _, h := range []Health{p.Health(), r.Health} {
		if h.State != state || !strings.Contains(h.Cure, cure) || (h.Reason == "") != (state == Ready) {
			t.Errorf("health is %+v, want %s with the cure %q", h, state, cure)
		}
	}
}

func TestPoolThatTheKernelMadeReadOnly(t *testing.T) {
	dir := needRoot(t)
	mount := newFilesystem(t, dir, "ext4", 256<<20, "-e", "remount-ro")
	p := mustCreate(t, CreateOptions{Path: filepath.Join(mount, "pool"), Kind: Directory})
	wantHealth(t, p, Ready, "")
	var st unix.Stat_t
	must(t, unix.Stat(mount, &st))
	loop, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
	must(t, err)
	must(t, os.WriteFile(filepath.Join("/sys/fs/ext4", filepath.Base(loop), "trigger_fs_error"), []byte("on purpose"), 0))
	wantHealth(t, p, ReadOnly, "mount it again")
	must(t, p.Close())
	_, err = open(t, p.Path())
	wantFault(t, err, fault.Denied, "read-only", "mount it again")
}

func TestPoolWhoseFilesystemShutDown(t *testing.T) {
	path := filepath.Join(needRoot(t), "pool")
	p := imagePool(t, path)
	check := keep(t, p)
	must(t, syncAll(p.Mount()))
	shutDown(t, p.Mount())
	wantHealth(t, p, Failed, "dmesg")
	if err := p.Space().Admit(4096); err != nil && !fault.Is(err, fault.Media) {
		t.Errorf("admitting gives %v", err)
	}
	if !p.IsShut() {
		t.Error("it is not said that it has shut down")
	}
	if p.Crashed() {
		t.Error("it is said to have crashed before it was mounted anew")
	}
	must(t, p.Remount(t.Context())) // as a node does by itself
	if p.IsShut() || !p.Crashed() {
		t.Errorf("it has shut down still: %v; it crashed: %v", p.IsShut(), p.Crashed())
	}
	wantHealth(t, p, Ready, "")
	must(t, p.Space().Admit(4096))
	check(p)
	shutDown(t, p.Mount())
	p.KeepMounted()
	must(t, p.Close())
	must(t, Unmount(path)) // by hand
	p = mustOpen(t, path)  // whoever opens it next mounts it anew
	check(p)
	p.KeepMounted()
	must(t, p.Close()) // by somebody who did not look
	p = mustOpen(t, path)
	if !p.Crashed() {
		t.Error("that it has crashed is forgotten")
	}
	p.Reopened()
	p.KeepMounted()
	must(t, p.Close())
	p = mustOpen(t, path)
	if p.Crashed() {
		t.Error("that it has crashed is not forgotten")
	}
	wantHealth(t, p, Ready, "")
	must(t, p.Close())
	must(t, Unmount(path))
}

// shutDown has XFS do what it does when the disk fails under its log.
func shutDown(t *testing.T, mount string) {
	t.Helper()
	const xfsGoingDown, withoutLogFlush = 0x8004587d, 2
	f, err := os.Open(mount)
	must(t, err)
	defer f.Close()
	how := uint32(withoutLogFlush)
	if _, _, no := unix.Syscall(unix.SYS_IOCTL, f.Fd(), xfsGoingDown, uintptr(unsafe.Pointer(&how))); no != 0 {
		t.Fatal(no)
	}
}

func TestPoolWhoseImageIsGone(t *testing.T) {
	path := filepath.Join(needRoot(t), "pool")
	p := imagePool(t, path)
	image, aside := filepath.Join(path, imageName), filepath.Join(path, "aside")
	must(t, os.Rename(image, aside))
	wantHealth(t, p, Missing, "put it back")
	must(t, os.Rename(aside, image))
	wantHealth(t, p, Ready, "")
	must(t, p.Close())

	must(t, os.Rename(image, aside))
	_, err := open(t, path)
	wantFault(t, err, fault.NotFound, image+" is gone", "put it back")
	r, err := Inspect(path)
	must(t, err)
	if r.Health.State != Missing {
		t.Errorf("health is %+v", r.Health)
	}
	must(t, os.Rename(aside, image))
}

func TestPoolWhoseIdentityRotsWhileItIsOpen(t *testing.T) {
	path := filepath.Join(needRoot(t), "pool")
	p := imagePool(t, path)
	name := filepath.Join(p.Mount(), identityName)
	raw, err := os.ReadFile(name)
	must(t, err)
	raw[100] ^= 4
	must(t, os.WriteFile(name, raw, 0o600))
	wantHealth(t, p, Failed, "dmesg")
	must(t, p.Close())
	_, err = open(t, path)
	wantFault(t, err, fault.Corrupt, name+" is damaged", "cp ")
	raw[100] ^= 4
	_, err = mountPool(t.Context(), path, p.Identity())
	must(t, err)
	must(t, os.WriteFile(name, raw, 0o600))
	must(t, Unmount(path))
	wantHealth(t, mustOpen(t, path), Ready, "")
}

func TestUnmountedPoolSaysHowToMountIt(t *testing.T) {
	path := filepath.Join(needRoot(t), "pool")
	p := imagePool(t, path)
	must(t, p.Close())
	r, err := Inspect(path)
	must(t, err)
	if r.Health.State != Unmounted || !strings.Contains(r.Health.Cure, "holdfast pool remount "+path) || r.OwnerPID != 0 {
		t.Errorf("report is %+v", r)
	}
	if r.Identity != p.Identity() {
		t.Errorf("identity is %+v, want %+v", r.Identity, p.Identity())
	}
}

func TestListNamesEveryPoolOnce(t *testing.T) {
	dir := needRoot(t)
	imagePool(t, filepath.Join(dir, "image"))
	must(t, mustCreate(t, CreateOptions{Path: filepath.Join(dir, "plain"), Kind: Directory, Force: true}).Close())
	broken := mustCreate(t, CreateOptions{Path: filepath.Join(dir, "broken"), Kind: Directory, Force: true})
	must(t, broken.Close())
	must(t, os.WriteFile(filepath.Join(dir, "broken", identityName), []byte("?"), 0o600))
	must(t, os.Mkdir(filepath.Join(dir, "no pool"), 0o700))
	list, err := List(dir)
	must(t, err)
	var got []string
	for _, r := range list {
		got = append(got, filepath.Base(r.Path)+"="+string(r.Health.State))
	}
	if s := strings.Join(got, " "); s != "broken=Failed image=Ready plain=Ready" {
		t.Errorf("listed %s", s)
	}
	if list, err = List(filepath.Join(dir, "image")); err != nil || len(list) != 1 {
		t.Errorf("a pool's own directory lists %+v, %v", list, err)
	}
}

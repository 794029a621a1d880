package host_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// filesystem is one that tests make in a file.
type filesystem struct {
	name string
	mkfs []string // the device follows
}

// filesystems are those that pools live on.
var filesystems = []filesystem{
	{"ext4", []string{"mkfs.ext4", "-q", "-F"}},
	{"xfs", []string{"mkfs.xfs", "-q", "-f"}},
	{"btrfs", []string{"mkfs.btrfs", "-q", "-f"}},
}

// mount makes the filesystem on a loop device with direct I/O and 4 KiB sectors over
// a sparse file of size bytes, and returns where it is mounted until the test ends.
func (f filesystem) mount(t *testing.T, size int64) string {
	t.Helper()
	root, _ := f.mountImage(t, size)
	return root
}

// mountImage is mount that also returns the file's name.
func (f filesystem) mountImage(t *testing.T, size int64) (root, image string) {
	t.Helper()
	needRoot(t)
	image = filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	device := run(t, "losetup", "--find", "--show", "--direct-io=on", "--sector-size=4096", image)
	t.Cleanup(func() { run(t, "losetup", "--detach", device) })
	run(t, append(f.mkfs, device)...) // on the device, whose sectors the filesystem must fit
	return mount(t, "-t", f.name, device), image
}

// mount mounts at a new directory, until the test ends.
func mount(t *testing.T, args ...string) string {
	t.Helper()
	needRoot(t)
	at := t.TempDir()
	run(t, append(append([]string{"mount"}, args...), at)...)
	t.Cleanup(func() { run(t, "umount", at) })
	return at
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a filesystem needs root")
	}
}

// run returns what the command printed, without the line's end.
func run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v: %s", args, err, out)
	}
	return string(bytes.TrimSpace(out))
}

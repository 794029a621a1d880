package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// XFS returns the root of a new XFS filesystem with reflink, of bytes size, in a file
// under Dir, reached through a loop device with direct I/O. It is unmounted and removed
// after the run. The file is written from end to end first: else the filesystem around
// it would allocate while it is being measured. It needs root, and fault.Unsupported
// says so.
func (r *Run) XFS(bytes int64) (string, error) {
	if os.Geteuid() != 0 {
		return "", fault.WithCure(fault.Errorf("bench.XFS", fault.Unsupported, "mounting a filesystem needs root"), "run make bench as root")
	}
	dir, err := r.Scratch()
	if err != nil {
		return "", err
	}
	image, root := filepath.Join(dir, "image"), filepath.Join(dir, "root")
	if err := r.writeImage(image, bytes); err != nil {
		return "", fault.Wrap("bench.XFS", err)
	}
	if err := os.Mkdir(root, 0o755); err != nil {
		return "", fault.Wrap("bench.XFS", err)
	}
	if _, err := command("mkfs.xfs", "-q", "-K", "-m", "reflink=1", "-s", "size=4096", image); err != nil {
		return "", err
	}
	loop, err := command("losetup", "--find", "--show", "--direct-io=on", "--sector-size=4096", image)
	if err != nil {
		return "", err
	}
	r.undo = append(r.undo, func() error { _, err := command("losetup", "--detach", loop); return err })
	if _, err := command("mount", "-o", "noatime", loop, root); err != nil {
		return "", err
	}
	r.undo = append(r.undo, func() error { _, err := command("umount", root); return err })
	return root, nil
}

// writeImage makes a file of zeros that has all its space.
func (r *Run) writeImage(path string, bytes int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|unix.O_DIRECT, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, bytes); err != nil {
		return err
	}
	zeros, err := unix.Mmap(-1, 0, 4<<20, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS) // aligned
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(zeros) }()
	for done := int64(0); done < bytes; done += int64(len(zeros)) {
		if err := r.Context.Err(); err != nil {
			return err
		}
		if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), bytes-done)], done); err != nil {
			return err
		}
	}
	return f.Sync()
}

// command runs a program and returns what it printed, without the last newline; when
// it fails, that is in the error.
func command(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		return "", fault.Errorf("bench.XFS", fault.Unknown, "%s: %w: %s", fmt.Sprint(name, args), err, text)
	}
	return text, nil
}

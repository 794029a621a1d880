package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// XFS returns the root of a new XFS filesystem with reflink, of bytes size, in a sparse
// file under Dir, reached through a loop device with direct I/O. It is unmounted and
// removed after the run. It needs root, and fault.Unsupported says so.
func (r *Run) XFS(bytes int64) (string, error) {
	if os.Geteuid() != 0 {
		return "", fault.WithCure(fault.Errorf("bench.XFS", fault.Unsupported, "mounting a filesystem needs root"), "run make bench as root")
	}
	dir, err := r.Scratch()
	if err != nil {
		return "", err
	}
	image, root := filepath.Join(dir, "image"), filepath.Join(dir, "root")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		return "", fault.Wrap("bench.XFS", err)
	}
	if err := os.Truncate(image, bytes); err != nil {
		return "", fault.Wrap("bench.XFS", err)
	}
	if err := os.Mkdir(root, 0o755); err != nil {
		return "", fault.Wrap("bench.XFS", err)
	}
	if _, err := command("mkfs.xfs", "-q", "-m", "reflink=1", "-s", "size=4096", image); err != nil {
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

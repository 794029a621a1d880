package mount

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// tool is a program of the machine, and the Debian package that has it.
type tool struct{ name, packaged string }

var (
	mountTool  = tool{"mount", "mount"}
	umountTool = tool{"umount", "mount"}
	wipefs     = tool{"wipefs", "util-linux"}
	blkdiscard = tool{"blkdiscard", "util-linux"}
	fstrim     = tool{"fstrim", "util-linux"}
	fsfreeze   = tool{"fsfreeze", "util-linux"}
	mkfsExt4   = tool{"mkfs.ext4", "e2fsprogs"}
	e2fsck     = tool{"e2fsck", "e2fsprogs"}
	dumpe2fs   = tool{"dumpe2fs", "e2fsprogs"}
	resize2fs  = tool{"resize2fs", "e2fsprogs"}
	mkfsXFS    = tool{"mkfs.xfs", "xfsprogs"}
	xfsGrowfs  = tool{"xfs_growfs", "xfsprogs"}
	cmp        = tool{"cmp", "diffutils"}
)

// paths is where programs of administrators may be, also when PATH leaves it out.
const paths = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"

// environment is that of programs: they say what they say in English.
func environment() []string {
	return append(os.Environ(), "LC_ALL=C", "PATH="+os.Getenv("PATH")+":"+paths)
}

// find returns the program's file.
func (t tool) find() (string, error) {
	name, err := exec.LookPath(t.name)
	for _, dir := range strings.Split(paths, ":") {
		if err == nil {
			return name, nil
		}
		name, err = exec.LookPath(dir + "/" + t.name)
	}
	return name, fault.WithCure(fault.Errorf("mount.run", fault.Unsupported, "%s is not installed", t.name), "apt-get install "+t.packaged)
}

// run runs a program and returns what it says; its complaints become the error. When ctx
// ends it returns, and leaves the program, which was told to end, to itself: while that
// waits for a device it can't be ended.
func run(ctx context.Context, t tool, args ...string) ([]byte, error) {
	name, err := t.find()
	if err != nil {
		return nil, err
	}
	var out, complaint bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = environment(), &out, &complaint
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt at the terminal is not for it
	if err := cmd.Start(); err != nil {
		return nil, fault.Errorf("mount.run", fault.KindOf(err), "start %s: %w", t.name, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		_ = cmd.Process.Kill() // it may have ended
		return nil, gaveUp(ctx, "mount."+t.name)
	}
	if err != nil {
		return nil, fault.Errorf("mount.run", fault.Unknown, "%s %s: %w: %s", t.name, strings.Join(args, " "), err,
			strings.Join(strings.Fields(complaint.String()), " "))
	}
	return out.Bytes(), nil
}

// exitOf returns the exit status of the program that err is about; -1 if it is not.
func exitOf(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}

// gaveUp is the error of what ctx ended.
func gaveUp(ctx context.Context, op string) error {
	kind := fault.Canceled
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		kind = fault.Timeout
	}
	return fault.E(op, kind, block.VolumeID{}, ctx.Err())
}

package attach

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/attach/fusectl"
	"github.com/holdfast-io/holdfast/internal/attach/loopdev"
	"github.com/holdfast-io/holdfast/internal/attach/mount"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// SweepOptions say what Sweep looks for.
type SweepOptions struct {
	Node    block.NodeID // whose devices: other nodes' on the same machine are left alone
	LinkDir string       // "" is DefaultLinkDir
	// Keep are the devices that live, by volume name: what the keeper has.
	Keep map[string]fusectl.Connection
	// Unmount takes filesystems off dead devices, in this mount namespace. All that they
	// can do is fail.
	Unmount bool
	// Only is the volume whose devices are looked at; "" is all. Devices of others may be
	// being made meanwhile.
	Only string
}

// Leftover is a device of which nobody has the other end any more.
type Leftover struct {
	Volume string
	Path   string
	Mounts []string // where it was mounted, in this mount namespace
	Gone   bool     // false: somebody has it open still; it goes away with the last of them
}

// Sweep finds and takes away what a crash of both the process that served devices and
// their keeper, or of the machine's users of them, has left: loop devices whose I/O can
// only fail, and links to devices that are no more. It is called when a data process
// starts, before it attaches anything.
func Sweep(ctx context.Context, o SweepOptions) ([]Leftover, error) {
	if o.LinkDir == "" {
		o.LinkDir = DefaultLinkDir
	}
	found, err := loopdev.List()
	if err != nil {
		return nil, err
	}
	var left []Leftover
	var errs []error
	for _, d := range found {
		name, ours := ParseFileName(d.Backing)
		if !ours || name.Node != shortNode(o.Node) || o.Only != "" && name.Volume != o.Only {
			continue
		}
		if kept, ok := o.Keep[name.Volume]; ok && kept == name.Connection {
			continue
		}
		l, err := o.take(ctx, d, name)
		left, errs = append(left, l), append(errs, err)
	}
	errs = append(errs, o.sweepLinks())
	return left, fault.Wrap("attach.Sweep", errors.Join(errs...))
}

// take takes one device away.
func (o *SweepOptions) take(ctx context.Context, d loopdev.Found, name FileName) (l Leftover, err error) {
	l = Leftover{Volume: name.Volume, Path: d.Path()}
	// Whoever waits for it is freed first: nothing below could be done before.
	if err := name.Connection.Abort(); err != nil {
		return l, err
	}
	if l.Mounts, err = mountsOf(d.Number); err != nil {
		return l, err
	}
	if o.Unmount {
		for _, dir := range l.Mounts {
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
				return l, fault.Errorf("attach.Sweep", fault.KindOf(err), "unmount %s: %w", dir, err)
			}
		}
	}
	if err := loopdev.Detach(d.Number); err != nil {
		return l, err
	}
	l.Gone = awaitGone(ctx, d)
	return l, nil
}

// goneWait is how long a device may take to go away after its last user has.
const goneWait = time.Second

func awaitGone(ctx context.Context, d loopdev.Found) bool {
	ctx, cancel := context.WithTimeout(ctx, goneWait)
	defer cancel()
	for tick := time.NewTicker(5 * time.Millisecond); ; {
		if now, bound := loopdev.Backing(d.Number); !bound || now != d.Backing {
			return true
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
}

// mountsOf returns where loop device n is mounted.
func mountsOf(n int) (dirs []string, err error) {
	found, err := mount.OfNumber(unix.Mkdev(loopdev.Major, uint32(n)))
	for _, m := range found {
		dirs = append(dirs, m.Dir)
	}
	return dirs, err
}

// sweepLinks removes links to loop devices that are not what the link's name says.
func (o *SweepOptions) sweepLinks() error { return SweepLinks(o.LinkDir, o.holds) }

// SweepLinks removes those links in dir, "" for DefaultLinkDir, that hold does not
// want to keep.
func SweepLinks(dir string, hold func(name, target string) bool) error {
	if dir == "" {
		dir = DefaultLinkDir
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		link := filepath.Join(dir, e.Name())
		target, err := os.Readlink(link)
		if err != nil || hold(e.Name(), target) {
			continue
		}
		if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// holds reports whether target is the device of volume name, or nothing that Link made
// for a loop device.
func (o *SweepOptions) holds(name, target string) bool {
	if o.Only != "" && name != o.Only {
		return true
	}
	var n int
	if _, err := fmt.Sscanf(target, "/dev/loop%d", &n); err != nil {
		return true
	}
	backing, _ := loopdev.Backing(n)
	file, ours := ParseFileName(backing)
	if ours && file.Node != shortNode(o.Node) {
		return true // another node's business
	}
	return ours && file.Volume == name && o.Keep[name] == file.Connection
}

// Abort ends the devices of a volume from outside, whoever serves them, or nobody: what
// waits for them fails, and so does everything that their users do from then on. It is
// fault.NotFound when there is none.
func Abort(node block.NodeID, volume string) error {
	found, err := loopdev.List()
	if err != nil {
		return err
	}
	none := true
	for _, d := range found {
		name, ours := ParseFileName(d.Backing)
		if !ours || name.Node != shortNode(node) || name.Volume != volume {
			continue
		}
		none = false
		if err := name.Connection.Abort(); err != nil {
			return err
		}
	}
	if none {
		return fault.Errorf("attach.Abort", fault.NotFound, "no device of volume %q is attached here", volume)
	}
	return nil
}

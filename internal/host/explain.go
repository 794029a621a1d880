package host

import (
	"errors"
	"fmt"
	"path/filepath"
	"syscall"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// path returns the name of a file below the root as a person finds it.
func (d *Dir) path(name string) string { return filepath.Join(d.root, name) }

// explain makes a *fault.Error of what a system call, or a check, said of op: what
// was being done, to which file, and what helps.
func (d *Dir) explain(op *Op, f *file, err error) error {
	kind := fault.KindOf(err)
	if kind == fault.Unknown || kind == fault.Timeout {
		kind = fault.Media // a device that gave up, or gave a reason that nobody knows
	}
	what := fmt.Errorf("%s: %w", d.subject(op, f), err)
	if cure := d.cure(op, err, kind); cure != "" {
		what = fault.WithCure(what, cure)
	}
	return fault.E("host."+op.Kind.String(), kind, zeroVolume, what)
}

// subject names what op is about.
func (d *Dir) subject(op *Op, f *file) string {
	switch op.Kind {
	case OpRead, OpWrite:
		return fmt.Sprintf("%s, %d bytes at %d", d.path(f.path), len(op.Buf), op.Offset)
	case OpPunch, OpAllocate:
		return fmt.Sprintf("%s, %d bytes at %d", d.path(f.path), op.Length, op.Offset)
	case OpRename, OpLink:
		return fmt.Sprintf("%s to %s", d.path(op.Path), d.path(op.To))
	case OpSyncAll, OpSpace:
		return d.root
	}
	if f != nil {
		return d.path(f.path)
	}
	return d.path(op.Path)
}

// cure says what helps, or "" when that is not known.
func (d *Dir) cure(op *Op, err error, kind fault.Kind) string {
	switch {
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return "raise the limit of open files (LimitNOFILE= in the systemd unit, or ulimit -n)"
	case op.Kind == OpOpen && errors.Is(err, syscall.EWOULDBLOCK):
		return "stop the process that has it locked (see /proc/locks), and wait until its last writes have ended"
	case errors.Is(err, syscall.ELOOP):
		return "put a directory or file where the symbolic link is: none is followed below " + d.root
	case errors.Is(err, syscall.EXDEV):
		return "unmount what is mounted below " + d.root
	case errors.Is(err, syscall.EROFS):
		return "see the kernel's log for why the filesystem of " + d.root + " is read-only"
	case kind == fault.NoSpace:
		return "free space on the filesystem of " + d.root
	}
	return ""
}

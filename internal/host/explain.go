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
	var known *fault.Error
	if errors.As(err, &known) {
		return err
	}
	kind := fault.KindOf(err)
	return fault.Errorf("host."+op.Kind.String(), kind, "%s: %w%s", d.subject(op, f), err, d.cure(op, err, kind))
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

// cure says what helps, where that is known.
func (d *Dir) cure(op *Op, err error, kind fault.Kind) string {
	switch {
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return "; raise the limit of open files (LimitNOFILE)"
	case errors.Is(err, syscall.EWOULDBLOCK) && op.Kind == OpOpen:
		return "; another process has it locked: stop that one, and wait until its last writes have ended"
	case errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.EXDEV):
		return "; symbolic links and other filesystems are not followed below " + d.root
	case kind == fault.NoSpace:
		return "; free space on the filesystem of " + d.root
	case errors.Is(err, syscall.EROFS):
		return "; the filesystem of " + d.root + " is read-only, often because it found damage: see the kernel's log"
	}
	return ""
}

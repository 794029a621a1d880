package host

import (
	"io/fs"
	"math"
	"strings"

	"github.com/holdfast-io/holdfast/internal/fault"
)

var kindNames = [...]string{OpRead: "read", OpWrite: "write", OpSync: "sync", OpPunch: "punch",
	OpAllocate: "allocate", OpTruncate: "truncate", OpStat: "stat", OpOpen: "open", OpClose: "close",
	OpRename: "rename", OpLink: "link", OpRemove: "remove", OpMkdir: "mkdir", OpList: "list",
	OpSyncDir: "syncdir", OpSyncAll: "syncall", OpSpace: "space"}

// String names the kind in one lower-case word.
func (k Kind) String() string {
	if int(k) < len(kindNames) && k != 0 {
		return kindNames[k]
	}
	return "unknown"
}

// onFile reports whether the op uses File.
func (op *Op) onFile() bool { return op.Kind >= OpRead && op.Kind <= OpStat || op.Kind == OpClose }

// admit finds what is wrong with op before any system call does, and the file that
// it is on.
func (d *Dir) admit(op *Op) (*file, error) {
	switch op.Kind {
	case OpRead, OpWrite, OpSync, OpPunch, OpAllocate, OpTruncate, OpStat, OpClose:
		f := d.files.get(op.File)
		if f == nil || f.closing != nil {
			return nil, fault.Errorf("host."+op.Kind.String(), fault.Invalid, "%s: file handle %#x is not open", d.root, op.File)
		}
		return f, d.admitRange(op, f)
	case OpOpen, OpRemove, OpMkdir:
		return nil, d.admitPath(op, op.Path, false)
	case OpRename, OpLink:
		if err := d.admitPath(op, op.Path, false); err != nil {
			return nil, err
		}
		return nil, d.admitPath(op, op.To, false)
	case OpList, OpSyncDir:
		return nil, d.admitPath(op, op.Path, true)
	case OpSyncAll, OpSpace:
		return nil, nil
	}
	return nil, fault.Errorf("host.Submit", fault.Invalid, "%s: operation %d does not exist", d.root, op.Kind)
}

func (d *Dir) admitRange(op *Op, f *file) error {
	wrong := func(kind fault.Kind, what string) error {
		return fault.Errorf("host."+op.Kind.String(), kind, "%s, offset %d: %s", d.path(f.path), op.Offset, what)
	}
	switch op.Kind {
	case OpWrite, OpPunch, OpAllocate, OpTruncate:
		if f.flags&ReadOnly != 0 {
			return wrong(fault.Denied, "the file was opened read-only")
		}
	}
	switch op.Kind {
	case OpRead, OpWrite:
		if op.Offset < 0 || op.Offset > math.MaxInt64-int64(len(op.Buf)) {
			return wrong(fault.Invalid, "the offset is out of range")
		}
		if f.flags&Direct != 0 && (op.Offset%Align != 0 || len(op.Buf)%Align != 0 || !Aligned(op.Buf)) {
			return wrong(fault.Invalid, "offset, length and buffer of direct I/O must be multiples of 4096")
		}
	case OpPunch, OpAllocate:
		if op.Offset < 0 || op.Length <= 0 || op.Offset > math.MaxInt64-op.Length {
			return wrong(fault.Invalid, "the range is empty or out of range")
		}
	case OpTruncate:
		if op.Length < 0 {
			return wrong(fault.Invalid, "the size is negative")
		}
	}
	return nil
}

// admitPath refuses what is not a plain path below the root; the root itself only
// where it may stand.
func (d *Dir) admitPath(op *Op, path string, root bool) error {
	if path == "." && root {
		return nil
	}
	// Any bytes but NUL and the slash may be a name; fs.ValidPath would also want UTF-8.
	if path == "." || strings.IndexByte(path, 0) >= 0 || !fs.ValidPath(strings.ToValidUTF8(path, "_")) {
		return fault.Errorf("host."+op.Kind.String(), fault.Invalid,
			"%q is not a path below %s: want names joined by single slashes, without . and ..", path, d.root)
	}
	return nil
}

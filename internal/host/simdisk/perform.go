package simdisk

import (
	"math"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// handle is an open file.
type handle struct {
	inode *inode
	path  string // that it was opened by
	flags host.Flags
}

// perform makes op happen, or fail, and fills in its results.
func (d *Disk) perform(op *host.Op) {
	op.Err, op.N, op.Stat, op.Space, op.Entries = nil, 0, host.Stat{}, host.Space{}, nil
	path := d.pathOf(op)
	s := d.strike(op, path)
	if op.Err = d.check(op); op.Err == nil {
		if s.effect == Fail {
			op.Err = d.fail(op, s.kind)
		} else {
			op.Err = d.apply(op, s.effect)
		}
	}
	if d.trace != nil {
		d.traceOp(op, path, s.effect)
	}
}

// pathOf returns the path that op is about, that of a handle as it was when opened.
func (d *Disk) pathOf(op *host.Op) string {
	if !onFile(op.Kind) {
		return op.Path
	}
	if h := d.handles[op.File]; h != nil {
		return h.path
	}
	return ""
}

// onFile reports whether operations of the kind are about a handle.
func onFile(k host.Kind) bool {
	switch k {
	case host.OpRead, host.OpWrite, host.OpSync, host.OpPunch, host.OpAllocate, host.OpTruncate,
		host.OpStat, host.OpClose:
		return true
	}
	return false
}

// check refuses what is wrong with a request whatever the state of the files.
func (d *Disk) check(op *host.Op) error {
	if !onFile(op.Kind) {
		return checkPaths(op)
	}
	h := d.handles[op.File]
	if h == nil {
		return bad(op, fault.Invalid, "file %d is not open on this disk: use what OpOpen returned, until OpClose", op.File)
	}
	if h.flags&host.ReadOnly != 0 && op.Kind != host.OpSync && changes(op) {
		return bad(op, fault.Denied, "%s is open read-only: open it without ReadOnly", h.path)
	}
	switch op.Kind {
	case host.OpRead, host.OpWrite:
		if op.Offset < 0 || op.Offset > math.MaxInt64-int64(len(op.Buf)) {
			return bad(op, fault.Invalid, "%s: offset %d with %d bytes is out of range", h.path, op.Offset, len(op.Buf))
		}
		if h.flags&host.Direct != 0 && !alignedOp(op) {
			return bad(op, fault.Invalid, "%s is open direct: align buffer, offset %d and length %d to %d bytes",
				h.path, op.Offset, len(op.Buf), host.Align)
		}
	case host.OpPunch, host.OpAllocate:
		if op.Offset < 0 || op.Length <= 0 || op.Offset > math.MaxInt64-op.Length {
			return bad(op, fault.Invalid, "%s: offset %d with length %d is out of range", h.path, op.Offset, op.Length)
		}
	case host.OpTruncate:
		if op.Length < 0 {
			return bad(op, fault.Invalid, "%s: size %d is negative", h.path, op.Length)
		}
	}
	return nil
}

func alignedOp(op *host.Op) bool {
	return host.Aligned(op.Buf) && op.Offset%host.Align == 0 && len(op.Buf)%host.Align == 0
}

func checkPaths(op *host.Op) error {
	switch op.Kind {
	case host.OpRename, host.OpLink:
		if !validPath(op.To) {
			return bad(op, fault.Invalid, "path %q is not one below the root, such as a/b", op.To)
		}
	case host.OpSyncAll, host.OpSpace:
		return nil
	}
	if _, known := verbs[op.Kind]; !known {
		return bad(op, fault.Invalid, "there is no kind of operation %d", op.Kind)
	}
	if !validPath(op.Path) {
		return bad(op, fault.Invalid, "path %q is not one below the root, such as a/b", op.Path)
	}
	return nil
}

// apply performs an op that passed check.
func (d *Disk) apply(op *host.Op, e Effect) error {
	switch op.Kind {
	case host.OpRead:
		op.N = d.handles[op.File].inode.now.read(op.Offset, op.Buf)
	case host.OpWrite:
		return d.write(op, e)
	case host.OpSync:
		d.handles[op.File].inode.sync(d.stampNext)
	case host.OpPunch, host.OpTruncate:
		d.reshape(op)
	case host.OpAllocate:
		return d.allocate(op)
	case host.OpStat:
		n := d.handles[op.File].inode
		op.Stat = host.Stat{Size: n.now.size, Allocated: n.now.pages.used() * pageSize, Links: n.links}
	case host.OpClose:
		d.close(op.File)
	case host.OpSyncAll:
		d.syncAll()
	case host.OpSpace:
		op.Space = host.Space{Size: d.capacity, Free: d.room() * pageSize}
	default:
		return d.applyNames(op)
	}
	return nil
}

// write performs OpWrite, which may go wrong in silence.
func (d *Disk) write(op *host.Op, e Effect) error {
	n := d.handles[op.File].inode
	before := n.now.pages.used()
	defer func() { d.grew(n, before) }()
	switch e {
	case Misdirect:
		d.misdirect(n, op)
		op.N = len(op.Buf)
		return nil
	case Lose:
		d.allot(n, op)
		op.N = len(op.Buf)
		return nil
	}
	if op.N = n.write(op.Offset, op.Buf, d.room(), d.rand); op.N < len(op.Buf) {
		op.N = 0 // what was written stays, as on a real disk, but is not to be relied on
		return bad(op, fault.NoSpace, "the disk of %d bytes is full: remove or punch something first", d.capacity)
	}
	return nil
}

// reshape performs OpPunch and OpTruncate.
func (d *Disk) reshape(op *host.Op) {
	n := d.handles[op.File].inode
	before := n.now.pages.used()
	if op.Kind == host.OpPunch {
		n.punch(op.Offset, op.Offset+op.Length, d.rand)
	} else {
		n.truncate(op.Length)
	}
	d.grew(n, before)
}

// allocate performs OpAllocate: all of it or none.
func (d *Disk) allocate(op *host.Op) error {
	n := d.handles[op.File].inode
	from, to := op.Offset/pageSize, (op.Offset+op.Length-1)/pageSize+1
	before := n.now.pages.used()
	if missing := to - from - n.now.pages.usedIn(from, to); missing > d.room() {
		return bad(op, fault.NoSpace, "%d bytes are wanted and %d free: remove or punch something first",
			missing*pageSize, d.room()*pageSize)
	}
	n.now.pages.fill(from, to, n.own)
	d.grew(n, before)
	return nil
}

// syncAll performs OpSyncAll.
func (d *Disk) syncAll() {
	for _, n := range d.inodes {
		n.sync(d.stampNext)
	}
	d.settleAll()
}

// close gives a handle back, and its lock.
func (d *Disk) close(f host.File) {
	h := d.handles[f]
	delete(d.handles, f)
	if h.flags&host.Lock != 0 {
		h.inode.locked = false
		d.unlocked(h.inode.id)
	}
	h.inode.opens--
	d.release(h.inode)
}

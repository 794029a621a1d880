package attachtest

import (
	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// File is a backend that keeps a volume in a file, past the page cache, with the I/O
// on the loop. It outlives its process, and the file's lock tells when nothing that a
// dead process began can land any more.
type File struct {
	disk host.Disk
	file host.File
	ops  []fileOp
}

type fileOp struct {
	op   host.Op
	list [1]*host.Op
	r    *attach.Request
}

// NewFile returns a backend without a file, for front ends of the depth.
func NewFile(disk host.Disk, depth int) *File {
	f := &File{disk: disk, ops: make([]fileOp, depth)}
	for i := range f.ops {
		o := &f.ops[i]
		o.list[0] = &o.op
		o.op.Done = func(*host.Op) { f.done(o) }
	}
	return f
}

// Open opens or makes the file and makes it size bytes long, if it is shorter. It
// fails with fault.Busy while another process has it, or I/O of one is in flight. It
// is called on the loop's goroutine, where done is called too.
func (f *File) Open(name string, size int64, done func(error)) {
	f.step(&host.Op{Kind: host.OpOpen, Path: name, Flags: host.Create | host.Direct | host.Lock}, done, func(op *host.Op) {
		file := op.File
		f.step(&host.Op{Kind: host.OpStat, File: file}, done, func(op *host.Op) {
			f.step(&host.Op{Kind: host.OpTruncate, File: file, Length: max(size, op.Stat.Size)}, done, func(*host.Op) {
				f.file = file
				done(nil)
			})
		})
	})
}

// step does op, then calls next, or done with the error.
func (f *File) step(op *host.Op, done func(error), next func(*host.Op)) {
	op.Done = func(op *host.Op) {
		if op.Err != nil {
			done(op.Err)
			return
		}
		next(op)
	}
	f.disk.Submit(op)
}

// Submit does r on the file.
func (f *File) Submit(r *attach.Request) {
	o := &f.ops[r.Slot]
	o.r = r
	switch r.Op {
	case attach.Read:
		o.op.Kind = host.OpRead
	case attach.Write:
		o.op.Kind = host.OpWrite
	case attach.Zero:
		o.op.Kind = host.OpPunch
	case attach.Flush:
		o.op.Kind = host.OpSync
	}
	o.op.File, o.op.Offset, o.op.Length, o.op.Buf = f.file, r.Offset, r.Length, r.Buf
	f.disk.Submit(o.list[:]...)
}

func (f *File) done(o *fileOp) {
	switch {
	case o.op.Err == nil && o.op.Kind != host.OpSync && o.r.Flags&attach.FUA != 0:
		o.op.Kind = host.OpSync
		f.disk.Submit(o.list[:]...)
	case o.op.Err == nil && o.op.Kind == host.OpRead && o.op.N < len(o.op.Buf):
		o.r.End(fault.Errorf("attachtest.File", fault.Media, "the file ends in the middle of a read"))
	default:
		o.r.End(o.op.Err)
	}
}

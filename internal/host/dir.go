package host

import (
	"path/filepath"
	"syscall"
	"time"
)

// Dir is the real [Disk]: a directory of this machine, reached through a [Loop].
// Besides being driven by one goroutine, as any Disk, a Dir of a loop that is Run is
// driven by that loop only: its methods are called from inside what the loop calls.
//
// At most Options.Depth operations are with the kernel at once, in the order in which
// they were submitted; the rest wait here, without limit.
type Dir struct {
	loop    *Loop
	private bool // the loop is only for this Dir
	root    string
	fd      int
	index   int // in the loop

	queue    opQueue // accepted, not yet with the kernel
	refused  opQueue // failed already; Done is due
	slots    []slot
	free     *slot // unused slots
	files    fileTable
	workers  workers
	inFlight int
	done     int // ops that had Done called, ever

	buffered bool // a Direct open went without
}

// slot is an operation that is with the kernel or a worker.
type slot struct {
	dir   *Dir
	index int
	op    *Op
	file  *file // of operations on one
	moved int   // bytes read or written so far
	err   error // a syscall.Errno or a *fault.Error
	fd    int   // what OpOpen opened
	plain bool  // OpOpen: Direct was asked for and refused
	waits bool  // OpOpen: waits for a lock, and is none of the disk's slots
	next  *slot
}

// Open returns the disk in the directory root, with a loop of its own that the
// caller's goroutine drives by Poll. It is for tools and tests; a node opens its
// disks by [Loop.Open].
func Open(root string, o Options) (*Dir, error) {
	l, err := newLoop(o, false)
	if err != nil {
		return nil, err
	}
	d, err := l.Open(root)
	if err != nil {
		l.Close()
		return nil, err
	}
	d.private = true
	return d, nil
}

// Open returns the disk in the directory root. Any goroutine may call it. The root
// may be reached through symbolic links; below it none is followed.
func (l *Loop) Open(root string) (*Dir, error) {
	fd, err := openRoot(root)
	if err != nil {
		return nil, err
	}
	d := &Dir{loop: l, root: filepath.Clean(root), fd: fd, slots: make([]slot, l.options.Depth)}
	for i := range d.slots {
		s := &d.slots[i]
		s.dir, s.index, s.next = d, i, d.free
		d.free = s
	}
	d.workers.limit = l.options.Threads
	d.workers.work = make(chan *slot, l.options.Depth)
	l.add(d)
	return d, nil
}

// Root returns the directory, as Open was given it.
func (d *Dir) Root() string { return d.root }

// Loop returns the loop that drives the disk.
func (d *Dir) Loop() *Loop { return d.loop }

// Buffered reports whether a file that was to be opened Direct had to go through the
// page cache, because its filesystem can't do otherwise.
func (d *Dir) Buffered() bool { return d.buffered }

// InFlight returns how many submitted ops have not had Done called.
func (d *Dir) InFlight() int { return d.inFlight }

// Submit hands over ops; the next Poll, or turn of the loop, sends them. An op on a
// file that was closed, or is about to be by an OpClose submitted before, is Invalid.
// An OpClose waits for the file's operations that were submitted before it.
func (d *Dir) Submit(ops ...*Op) {
	for _, op := range ops {
		d.inFlight++
		op.Err, op.N, op.next = nil, 0, nil
		f, err := d.admit(op)
		switch {
		case err != nil:
			op.Err = err
			d.refused.push(op)
		case f == nil:
			d.queue.push(op)
		case op.Kind == OpClose:
			f.closing = op
			if f.users == 0 {
				d.queue.push(op)
			}
		default:
			f.users++
			d.queue.push(op)
		}
	}
}

// Poll is Disk.Poll. It also serves the rest of the loop, whose watches, timers and
// posts do not count.
func (d *Dir) Poll(wait time.Duration) int {
	before := d.done
	var end time.Duration
	if wait > 0 {
		end = d.loop.Now() + wait
	}
	for {
		if d.inFlight == 0 && wait < 0 {
			return d.done - before
		}
		d.loop.turn(wait)
		if d.done > before || wait == 0 {
			return d.done - before
		}
		if wait > 0 {
			wait = max(0, end-d.loop.Now())
		}
	}
}

// Close waits for what is in flight and gives back what the disk holds, open files
// included. The Dir is of no use afterwards.
func (d *Dir) Close() {
	for d.inFlight > 0 {
		d.Poll(-1)
	}
	if d.private {
		d.loop.Close()
		return
	}
	d.release()
	d.loop.drop(d)
}

// release gives back what d holds; nothing is in flight.
func (d *Dir) release() {
	d.workers.stop()
	for _, f := range d.files.open {
		if f != nil {
			closeFD(f.fd)
		}
	}
	closeFD(d.fd)
}

// send gives the kernel, or the workers, as much of the queue as there are slots for.
func (d *Dir) send() {
	for d.queue.head != nil && d.free != nil {
		s := d.free
		d.free = s.next
		s.op, s.next = d.queue.pop(), nil
		s.moved, s.err, s.plain = 0, nil, false
		if s.op.onFile() {
			s.file = d.files.get(s.op.File)
		}
		d.start(s)
	}
}

func (d *Dir) start(s *slot) {
	if !d.loop.engine.start(s) {
		d.workers.give(s)
	}
}

// answer takes what the ring says of s: bytes moved, or a negative errno.
func (d *Dir) answer(s *slot, res int) {
	switch {
	case res == -int(syscall.EAGAIN) || res == -int(syscall.EINTR):
		d.workers.give(s) // where it blocks until it can be done
	case res < 0:
		s.err = syscall.Errno(-res)
		d.finish(s)
	case s.advance(res):
		d.start(s)
	default:
		d.finish(s)
	}
}

// worked takes s back from a worker.
func (d *Dir) worked(s *slot) {
	if s.waits {
		d.finish(s)
		return
	}
	d.workers.busy--
	if s.op.Kind == OpOpen && s.op.Flags&LockWait != 0 && s.err == syscall.EWOULDBLOCK {
		// Not in a slot or by a worker: operations that end the wait may need them.
		d.workers.wait(&slot{dir: d, op: s.op, waits: true})
		d.vacate(s)
		return
	}
	d.finish(s)
}

// advance counts n bytes that were read or written and reports whether more remain.
func (s *slot) advance(n int) (more bool) {
	switch s.op.Kind {
	case OpRead:
		s.moved += n
		// A direct read that ends between blocks has met the end of the file; going
		// on from there would not be aligned.
		return n > 0 && s.moved < len(s.op.Buf) && !(s.file.direct && s.moved%Align != 0)
	case OpWrite:
		if n == 0 && len(s.op.Buf) > 0 {
			s.err = syscall.EIO // the kernel took nothing and did not say why
			return false
		}
		s.moved += n
		if s.moved < len(s.op.Buf) && s.file.direct {
			s.moved -= s.moved % Align // go on aligned
			if n < Align {
				s.err = syscall.EIO // it would never get anywhere
				return false
			}
		}
		return s.moved < len(s.op.Buf)
	}
	return false
}

// finish ends the operation in s, whatever became of it.
func (d *Dir) finish(s *slot) {
	op, f := s.op, s.file
	if op.Kind == OpRead || op.Kind == OpWrite {
		op.N = s.moved
	}
	if s.err != nil {
		op.Err = d.explain(op, f, s.err)
	}
	if op.Kind == OpOpen && s.err == nil {
		d.buffered = d.buffered || s.plain
		op.File = d.files.add(&file{fd: s.fd, path: op.Path, flags: op.Flags, direct: op.Flags&Direct != 0 && !s.plain})
	}
	d.vacate(s)

	switch {
	case op.Kind == OpClose:
		d.files.remove(op.File)
	case f != nil:
		if f.users--; f.users == 0 && f.closing != nil {
			d.queue.push(f.closing)
		}
	}
	d.complete(op)
}

// vacate makes s free for another operation.
func (d *Dir) vacate(s *slot) {
	if s.waits {
		return
	}
	s.op, s.file, s.err, s.next = nil, nil, nil, d.free
	d.free = s
}

func (d *Dir) complete(op *Op) {
	d.inFlight--
	d.done++
	op.Done(op)
}

// refuse completes the ops that had failed when it was called.
func (d *Dir) refuse() {
	last := d.refused.tail
	for op := d.refused.pop(); op != nil; op = d.refused.pop() {
		d.complete(op)
		if op == last {
			return
		}
	}
}

package simdisk

import (
	"slices"
	"time"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// queue holds the operations that were submitted and not performed.
type queue struct {
	ready   []*flight
	stalled []*flight // not to be completed yet
	free    []*flight // for use again
	void    int       // submitted after death
}

// flight is one operation in flight.
type flight struct {
	op    *host.Op
	at    int           // index in ready
	delay time.Duration // how long it is still stalled; negative is until Release
	lock  ino           // of the file whose lock it waits for, or 0
	fire  func()        // completes it, under Options.Schedule
}

// Submit implements host.Disk.
func (d *Disk) Submit(ops ...*host.Op) {
	for _, op := range ops {
		if d.dead {
			d.queue.void++
			continue
		}
		f := d.queue.flight(d)
		f.op, f.delay = op, d.stall(op)
		if f.delay < 0 || f.delay > 0 && d.schedule == nil {
			d.queue.stalled = append(d.queue.stalled, f)
		} else {
			d.ready(f)
		}
	}
}

// InFlight implements host.Disk.
func (d *Disk) InFlight() int {
	return len(d.queue.ready) + len(d.queue.stalled) + d.queue.void
}

// Poll implements host.Disk. On a disk that stands alone it performs some of the
// operations in flight, at least one when any can be. It waits without taking time: a
// wait that is long enough, or negative, ends a stall when nothing else is in flight.
//
// Where it would have to wait for ever it panics: when every operation in flight is
// stalled until Release, or waits for a lock, and, unless wait is 0, when operations are in flight on a
// dead disk, for Survives to catch. Under Options.Schedule it does nothing.
func (d *Disk) Poll(wait time.Duration) int {
	if d.schedule != nil {
		return 0
	}
	if len(d.queue.ready) == 0 && !d.dead {
		d.pass(wait)
	}
	n := 0
	if ready := len(d.queue.ready); ready > 0 && !d.dead {
		for left := d.draw(ready) + 1; left > 0 && len(d.queue.ready) > 0 && !d.dead; {
			if d.finish(d.queue.ready[d.draw(len(d.queue.ready))]) {
				n++
				left--
			}
		}
	}
	if n == 0 && d.dead && wait != 0 && d.InFlight() > 0 {
		panic(death{})
	}
	return n
}

// draw returns a number from 0 up to n-1 by which to choose among operations.
func (d *Disk) draw(n int) int {
	if n == 1 || d.inOrder {
		return 0
	}
	return d.rand.IntN(n)
}

// Release ends all stalls.
func (d *Disk) Release() {
	stalled := d.queue.stalled
	d.queue.stalled = nil
	for _, f := range stalled {
		f.delay = 0
		d.ready(f)
	}
}

// pass lets wait go by while nothing is ready.
func (d *Disk) pass(wait time.Duration) {
	next := time.Duration(-1)
	for _, f := range d.queue.stalled {
		if f.delay >= 0 && (next < 0 || f.delay < next) {
			next = f.delay
		}
	}
	if next < 0 {
		if wait < 0 && len(d.queue.stalled) > 0 {
			panic(fault.Bug("simdisk: waiting for ever: all %d operations in flight are stalled, call Release, or wait for a lock",
				len(d.queue.stalled)))
		}
		return
	}
	if wait < 0 {
		wait = next
	}
	d.queue.stalled = slices.DeleteFunc(d.queue.stalled, func(f *flight) bool {
		if f.delay < 0 {
			return false
		}
		if f.delay -= wait; f.delay > 0 {
			return false
		}
		d.ready(f)
		return true
	})
}

// ready makes f one of the operations that can be performed.
func (d *Disk) ready(f *flight) {
	f.at = len(d.queue.ready)
	d.queue.ready = append(d.queue.ready, f)
	if d.schedule != nil {
		d.schedule(f.delay, f.fire)
	}
}

// finish performs an operation and calls Done; it returns false when the disk died
// instead, or the operation must wait for a lock.
func (d *Disk) finish(f *flight) bool {
	op := f.op
	if f.lock = d.lockedFile(op); f.lock != 0 {
		f.delay = -1
		d.queue.unready(f, d.inOrder)
		d.queue.stalled = append(d.queue.stalled, f)
		return false
	}
	if changes(op) {
		if d.ops == d.opsMax {
			d.dead = true
			return false
		}
		d.ops++
	}
	d.queue.remove(f, d.inOrder)
	d.perform(op)
	if op.Done != nil {
		op.Done(op)
	}
	return true
}

// flight returns a flight that is not in use.
func (q *queue) flight(d *Disk) *flight {
	if last := len(q.free) - 1; last >= 0 {
		f := q.free[last]
		q.free = q.free[:last]
		return f
	}
	f := &flight{}
	if d.schedule != nil {
		f.fire = func() {
			if !d.dead {
				d.finish(f)
			}
		}
	}
	return f
}

// lockedFile returns the file whose lock op must wait for, or 0.
func (d *Disk) lockedFile(op *host.Op) ino {
	const both = host.Lock | host.LockWait
	if op.Kind != host.OpOpen || op.Flags&both != both || !validPath(op.Path) {
		return 0
	}
	if at, err := d.lookup(op, op.Path); err == nil && at.ino != 0 && d.inodes[at.ino].locked {
		return at.ino
	}
	return 0
}

// unlocked lets those that wait for the lock of i try again.
func (d *Disk) unlocked(i ino) {
	var waited []*flight
	d.queue.stalled = slices.DeleteFunc(d.queue.stalled, func(f *flight) bool {
		if f.lock == i {
			waited = append(waited, f)
		}
		return f.lock == i
	})
	for _, f := range waited {
		f.delay, f.lock = 0, 0
		d.ready(f)
	}
}

// remove takes f out of the ready ones, which keep their order if asked.
func (q *queue) remove(f *flight, inOrder bool) {
	q.unready(f, inOrder)
	f.op = nil
	q.free = append(q.free, f)
}

func (q *queue) unready(f *flight, inOrder bool) {
	last := len(q.ready) - 1
	if inOrder {
		copy(q.ready[f.at:], q.ready[f.at+1:])
		for i := f.at; i < last; i++ {
			q.ready[i].at = i
		}
	} else {
		q.ready[f.at] = q.ready[last]
		q.ready[f.at].at = f.at
	}
	q.ready[last] = nil
	q.ready = q.ready[:last]
}

// inFlight returns the operations that death finds in flight, in a random order.
func (d *Disk) inFlight() []*host.Op {
	var ops []*host.Op
	for _, f := range slices.Concat(d.queue.ready, d.queue.stalled) {
		ops = append(ops, f.op)
	}
	d.rand.Shuffle(len(ops), func(i, j int) { ops[i], ops[j] = ops[j], ops[i] })
	return ops
}

// changes reports whether op is one that Ops counts.
func changes(op *host.Op) bool {
	switch op.Kind {
	case host.OpWrite, host.OpSync, host.OpPunch, host.OpAllocate, host.OpTruncate, host.OpRename,
		host.OpLink, host.OpRemove, host.OpMkdir, host.OpSyncDir, host.OpSyncAll:
		return true
	case host.OpOpen:
		return op.Flags&host.Create != 0
	}
	return false
}

package host

import (
	"syscall"
	"time"
	"unsafe"

	"github.com/holdfast-io/holdfast/internal/fault"
	"golang.org/x/sys/unix"
)

// engine is how a loop reaches the kernel: a [ring], or a [poller] where there is
// none. The loop's goroutine alone calls it.
type engine interface {
	// begin is called once, by the goroutine that will call the rest, if that is
	// locked to its OS thread.
	begin()
	// start sends the operation in s, or what is left of it, no later than the next
	// wait. False means that this engine can't, now or ever, and a worker must.
	start(s *slot) bool
	// arm makes w fire once; disarm undoes it. They may take effect in the next wait.
	arm(w *Watch)
	disarm(w *Watch)
	// wait sends what was started and armed and waits until something has happened:
	// at most for timeout, for ever when it is negative.
	wait(timeout time.Duration)
	// pending reports whether reap has something to deliver.
	pending() bool
	// reap delivers what has happened: results to slots, firings to watches. It may
	// be called again from inside what it calls.
	reap()
	close()
}

// The rings of a loop. A full submission ring is sent before its time; completions
// that find their ring full wait in the kernel.
const (
	ringEntries     = 256
	ringCompletions = 4096
)

// What a completion belongs to: the top byte of its user data. Below it is the number
// of a watch, or those of a directory and its slot. Numbers and not pointers, because
// the kernel would hide those from the garbage collector.
const (
	forSlot = iota << 56
	forWatch
	forNobody
)

// ring is the engine that has io_uring.
type ring struct {
	u       *uring
	loop    *Loop
	known   uint64 // operations that the kernel has, as bits
	entered int    // requests that the kernel has, or is about to be sent
	watches []*Watch
	free    []uint32 // unused places in watches
	late    []*Watch // to be armed or disarmed when there is room
}

// newRing returns the fastest ring that the kernel makes for a loop, or why it makes
// none. A pinned ring is used from one OS thread, once begin was called there.
func newRing(l *Loop, pinned bool, entries, completions uint32) (*ring, error) {
	var u *uring
	var err error
	for _, flags := range ringFlags(pinned) {
		if u, err = openURing(entries, completions, flags); err != syscall.EINVAL {
			break
		}
	}
	if err != nil {
		return nil, fault.E("host.Ring", fault.Unsupported, zeroVolume, err)
	}
	r := &ring{u: u, loop: l}
	const needed = 1<<uringRead | 1<<uringWrite | 1<<uringFsync | 1<<uringPollAdd | 1<<uringPollRemove
	if r.known, err = u.supports(); err != nil || r.known&needed != needed {
		u.close()
		return nil, fault.Errorf("host.Ring", fault.Unsupported, "io_uring lacks operations: has %#x (%v)", r.known, err)
	}
	// Without it waits are measured by CLOCK_MONOTONIC, and a timer that was set
	// before a suspension fires late. Rights do not depend on that: they look at the
	// clock.
	clock := [4]uint32{unix.CLOCK_BOOTTIME}
	_ = u.register(registerClock, unsafe.Pointer(&clock), 0)
	return r, nil
}

// ringFlags returns the ways to set a ring up, best first. Deferred task work runs
// when the loop asks for it instead of interrupting it, but binds the ring to one
// thread. A ring that follows its goroutine from thread to thread must have its
// completions posted by interrupt, or they would wait for a thread that is elsewhere.
func ringFlags(pinned bool) []uint32 {
	if !pinned {
		return []uint32{0}
	}
	return []uint32{setupSingleIssuer | setupDeferTaskrun | setupDisabled, setupCoopTaskrun, 0}
}

func (r *ring) begin() {
	if r.u.flags&setupDisabled == 0 {
		return
	}
	if err := r.u.register(registerEnable, nil, 0); err != nil {
		panic(fault.Bug("host: io_uring can't be enabled: %v", err))
	}
}

// entry returns a clear submission entry, or nil when the kernel takes no more now.
func (r *ring) entry() *sqe {
	e := r.u.next()
	if e == nil {
		r.enter(0)
		if e = r.u.next(); e == nil {
			return nil
		}
	}
	r.entered++
	*e = sqe{}
	return e
}

// transferMax is how many bytes one request to the kernel moves.
const transferMax = 1 << 30

func (r *ring) start(s *slot) bool {
	var code uint8
	switch s.op.Kind {
	case OpRead:
		code = uringRead
	case OpWrite:
		code = uringWrite
	case OpSync:
		code = uringFsync
	case OpPunch, OpAllocate:
		code = uringFallocate
	default:
		return false
	}
	if r.known&(1<<code) == 0 {
		return false
	}
	e := r.entry()
	if e == nil {
		return false
	}
	e.opcode, e.fd, e.userData = code, int32(s.file.fd), forSlot|uint64(s.dir.index)<<32|uint64(s.index)
	switch code {
	case uringRead, uringWrite:
		rest := s.op.Buf[s.moved:]
		e.off = uint64(s.op.Offset + int64(s.moved))
		e.addr = uint64(uintptr(unsafe.Pointer(unsafe.SliceData(rest))))
		e.len = uint32(min(len(rest), transferMax))
	case uringFsync:
		e.opFlags = fsyncDatasync
	case uringFallocate:
		e.off, e.addr, e.len = uint64(s.op.Offset), uint64(s.op.Length), fallocateMode(s.op.Kind)
	}
	return true
}

func (r *ring) arm(w *Watch) {
	if w.place == unplaced {
		r.place(w)
	}
	e := r.entry()
	if e == nil {
		r.late = append(r.late, w)
		return
	}
	e.opcode, e.fd, e.opFlags, e.userData = uringPollAdd, int32(w.fd), pollEvents(w.events), forWatch|uint64(w.place)
	w.sent = true
}

// disarm takes back what arm sent. The place of w is free once the kernel has
// answered the arming.
func (r *ring) disarm(w *Watch) {
	if !w.sent {
		r.unplace(w)
		return
	}
	e := r.entry()
	if e == nil {
		r.late = append(r.late, w)
		return
	}
	e.opcode, e.fd, e.addr, e.userData = uringPollRemove, -1, forWatch|uint64(w.place), forNobody
}

func (r *ring) place(w *Watch) {
	if n := len(r.free); n > 0 {
		w.place = r.free[n-1]
		r.free = r.free[:n-1]
		r.watches[w.place] = w
		return
	}
	w.place = uint32(len(r.watches))
	r.watches = append(r.watches, w)
}

func (r *ring) unplace(w *Watch) {
	if w.place != unplaced {
		r.watches[w.place] = nil
		r.free = append(r.free, w.place)
		w.place = unplaced
	}
}

func (r *ring) wait(timeout time.Duration) {
	late := r.late
	r.late = nil
	for _, w := range late {
		if w.closed {
			r.disarm(w)
		} else {
			r.arm(w)
		}
	}
	if r.u.completed() > 0 || len(r.late) > 0 {
		timeout = 0
	}
	if timeout == 0 && r.u.unsent() == 0 && !r.u.overflowed() && (r.u.completed() > 0 || r.entered == 0) {
		return
	}
	r.enter(timeout)
}

func (r *ring) enter(timeout time.Duration) {
	switch err := r.u.enter(timeout); err {
	case nil, syscall.ETIME, syscall.EINTR:
	case syscall.EAGAIN, syscall.EBUSY: // short of memory, or completions first: what is unsent stays
	case syscall.EBADFD, syscall.EEXIST:
		panic(fault.Bug("host: a disk of a loop is used from outside of that loop's Run: %v", err))
	default:
		panic(fault.Bug("host: io_uring_enter: %v", err))
	}
}

func (r *ring) pending() bool { return r.u.completed() > 0 }

func (r *ring) reap() {
	for n := r.u.completed(); n > 0 && r.u.completed() > 0; n-- {
		c := r.u.take()
		r.entered--
		switch number := uint32(c.userData); c.userData &^ (1<<56 - 1) {
		case forSlot:
			d := r.loop.dirs()[c.userData>>32&0xffffff]
			d.answer(&d.slots[number], int(c.res))
		case forWatch:
			w := r.watches[number]
			w.sent = false
			if w.closed {
				r.unplace(w)
				continue
			}
			w.fire()
		}
	}
}

func (r *ring) close() { r.u.close() }

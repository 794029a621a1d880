package host

import (
	"math"

	"golang.org/x/sys/unix"
)

// Events says what a Watch waits for.
type Events uint8

// What a descriptor can be ready for. Errors and hang-ups make it ready for both.
const (
	Readable Events = 1 << iota
	Writable
)

// unplaced is the place of a Watch that the ring does not know.
const unplaced = math.MaxUint32

// Watch tells a loop's goroutine when a descriptor that is no file of a disk (a
// socket, an eventfd, /dev/fuse) is ready. All methods are for that goroutine.
type Watch struct {
	loop   *Loop
	fd     int
	events Events
	ready  func()
	armed  bool
	closed bool

	place uint32 // in the ring
	sent  bool   // the ring has it
}

// Watch returns a watch on fd, which stays the caller's. Nothing is waited for until
// Arm. A descriptor may have several watches, such as one for each of Events.
func (l *Loop) Watch(fd int, events Events, ready func()) *Watch {
	return &Watch{loop: l, fd: fd, events: events, ready: ready, place: unplaced}
}

// Arm makes ready be called once, from the loop, when the descriptor is ready: soon,
// if it is already. An armed watch stays as it is. Arming costs no system call of
// its own; do it when a non-blocking read or write has said EAGAIN, from inside ready
// or later.
func (w *Watch) Arm() {
	if !w.armed && !w.closed {
		w.armed = true
		w.loop.engine.arm(w)
	}
}

// Close ends the watch: ready is not called any more. The kernel lets go of the
// descriptor's file during the loop's next turn, so what depends on the last
// reference to it happens then even if the descriptor is closed at once.
func (w *Watch) Close() {
	if w.closed {
		return
	}
	w.closed = true
	w.armed = false
	w.loop.engine.disarm(w)
}

// fire is called by the engine when what w was armed for has happened.
func (w *Watch) fire() {
	w.armed = false
	w.ready()
}

func pollEvents(e Events) (events uint32) {
	if e&Readable != 0 {
		events |= unix.POLLIN
	}
	if e&Writable != 0 {
		events |= unix.POLLOUT
	}
	return events
}

package host

import (
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// inbox is what other goroutines give to a loop: functions to call, up to a limit,
// and slots whose operations workers have finished.
//
// A giver wakes the loop by an eventfd only when the loop said that it sleeps.
// Givers count before they look whether it sleeps, the loop says that it sleeps
// before it looks at the count, so one of them sees the other.
type inbox struct {
	count  atomic.Int32 // things inside
	asleep atomic.Bool
	bell   int // eventfd

	mu          sync.Mutex
	room        sync.Cond
	posts       []func() // a circle
	first, used int
	finished    slotQueue
	closed      bool
}

func openInbox(limit int) (*inbox, error) {
	bell, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	b := &inbox{bell: bell, posts: make([]func(), limit)}
	b.room.L = &b.mu
	return b, nil
}

// post puts f in and reports whether it will be called; when the inbox is full it
// waits for room if it may.
func (b *inbox) post(f func(), mayWait bool) bool {
	b.mu.Lock()
	for !b.closed && b.used == len(b.posts) && mayWait {
		b.room.Wait()
	}
	if b.closed || b.used == len(b.posts) {
		b.mu.Unlock()
		return false
	}
	b.posts[(b.first+b.used)%len(b.posts)] = f
	b.used++
	b.count.Add(1)
	b.mu.Unlock()
	b.wake()
	return true
}

// finish puts a slot in whose operation a worker has finished.
func (b *inbox) finish(s *slot) {
	b.mu.Lock()
	b.finished.push(s)
	b.count.Add(1)
	b.mu.Unlock()
	b.wake()
}

// wake ends the loop's sleep.
func (b *inbox) wake() {
	if b.asleep.Load() && b.asleep.CompareAndSwap(true, false) {
		one := uint64(1)
		_, _, _ = syscall.RawSyscall(unix.SYS_WRITE, uintptr(b.bell), uintptr(unsafe.Pointer(&one)), 8)
	}
}

// sleep says that the loop is about to sleep and reports whether it may.
func (b *inbox) sleep() bool {
	b.asleep.Store(true)
	if b.count.Load() > 0 {
		b.asleep.Store(false)
		return false
	}
	return true
}

// awake says that the loop does not sleep.
func (b *inbox) awake() {
	if b.asleep.Load() {
		b.asleep.Store(false)
	}
}

// silence takes back what wake wrote.
func (b *inbox) silence() {
	var n uint64
	_, _, _ = syscall.RawSyscall(unix.SYS_READ, uintptr(b.bell), uintptr(unsafe.Pointer(&n)), 8)
}

// take removes one thing: a finished slot before a function. Both are nil when there
// is none.
func (b *inbox) take() (*slot, func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.finished.pop(); s != nil {
		b.count.Add(-1)
		return s, nil
	}
	if b.used == 0 {
		return nil, nil
	}
	f := b.posts[b.first]
	b.posts[b.first] = nil
	b.first = (b.first + 1) % len(b.posts)
	b.used--
	b.count.Add(-1)
	b.room.Signal()
	return nil, f
}

// closeIfEmpty refuses all further posts if nothing is inside, and reports whether it
// does.
func (b *inbox) closeIfEmpty() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used > 0 || b.finished.head != nil {
		return b.closed
	}
	b.closed = true
	b.room.Broadcast()
	return true
}

package nbd

import (
	"sync"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// slots is the memory of an export's requests, all in place from the beginning. Who
// finds none free waits, so clients that ask for much wait in their sockets.
type slots struct {
	mu     sync.Mutex
	freed  sync.Cond
	memory []byte
	list   []slot
	free   *slot    // linked by next
	large  [][]byte // free buffers of IOBytesMax
	closed bool
}

// slot is the place of one request. It belongs, one after the other, to its connection's
// reader, to the loop, and to its connection's writer.
type slot struct {
	next    *slot // in one queue or the other
	conn    *conn
	header  request
	request attach.Request
	began   int64 // nanoseconds
	small   []byte
	large   []byte // nil is none
	buf     []byte // small or large
	left    int64  // of a request that is longer than a slot: what comes after the part that is under way
	fresh   bool   // nothing was answered yet
	errno   uint32
	status  int // bytes of block status in small
}

func newSlots(depth, large int) (*slots, error) {
	n := depth*attach.SmallBytesMax + large*attach.IOBytesMax
	memory, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return nil, fault.Errorf("nbd.newSlots", fault.KindOf(err), "%d bytes for requests: %w", n, err)
	}
	_ = unix.Madvise(memory, unix.MADV_DONTDUMP) // users' data
	s := &slots{memory: memory, list: make([]slot, depth)}
	s.freed.L = &s.mu
	for i := depth - 1; i >= 0; i-- {
		l := &s.list[i]
		l.request.Slot = i
		l.small = memory[i*attach.SmallBytesMax:][:attach.SmallBytesMax:attach.SmallBytesMax]
		l.next, s.free = s.free, l
	}
	for i := range large {
		s.large = append(s.large, memory[depth*attach.SmallBytesMax+i*attach.IOBytesMax:][:attach.IOBytesMax:attach.IOBytesMax])
	}
	return s, nil
}

// take returns a slot with a buffer of n bytes, IOBytesMax at most. If there is none it
// waits, or, without wait, returns nil. It returns nil after close, too.
func (s *slots) take(n int, wait bool) *slot {
	s.mu.Lock()
	defer s.mu.Unlock()
	isLarge := n > attach.SmallBytesMax
	for s.free == nil || isLarge && len(s.large) == 0 {
		if s.closed || !wait {
			return nil
		}
		s.freed.Wait()
	}
	if s.closed {
		return nil
	}
	l := s.free
	s.free, l.next = l.next, nil
	l.buf = l.small
	if isLarge {
		l.large = s.large[len(s.large)-1]
		s.large = s.large[:len(s.large)-1]
		l.buf = l.large
	}
	l.left, l.fresh, l.errno, l.status, l.request.Err = 0, true, 0, 0, nil
	return l
}

// put gives a slot back.
func (s *slots) put(l *slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.large != nil {
		s.large = append(s.large, l.large)
		l.large = nil
	}
	l.conn, l.buf = nil, nil
	l.next, s.free = s.free, l
	s.freed.Broadcast()
}

// close ends those that wait.
func (s *slots) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.freed.Broadcast()
}

// unmap gives the memory back, after close and when no slot is used any more.
func (s *slots) unmap() {
	_ = unix.Munmap(s.memory)
	s.memory, s.list, s.large = nil, nil, nil
}

// queue is slots, the first of which comes out first.
type queue struct{ head, tail *slot }

func (q *queue) push(l *slot) {
	l.next = nil
	if q.head == nil {
		q.head = l
	} else {
		q.tail.next = l
	}
	q.tail = l
}

// pop returns the first, or the one that is wanted, or nil.
func (q *queue) pop(wanted *slot) *slot {
	var before *slot
	for l := q.head; l != nil; before, l = l, l.next {
		if wanted != nil && l != wanted {
			continue
		}
		if before == nil {
			q.head = l.next
		} else {
			before.next = l.next
		}
		if q.tail == l {
			q.tail = before
		}
		l.next = nil
		return l
	}
	return nil
}

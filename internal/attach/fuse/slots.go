package fuse

import (
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// geometry says how many slots there are, and how many of them can be large at once. With
// Pooled they have what lies in them from a Pool.
type geometry struct {
	Depth  int  `json:"depth"`
	Large  int  `json:"large"`
	Pooled bool `json:"pooled,omitempty"`
}

// Of what can be large at once a quarter are spills, the rest big slots.
func (g geometry) spills() int { return (g.Large + 3) / 4 }
func (g geometry) big() int    { return min(g.Large-g.spills(), g.Depth-1) }

const (
	headBytes  = host.Align
	smallBytes = headBytes + attach.SmallBytesMax
	bigBytes   = headBytes + attach.IOBytesMax
	readFrom   = headBytes - inHeaderSize - ioArgsSize // where in a slot a request is read to
)

func (g geometry) bytes() int {
	if g.Pooled {
		return (g.Depth*pageBytes+host.Align-1)/host.Align*host.Align + PooledBytesMax
	}
	return g.big()*bigBytes + (g.Depth-g.big())*smallBytes + g.spills()*attach.IOBytesMax
}

// slots is the memory that requests are read into, shared with whoever serves the
// connection next: a memfd, all of it in place from the beginning, because the kernel
// ends a request with an error when it finds no page to copy it to in a process that
// is dying.
//
// A slot has a page for the header and arguments of a request, so placed that its data
// begins on the next page and can go to a disk as it is. The kernel wants room for the
// longest request each time it is asked for one, though most are small: what does not
// fit into a small slot goes to a spill, which the slot then keeps, with what did fit
// copied in front of it. While large requests come, big slots are used first, for
// which nothing is copied.
//
// The memory is the big slots, the small slots, the spills. A slot whose request's unique
// number is 0 is free. The first bytes of a slot are the number of the spill that was
// ready for it.
type slots struct {
	geometry
	memory []byte
	list   []slot
	big    []int // free ones, the one used last at the end, for its caches
	small  []int
	spills []int
	used   int
	large  int // how many requests from now on may be expected to be large
	iov    [3]unix.Iovec

	pool    *Pool    // nil: all memory is the slots' own
	landing [][]byte // with a pool: what it lacks is read here, one request at a time
}

// largeAhead is how many requests after a large one are expected to be large too.
const largeAhead = 8

// slot is the place of one request.
type slot struct {
	page    []byte  // the first bytes
	message message // where it is read to
	own     []byte  // where its data goes: the end of message
	data    []byte  // where its data is: own, or a spill
	spill   int     // that it keeps, or none
	buf     piece   // of a pool: where its data goes first
	rest    piece   // of a pool: what does not fit there
	unique  uint64
	began   int64 // nanoseconds
	request attach.Request
}

const none = -1

// newMemory returns a memfd for g, with its pages in place.
func newMemory(g geometry) (int, error) {
	fd, err := unix.MemfdCreate("holdfast-slots", unix.MFD_CLOEXEC)
	if err == nil {
		if err = unix.Fallocate(fd, 0, 0, int64(g.bytes())); err == nil {
			return fd, nil
		}
		_ = unix.Close(fd)
	}
	return -1, fault.Errorf("fuse.newMemory", fault.KindOf(err), "%d bytes for requests: %w", g.bytes(), err)
}

// mapSlots maps the memfd. All slots are free: what a predecessor left in them is
// there until they are used.
func mapSlots(fd int, g geometry, pool *Pool) (*slots, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Size != int64(g.bytes()) {
		return nil, fault.Errorf("fuse.mapSlots", fault.Invalid, "memory of %d bytes (%v) for %+v, which needs %d", st.Size, err, g, g.bytes())
	}
	memory, err := unix.Mmap(fd, 0, g.bytes(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, fault.Errorf("fuse.mapSlots", fault.KindOf(err), "map %d bytes for requests: %w", g.bytes(), err)
	}
	_ = unix.Mlock(memory)                       // without the right to, it is merely in place
	_ = unix.Madvise(memory, unix.MADV_DONTDUMP) // users' data
	s := &slots{geometry: g, memory: memory, list: make([]slot, g.Depth)}
	if g.Pooled {
		s.laySlots(pool)
		return s, nil
	}
	for i := range g.Depth {
		n := smallBytes
		if s.isBig(i) {
			n = bigBytes
		}
		l := &s.list[i]
		l.page, memory = memory[:n:n], memory[n:]
		l.message, l.own = message(l.page[readFrom:]), l.page[headBytes:]
		l.request.Slot, l.spill = i, none
	}
	for i := g.Depth - 1; i >= 0; i-- {
		free := s.freeOf(i)
		*free = append(*free, i)
	}
	for i := g.spills() - 1; i >= 0; i-- {
		s.spills = append(s.spills, i)
	}
	return s, nil
}

// unmap gives the memory back; no slot is used any more.
func (s *slots) unmap() {
	if s.memory != nil {
		_ = unix.Munmap(s.memory)
		s.memory, s.list = nil, nil
	}
}

func (s *slots) isBig(i int) bool { return s.pool == nil && i < s.geometry.big() }

// longest returns how long a read or write may be, in bytes.
func (s *slots) longest() int {
	if s.pool != nil {
		return PooledBytesMax
	}
	return attach.IOBytesMax
}

// freeOf returns the list of free slots that slot i belongs in.
func (s *slots) freeOf(i int) *[]int {
	if s.isBig(i) {
		return &s.big
	}
	return &s.small
}

// spillAt returns the memory of a spill.
func (s *slots) spillAt(i int) []byte {
	at := len(s.memory) - (s.geometry.spills()-i)*attach.IOBytesMax
	return s.memory[at : at+attach.IOBytesMax : at+attach.IOBytesMax]
}

// take returns a slot that any request may be read into, or nil.
func (s *slots) take() *slot {
	s.large = max(0, s.large-1)
	if s.pool != nil {
		return s.takePooled()
	}
	from := &s.small
	if len(s.big) > 0 && (s.large > 0 || len(s.small) == 0 || len(s.spills) == 0) {
		from = &s.big
	} else if len(s.spills) == 0 {
		return nil
	}
	n := len(*from)
	if n == 0 {
		return nil
	}
	l := &s.list[(*from)[n-1]]
	*from = (*from)[:n-1]
	s.used++
	return l
}

// read reads a request into l, which was taken just now.
func (s *slots) read(fd int, l *slot) (n int, errno syscall.Errno) {
	if s.pool != nil {
		return s.readPooled(fd, l)
	}
	s.iov[0].Base, s.iov[0].Len = &l.message[0], uint64(len(l.message))
	count := 1
	if !s.isBig(l.request.Slot) {
		i := s.spills[len(s.spills)-1]
		le.PutUint32(l.page, uint32(i))
		rest := s.spillAt(i)[attach.SmallBytesMax:]
		s.iov[1].Base, s.iov[1].Len = &rest[0], uint64(len(rest))
		count = 2
	}
	r, _, errno := syscall.RawSyscall(syscall.SYS_READV, uintptr(fd), uintptr(unsafe.Pointer(&s.iov[0])), uintptr(count))
	return int(r), errno
}

// room gives l's request n bytes for data, and reports whether that can be: it can,
// unless what a predecessor left is wrong. If it is a write, its data is there.
func (s *slots) room(l *slot, n int, write bool) bool {
	if n > attach.SmallBytesMax {
		s.large = largeAhead
	}
	if s.pool != nil {
		return s.roomPooled(l, n, write)
	}
	l.data = l.own
	if n <= len(l.own) {
		return true
	}
	i := int(le.Uint32(l.page))
	at := slices.Index(s.spills, i)
	if at < 0 {
		return false
	}
	s.spills = slices.Delete(s.spills, at, at+1)
	l.spill, l.data = i, s.spillAt(i)
	if write {
		copy(l.data, l.own)
	}
	return true
}

// put gives a slot back. Its request was answered, or needs no answer: a successor
// must not do it again.
func (s *slots) put(l *slot) {
	le.PutUint64(l.message[8:], 0)
	l.buf.release()
	l.rest.release()
	if l.spill != none {
		s.spills = append(s.spills, l.spill)
		l.spill = none
	}
	free := s.freeOf(l.request.Slot)
	*free = append(*free, l.request.Slot)
	s.used--
}

// forget makes nobody's what a predecessor left.
func (s *slots) forget() {
	for i := range s.list {
		le.PutUint64(s.list[i].message[8:], 0)
	}
}

// left takes the slots whose requests a predecessor did not answer. No other slot was
// taken yet.
func (s *slots) left() (left []*slot) {
	answered := func(i int) bool { return s.list[i].message.unique() == 0 }
	for _, free := range []*[]int{&s.big, &s.small} {
		for _, i := range *free {
			if !answered(i) {
				left = append(left, &s.list[i])
			}
		}
		*free = slices.DeleteFunc(*free, func(i int) bool { return !answered(i) })
	}
	s.used += len(left)
	return left
}

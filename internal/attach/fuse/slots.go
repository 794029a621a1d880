package fuse

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// geometry says how many slots there are, and how many of them can be large at once.
type geometry struct {
	Depth int `json:"depth"`
	Large int `json:"large"`
}

// What a slot has: a page for the request's header and arguments, placed so that data
// begins on the next page and can go to a disk as it is; room for a small request's
// data; and what large requests need more.
const (
	headBytes  = host.Align
	smallBytes = headBytes + attach.SmallBytesMax
	restBytes  = attach.IOBytesMax - attach.SmallBytesMax
	slotBytes  = smallBytes + restBytes
	readFrom   = headBytes - inHeaderSize - ioArgsSize // where a request is read to
)

func (g geometry) bytes() int64 { return int64(g.Depth)*smallBytes + int64(g.Large)*restBytes }

// slots is the memory that requests are read into, shared with whoever serves the
// connection next: a memfd, all of it in place from the beginning, because the kernel
// ends a request with an error when it finds no page to copy it to in a process that
// is dying.
//
// The kernel wants room for the longest request each time it is asked for one, though
// most are small. So slots share what only large requests need: slot i has it in
// common with i+Large, i+2*Large and so on, which are its class, by mapping the same
// pages. While one of a class is large, nothing is read into another.
type slots struct {
	geometry
	memory  []byte // Depth times slotBytes, of which parts are the same
	list    []slot
	classes []class
	current int // where the next free slot is looked for first: the one used last, for its caches
	used    int
}

// class is the slots that share pages.
type class struct {
	free  []int
	large bool // one of them is
}

// slot is the place of one request.
type slot struct {
	message message // where it is read to
	data    []byte  // IOBytesMax, the same memory as a WRITE's data
	unique  uint64
	large   bool
	began   int64 // nanoseconds
	request attach.Request
}

// newMemory returns a memfd for g, with its pages in place.
func newMemory(g geometry) (int, error) {
	fd, err := unix.MemfdCreate("holdfast-slots", unix.MFD_CLOEXEC)
	if err == nil {
		if err = unix.Fallocate(fd, 0, 0, g.bytes()); err == nil {
			return fd, nil
		}
		_ = unix.Close(fd)
	}
	return -1, fault.Errorf("fuse.newMemory", fault.KindOf(err), "%d bytes for requests: %w", g.bytes(), err)
}

// mapSlots maps the memfd.
func mapSlots(fd int, g geometry) (*slots, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Size != g.bytes() {
		return nil, fault.Errorf("fuse.mapSlots", fault.Invalid, "memory of %d bytes (%v) for %+v, which needs %d", st.Size, err, g, g.bytes())
	}
	s := &slots{geometry: g, list: make([]slot, g.Depth), classes: make([]class, g.Large)}
	if err := s.mapAll(fd); err != nil {
		s.unmap()
		return nil, fault.Errorf("fuse.mapSlots", fault.KindOf(err), "map %d bytes for requests: %w", g.bytes(), err)
	}
	for i := range s.list {
		l := &s.list[i]
		memory := s.memory[i*slotBytes : (i+1)*slotBytes : (i+1)*slotBytes]
		l.message, l.data = message(memory[readFrom:]), memory[headBytes:]
		l.request.Slot = i
	}
	for i := g.Depth - 1; i >= 0; i-- {
		s.classOf(i).free = append(s.classOf(i).free, i)
	}
	return s, nil
}

func (s *slots) mapAll(fd int) error {
	n := uintptr(s.Depth * slotBytes)
	base, err := unix.MmapPtr(-1, 0, nil, n, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return err
	}
	s.memory = unsafe.Slice((*byte)(base), n)
	place := func(at, n int, offset int64) error {
		_, err := unix.MmapPtr(fd, offset, unsafe.Add(base, at), uintptr(n), unix.PROT_READ|unix.PROT_WRITE,
			unix.MAP_SHARED|unix.MAP_FIXED|unix.MAP_POPULATE)
		return err
	}
	for i := range s.Depth {
		at := i * slotBytes
		if err := place(at, smallBytes, int64(i)*smallBytes); err != nil {
			return err
		}
		if err := place(at+smallBytes, restBytes, int64(s.Depth)*smallBytes+int64(i%s.Large)*restBytes); err != nil {
			return err
		}
	}
	_ = unix.Mlock(s.memory)                       // without the right to, it is merely in place
	_ = unix.Madvise(s.memory, unix.MADV_DONTDUMP) // users' data
	return nil
}

// unmap gives the memory back; no slot is used any more.
func (s *slots) unmap() {
	if s.memory != nil {
		_ = unix.MunmapPtr(unsafe.Pointer(unsafe.SliceData(s.memory)), uintptr(len(s.memory)))
		s.memory, s.list, s.classes = nil, nil, nil
	}
}

func (s *slots) classOf(i int) *class { return &s.classes[i%s.Large] }

// take returns a slot that any request may be read into, or nil.
func (s *slots) take() *slot {
	for range s.classes {
		c := &s.classes[s.current]
		if n := len(c.free); n > 0 && !c.large {
			i := c.free[n-1]
			c.free = c.free[:n-1]
			s.used++
			return &s.list[i]
		}
		s.current = (s.current + 1) % len(s.classes)
	}
	return nil
}

// enlarge says that the slot's request is large.
func (s *slots) enlarge(l *slot) {
	l.large = true
	s.classOf(l.request.Slot).large = true
}

// put gives a slot back. Its request was answered, or needs no answer: a successor
// must not do it again.
func (s *slots) put(l *slot) {
	le.PutUint64(l.message[8:], 0)
	c := s.classOf(l.request.Slot)
	if l.large {
		l.large, c.large = false, false
	}
	c.free = append(c.free, l.request.Slot)
	s.used--
}

// forget makes all slots free for good: what is in them is nobody's.
func (s *slots) forget() {
	for i := range s.list {
		le.PutUint64(s.list[i].message[8:], 0)
	}
}

// left takes the slots whose requests a predecessor did not answer.
func (s *slots) left() (left []*slot) {
	for j := range s.classes {
		c := &s.classes[j]
		free := c.free[:0]
		for _, i := range c.free {
			if l := &s.list[i]; l.message.unique() != 0 {
				left = append(left, l)
				s.used++
			} else {
				free = append(free, i)
			}
		}
		c.free = free
	}
	return left
}

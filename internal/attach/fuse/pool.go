package fuse

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// PooledBytesMax is the longest read or write, in bytes, of a device whose data lies in a
// Pool: the kernel cuts longer ones up.
const PooledBytesMax = 256 << 10

// Pool is memory for the data of requests, which the devices on one loop share: most are
// idle. It is in place from the beginning, like slots, so that nobody has to find memory
// for a write that is to free some. A device finds room for one request at a time even
// when others have all of it: see slots.landing.
//
// What lies in a pool is lost with the process. So it is for kernels that send again what
// was not answered, see [Resends].
type Pool struct {
	memory     []byte
	small, big [][]byte // free ones, the one used last at the end, for its caches
}

// NewPool makes a pool of so many buffers of attach.SmallBytesMax, and of PooledBytesMax.
func NewPool(small, big int) (*Pool, error) {
	n := small*attach.SmallBytesMax + big*PooledBytesMax
	memory, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return nil, fault.Errorf("fuse.NewPool", fault.KindOf(err), "map %d bytes for requests: %w", n, err)
	}
	_ = unix.Mlock(memory)                       // without the right to, it is merely in place
	_ = unix.Madvise(memory, unix.MADV_DONTDUMP) // users' data
	p := &Pool{memory: memory}
	for range big {
		p.big, memory = append(p.big, memory[:PooledBytesMax:PooledBytesMax]), memory[PooledBytesMax:]
	}
	for range small {
		p.small, memory = append(p.small, memory[:attach.SmallBytesMax:attach.SmallBytesMax]), memory[attach.SmallBytesMax:]
	}
	return p, nil
}

// Close gives the memory back. No device uses it any more.
func (p *Pool) Close() {
	_ = unix.Munmap(p.memory)
	p.memory, p.small, p.big = nil, nil, nil
}

// Resends reports whether this machine's kernel, Linux 6.9 or later, can send requests
// again that a process had read and not answered.
func Resends() bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	major, minor := versionOf(unix.ByteSliceToString(u.Release[:]))
	return major > 6 || major == 6 && minor >= 9
}

// versionOf returns the first two numbers of a kernel's release.
func versionOf(release string) (major, minor int) {
	var v [2]int
	i := 0
	for _, c := range release {
		switch {
		case c >= '0' && c <= '9':
			v[i] = v[i]*10 + int(c-'0')
		case c == '.' && i == 0:
			i++
		default:
			return v[0], v[1]
		}
	}
	return v[0], v[1]
}

// piece is a buffer that a slot has, and where it goes back to.
type piece struct {
	data []byte // nil: none
	home *[][]byte
}

// pieceOf takes a buffer from a list of free ones.
func pieceOf(home *[][]byte) (p piece) {
	if n := len(*home); n > 0 {
		p = piece{(*home)[n-1], home}
		*home = (*home)[:n-1]
	}
	return p
}

func (p *piece) release() {
	if p.data != nil {
		*p.home = append(*p.home, p.data)
		*p = piece{}
	}
}

// pageBytes is what a slot with a pool has of its own: room for any request but its data.
const pageBytes = 512

// laySlots lays out slots that have a pool: their pages, then the landing.
func (s *slots) laySlots(pool *Pool) {
	s.pool = pool
	for i := range s.list {
		l := &s.list[i]
		l.page = s.memory[i*pageBytes : (i+1)*pageBytes : (i+1)*pageBytes]
		l.message = message(l.page)
		l.request.Slot, l.spill = i, none
	}
	for i := len(s.list) - 1; i >= 0; i-- {
		s.small = append(s.small, i)
	}
	s.landing = append(s.landing, s.memory[len(s.memory)-PooledBytesMax:])
}

// takePooled is take. While large requests come they are read into big buffers, else
// into small ones, with room for the rest of one that is large after all.
func (s *slots) takePooled() *slot {
	n := len(s.small)
	if n == 0 {
		return nil
	}
	l, p := &s.list[s.small[n-1]], s.pool
	if s.large > 0 {
		l.buf = pieceOf(&p.big)
	}
	if l.buf.data == nil && len(p.small) > 0 {
		if l.rest = pieceOf(&s.landing); l.rest.data == nil {
			l.rest = pieceOf(&p.big)
		}
		if l.rest.data != nil {
			l.buf = pieceOf(&p.small)
		}
	}
	if l.buf.data == nil {
		l.buf = pieceOf(&s.landing)
	}
	if l.buf.data == nil {
		l.buf = pieceOf(&p.big)
	}
	if l.buf.data == nil {
		return nil // one of this device's own requests has the landing, and will give it back
	}
	s.small = s.small[:n-1]
	s.used++
	return l
}

// readPooled is read.
func (s *slots) readPooled(fd int, l *slot) (n int, errno syscall.Errno) {
	const head = inHeaderSize + ioArgsSize
	buf := l.buf.data
	s.iov[0].Base, s.iov[0].Len = &l.page[0], head
	s.iov[1].Base, s.iov[1].Len = &buf[0], uint64(len(buf))
	count := 2
	if rest := l.rest.data; rest != nil {
		s.iov[2].Base, s.iov[2].Len = &rest[len(buf)], uint64(len(rest)-len(buf))
		count = 3
	}
	r, _, errno := syscall.RawSyscall(syscall.SYS_READV, uintptr(fd), uintptr(unsafe.Pointer(&s.iov[0])), uintptr(count))
	n = int(r)
	if op := l.message.opcode(); errno == 0 && n >= inHeaderSize && op != opRead && op != opWrite {
		if n > head { // the end of its arguments
			copy(l.page[head:], buf[:min(n-head, len(buf))])
		}
		l.buf.release()
		l.rest.release()
	}
	return n, errno
}

// roomPooled is room.
func (s *slots) roomPooled(l *slot, n int, write bool) bool {
	if n <= len(l.buf.data) {
		l.rest.release()
		l.data = l.buf.data
		return true
	}
	if !write && len(s.pool.big) > 0 && l.rest.data != nil && l.rest.home == &s.landing {
		l.rest.release() // the landing is for those who find nothing else
		l.rest = pieceOf(&s.pool.big)
	}
	if n > len(l.rest.data) {
		return false
	}
	if write {
		copy(l.rest.data, l.buf.data)
	}
	l.buf.release()
	l.buf, l.rest = l.rest, piece{}
	l.data = l.buf.data
	return true
}

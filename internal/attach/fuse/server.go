package fuse

import (
	"log/slog"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/obs"
)

// burst is how many requests are read before others on the loop have their turn.
const burst = 64

// server reads requests from a FUSE connection, gives them to the backend, and writes
// the answers. All of it happens on the loop's goroutine, except where it says
// otherwise.
type server struct {
	fd      int // of /dev/fuse, non-blocking
	loop    *host.Loop
	backend attach.Backend
	slots   *slots
	file    fileAttrs
	log     *slog.Logger
	meter   attach.Meter
	epoch   time.Time // what slot.began counts from

	watch     *host.Watch
	paused    bool   // nothing is read
	reading   bool   // in the loop that reads
	starved   bool   // there was no free slot
	gone      bool   // the connection is
	building  bool   // nobody can have written: setting up a loop device flushes, and must not depend on the backend
	hasResend bool   // INIT: the kernel can send requests again
	warned    bool   // of a malformed request
	onIdle    func() // called when nothing is in flight any more
	onGone    func() // called when the connection is gone
	onInit    func() // called when INIT was answered

	iov  [2]unix.Iovec
	head [outHeaderSize + 128]byte // an answer, as far as it is no data
}

// fileAttrs is what users of the one file can know of it.
type fileAttrs struct {
	size      int64
	blockSize int
	readOnly  bool
	noDiscard bool
}

func newServer(fd int, o attach.Options, m *slots) *server {
	s := &server{fd: fd, loop: o.Loop, backend: o.Backend, slots: m, log: o.Log, epoch: time.Now(), paused: true}
	s.file = fileAttrs{size: o.Size, blockSize: o.BlockSize, readOnly: o.ReadOnly, noDiscard: o.NoDiscard}
	done := s.done
	for i := range m.list {
		m.list[i].request.Done = done
	}
	s.watch = s.loop.Watch(fd, host.Readable, s.pump)
	return s
}

// resume begins, or goes on, to read.
func (s *server) resume() {
	s.paused = false
	s.pump()
}

// pause stops reading, at a request boundary, and has idle called when all requests are
// answered. Those that come wait in the kernel.
func (s *server) pause(idle func()) {
	s.paused = true
	s.onIdle = idle
	s.settle()
}

// close ends the server, which is idle or whose connection is gone.
func (s *server) close() {
	s.paused = true
	s.watch.Close()
}

// repeat has what a predecessor read and did not answer done again: by the kernel, which
// then sends it once more, or from the slots.
func (s *server) repeat(fromSlots bool) error {
	if !fromSlots {
		s.slots.forget()
		b := notification(notifyResend)
		if _, err := unix.Write(s.fd, b); err != nil {
			return fault.Errorf("fuse.repeat", fault.KindOf(err), "have the kernel send again what was not answered: %w", err)
		}
		return nil
	}
	s.reading = true // answers inside serve must not begin to read
	defer func() { s.reading = false }()
	for _, l := range s.slots.left() {
		s.meter.Again()
		s.serve(l, l.message.length())
	}
	return nil
}

// pump reads requests until there is none, or no slot.
func (s *server) pump() {
	if s.paused || s.reading || s.gone {
		return
	}
	s.reading, s.starved = true, false
	lost := s.read()
	s.reading = false
	if lost {
		s.lost()
	}
}

// read reads and serves a burst of requests. It reports whether the connection is gone.
func (s *server) read() (lost bool) {
	for range burst {
		l := s.slots.take()
		if l == nil {
			s.starved = true // settle goes on
			return false
		}
		n, errno := s.slots.read(s.fd, l)
		if errno == 0 {
			if l.message.unique()&resentBit != 0 {
				s.meter.Again()
			}
			s.serve(l, n)
			continue
		}
		s.slots.put(l)
		switch errno {
		case syscall.EAGAIN:
			s.watch.Arm()
			return false
		case syscall.EINTR, syscall.ENOENT: // ENOENT: the request was taken back meanwhile
		case syscall.ENODEV:
			return true
		default: // the kernel has failed that request
			s.log.Error("a request can't be read", obs.Err(errno))
		}
	}
	s.watch.Arm() // which fires at once if there is more
	return false
}

// lost is called when the connection is gone.
func (s *server) lost() {
	s.gone = true
	s.watch.Close()
	if s.onGone != nil {
		s.onGone()
	}
	s.settle()
}

// settle is called when a slot became free.
func (s *server) settle() {
	if s.slots.used == 0 && s.onIdle != nil && !s.reading {
		idle := s.onIdle
		s.onIdle = nil
		idle()
	}
	if s.starved {
		s.pump()
	}
}

// serve does the request of n bytes in l.
func (s *server) serve(l *slot, n int) {
	m := l.message
	l.unique = m.unique()
	if n < inHeaderSize || m.length() != n || n > len(m) && m.opcode() != opWrite {
		s.malformed(l, fault.Errorf("fuse.serve", fault.Invalid, "%d bytes say that they are %d of operation %d", n, m.length(), m.opcode()))
		return
	}
	switch r := &l.request; m.opcode() {
	case opRead, opWrite:
		if s.ioRequest(l, r) {
			s.submit(l)
		}
	case opFsync:
		if s.building {
			s.answer(l, 0, nil)
			return
		}
		r.Op, r.Flags, r.Offset, r.Length, r.Buf = attach.Flush, 0, 0, 0, nil
		s.submit(l)
	case opFallocate:
		if s.zeroRequest(l, r) {
			s.submit(l)
		}
	default:
		s.control(l)
	}
}

// submit gives a request to the backend, or refuses it.
func (s *server) submit(l *slot) {
	r := &l.request
	r.Err = nil
	if err := r.Check(s.file.size, s.file.blockSize); err != nil {
		s.malformed(l, err)
		return
	}
	l.began = int64(time.Since(s.epoch))
	s.meter.Begin()
	s.backend.Submit(r)
}

// ioRequest makes the request that a READ or WRITE is, or answers it.
func (s *server) ioRequest(l *slot, r *attach.Request) bool {
	m := l.message
	if m.length() < inHeaderSize+ioArgsSize {
		s.malformed(l, fault.Errorf("fuse.serve", fault.Invalid, "a read or write of %d bytes in all", m.length()))
		return false
	}
	args, write := m[inHeaderSize:inHeaderSize+ioArgsSize], m.opcode() == opWrite
	n := int(le.Uint32(args[16:]))
	r.Op, r.Flags, r.Offset, r.Length = attach.Read, 0, int64(le.Uint64(args[8:])), int64(n)
	if write {
		r.Op = attach.Write
		if s.file.readOnly {
			s.answer(l, syscall.EROFS, nil)
			return false
		}
	}
	if n > s.slots.longest() || write && m.length() != inHeaderSize+ioArgsSize+n || !s.slots.room(l, n, write) {
		s.malformed(l, fault.Errorf("fuse.serve", fault.Invalid, "%v of %d bytes, %d in all", r.Op, n, m.length()))
		return false
	}
	r.Buf = l.data[:n:n]
	return true
}

// zeroRequest makes the request that a FALLOCATE is, or answers it.
func (s *server) zeroRequest(l *slot, r *attach.Request) bool {
	args := l.message.args()
	if len(args) < 32 {
		s.malformed(l, fault.Errorf("fuse.serve", fault.Invalid, "fallocate has %d bytes of arguments", len(args)))
		return false
	}
	r.Op, r.Flags, r.Buf = attach.Zero, 0, nil
	r.Offset, r.Length = int64(le.Uint64(args[8:])), int64(le.Uint64(args[16:]))
	switch mode := le.Uint32(args[24:]); {
	case s.file.readOnly:
		s.answer(l, syscall.EROFS, nil)
		return false
	case mode == fallocatePunchHole|fallocateKeepSize && !s.file.noDiscard:
		r.Flags = attach.Unmap
	case mode&^fallocateKeepSize == fallocateZeroRange:
	default: // which the loop device remembers, and asks no more
		s.answer(l, syscall.EOPNOTSUPP, nil)
		return false
	}
	return true
}

// done answers a request that the backend is done with.
func (s *server) done(r *attach.Request) {
	l := &s.slots.list[r.Slot]
	s.meter.End(r, time.Since(s.epoch)-time.Duration(l.began))
	switch {
	case r.Err != nil:
		s.answer(l, attach.Errno(r.Err), nil)
	case r.Op == attach.Read:
		s.answer(l, 0, r.Buf)
	case r.Op == attach.Write:
		out := s.head[outHeaderSize:]
		le.PutUint64(out, uint64(r.Length))
		s.answer(l, 0, out[:8])
	default:
		s.answer(l, 0, nil)
	}
}

// malformed refuses a request that no kernel should have sent.
func (s *server) malformed(l *slot, err error) {
	s.meter.Malformed()
	if !s.warned {
		s.warned = true
		s.log.Warn("a request is refused; further ones will be too, without a line", obs.Err(err))
	}
	s.answer(l, syscall.EINVAL, nil)
}

// answer ends l's request with errno, or with data.
func (s *server) answer(l *slot, errno syscall.Errno, data []byte) {
	if errno != 0 {
		data = nil
	}
	putHeader(s.head[:], len(data), errno, l.unique)
	n := 1
	s.iov[0].Base, s.iov[0].Len = &s.head[0], outHeaderSize
	if len(data) > 0 {
		s.iov[1].Base, s.iov[1].Len = unsafe.SliceData(data), uint64(len(data))
		n = 2
	}
	// An answer never waits, so the scheduler need not know of it.
	_, _, e := syscall.RawSyscall(syscall.SYS_WRITEV, uintptr(s.fd), uintptr(unsafe.Pointer(&s.iov[0])), uintptr(n))
	// ENOENT: its asker was killed, or it was answered before a crash.
	if e != 0 && e != syscall.ENOENT && !s.gone && e != syscall.ENODEV && e != syscall.ECONNABORTED {
		s.log.Error("an answer can't be written", obs.Err(e))
	}
	s.free(l)
}

// free gives l back.
func (s *server) free(l *slot) {
	s.slots.put(l)
	s.settle()
}

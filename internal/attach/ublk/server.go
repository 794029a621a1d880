package ublk

import (
	"encoding/binary"
	"log/slog"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/attach/ublk/ublkctl"
	"github.com/holdfast-io/holdfast/internal/attach/ublk/uring"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/obs"
)

// Commands of a queue, as ioctl numbers.
const (
	ioFetch          = 3<<30 | 16<<16 | 'u'<<8 | 0x20
	ioCommitAndFetch = 3<<30 | 16<<16 | 'u'<<8 | 0x21
)

// A request as the driver describes it: 24 bytes, all of a queue in memory that it
// shares.
const (
	descBytes = 24

	opRead        = 0
	opWrite       = 1
	opFlush       = 2
	opDiscard     = 3
	opWriteZeroes = 5

	flagFUA = 1 << 13
)

var le = binary.LittleEndian

// server serves the one queue of a device, on the loop's goroutine.
type server struct {
	o     attach.Options
	fd    int // of /dev/ublkcN
	ring  *uring.Ring
	descs []byte
	data  []byte // the slots' buffers
	bytes int    // of each
	slots []slot
	log   *slog.Logger
	meter attach.Meter
	epoch time.Time
	watch *host.Watch
	send  func() // flush, made once

	size     int64
	used     int  // requests that the backend has
	fetched  int  // commands that the driver has
	paused   bool // what comes waits
	sending  bool // send was posted
	pumping  bool
	warned   bool
	failing  bool   // everything fails, whatever the backend does
	scratch  []byte // where data goes that nobody wants
	closed   bool   // descriptors are
	onIdle   func() // called when the backend has nothing any more
	onGone   func() // called when the driver has given all commands back
	goneSent bool
}

// slot is the place of one request: the driver's tag is its number.
type slot struct {
	request attach.Request
	buf     []byte
	began   int64
	owed    bool // the driver waits for an answer
	parked  bool // it came while the server was paused
}

// bufferBytes returns how long a request may be, in bytes, so that all of them stay
// within Options.MemoryBytesMax.
func bufferBytes(o attach.Options) int {
	n := attach.IOBytesMax
	for n > attach.SmallBytesMax && int64(n)*int64(o.Depth) > o.MemoryBytesMax() {
		n /= 2
	}
	return n
}

// openServer opens device id and begins to fetch requests from it. It is called on the
// loop's goroutine.
func openServer(o attach.Options, id uint32) (s *server, err error) {
	s = &server{o: o, fd: -1, bytes: bufferBytes(o), slots: make([]slot, o.Depth), log: o.Log, epoch: time.Now(), size: o.Size}
	s.send = s.flush
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.fd, err = ublkctl.Open(id); err != nil {
		return s, err
	}
	page := unix.Getpagesize()
	if s.descs, err = unix.Mmap(s.fd, 0, (o.Depth*descBytes+page-1)/page*page, unix.PROT_READ, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		return s, fault.Errorf("ublk.open", fault.KindOf(err), "map the queue: %w", err)
	}
	if s.data, err = unix.Mmap(-1, 0, o.Depth*s.bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE); err != nil {
		return s, fault.Errorf("ublk.open", fault.KindOf(err), "%d bytes for requests: %w", o.Depth*s.bytes, err)
	}
	s.scratch = host.Buffer(s.bytes)
	_ = unix.Mlock(s.data)                       // without the right to, it is merely in place
	_ = unix.Madvise(s.data, unix.MADV_DONTDUMP) // users' data
	if s.ring, err = uring.Open(o.Depth, false); err != nil {
		return s, err
	}
	done := s.done
	for i := range s.slots {
		l := &s.slots[i]
		l.request.Slot, l.request.Done = i, done
		l.buf = s.data[i*s.bytes : (i+1)*s.bytes : (i+1)*s.bytes]
		s.command(ioFetch, i, 0)
	}
	s.watch = o.Loop.Watch(s.ring.FD(), host.Readable, s.pump)
	if err = s.ring.Enter(false); err != nil {
		return s, fault.Errorf("ublk.open", fault.KindOf(err), "fetch requests: %w", err)
	}
	s.watch.Arm()
	return s, nil
}

// command adds one for a tag.
func (s *server) command(op uint32, tag int, result int32) {
	l := &s.slots[tag]
	l.owed = false
	buf := l.buf
	if s.failing { // the backend may still have that
		buf = s.scratch
	}
	c := s.ring.Add(s.fd, op, uint64(tag))
	le.PutUint16(c.Data[0:], 0) // queue
	le.PutUint16(c.Data[2:], uint16(tag))
	le.PutUint32(c.Data[4:], uint32(result))
	le.PutUint64(c.Data[8:], uint64(uintptr(unsafe.Pointer(&buf[0]))))
	s.fetched++
}

// close gives up what the server has open. The driver has given all commands back, or
// never sent a request: of a device that lives, closing makes kernels stumble (6.12
// frees something twice), unless it is the process that ends.
func (s *server) close() {
	if s.closed {
		return
	}
	s.closed = true
	if s.watch != nil {
		s.watch.Close()
	}
	if s.ring != nil {
		s.ring.Close()
	}
	if s.descs != nil {
		_ = unix.Munmap(s.descs)
	}
	if s.fd >= 0 {
		_ = unix.Close(s.fd) // nothing is written through it
	}
}

// free gives the buffers back, once neither backend nor driver has any.
func (s *server) free() {
	if s.data != nil {
		_ = unix.Munmap(s.data)
		s.data, s.slots = nil, nil
	}
}

// pump takes what has come.
func (s *server) pump() {
	if s.closed {
		return
	}
	s.pumping = true
	for !s.closed {
		tag, res, ok := s.ring.Take()
		if !ok {
			break
		}
		s.fetched--
		if res == 0 {
			s.serve(int(tag))
		} // else the driver takes the command back
	}
	s.pumping = false
	s.flush()
	if s.closed {
		return
	}
	if s.fetched == 0 && !s.owes() && !s.goneSent {
		s.goneSent = true
		if s.onGone != nil {
			s.onGone()
		}
		return
	}
	s.watch.Arm()
}

// owes reports whether the driver waits for an answer.
func (s *server) owes() bool {
	for i := range s.slots {
		if s.slots[i].owed {
			return true
		}
	}
	return false
}

// fail has everything fail from now on, what the backend has included, so that the
// driver can take the device away.
func (s *server) fail() {
	s.failing = true
	for i := range s.slots {
		if l := &s.slots[i]; l.owed {
			l.parked = false
			s.answer(i, -int32(syscall.EIO))
		}
	}
	s.flush()
}

// flush sends what was answered.
func (s *server) flush() {
	s.sending = false
	if s.closed {
		return
	}
	if err := s.ring.Enter(false); err != nil {
		s.log.Error("answers can't be sent", obs.Err(err))
	}
}

// pause has what comes wait, and idle called when the backend has nothing any more.
func (s *server) pause(idle func()) {
	s.paused, s.onIdle = true, idle
	s.settle()
}

// resume goes on with what waits.
func (s *server) resume() {
	s.paused, s.onIdle = false, nil
	for i := range s.slots {
		if l := &s.slots[i]; l.parked {
			l.parked = false
			s.serve(i)
		}
	}
	s.flush()
}

func (s *server) settle() {
	if s.used == 0 && s.onIdle != nil {
		idle := s.onIdle
		s.onIdle = nil
		idle()
	}
}

// serve does the request of a tag.
func (s *server) serve(tag int) {
	l := &s.slots[tag]
	l.owed = true
	switch {
	case s.failing:
		s.answer(tag, -int32(syscall.EIO))
		return
	case s.paused:
		l.parked = true
		return
	}
	d := s.descs[tag*descBytes:]
	op, sectors, start := le.Uint32(d), le.Uint32(d[4:]), le.Uint64(d[8:])
	r := &l.request
	r.Err, r.Flags, r.Buf = nil, 0, nil
	r.Offset, r.Length = int64(start)*512, int64(sectors)*512
	if op&flagFUA != 0 {
		r.Flags = attach.FUA
	}
	switch op & 0xff {
	case opRead:
		r.Op, r.Flags = attach.Read, 0
	case opWrite:
		r.Op = attach.Write
	case opFlush:
		r.Op, r.Flags, r.Offset, r.Length = attach.Flush, 0, 0, 0
	case opDiscard:
		r.Op, r.Flags = attach.Zero, r.Flags|attach.Unmap
	case opWriteZeroes:
		r.Op = attach.Zero
	default:
		s.answer(tag, -int32(syscall.EOPNOTSUPP))
		return
	}
	if r.Op == attach.Read || r.Op == attach.Write {
		if r.Length > int64(s.bytes) {
			s.malformed(tag, fault.Errorf("ublk.serve", fault.Invalid, "%v of %d bytes", r.Op, r.Length))
			return
		}
		r.Buf = l.buf[:r.Length:r.Length]
	}
	if err := r.Check(s.size, s.o.BlockSize); err != nil {
		s.malformed(tag, err)
		return
	}
	switch {
	case s.o.ReadOnly && (r.Op == attach.Write || r.Op == attach.Zero):
		s.answer(tag, -int32(syscall.EROFS))
	case s.o.NoDiscard && r.Flags&attach.Unmap != 0:
		s.answer(tag, -int32(syscall.EOPNOTSUPP))
	default:
		l.began = int64(time.Since(s.epoch))
		s.used++
		s.meter.Begin()
		s.o.Backend.Submit(r)
	}
}

// malformed refuses a request that no kernel should have sent.
func (s *server) malformed(tag int, err error) {
	s.meter.Malformed()
	if !s.warned {
		s.warned = true
		s.log.Warn("a request is refused; further ones will be too, without a line", obs.Err(err))
	}
	s.answer(tag, -int32(syscall.EINVAL))
}

// done answers a request that the backend is done with.
func (s *server) done(r *attach.Request) {
	l := &s.slots[r.Slot]
	s.meter.End(r, time.Since(s.epoch)-time.Duration(l.began))
	s.used--
	result := int32(min(r.Length, 1<<30))
	if r.Op == attach.Flush {
		result = 0
	}
	if r.Err != nil {
		result = -int32(attach.Errno(r.Err))
	}
	if l.owed && !s.closed && !s.failing {
		s.answer(r.Slot, result)
	}
	s.settle()
}

// answer ends the request of a tag, and fetches the next.
func (s *server) answer(tag int, result int32) {
	s.command(ioCommitAndFetch, tag, result)
	if s.pumping || s.sending {
		return
	}
	// Others may be done in this turn of the loop, too: they go together.
	if s.sending = s.o.Loop.TryPost(s.send); !s.sending {
		s.flush()
	}
}

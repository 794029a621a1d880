package nbd

import (
	"syscall"
	"time"

	"github.com/holdfast-io/holdfast/internal/attach"
)

// fill makes the backend's request of what a client asks for in s.header, or returns
// why not. It is called by the connection's reader.
func (f *Frontend) fill(s *slot) syscall.Errno {
	q, r := &s.header, &s.request
	*r = attach.Request{Slot: r.Slot, Done: f.done, Offset: int64(q.offset), Length: int64(q.length)}
	switch {
	case f.o.ReadOnly && (q.cmd == cmdWrite || q.cmd == cmdTrim || q.cmd == cmdWriteZeroes):
		return syscall.EPERM
	case q.flags&^allowedFlags(q.cmd) != 0:
		return syscall.EINVAL
	}
	switch q.cmd {
	case cmdRead:
		r.Op = attach.Read
		if q.length > attach.IOBytesMax && q.flags&cmdDF != 0 {
			return syscall.EOVERFLOW
		}
	case cmdWrite:
		r.Op, r.Flags = attach.Write, durable(q)
	case cmdFlush:
		r.Op, r.Offset, r.Length = attach.Flush, 0, 0
	case cmdTrim:
		r.Op, r.Flags = attach.Zero, durable(q)|attach.Unmap
		if f.o.NoDiscard {
			return syscall.ENOTSUP
		}
	case cmdWriteZeroes:
		r.Op, r.Flags = attach.Zero, durable(q)
		if q.flags&(cmdFastZero|cmdNoHole) == cmdFastZero|cmdNoHole {
			return syscall.ENOTSUP // which may be no faster than writing them
		}
		if q.flags&cmdNoHole == 0 && !f.o.NoDiscard {
			r.Flags |= attach.Unmap
		}
	case cmdBlockStatus:
		r.Op = attach.Zero // for the check; the backend never sees it
	default:
		return syscall.EINVAL
	}
	return f.fit(s)
}

// allowedFlags returns the flags that a command may have.
func allowedFlags(cmd uint16) uint16 {
	switch cmd {
	case cmdRead:
		return cmdFUA | cmdDF
	case cmdWriteZeroes:
		return cmdFUA | cmdNoHole | cmdFastZero
	case cmdBlockStatus:
		return cmdFUA | cmdReqOne
	}
	return cmdFUA // which means nothing where nothing is written
}

func durable(q *request) attach.Flags {
	if q.flags&cmdFUA != 0 {
		return attach.FUA
	}
	return 0
}

// fit checks the request's range, and cuts off what goes beyond a slot for later.
func (f *Frontend) fit(s *slot) syscall.Errno {
	r := &s.request
	if r.Op == attach.Read || r.Op == attach.Write {
		if r.Length > payloadBytesMax {
			return syscall.EOVERFLOW
		}
		if r.Offset < 0 || r.Offset > f.size.Load() || r.Length > f.size.Load()-r.Offset {
			return beyond(r.Op)
		}
		n := min(r.Length, attach.IOBytesMax)
		s.left, r.Length = r.Length-n, n
		r.Buf = s.buf[:n:n]
	}
	if r.Check(f.size.Load(), f.o.BlockSize) != nil || s.left%int64(f.o.BlockSize) != 0 {
		return syscall.EINVAL
	}
	return 0
}

// beyond is what the protocol wants to be said of a range beyond the end.
func beyond(op attach.Op) syscall.Errno {
	if op == attach.Write {
		return syscall.ENOSPC
	}
	return syscall.EINVAL
}

// submit gives a request to the backend, on the loop's goroutine.
func (f *Frontend) submit(s *slot) {
	if s.header.cmd == cmdBlockStatus {
		f.ask(s)
		return
	}
	s.began = int64(time.Since(f.epoch))
	f.meter.Begin()
	f.o.Backend.Submit(&s.request)
}

// finished is called by the backend.
func (f *Frontend) finished(r *attach.Request) {
	s := &f.slots.list[r.Slot]
	f.meter.End(r, time.Since(f.epoch)-time.Duration(s.began))
	s.errno = wireErrno(attach.Errno(r.Err))
	s.conn.done(s)
}

// ask asks the backend for block status. It is rare, so it may allocate.
func (f *Frontend) ask(s *slot) {
	m, ok := f.o.Backend.(attach.Mapper)
	if !ok {
		f.answerStatus(s, []attach.Extent{{Length: s.request.Length}})
		return
	}
	q := &attach.Question{Offset: s.request.Offset, Length: s.request.Length, Extents: make([]attach.Extent, 0, extentsMax)}
	q.Done = func(q *attach.Question) {
		if q.Err != nil {
			s.errno = wireErrno(attach.Errno(q.Err))
			s.conn.done(s)
			return
		}
		f.answerStatus(s, q.Extents)
	}
	m.Map(q)
}

// answerStatus answers with what the extents say, as far as the client asked.
func (f *Frontend) answerStatus(s *slot, extents []attach.Extent) {
	merged := merge(extents, s.request.Length)
	if len(merged) == 0 {
		s.errno = uint32(syscall.EIO)
		s.conn.done(s)
		return
	}
	if s.header.flags&cmdReqOne != 0 {
		merged = merged[:1]
	}
	b := be.AppendUint32(s.small[:0], contextAllocID)
	for _, e := range merged {
		b = be.AppendUint32(b, uint32(e.Length))
		flags := uint32(0)
		if e.Hole {
			flags = extentHole | extentZero
		}
		b = be.AppendUint32(b, flags)
	}
	s.status = len(b)
	s.conn.done(s)
}

// merge returns the extents as far as length, with
// neighbours that are alike made one.
func merge(extents []attach.Extent, length int64) (merged []attach.Extent) {
	for _, e := range extents {
		e.Length = min(e.Length, length)
		length -= e.Length
		if n := len(merged); n > 0 && merged[n-1].Hole == e.Hole {
			merged[n-1].Length += e.Length
		} else if e.Length > 0 {
			merged = append(merged, e)
		}
	}
	return merged
}

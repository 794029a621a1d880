package attachtest

import (
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/host"
)

// Strict stands before a backend and holds the front end to what package attach says
// about requests.
type Strict struct {
	Behind    attach.Backend
	T         testing.TB
	Size      atomic.Int64 // of the volume
	BlockSize int
	Depth     int
	ReadOnly  bool
	NoDiscard bool

	thread int
	slots  map[int]*attach.Request
	done   map[int]func(*attach.Request)
}

// Submit checks r and passes it on.
func (s *Strict) Submit(r *attach.Request) {
	s.check(r)
	if s.slots == nil {
		s.slots, s.done = map[int]*attach.Request{}, map[int]func(*attach.Request){}
	}
	if s.slots[r.Slot] != nil {
		s.T.Errorf("slot %d is in flight twice", r.Slot)
	}
	s.slots[r.Slot], s.done[r.Slot] = r, r.Done
	r.Done = s.pass
	s.Behind.Submit(r)
}

func (s *Strict) pass(r *attach.Request) {
	done := s.done[r.Slot]
	if done == nil {
		s.T.Errorf("slot %d is done twice", r.Slot)
		return
	}
	delete(s.slots, r.Slot)
	delete(s.done, r.Slot)
	r.Done = done
	r.Done(r)
}

func (s *Strict) check(r *attach.Request) {
	if s.thread == 0 {
		s.thread = unix.Gettid()
	}
	if tid := unix.Gettid(); tid != s.thread {
		s.T.Errorf("a request comes on thread %d, those before on %d", tid, s.thread)
	}
	if err := r.Check(s.Size.Load(), s.BlockSize); err != nil {
		s.T.Error(err)
	}
	switch r.Op {
	case attach.Read, attach.Write:
		if int64(len(r.Buf)) != r.Length || !host.Aligned(r.Buf) {
			s.T.Errorf("%v of %d bytes has a buffer of %d at %p", r.Op, r.Length, len(r.Buf), r.Buf)
		}
	default:
		if r.Buf != nil {
			s.T.Errorf("%v has a buffer", r.Op)
		}
	}
	if r.Slot < 0 || r.Slot >= s.Depth {
		s.T.Errorf("slot %d of %d", r.Slot, s.Depth)
	}
	if s.ReadOnly && (r.Op == attach.Write || r.Op == attach.Zero) {
		s.T.Errorf("%v of a read-only device", r.Op)
	}
	if s.NoDiscard && r.Flags&attach.Unmap != 0 {
		s.T.Error("a discard, which the device does not offer")
	}
	if r.Err != nil {
		s.T.Errorf("a new request has an error: %v", r.Err)
	}
}

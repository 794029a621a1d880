package attach

import (
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/host"
)

// Sectors stands before a backend that knows whole blocks of 4 KiB only, and does what
// is made of smaller sectors (Options.BlockSize 512): it reads the blocks that are
// touched in part, puts the sectors in, and writes them back. What is made of whole
// blocks passes as it is.
//
// Two requests that change different sectors of one block would undo each other if they
// overlapped in time, so such wait for one another, in the order in which they came.
//
// The volume's size is a multiple of 4 KiB. Methods are for the loop's goroutine. A
// partial write is no more atomic than a write of two blocks: after a crash in the middle
// the block is the old one or the new one.
type Sectors struct {
	behind   Backend
	slots    []sectorSlot // by Request.Slot
	buffers  [][]byte     // free
	inFlight *sectorSlot  // changes that are under way, linked by next
	waiting  *sectorSlot  // changes that wait for others, the oldest first
	last     *sectorSlot  // of waiting
	starved  []*sectorSlot
}

// pieceBytes is how much of a request that is not made of whole blocks is done at once,
// and pieces how many of such requests are under way together; more wait.
const (
	pieceBytes = 128 << 10
	pieces     = 8
)

// sectorSlot is one request under way.
type sectorSlot struct {
	s        *Sectors
	from     *Request       // nil: the slot is free
	done     func(*Request) // from's own, while it passes
	pass     func(*Request) // passed, made once
	next     *sectorSlot
	start    int64 // of all blocks that it touches, in bytes
	end      int64
	partial  bool // not made of whole blocks
	counted  bool // it is among inFlight
	buf      []byte
	at       int64 // of from, what comes before is done
	stage    sectorStage
	piece    int64 // where the piece begins, a whole block
	pieceEnd int64
	inner    Request
}

// sectorStage is what the inner request of a piece does.
type sectorStage uint8

const (
	readAll  sectorStage = iota // for a read
	readHead                    // the first block, before a write
	readTail                    // the last block, before a write
	writeAll
	zeroAll
)

// NewSectors returns one for front ends of a depth. It takes 1 MiB.
func NewSectors(behind Backend, depth int) *Sectors {
	s := &Sectors{behind: behind, slots: make([]sectorSlot, depth), starved: make([]*sectorSlot, 0, depth)}
	for i := range s.slots {
		l := &s.slots[i]
		l.s = s
		l.inner.Slot = i
		l.inner.Done, l.pass = l.step, l.passed
	}
	for range pieces {
		s.buffers = append(s.buffers, host.Buffer(pieceBytes))
	}
	return s
}

// Map is Mapper.Map: what is behind is asked, or all is data.
func (s *Sectors) Map(q *Question) {
	m, ok := s.behind.(Mapper)
	if !ok {
		q.Extents = append(q.Extents, Extent{Length: q.Length})
		q.End(nil)
		return
	}
	cut := q.Offset % block.Size
	whole := *q
	whole.Offset, whole.Length = q.Offset-cut, roundUp(q.Offset+q.Length)-(q.Offset-cut)
	whole.Done = func(w *Question) {
		q.Extents = w.Extents
		if w.Err == nil && len(q.Extents) > 0 {
			q.Extents[0].Length -= cut
		}
		q.End(w.Err)
	}
	m.Map(&whole)
}

func roundUp(n int64) int64 { return (n + block.Size - 1) / block.Size * block.Size }

// Submit is Backend.Submit.
func (s *Sectors) Submit(r *Request) {
	l := &s.slots[r.Slot]
	l.partial = (r.Offset|r.Length)%block.Size != 0
	if r.Op == Flush || r.Op == Read && !l.partial {
		s.behind.Submit(r)
		return
	}
	l.from, l.at = r, r.Offset
	l.start, l.end = r.Offset/block.Size*block.Size, roundUp(r.Offset+r.Length)
	if r.Op == Read {
		l.begin()
		return
	}
	if l.mustWait(nil) {
		l.next = nil
		if s.waiting == nil {
			s.waiting = l
		} else {
			s.last.next = l
		}
		s.last = l
		return
	}
	l.launch()
}

// launch begins a change that waits for no other.
func (l *sectorSlot) launch() {
	l.counted = true
	l.next, l.s.inFlight = l.s.inFlight, l
	l.begin()
}

// mustWait reports whether a change conflicts with one that is under way, or with one
// that waits and came before it: those as far as until, or all.
func (l *sectorSlot) mustWait(until *sectorSlot) bool {
	for o := l.s.inFlight; o != nil; o = o.next {
		if l.conflicts(o) {
			return true
		}
	}
	for o := l.s.waiting; o != until; o = o.next {
		if l.conflicts(o) {
			return true
		}
	}
	return false
}

func (l *sectorSlot) conflicts(o *sectorSlot) bool {
	return (l.partial || o.partial) && l.start < o.end && o.start < l.end
}

// begin begins a request, or has it wait for a buffer.
func (l *sectorSlot) begin() {
	s, r := l.s, l.from
	if !l.partial {
		l.done, r.Done = r.Done, l.pass
		s.behind.Submit(r)
		return
	}
	if len(s.buffers) == 0 {
		s.starved = append(s.starved, l)
		return
	}
	l.buf = s.buffers[len(s.buffers)-1]
	s.buffers = s.buffers[:len(s.buffers)-1]
	l.nextPiece()
}

// passed is called when a change of whole blocks is done.
func (l *sectorSlot) passed(r *Request) {
	r.Done = l.done
	l.finish(r.Err)
}

// nextPiece begins the next piece of a partial request.
func (l *sectorSlot) nextPiece() {
	r := l.from
	l.piece = l.at / block.Size * block.Size
	l.pieceEnd = min(l.end, l.piece+pieceBytes)
	rest := r.Offset + r.Length - l.at
	switch {
	case r.Op == Read:
		l.stage = readAll
	case r.Op == Zero && l.at%block.Size == 0 && rest >= block.Size:
		l.stage, l.pieceEnd = zeroAll, l.at+rest/block.Size*block.Size
	default:
		if r.Op == Zero { // the block at one of its ends
			l.pieceEnd = l.piece + block.Size
		}
		l.stage = readHead
		if !l.splits(l.piece) {
			l.toTail()
			return
		}
	}
	l.submit()
}

// splits reports whether the request changes only a part of the block at at.
func (l *sectorSlot) splits(at int64) bool {
	return l.from.Offset > at || l.from.Offset+l.from.Length < at+block.Size
}

// toTail goes on after the first block of a piece was read, or need not be.
func (l *sectorSlot) toTail() {
	tail := l.pieceEnd - block.Size
	l.stage = readTail
	if tail == l.piece || !l.splits(tail) {
		l.toWrite()
		return
	}
	l.submit()
}

// toWrite puts the request's sectors into the piece and writes it.
func (l *sectorSlot) toWrite() {
	r := l.from
	from, to := max(l.piece, r.Offset), min(l.pieceEnd, r.Offset+r.Length)
	into := l.buf[from-l.piece : to-l.piece]
	if r.Op == Write {
		copy(into, r.Buf[from-r.Offset:])
	} else {
		clear(into)
	}
	l.stage = writeAll
	l.submit()
}

// submit has the inner request do what the stage says.
func (l *sectorSlot) submit() {
	q := &l.inner
	q.Op, q.Flags, q.Err, q.Offset, q.Length = Read, 0, nil, l.piece, l.pieceEnd-l.piece
	switch l.stage {
	case readHead:
		q.Length = block.Size
	case readTail:
		q.Offset, q.Length = l.pieceEnd-block.Size, block.Size
	case writeAll:
		q.Op, q.Flags = Write, l.from.Flags&FUA
	case zeroAll:
		q.Op, q.Flags = Zero, l.from.Flags
	}
	q.Buf = nil
	if q.Op != Zero {
		at := q.Offset - l.piece
		q.Buf = l.buf[at : at+q.Length : at+q.Length]
	}
	l.s.behind.Submit(q)
}

// step is called when the inner request is done.
func (l *sectorSlot) step(q *Request) {
	if q.Err != nil {
		l.finish(q.Err)
		return
	}
	r := l.from
	switch l.stage {
	case readHead:
		l.toTail()
		return
	case readTail:
		l.toWrite()
		return
	case readAll:
		from, to := max(l.piece, r.Offset), min(l.pieceEnd, r.Offset+r.Length)
		copy(r.Buf[from-r.Offset:], l.buf[from-l.piece:to-l.piece])
	}
	if l.at = l.pieceEnd; l.at < r.Offset+r.Length {
		l.nextPiece()
		return
	}
	l.finish(nil)
}

// finish ends the request, and begins those that waited for it.
func (l *sectorSlot) finish(err error) {
	s, r := l.s, l.from
	l.from = nil
	if l.buf != nil {
		s.buffers = append(s.buffers, l.buf)
		l.buf = nil
	}
	if l.counted {
		l.counted = false
		for p := &s.inFlight; ; p = &(*p).next {
			if *p == l {
				*p = l.next
				break
			}
		}
	}
	r.End(err)
	s.wake()
}

// wake begins what need not wait any more.
func (s *Sectors) wake() {
	for len(s.buffers) > 0 && len(s.starved) > 0 {
		l := s.starved[0]
		s.starved = s.starved[:copy(s.starved, s.starved[1:])]
		l.begin()
	}
	for again := true; again; {
		again = false
		var before *sectorSlot
		for l := s.waiting; l != nil; before, l = l, l.next {
			if l.mustWait(l) {
				continue
			}
			if before == nil {
				s.waiting = l.next
			} else {
				before.next = l.next
			}
			if s.last == l {
				s.last = before
			}
			again = true // the list may change meanwhile
			l.launch()
			break
		}
	}
}

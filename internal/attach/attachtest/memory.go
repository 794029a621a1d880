package attachtest

import (
	"maps"
	"sync"

	"github.com/holdfast-io/holdfast/internal/attach"
)

const page = 512 // what Memory keeps apart, in bytes

// Memory is a backend that keeps a sparse volume in memory and answers inside Submit.
// Its other methods may be called from any goroutine.
type Memory struct {
	mu    sync.Mutex
	pages map[int64]*[page]byte
	seen  Seen
}

// Seen is what a Memory was asked to do.
type Seen struct {
	Reads, Writes, Zeros, Flushes int
	Unmaps, FUAs                  int // of Zeros; of Writes and Zeros
	Unflushed                     int // writes and zeros that no flush or FUA made durable
}

// NewMemory returns a volume of zeros.
func NewMemory() *Memory { return &Memory{pages: map[int64]*[page]byte{}} }

// Submit does r at once.
func (m *Memory) Submit(r *attach.Request) {
	m.mu.Lock()
	m.do(r)
	m.mu.Unlock()
	r.End(nil)
}

func (m *Memory) do(r *attach.Request) {
	switch r.Op {
	case attach.Read:
		m.seen.Reads++
		for at := int64(0); at < r.Length; at += page {
			if p := m.pages[(r.Offset+at)/page]; p != nil {
				copy(r.Buf[at:], p[:])
			} else {
				clear(r.Buf[at : at+page])
			}
		}
	case attach.Write:
		m.seen.Writes++
		for at := int64(0); at < r.Length; at += page {
			p := m.pages[(r.Offset+at)/page]
			if p == nil {
				p = new([page]byte)
				m.pages[(r.Offset+at)/page] = p
			}
			copy(p[:], r.Buf[at:])
		}
	case attach.Zero:
		m.seen.Zeros++
		if r.Flags&attach.Unmap != 0 {
			m.seen.Unmaps++
		}
		first, end := r.Offset/page, (r.Offset+r.Length)/page
		maps.DeleteFunc(m.pages, func(i int64, _ *[page]byte) bool { return i >= first && i < end })
	case attach.Flush:
		m.seen.Flushes++
		m.seen.Unflushed = 0
	}
	switch {
	case r.Op != attach.Write && r.Op != attach.Zero:
	case r.Flags&attach.FUA != 0:
		m.seen.FUAs++
	default:
		m.seen.Unflushed++
	}
}

// Seen returns what was done so far.
func (m *Memory) Seen() Seen {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seen
}

// Mapped returns how many bytes hold something.
func (m *Memory) Mapped() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return int64(len(m.pages)) * page
}

// Bytes returns n bytes at offset, multiples of 512.
func (m *Memory) Bytes(offset, n int64) []byte {
	r := attach.Request{Op: attach.Read, Offset: offset, Length: n, Buf: make([]byte, n)}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.do(&r)
	m.seen.Reads--
	return r.Buf
}

// Null is a backend that does nothing, at once: what is left is the cost of the front
// end. Reads return whatever their buffer holds.
type Null struct{}

// Submit ends r.
func (Null) Submit(r *attach.Request) { r.End(nil) }

// Map tells which pages hold something.
func (m *Memory) Map(q *attach.Question) {
	m.mu.Lock()
	for at := q.Offset; at < q.Offset+q.Length && len(q.Extents) < cap(q.Extents); at += page {
		hole := m.pages[at/page] == nil
		if n := len(q.Extents); n > 0 && q.Extents[n-1].Hole == hole {
			q.Extents[n-1].Length += page
		} else {
			q.Extents = append(q.Extents, attach.Extent{Length: page, Hole: hole})
		}
	}
	m.mu.Unlock()
	q.End(nil)
}

package cli

import (
	"fmt"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/store"
)

// transferView is what was written or zeroed, as commands print it.
type transferView struct {
	Path   string `json:"path"`
	Offset int64  `json:"offset"`
	Bytes  int64  `json:"bytes"`
}

func (v transferView) draw(verb string) func(*table) {
	return func(t *table) { t.row(fmt.Sprintf("%s %d bytes at offset %d", verb, v.Bytes, v.Offset)) }
}

// depth is how many requests are in flight at once, each of at most store.RequestMax.
const depth = 32

// lane is one of the requests in flight.
type lane struct {
	q    store.Request
	busy bool
}

func newLanes() []*lane {
	lanes := make([]*lane, depth)
	for i := range lanes {
		l := &lane{}
		l.q.Done = func(*store.Request) { l.busy = false }
		lanes[i] = l
	}
	return lanes
}

// buffer returns room for the largest request.
func (l *lane) buffer() []byte {
	if l.q.Data == nil {
		l.q.Data = host.Buffer(store.RequestMax)
		l.q.Sums = make([]block.Sum, store.RequestMax/block.Size)
	}
	return l.q.Data[:store.RequestMax]
}

// send submits the lane's request for bytes bytes at offset.
func (s *session) send(l *lane, verb store.Verb, offset int64, bytes int) {
	l.q.Verb, l.busy = verb, true
	l.q.Extent, _ = block.ExtentOf(offset, int64(bytes))
	l.q.Data, l.q.Sums = l.buffer()[:bytes], l.q.Sums[:bytes/block.Size]
	if verb == store.Write {
		block.Checksums(l.q.Sums, l.q.Data)
	}
	s.r.Submit(&l.q)
	s.disk.Poll(0)
}

// settle waits until the lane's request is done, and returns its error.
func (s *session) settle(l *lane) error {
	for l.busy {
		if err := poll(s.disk, -1); err != nil {
			return err
		}
	}
	return l.q.Err
}

// within makes sure that e is in the volume.
func (s *session) within(e block.Extent) error {
	if size := s.r.Manifest().Size; e.Start.Offset()+e.Bytes() > size {
		return fault.Errorf("arguments", fault.Invalid, "%d bytes at offset %d leave the volume of %d", e.Bytes(), e.Start.Offset(), size)
	}
	return nil
}

// do submits one request and waits for it.
func (s *session) do(q *store.Request) error {
	return await(s.disk, func(done func(error)) {
		q.Done = func(q *store.Request) { done(q.Err) }
		s.r.Submit(q)
	})
}

package node

import (
	"sync/atomic"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/coordinator"
	"github.com/holdfast-io/holdfast/internal/wire"
	"github.com/holdfast-io/holdfast/internal/wire/link"
)

// backend is a head as a front end sees it: attach.Backend. The loop's.
type backend struct {
	h          *head
	generation block.Generation // of the snapshot that is shown; 0 is the volume
	slots      []ioRequest
}

func newBackend(h *head, depth int) *backend {
	b := &backend{h: h, slots: make([]ioRequest, depth)}
	for i := range b.slots {
		b.slots[i].b = b
		b.slots[i].User = &b.slots[i]
	}
	return b
}

// Submit is attach.Backend.Submit.
func (b *backend) Submit(r *attach.Request) {
	q := &b.slots[r.Slot]
	q.from = r
	q.rest = block.Extent{Start: block.Index(r.Offset / block.Size), Count: uint64(r.Length / block.Size)}
	q.Generation = b.generation
	q.Op, q.FUA, q.Data, q.Sums = operations[r.Op], r.Flags&attach.FUA != 0, r.Buf, nil
	switch r.Op {
	case attach.Write:
		q.Sums = q.memory[:q.rest.Count]
		block.Checksums(q.Sums, r.Buf)
	case attach.Read:
		q.Sums = q.memory[:q.rest.Count]
	}
	q.begin()
}

var operations = [...]coordinator.Op{attach.Read: coordinator.Read, attach.Write: coordinator.Write, attach.Zero: coordinator.Zero, attach.Flush: coordinator.Flush}

// ioRequest carries one request of a front end to the head and back, in pieces if it is
// longer than a message can say.
type ioRequest struct {
	coordinator.Request
	b      *backend
	from   *attach.Request
	rest   block.Extent // is still to be asked for
	memory [wire.DataBlocksMax]block.Sum
	// users counts who looks at the buffer: the coordinator, and messages on their way.
	users atomic.Int32
}

// begin submits the next piece.
func (q *ioRequest) begin() {
	n := q.rest.Count
	if q.Op == coordinator.Zero {
		n = min(n, wire.ZeroBlocksMax)
	}
	q.Extent = block.Extent{Start: q.rest.Start, Count: n}
	q.rest = block.Extent{Start: q.Extent.End(), Count: q.rest.Count - n}
	q.users.Store(1)
	q.b.h.submit(&q.Request)
}

// held is user.held.
func (q *ioRequest) held() link.Holder {
	q.users.Add(1)
	return q
}

// Release is link.Holder.Release.
func (q *ioRequest) Release() {
	if q.users.Add(-1) == 0 {
		q.b.h.n.late.add(q) // complete before its messages were sent: members were left behind
	}
}

// completed is user.completed.
func (q *ioRequest) completed(*coordinator.Request) {
	if q.users.Add(-1) == 0 {
		q.ended()
	}
}

// endedLate is called on the loop when the last message is off after the request was
// complete. A read that a member was asked for here, and which another one answered,
// may have been written over meanwhile.
func (q *ioRequest) endedLate() {
	if q.Op == coordinator.Read && q.Err == nil {
		q.users.Store(1)
		q.b.h.submit(&q.Request)
		return
	}
	q.ended()
}

func (q *ioRequest) ended() {
	if q.Err == nil && q.rest.Count > 0 {
		q.begin()
		return
	}
	q.from.End(q.Err)
}

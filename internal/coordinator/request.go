package coordinator

import (
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/wire"
)

// Op is what a Request asks for.
type Op uint8

// The operations.
const (
	Read Op = iota + 1
	Write
	Zero
	Flush
)

// Request is one request of the volume's user. The caller fills the upper part, submits
// it, and leaves it alone until it is among Effects.Complete; then it may use it again.
type Request struct {
	Op     Op
	Extent block.Extent // but for Flush; at most wire.DataBlocksMax blocks for Read and Write
	// Generation is, for Read, the snapshot to read; 0 is the live one.
	Generation block.Generation
	FUA        bool // Write, Zero: durable when complete
	Data       []byte
	Sums       []block.Sum // computed where the data comes from; Read fills and has compared them
	Err        error       // a *fault.Error
	User       any         // the caller's, for it to know the request by

	need      members      // that must answer
	acked     members      // that have
	tried     members      // that could not
	from      int          // the member that is asked to read
	part      block.Extent // Read: what is being read
	repairing bool         // Read: what was read is written to those that could not
	done      bool         // Read: all is there, but the leases must be checked first
	slot      int
	at        int           // in Coordinator.active
	since     time.Duration // when it was started
	copy      *copying      // not a user's request: a copy that has the extent to itself
	own       bool          // the coordinator's own flush
	write     wire.Write
	zero      wire.Zero
	read      wire.Read
	flush     wire.Flush
}

// reset makes the request as good as new.
func (q *Request) reset() {
	q.need, q.acked, q.tried, q.done, q.repairing, q.Err = 0, 0, 0, false, false, nil
}

// changes reports whether the request changes the volume.
func (q *Request) changes() bool { return q.Op == Write || q.Op == Zero }

// internal reports whether no user waits for it.
func (q *Request) internal() bool { return q.copy != nil || q.own }

// conflicts reports whether q must wait for o, which came before it.
func (q *Request) conflicts(o *Request) bool {
	return (q.changes() || o.changes()) && q.Generation == 0 && o.Generation == 0 && q.Extent.Overlaps(o.Extent)
}

// members is a set of members, by number.
type members uint32

func (m members) has(i int) bool { return m>>i&1 != 0 }
func (m *members) add(i int)     { *m |= 1 << i }
func (m *members) drop(i int)    { *m &^= 1 << i }

package node

import (
	"context"
	"time"

	"github.com/holdfast-io/holdfast/internal/coordinator"
	"github.com/holdfast-io/holdfast/internal/spec"
)

// Records are the volumes' records. Its methods are for any goroutine.
type Records interface {
	// Swap puts next in the place of the version before it. If something else is there,
	// ok is false and now is that. With an error nobody knows what is there.
	Swap(ctx context.Context, next spec.Record) (ok bool, now spec.Record, err error)
}

// records carries one head's proposals to the records and the answers back.
type records struct {
	n  *Node
	of Records
}

// recordTimeout is how long a proposal waits for its answer before it is made again.
const recordTimeout = 2 * time.Second

// retryRecord is how long nobody asks again after there was no answer.
const retryRecord = 200 * time.Millisecond

// propose has then called on the loop with what became of the proposal.
func (r *records) propose(next spec.Record, then func(coordinator.Recorded)) {
	r.n.work(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, recordTimeout)
		defer cancel()
		ok, now, err := r.of.Swap(ctx, next)
		r.n.loop.Post(func() {
			answer := func() { then(coordinator.Recorded{OK: ok, Record: now, Err: err}) }
			if err == nil {
				answer()
				return
			}
			r.n.log.Warn("the volume's record can't be changed now: trying again", "volume", next.Volume, "err", err)
			r.n.loop.NewTimer(answer).Set(r.n.loop.Now() + retryRecord)
		})
	})
}

package node

import (
	"time"

	"github.com/holdfast-io/holdfast/internal/replica"
	"github.com/holdfast-io/holdfast/internal/store"
)

// failing is what becomes of a resident whose store failed: it serves nothing, and after a
// while it is opened anew, because a disk may be well again. Then it says that it lost
// something, and is brought up to date from another copy.
type failing struct {
	noticed bool
	times   uint64
	shut    bool // the store is closed, and not open again yet
}

// reopenAfterMax bounds how long a replica that failed is left alone.
const reopenAfterMax = 5 * time.Minute

// lookForFailure notices that the store has failed.
func (r *resident) lookForFailure() {
	err := r.store.Err()
	if err == nil || r.failing.noticed {
		return
	}
	r.failing.noticed = true
	r.log.Error("the replica failed; it will be opened anew", "err", err)
	r.state.Step(r.n.loop.Now(), replica.Failed{Err: err})
	r.reopenLater()
}

func (r *resident) reopenLater() {
	wait := min(r.n.o.Lease/2<<min(r.failing.times, 10), reopenAfterMax)
	r.failing.times++
	r.n.loop.NewTimer(r.reopen).Set(r.n.loop.Now() + wait)
}

// reopen closes the store that failed, and opens it as another process would.
func (r *resident) reopen() {
	if r.closing != nil || r.n.residents[r.id] != r {
		return
	}
	if r.inflight > 0 { // what it was asked for ends soon, in vain
		r.n.loop.NewTimer(r.reopen).Set(r.n.loop.Now() + 10*time.Millisecond)
		return
	}
	r.inflight++ // a close waits
	if r.failing.shut {
		r.openAgain()
		return
	}
	r.store.Close(func(error) {
		r.failing.shut = true
		r.openAgain()
	})
}

func (r *resident) openAgain() {
	store.Open(r.pool.disk, r.volume.String(), r.pool.options(), func(s *store.Replica, err error) {
		r.inflight--
		if err == nil {
			r.failing.noticed, r.failing.shut = false, false
			r.opened(s)
		}
		switch {
		case r.closing != nil:
			r.closeIdle()
		case err != nil:
			r.log.Error("a replica that failed can't be opened", "err", err)
			r.reopenLater()
		}
	})
}

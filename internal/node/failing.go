package node

import (
	"time"

	"github.com/holdfast-io/holdfast/internal/host"
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
	timer   *host.Timer
}

// reopenAfterMax bounds how long a replica that failed is left alone.
const reopenAfterMax = 5 * time.Minute

// lookForFailure notices that the store has failed.
func (r *resident) lookForFailure() {
	err := r.store.Err()
	if err == nil || r.failing.noticed {
		return
	}
	r.log.Error("the replica failed; it will be opened anew", "err", err)
	r.fail(err)
	r.reopenLater()
	r.n.trouble()
}

// fail has the replica serve nothing any more.
func (r *resident) fail(err error) {
	r.failing.noticed = true
	r.state.Step(r.n.loop.Now(), replica.Failed{Err: err})
}

func (r *resident) reopenLater() {
	wait := min(r.n.o.Lease/2<<min(r.failing.times, 10), reopenAfterMax)
	r.failing.times++
	r.reopenIn(wait)
}

func (r *resident) reopenIn(wait time.Duration) {
	if r.failing.timer == nil {
		r.failing.timer = r.n.loop.NewTimer(r.reopen)
	}
	r.failing.timer.Set(r.n.loop.Now() + wait)
}

// reopen closes the store that failed, and opens it as another process would. One whose
// pool is away is opened when that is back.
func (r *resident) reopen() {
	if r.closing != nil || r.n.residents[r.id] != r || !r.failing.noticed || r.pool.away {
		return
	}
	if r.inflight > 0 { // what it was asked for ends soon, in vain
		r.reopenIn(10 * time.Millisecond)
		return
	}
	if r.failing.shut {
		r.inflight++ // a close waits
		r.openAgain()
		return
	}
	r.shut()
}

// shut closes the store that failed.
func (r *resident) shut() {
	r.inflight++ // a close waits
	r.store.Close(func(error) {
		r.failing.shut = true
		switch {
		case !r.pool.away:
			r.openAgain()
			return
		case r.closing != nil:
			r.inflight--
			r.closeIdle()
		default:
			r.inflight--
		}
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

package coordinator

import (
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/wire"
)

// leaving is the way out: what was accepted is completed, then flushed, then the leases
// are given back, then the record says that nobody owns the volume.
type leaving struct {
	stage    exit
	farewell Request       // the flush
	late     []*Request    // came after Detach
	releases int           // that are not answered
	until    time.Duration // when their answers are waited for no more
}

// exit is how far the way out has come.
type exit uint8

const (
	staying   exit = iota
	draining       // of what was accepted
	flushing       // what the replicas hold
	releasing      // the leases
	recording      // that nobody owns the volume
	gone
)

var errDetached = errors.New("the volume was detached")

// detach begins the way out.
func (c *Coordinator) detach(fx *Effects) {
	if c.leave.stage != staying {
		return
	}
	c.leave.stage = draining
	c.dropChanges(fx)
	for m := range c.members {
		c.abandonSync(m)
	}
}

// goAway takes the next step on the way out.
func (c *Coordinator) goAway(now time.Duration, fx *Effects) {
	l := &c.leave
	switch l.stage {
	case draining:
		if c.phase != claiming && c.phase < serving { // it never served: there is nothing to write
			l.stage = releasing
			c.giveBack(now, fx)
			return
		}
		if len(c.queue)+len(c.active) > 0 || len(c.changes) > 0 || c.phase != serving || !c.ready(now) {
			return
		}
		l.stage = flushing
		l.farewell = Request{Op: Flush, own: true}
		c.begin(now, &l.farewell, fx)
	case flushing:
		if c.proposed != nil || !l.farewell.done {
			return
		}
		if err := l.farewell.Err; err != nil {
			l.farewell.Err = nil // what is lost is lost: it was said, and is said by the stop
			c.lost = err
		}
		l.stage = releasing
		c.giveBack(now, fx)
	case releasing:
		if (l.releases == 0 || now >= l.until) && c.proposed == nil {
			l.stage = recording
			c.changeRecord(fx)
		}
	}
}

// giveBack releases the leases.
func (c *Coordinator) giveBack(now time.Duration, fx *Effects) {
	l := &c.leave
	l.until = now + c.opts.Lease // then they have run out by themselves
	for m, x := range c.members {
		if x.linked && x.promised == c.rec.Epoch {
			l.releases++
			c.ask(m, &wire.Release{Epoch: c.rec.Epoch}, fx, func(time.Duration, int, wire.Message, *Effects) {
				l.releases--
			})
		}
	}
}

func detaching(what string) error {
	return fault.Errorf("coordinator.Order", fault.Precondition, "%s", fmt.Sprintf("the volume is being detached: %s", what))
}

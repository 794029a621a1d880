package coordinator

import (
	"errors"
	"time"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/wire"
)

// A replica that counts may lack what was not flushed: its machine lost power, or its disk
// failed, and the owner of then died before the record said so. Another one that counts,
// and lacks nothing, has it all: then the doubtful one is left behind and brought up to
// date. Where all are doubtful, what was flushed is all that there is.

var doubts = map[wire.State]string{
	wire.Lost:   "its disk failed, and what was not flushed may be missing",
	wire.Forgot: "its machine lost power, and what was not flushed may be missing",
}

// excuse lets doubtful replicas count, once there is none without doubt that might come.
func (c *Coordinator) excuse(now time.Duration) {
	doubtful := false
	for m, x := range c.members {
		switch {
		case !c.inSync(m):
		case x.linked && x.doubt != 0:
			doubtful = true
		case x.linked && x.bad == nil, !x.linked && now-max(x.heard, c.since) <= c.opts.ReplicaTimeout:
			return
		}
	}
	if !doubtful {
		return
	}
	when := wholeFirst
	for m, x := range c.members {
		if c.lost != nil || c.inSync(m) && x.doubt == wire.Lost {
			when = wholeLater
		}
	}
	for m, x := range c.members {
		if !c.inSync(m) || x.doubt == 0 {
			continue
		}
		if x.doubt == wire.Lost { // nobody was told, perhaps
			c.lost = fault.E("coordinator.Flush", fault.Media, c.rec.Volume, errors.New("replica "+c.rec.Members[m].Replica.String()+" counts alone, and "+doubts[x.doubt]))
		}
		x.doubt, x.amend = 0, when
		c.urgent = true
	}
}

// amends says when a replica that was excused is told that it is whole.
type amends uint8

const (
	// wholeFirst: before anything is served. Else one that loses power next could not be told
	// from it, which has all that is written from now on.
	wholeFirst amends = iota + 1
	// wholeLater: when it has what all others have, and what was lost was said. Until then
	// another owner must be told as well.
	wholeLater
)

// makeWhole tells replicas that were excused that they are whole.
func (c *Coordinator) makeWhole(fx *Effects) {
	if c.phase < gating || !c.settled() {
		return
	}
	later := c.phase == serving && c.gate.count() == 0 && c.lost == nil
	for m, x := range c.members {
		if x.amend == 0 || x.amend == wholeLater && !later || x.amending || !c.inSync(m) {
			continue
		}
		x.amending = true
		c.ask(m, &wire.Flush{Epoch: c.rec.Epoch, Whole: true}, fx, func(_ time.Duration, m int, msg wire.Message, _ *Effects) {
			x.amending = false
			switch msg.(type) {
			case *wire.Flushed:
				x.amend = 0
			case nil:
			default:
				x.amend = 0
				c.blame(m, failureOf(msg))
			}
		})
	}
}

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
	for m, x := range c.members {
		if !c.inSync(m) || x.doubt == 0 {
			continue
		}
		if x.doubt == wire.Lost { // nobody was told, perhaps
			c.lost = fault.E("coordinator.Flush", fault.Media, c.rec.Volume, errors.New("replica "+c.rec.Members[m].Replica.String()+" counts alone, and "+doubts[x.doubt]))
		}
		x.doubt, x.amend = 0, true
		c.urgent = true
	}
}

// makeWhole tells replicas that were excused that they have what all others have, when
// that is so, and when what was lost was said.
func (c *Coordinator) makeWhole(fx *Effects) {
	if c.phase != serving || c.gate.count() > 0 || c.lost != nil || !c.settled() {
		return
	}
	for m, x := range c.members {
		if !x.amend || !c.inSync(m) {
			continue
		}
		x.amend = false
		c.ask(m, &wire.Flush{Epoch: c.rec.Epoch, Whole: true}, fx, func(_ time.Duration, m int, msg wire.Message, _ *Effects) {
			switch msg.(type) {
			case *wire.Flushed:
			case nil:
				c.members[m].amend = true
			default:
				c.blame(m, failureOf(msg))
			}
		})
	}
}

package coordinator

import (
	"fmt"
	"time"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// A replica that answers, but much later than the others, holds up every write. It is
// left behind when it has been slow for long. One that is left behind soon after it began
// to count, for this or any other failure, is left alone for a while, longer each time: a
// replica that fails every other minute must not make the volume change its mind every
// other minute.

// paroleMax bounds how long a replica is left alone. Of a silent one the writes wait for
// 3 s each time, so this is at worst one second in twenty; and who has mended a network
// for good is not to wait for redundancy much longer than the resync takes.
const paroleMax = time.Minute

// leftBehind decides when a replica that counted may catch up again.
func (c *Coordinator) leftBehind(now time.Duration, x *member) {
	switch {
	case x.leaving:
		return
	case x.counted == 0 || now-x.counted > 10*c.opts.Lease:
		x.offences = 0
	default:
		x.parole = max(x.parole, now+min(c.opts.Lease<<x.offences, paroleMax)) // it may have been slow, too
		x.offences = min(x.offences+1, 16)
	}
}

// watchSpeed looks for how long others have waited for member m.
func (c *Coordinator) watchSpeed(now time.Duration, m int) {
	x := c.members[m]
	if !c.inSync(m) || x.bad != nil || c.others(m) == 0 || x.promised != c.rec.Epoch {
		x.slow = 0
		return
	}
	lag := time.Duration(0)
	for _, q := range c.active {
		if q.copy == nil && q.changes() && q.need.has(m) && !q.acked.has(m) && !q.tried.has(m) && q.acked != 0 {
			lag = max(lag, now-q.since)
		}
	}
	switch {
	case lag < c.opts.SlowAfter/2:
		x.slow = 0
	case lag < c.opts.SlowAfter && x.slow == 0:
	case x.slow == 0:
		x.slow = now
	case now-x.slow >= c.opts.SlowFor:
		c.stats.Slow++
		x.parole = now + 4*c.opts.SlowFor
		x.slow = 0
		c.blame(m, fault.E("coordinator", fault.Timeout, c.rec.Volume, fmt.Errorf("replica %v was slow for %v: the others waited up to %v for it", c.rec.Members[m].Replica, c.opts.SlowFor, lag)))
	}
}

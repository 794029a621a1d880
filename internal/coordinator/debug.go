package coordinator

import (
	"fmt"
	"strings"
	"time"
)

// Debug prints the whole state for people, at the moment now.
func (c *Coordinator) Debug(now time.Duration) string {
	var b strings.Builder
	fmt.Fprintf(&b, "volume %v: phase %d, epoch %d, settled %v, ready %v, proposed %v, stopped by %v\n",
		c.rec.Volume, c.phase, c.rec.Epoch, c.settled(), c.ready(now), c.proposed != nil, c.why)
	fmt.Fprintf(&b, "%d requests wait, %d are active, %d copies, %d regions gated, %d wanted\n",
		len(c.queue), len(c.active), c.copying, c.gate.count(), len(c.gate.wanted))
	fmt.Fprintf(&b, "resyncs: at most %.0f bytes a second (0: no bound), paused %v\n", c.resyncs.Bytes, c.resyncs.Pause)
	for m, x := range c.members {
		fmt.Fprintf(&b, "member %d: %v since %d, linked %v, promised %d, lease for %v, silent for %v, bad %v, %d questions\n",
			m, c.rec.Members[m].State, c.rec.Members[m].Since, x.linked, x.promised, x.lease-now, now-x.heard, x.bad, x.asks)
		if s := x.sync; s != nil {
			fmt.Fprintf(&b, "  catches up from %d: stage %d, generation %d, base %d, %d regions left, %d steps, flushed %v, done %v, failed %v\n",
				s.source, s.stage, s.gen, s.base, len(s.todo), s.steps, s.flushed, s.done, s.failed)
		}
	}
	if ch := c.current(); ch != nil {
		fmt.Fprintf(&b, "change %d: step %d, generation %d, acked %b, held %v, sealed %d\n", ch.Op, ch.step, ch.Generation, ch.acked, c.hold != nil, c.sealed)
	}
	for _, q := range c.active {
		fmt.Fprintf(&b, "active: op %d %v, copy %v, need %b, acked %b, tried %b, done %v\n", q.Op, q.Extent, q.copy != nil, q.need, q.acked, q.tried, q.done)
		if k := q.copy; k != nil {
			fmt.Fprintf(&b, "  among %v: %d asks, %d runs left, %d under way, over %v, failed %v\n", k.members, k.asks, len(k.runs), k.flying, k.over, k.failed)
		}
	}
	return b.String()
}

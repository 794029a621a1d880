package control

import (
	"slices"
	"time"

	"github.com/holdfast-io/holdfast/internal/state"
)

// expire deletes events and ended operations whose time is over, and says when to look
// again.
func (d *decider) expire() (steps []step) {
	var gone []state.Op
	events := d.events.list() // their ids begin with their times
	for i, id := range events {
		e := d.events.entries[id]
		if len(events)-i <= d.settings.eventsMax && d.now.Before(e.Value.Time.AsTime().Add(d.settings.eventsKeep)) {
			break
		}
		gone = append(gone, state.Events.Delete(id, e.Revision))
	}
	for _, id := range d.operations.list() {
		op := d.operations.entries[id]
		if op.Value.Done && !d.now.Before(op.Value.Ended.AsTime().Add(d.settings.operationsKeep)) {
			gone = append(gone, state.Operations.Delete(id, op.Revision))
		}
	}
	for chunk := range slices.Chunk(gone, batchMax) {
		steps = append(steps, step{ops: chunk})
	}
	return append(steps, step{again: d.now.Add(expireEvery)})
}

const expireEvery = time.Minute

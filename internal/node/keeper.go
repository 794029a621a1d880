package node

import (
	"context"
	"time"

	"github.com/holdfast-io/holdfast/internal/attach/keeper"
)

// keeperAgain is the pause between two attempts to reach a keeper.
const keeperAgain = 200 * time.Millisecond

// keep holds on to the node's keeper: when the one there was has died, the next is used.
// Devices go on, and are put into it: see attachment.keep. Only those whose data process
// dies as well before that is done are lost with the keeper.
func (d *daemon) keep(ctx context.Context) {
	for {
		select {
		case <-d.keeper().Lost():
		case <-ctx.Done():
			return
		}
		d.o.Log.Warn("the keeper is gone: until there is another one, devices last only as long as this process", "socket", d.o.Keeper)
		if !d.nextKeeper(ctx) {
			return
		}
		d.o.Log.Info("there is a keeper again", "pid", d.keeper().PID())
		d.show.lookAgain()
	}
}

// nextKeeper waits for a keeper that answers; false when ctx ends first.
func (d *daemon) nextKeeper(ctx context.Context) bool {
	tick := time.NewTicker(keeperAgain)
	defer tick.Stop()
	for {
		if k, err := keeper.Dial(ctx, d.o.Keeper); err == nil {
			if old := d.kept.Swap(k); old != nil {
				old.Close()
			}
			return true
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
}

// keeper returns the node's keeper; nil before the process has found one.
func (d *daemon) keeper() *keeper.Client { return d.kept.Load() }

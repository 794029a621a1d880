package daemon

import (
	"context"
	"time"

	"github.com/holdfast-io/holdfast/internal/attach/errand"
	"github.com/holdfast-io/holdfast/internal/attach/frontend"
	"github.com/holdfast-io/holdfast/internal/attach/keeper"
)

// keeperWait is how long a keeper may take to answer somebody who can do without it.
const keeperWait = 5 * time.Second

// Abort ends a node's devices of a volume from outside, whatever its processes do: what waits
// for them fails. fault.NotFound when there is none.
func Abort(ctx context.Context, o ChildOptions, volume string) error {
	c, w, err := o.load()
	if err != nil {
		return err
	}
	l := frontend.Leftovers{Node: w.Identity().Node, LinkDir: c.LinkDir, Errand: errand.Command{o.Program, "errand"}}
	asking, cancel := context.WithTimeout(ctx, keeperWait)
	defer cancel()
	if k, err := keeper.DialTool(asking, c.keeperSocket()); err == nil { // else it is dead
		defer k.Close()
		l.Kept, _ = k.List(asking) // of what it does not say, devices are found nevertheless
	}
	return l.Abort(ctx, volume)
}

package node

import (
	"context"
	"slices"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/pool"
	"github.com/holdfast-io/holdfast/internal/state"
)

// One disk that is gone must not keep the others of its node from being used: a pool that
// can't be opened is reported with the reason, and tried again until it can.

// open returns the pools that are open.
func (d *daemon) open() []*ownPool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.pools)
}

// openPool opens one of the node's pools.
func (d *daemon) openPool(ctx context.Context, path string) error {
	p, err := openPool(ctx, d.node, path, d.o.Cluster)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pools = append(d.pools, p)
	return nil
}

// maybeShut reports whether a pool may be one of those that could not be opened.
func (d *daemon) maybeShut(id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.shut) > 0 && !slices.ContainsFunc(d.pools, func(p *ownPool) bool { return p.id == id })
}

// tryShut tries the pools again that could not be opened.
func (d *daemon) tryShut(ctx context.Context, said map[string]proto.Message) {
	d.mu.Lock()
	list := slices.Clone(d.shut)
	d.mu.Unlock()
	for _, path := range list {
		if err := d.openPool(ctx, path); err != nil {
			d.reportShut(ctx, said, path, err)
			continue
		}
		d.o.Log.Info("a pool could be opened now", "pool", path)
		d.mu.Lock()
		d.shut = slices.DeleteFunc(d.shut, func(p string) bool { return p == path })
		d.mu.Unlock()
		d.node.trouble() // it is to be reported
		d.hold.again()
	}
}

// reportShut writes the status of a pool that can't be opened, if it can be told which it
// is.
func (d *daemon) reportShut(ctx context.Context, said map[string]proto.Message, path string, why error) {
	r, err := pool.Inspect(path)
	if err != nil || r.Identity.Cluster != d.o.Cluster {
		return
	}
	what, cure := fault.Describe(why)
	if cure == "" {
		cure = "see the log of this node; it is tried again"
	}
	id := r.Identity.Pool.String()
	now := &v1.PoolStatus{Path: path, Class: string(r.Identity.Class), Conditions: []*v1.Condition{{Type: string(pool.Failed), Status: true,
		Reason: string(pool.Failed), Message: "it can't be opened: " + what + "; " + cure}}}
	if was := said[id]; was != nil && proto.Equal(was, now) {
		return
	}
	if d.commit(ctx, state.PoolStatuses.Put(id, now)) {
		said[id] = now
	}
}

package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/pool"
	"github.com/holdfast-io/holdfast/internal/store"
	"github.com/holdfast-io/holdfast/internal/turns"
)

// ownPool is a pool of this node, open.
type ownPool struct {
	n     *Node
	pool  *pool.Pool
	id    string
	boot  uint64 // of the machine, or of the pool's filesystem alone after that has crashed; 0: the node's
	disk  *disk
	space store.Space

	// The loop's.
	away    bool            // its filesystem has shut down: no disk, and no store is open
	turns   turns.Desk[*op] // at the disk, fair between the volumes that have replicas on it
	calling bool            // left is at it
}

// left ends an operation's turn, and begins what waited for it.
func (o *ownPool) left(ended *op) {
	o.turns.Leave(&ended.turn)
	if o.calling { // one that ended while it was begun
		return
	}
	o.calling = true
	for t := o.turns.Next(); t != nil; t = o.turns.Next() {
		t.Of.submit()
	}
	o.calling = false
}

// openPool opens the pool, and every replica that is found in it: other nodes may need
// them, whether or not the cluster's state can be reached.
func openPool(ctx context.Context, n *Node, path string, cluster block.ClusterID) (*ownPool, error) {
	p, err := pool.Open(ctx, path, pool.OpenOptions{Cluster: cluster})
	if err != nil {
		return nil, err
	}
	o := &ownPool{n: n, pool: p, id: p.Identity().Pool.String(), space: p.Space()}
	o.crashed()
	if o.disk, err = n.loop.Open(p.Volumes()); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	volumes, err := o.found()
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	for _, v := range volumes {
		if err := o.open(ctx, v); err != nil {
			n.log.Error("a replica can't be opened", "pool", path, "volume", v, "err", err)
		}
	}
	return o, nil
}

// found returns the volumes that have a replica in the pool.
func (o *ownPool) found() (volumes []block.VolumeID, err error) {
	entries, err := filepath.Glob(filepath.Join(o.pool.Volumes(), "*", "replica.json"))
	for _, e := range entries {
		if v, err := block.ParseVolumeID(filepath.Base(filepath.Dir(e))); err == nil {
			volumes = append(volumes, v)
		}
	}
	return volumes, err
}

// crashed has the replicas be opened as after a loss of power, if the filesystem has lost
// what was not flushed without one.
func (o *ownPool) crashed() {
	if o.pool.Crashed() {
		o.boot = randomNumber()
		o.pool.Reopened()
	}
}

// bootOf names the time for which what was written and not flushed is remembered here.
func (o *ownPool) bootOf() uint64 { return cmp.Or(o.boot, o.n.boot) }

// options are those of every store of the pool.
func (o *ownPool) options() store.Options {
	return store.Options{Boot: o.bootOf(), Space: o.space, Shared: &o.n.shared}
}

// open opens the volume's replica here; what the replica is called it says itself.
func (o *ownPool) open(ctx context.Context, v block.VolumeID) error {
	return o.use(ctx, func(done func(error)) {
		r := &resident{n: o.n, pool: o, volume: v}
		r.open(func(err error) { done(err) })
	})
}

// create makes an empty replica and opens it.
func (o *ownPool) create(ctx context.Context, s store.Spec) error {
	err := o.use(ctx, func(done func(error)) {
		store.Create(o.disk, s.Volume.String(), s, o.options(), done)
	})
	if err != nil && !fault.Is(err, fault.Exists) {
		return err
	}
	return o.open(ctx, s.Volume)
}

// clone makes a replica that begins as what a generation of another volume's replica in
// the pool shows, and opens it.
func (o *ownPool) clone(ctx context.Context, source block.VolumeID, gen block.Generation, s store.Spec) error {
	err := o.use(ctx, func(done func(error)) {
		for _, r := range o.n.residents {
			if r.volume == source && r.pool == o {
				r.store.Clone(gen, s.Volume.String(), s, done)
				return
			}
		}
		done(fault.E("node.clone", fault.NotFound, s.Volume, fmt.Errorf("pool %s has no replica of volume %v, whose snapshot it begins with", o.id, source)))
	})
	if err != nil && !fault.Is(err, fault.Exists) {
		return err
	}
	return o.open(ctx, s.Volume)
}

// remove closes and deletes a replica.
func (o *ownPool) remove(ctx context.Context, r *resident) error {
	return o.use(ctx, func(done func(error)) {
		r.close(func(error) { // it goes away, saved or not
			delete(o.n.residents, r.id)
			store.Delete(o.disk, r.volume.String(), done)
		})
	})
}

// use is wait for what needs the pool's disk.
func (o *ownPool) use(ctx context.Context, begin func(done func(error))) error {
	return o.n.wait(ctx, func(done func(error)) {
		if o.away {
			done(fault.Errorf("node", fault.Unavailable, "the filesystem of pool %s has shut down, and is mounted anew when that can be", o.id))
			return
		}
		begin(done)
	})
}

// wait runs begin on the loop and waits until it is done.
func (n *Node) wait(ctx context.Context, begin func(done func(error))) error {
	ended := make(chan error, 1)
	if !n.loop.Post(func() { begin(func(err error) { ended <- err }) }) {
		return fault.Errorf("node", fault.Canceled, "the data process ends")
	}
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return fault.Errorf("node", fault.Canceled, "%w", context.Cause(ctx))
	}
}

// usedBytes returns what a replica takes of its pool: what the filesystem says of its
// files.
func (o *ownPool) usedBytes(v block.VolumeID) (bytes int64) {
	_ = filepath.WalkDir(filepath.Join(o.pool.Volumes(), v.String()), func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // it is being deleted
		}
		if info, err := d.Info(); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				bytes += st.Blocks * 512
			}
		}
		return nil
	})
	return bytes
}

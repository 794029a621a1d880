package node

import (
	"context"
	"time"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/coordinator"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/store"
)

// Bare is a node without keeper, pools, devices and the cluster's state: replicas in plain
// directories, and volumes that the program itself reads and writes. It is for benchmarks,
// which want to see what replication costs by itself.
type Bare struct{ n *Node }

// NewBare starts a node. Close ends it.
func NewBare(o Config) (*Bare, error) {
	n, err := newNode(o)
	if err != nil {
		return nil, err
	}
	return &Bare{n}, nil
}

// Close ends the node as the death of its process would, but for what its replicas save.
func (b *Bare) Close() { b.n.close() }

// Leave tells the owners of the volumes whose replicas are here to go on without them, as
// a process does that ends on purpose.
func (b *Bare) Leave() { b.n.announce("its node is about to end") }

// Open opens the volume's replica, whose directory below dir has the volume's name. It
// makes it first unless it is there.
func (b *Bare) Open(ctx context.Context, dir string, s store.Spec) error {
	disk, err := b.n.loop.Open(dir)
	if err != nil {
		return err
	}
	p := &ownPool{n: b.n, disk: disk}
	err = b.n.wait(ctx, func(done func(error)) { store.Create(disk, s.Volume.String(), s, p.options(), done) })
	if err != nil && !fault.Is(err, fault.Exists) {
		return err
	}
	return p.open(ctx, s.Volume)
}

// BareVolume is a volume that is attached to a Bare node.
type BareVolume struct {
	n *Node
	h *head
	// Backend takes up to so many requests at a time as Attach was told, on the node's
	// loop: see Do. It calls their Done there.
	Backend attach.Backend
}

// Attach attaches the volume whose record that is, and returns when it serves.
func (b *Bare) Attach(ctx context.Context, rec spec.Record, depth int) (*BareVolume, error) {
	v := &BareVolume{n: b.n}
	return v, b.n.wait(ctx, func(done func(error)) {
		v.h = b.n.newHead(rec, &records{n: b.n, of: b.n.o.Records}, func(error) {})
		v.Backend = newBackend(v.h, depth)
		v.h.whenServing(done)
	})
}

// Do calls f on the node's loop and waits until it has returned.
func (v *BareVolume) Do(f func()) { v.n.do(f) }

// Snapshot takes a snapshot, and returns how long the volume's head took for it.
func (v *BareVolume) Snapshot(ctx context.Context) (block.Generation, time.Duration, error) {
	ch := &coordinator.Change{Op: coordinator.Snapshot}
	took, err := v.change(ctx, ch)
	return ch.Generation, took, err
}

// DeleteSnapshot deletes one.
func (v *BareVolume) DeleteSnapshot(ctx context.Context, g block.Generation) (time.Duration, error) {
	return v.change(ctx, &coordinator.Change{Op: coordinator.DeleteSnapshot, Generation: g})
}

func (v *BareVolume) change(ctx context.Context, ch *coordinator.Change) (time.Duration, error) {
	began := v.n.loop.Now()
	err := v.n.wait(ctx, func(done func(error)) { v.h.order(ch, done) })
	return v.n.loop.Now() - began, err
}

// Stats returns what the volume's head has counted.
func (v *BareVolume) Stats() (s coordinator.Stats) {
	v.n.do(func() { s = v.h.coord.Stats() })
	return s
}

// Syncing reports whether a replica catches up.
func (v *BareVolume) Syncing() (yes bool) {
	v.n.do(func() { yes = v.h.coord.Syncing() })
	return yes
}

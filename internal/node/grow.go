package node

import (
	"context"

	"github.com/holdfast-io/holdfast/internal/attach/mount"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/coordinator"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// grow makes the volume as large as it is to be, then its device, then the filesystem
// that this node has mounted.
func (a *attachment) grow(w wish) error {
	size := a.record().Size
	if want := w.assignment.SizeBytes; want > size {
		if err := a.order(&coordinator.Change{Op: coordinator.Grow, Size: want}); err != nil {
			return err
		}
		a.log.Info("the volume has grown", "from", size, "to", want)
		size = want
	}
	if a.show == nil || a.snapshot || a.shown >= size {
		return nil
	}
	ctx, cancel := context.WithTimeout(a.d.ctx, mountTimeout)
	defer cancel()
	if err := a.show.Resize(ctx, size); err != nil {
		if fault.Is(err, fault.Unsupported) {
			a.fixed = complaint(err)
		}
		return err
	}
	if a.mounted != "" {
		if err := mount.Grow(ctx, a.show.Device().Path); err != nil {
			return err
		}
	}
	a.shown = size
	return nil
}

// acceptLoss has a replica count that lacks writes, because somebody decided so and
// nothing has changed since.
func (a *attachment) acceptLoss(w wish) error {
	l := w.volume.Spec.AcceptedLoss
	if l == nil || l.Epoch != uint64(a.record().Epoch) {
		return nil
	}
	id, err := block.ParseReplicaID(l.ReplicaId)
	if err != nil {
		return err
	}
	a.log.Warn("accepting the loss of data, as was decided", "replica", id, "by", l.By, "loss", coordinator.LossOf(a.record(), id))
	return a.order(&coordinator.Change{Op: coordinator.AcceptLoss, Replica: id})
}

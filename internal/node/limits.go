package node

import (
	"context"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/coordinator"
	"github.com/holdfast-io/holdfast/internal/state"
)

// limit has the head keep to the volume's limits.
func (a *attachment) limit(w wish) error {
	l := w.volume.Spec.Limits
	if proto.Equal(l, a.limited) {
		return nil
	}
	h := a.head
	a.d.node.do(func() { h.coord.SetLimits(limitsOf(l)) })
	a.limited = l
	return nil
}

// paces has resyncs keep to the cluster's settings, until ctx ends.
func (d *daemon) paces(ctx context.Context) {
	settings := d.view.settings.Feed()
	defer settings.Close()
	for {
		s := &v1.ClusterSettings{}
		if e, ok := d.view.settings.Get(state.SettingsID); ok {
			s = e.Value
		}
		d.node.do(func() {
			d.node.resyncs = coordinator.Resyncs{Bytes: float64(s.ResyncBytesPerSecond), Pause: s.PauseResync}
			d.node.paceResyncs()
		})
		select {
		case <-settings.Some():
			settings.Take()
		case <-ctx.Done():
			return
		}
	}
}

// paceResyncs shares what may be moved a second between the volumes that have replicas
// which catch up. The loop's.
func (n *Node) paceResyncs() {
	busy := 0
	for _, h := range n.heads {
		if h.coord.Syncing() {
			busy++
		}
	}
	share := n.resyncs
	share.Bytes /= float64(max(busy, 1))
	for _, h := range n.heads {
		h.coord.SetResyncs(share)
	}
}

func limitsOf(l *v1.Limits) coordinator.Limits {
	return coordinator.Limits{Reads: float64(l.GetReadIops()), Writes: float64(l.GetWriteIops()),
		ReadBytes: float64(l.GetReadBytesPerSecond()), WriteBytes: float64(l.GetWriteBytesPerSecond())}
}

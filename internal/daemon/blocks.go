package daemon

import (
	"context"
	"time"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/node"
	"github.com/holdfast-io/holdfast/internal/server"
)

// blocks asks this node's data process what differs between snapshots.
type blocks struct{ socket string }

// Changed is server.ChangedBlocks.Changed.
func (b blocks) Changed(ctx context.Context, q server.ChangedQuery) (*v1.ListChangedBlocksResponse, error) {
	return node.Changed(ctx, b.socket, node.ChangedQuery{Volume: q.Volume, Base: q.Base, Snapshot: q.Snapshot, Offset: q.Offset, Max: q.RangesMax})
}

// devices asks this node's data process about what is attached to it.
type devices struct{ socket string }

// Stats is server.Devices.Stats.
func (d devices) Stats(ctx context.Context, volume string, over time.Duration) (*v1.VolumeStats, error) {
	return node.Stats(ctx, d.socket, node.StatsQuery{Volume: volume, Over: over})
}

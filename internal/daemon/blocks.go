package daemon

import (
	"context"

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

package server_test

import (
	"context"
	"testing"

	"connectrpc.com/connect"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/api/holdfast/v1/holdfastv1connect"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/server"
	"github.com/holdfast-io/holdfast/internal/server/servertest"
)

// bad is a replica on the server's node that can't say what changed.
type bad struct{ kind fault.Kind }

func (b bad) Changed(context.Context, server.ChangedQuery) (*v1.ListChangedBlocksResponse, error) {
	return nil, fault.Errorf("test", b.kind, "the replica can't say")
}

// others are nodes that can.
type others struct{ server.Others }

func (others) Snapshots(string) (holdfastv1connect.SnapshotServiceClient, error) { return able{}, nil }

type able struct {
	holdfastv1connect.SnapshotServiceClient
}

func (able) ListChangedBlocks(context.Context, *v1.ListChangedBlocksRequest) (*v1.ListChangedBlocksResponse, error) {
	return &v1.ListChangedBlocksResponse{SizeBytes: 7}, nil
}

func TestWhatOneReplicaCannotSayAnotherIsAskedFor(t *testing.T) {
	for _, kind := range []fault.Kind{fault.NotFound, fault.Unavailable, fault.Corrupt, fault.Media, fault.Invalid} {
		t.Run(kind.String(), func(t *testing.T) {
			c := servertest.Start(t, servertest.Options{Blocks: bad{kind}, Others: others{}, NodeID: servertest.NodeID(1)})
			c.Stage.Nodes(3)
			volume(t, c, "db", 2)
			_, err := c.Client.Snapshots.CreateSnapshot(c.Ctx, &v1.CreateSnapshotRequest{Volume: "db", Name: "s", Wait: patience})
			c.Must(err)
			out, err := c.Client.Snapshots.ListChangedBlocks(c.Ctx, &v1.ListChangedBlocksRequest{Snapshot: "s"})
			if kind == fault.Invalid {
				if connect.CodeOf(err) != connect.CodeInvalidArgument {
					t.Errorf("%v, %v", out, err)
				}
				return
			}
			if err != nil || out.SizeBytes != 7 {
				t.Errorf("%v, %v", out, err)
			}
		})
	}
}

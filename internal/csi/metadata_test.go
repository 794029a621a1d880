package csi_test

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"testing"

	"connectrpc.com/connect"
	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	holdfastv1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/api/holdfast/v1/holdfastv1connect"
	ours "github.com/holdfast-io/holdfast/internal/csi"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
)

// blocks is an API with one snapshot, "new", whose blocks lie at even MiB; those from 10 on
// differ from the snapshot "old".
type blocks struct {
	holdfastv1connect.SnapshotServiceClient
	asked []string
}

const mib = 1 << 20

func (b *blocks) ListChangedBlocks(_ context.Context, r *holdfastv1.ListChangedBlocksRequest) (*holdfastv1.ListChangedBlocksResponse, error) {
	b.asked = append(b.asked, fmt.Sprintf("%s %d %d", r.Base, r.Offset/mib, r.RangesMax))
	if r.Snapshot != "new" {
		return nil, connect.NewError(connect.CodeNotFound, nil)
	}
	answer := &holdfastv1.ListChangedBlocksResponse{SizeBytes: 20 * mib, BlockBytes: 4096}
	for at := int64(0); at < 20; at += 2 {
		switch {
		case at*mib < r.Offset, r.Base == "old" && at < 10, r.Base == "same":
		case len(answer.Ranges) == int(r.RangesMax):
			answer.NextOffset = at * mib
			return answer, nil
		default:
			answer.Ranges = append(answer.Ranges, &holdfastv1.ChangedRange{Offset: at * mib, Length: mib})
		}
	}
	return answer, nil
}

func TestBackupProgramsLearnWhichBlocksToRead(t *testing.T) {
	api := &blocks{}
	d, err := ours.New(ours.Options{API: ours.API{Snapshots: api}, Controller: true})
	must(t, err)
	socket := filepath.Join(t.TempDir(), "csi.sock")
	listener, err := ours.Listen(socket)
	must(t, err)
	ctx, cancel := context.WithCancel(patiently.Context(t))
	done := make(chan error, 1)
	go func() { done <- d.Serve(ctx, listener, 0) }()
	t.Cleanup(func() { cancel(); must(t, patiently.From(t, done)) })
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"))
	must(t, err)
	t.Cleanup(func() { must(t, conn.Close()) })
	client := csi.NewSnapshotMetadataClient(conn)

	delta := func(base string, offset int64, max int32) (mibs []int64, pages int, err error) {
		s, err := client.GetMetadataDelta(ctx, &csi.GetMetadataDeltaRequest{BaseSnapshotId: base, TargetSnapshotId: "new", StartingOffset: offset * mib, MaxResults: max})
		for err == nil {
			var r *csi.GetMetadataDeltaResponse
			if r, err = s.Recv(); err != nil {
				break
			}
			if pages++; r.VolumeCapacityBytes != 20*mib || len(r.BlockMetadata) > 3 && max == 3 {
				t.Errorf("a page is %v", r)
			}
			for _, m := range r.BlockMetadata {
				mibs = append(mibs, m.ByteOffset/mib)
			}
		}
		if err == io.EOF {
			err = nil
		}
		return mibs, pages, err
	}
	for _, c := range []struct {
		base   string
		offset int64
		max    int32
		want   []int64
		pages  int
	}{
		{"old", 0, 0, []int64{10, 12, 14, 16, 18}, 1},
		{"old", 0, 3, []int64{10, 12, 14, 16, 18}, 2},
		{"old", 13, 3, []int64{14, 16, 18}, 1},
		{"same", 0, 0, nil, 1}, // it says how large the volume is
	} {
		if got, pages, err := delta(c.base, c.offset, c.max); err != nil || !slices.Equal(got, c.want) || pages != c.pages {
			t.Errorf("%+v: got %v in %d pages, %v", c, got, pages, err)
		}
	}
	_, _, err = delta("old", 20, 0)
	expect(t, err, codes.OutOfRange, "beyond the end")
	_, _, err = delta("old", -1, 0)
	expect(t, err, codes.InvalidArgument, "negative")
	_, _, err = delta("", 0, 0)
	expect(t, err, codes.InvalidArgument, "base")

	allocated := func(snapshot string) (n int, err error) {
		s, err := client.GetMetadataAllocated(ctx, &csi.GetMetadataAllocatedRequest{SnapshotId: snapshot, MaxResults: 4})
		for err == nil {
			var r *csi.GetMetadataAllocatedResponse
			if r, err = s.Recv(); err == nil {
				n += len(r.BlockMetadata)
			}
		}
		return n, err
	}
	if n, err := allocated("new"); n != 10 || err != io.EOF {
		t.Errorf("%d ranges, %v", n, err)
	}
	_, err = allocated("gone")
	expect(t, err, codes.NotFound, "")
	if last := api.asked[len(api.asked)-2]; last != " 16 4" {
		t.Errorf("the last page was asked for as %q", last)
	}
}

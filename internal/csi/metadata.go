package csi

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	holdfastv1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
)

// metadata says which blocks of a snapshot hold data, or differ from an earlier one.
type metadata struct {
	csi.UnimplementedSnapshotMetadataServer
	api API
}

// rangesMax is how many ranges one message carries at most, unless fewer are asked for.
const rangesMax = 1000

// GetMetadataAllocated streams what a snapshot has.
func (m *metadata) GetMetadataAllocated(r *csi.GetMetadataAllocatedRequest, s csi.SnapshotMetadata_GetMetadataAllocatedServer) error {
	if r.SnapshotId == "" {
		return missing("the snapshot's id")
	}
	q := question{snapshot: r.SnapshotId, offset: r.StartingOffset, max: r.MaxResults}
	return m.each(s.Context(), q, func(size int64, ranges []*csi.BlockMetadata) error {
		return s.Send(&csi.GetMetadataAllocatedResponse{BlockMetadataType: csi.BlockMetadataType_VARIABLE_LENGTH, VolumeCapacityBytes: size, BlockMetadata: ranges})
	})
}

// GetMetadataDelta streams what differs between two snapshots of a volume.
func (m *metadata) GetMetadataDelta(r *csi.GetMetadataDeltaRequest, s csi.SnapshotMetadata_GetMetadataDeltaServer) error {
	switch {
	case r.BaseSnapshotId == "":
		return missing("the base snapshot's id")
	case r.TargetSnapshotId == "":
		return missing("the target snapshot's id")
	}
	q := question{base: r.BaseSnapshotId, snapshot: r.TargetSnapshotId, offset: r.StartingOffset, max: r.MaxResults}
	return m.each(s.Context(), q, func(size int64, ranges []*csi.BlockMetadata) error {
		return s.Send(&csi.GetMetadataDeltaResponse{BlockMetadataType: csi.BlockMetadataType_VARIABLE_LENGTH, VolumeCapacityBytes: size, BlockMetadata: ranges})
	})
}

// question is what is asked, of a snapshot and an earlier one.
type question struct {
	base, snapshot string
	offset         int64
	max            int32
}

// each asks page by page, and sends each page. What differs nowhere is sent as one empty
// page, which says how large the volume is.
func (m *metadata) each(ctx context.Context, q question, send func(size int64, ranges []*csi.BlockMetadata) error) error {
	if q.offset < 0 || q.max < 0 {
		return refuse(codes.InvalidArgument, "offset %d, at most %d results: neither can be negative", q.offset, q.max)
	}
	if q.max == 0 || q.max > rangesMax {
		q.max = rangesMax
	}
	for first := true; first || q.offset > 0; first = false {
		got, err := m.api.Snapshots.ListChangedBlocks(ctx, &holdfastv1.ListChangedBlocksRequest{Snapshot: q.snapshot, Base: q.base,
			Offset: q.offset, RangesMax: q.max})
		if err != nil {
			return err
		}
		size := got.SizeBytes
		if first && q.offset > 0 && q.offset >= size {
			return refuse(codes.OutOfRange, "offset %d is beyond the end, %d", q.offset, size)
		}
		var ranges []*csi.BlockMetadata
		for _, r := range got.Ranges {
			ranges = append(ranges, &csi.BlockMetadata{ByteOffset: r.Offset, SizeBytes: r.Length})
		}
		if err := send(size, ranges); err != nil {
			return err
		}
		q.offset = got.NextOffset
	}
	return nil
}

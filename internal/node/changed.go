package node

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// ChangedQuery asks which bytes differ between two snapshots of a volume.
type ChangedQuery struct {
	Volume   string // id
	Base     string // id of a snapshot; "": all that there is
	Snapshot string // id of a later one; "": the volume as it is now
	Offset   int64  // where to begin, in bytes
	Max      int    // ranges in the answer
}

// changedRegions is how many regions are looked at between two looks at what else there is.
const changedRegions = 64

// changed answers a query from the volume's replica on this node, whether it counts or not:
// snapshots that it has are the same everywhere. fault.NotFound when there is none, or it
// does not have them. Whether it has the volume as it is now, the caller must know.
func (d *daemon) changed(ctx context.Context, q ChangedQuery) (*v1.ListChangedBlocksResponse, error) {
	since, _, err := d.generation(q.Base, q.Volume)
	if err != nil {
		return nil, err
	}
	of, size, err := d.generation(q.Snapshot, q.Volume)
	if err != nil {
		return nil, err
	}
	answer := &v1.ListChangedBlocksResponse{BlockBytes: block.Size, SizeBytes: size}
	end := block.Region(0)
	for from := block.Region(q.Offset / block.RegionSize); ; {
		var list []block.Extent
		var next block.Region
		err := d.node.wait(ctx, func(done func(error)) {
			r := d.residentOf(q.Volume)
			if r == nil {
				done(fault.Errorf("node.changed", fault.NotFound, "no replica of the volume lies on this node"))
				return
			}
			m := r.store.Manifest()
			if answer.SizeBytes == 0 {
				answer.SizeBytes = m.Size
			}
			end = block.Region((m.Size + block.RegionSize - 1) / block.RegionSize)
			for _, g := range []block.Generation{since, of} {
				// One that missed the snapshot writes on in the generation that the snapshot is of.
				if g != 0 && !slices.Contains(m.Snapshots, g) {
					done(fault.Errorf("node.changed", fault.NotFound, "the replica on this node does not have snapshot %d", g))
					return
				}
			}
			r.store.Changed(since, of, from, changedRegions, func(l []block.Extent, n block.Region, err error) {
				list, next = l, n
				done(err)
			})
		})
		if err != nil {
			return nil, err
		}
		if at := addRanges(answer, list, q); at != 0 {
			answer.NextOffset = at
			return answer, nil
		}
		if from = next; from >= end {
			return answer, nil
		}
	}
}

// addRanges adds extents to an answer, and returns where to go on if it is full.
func addRanges(answer *v1.ListChangedBlocksResponse, list []block.Extent, q ChangedQuery) (full int64) {
	for _, e := range list {
		start, end := max(int64(e.Start)*block.Size, q.Offset), min(int64(e.End())*block.Size, answer.SizeBytes)
		if start >= end {
			continue
		}
		if n := len(answer.Ranges); n > 0 && answer.Ranges[n-1].Offset+answer.Ranges[n-1].Length == start {
			answer.Ranges[n-1].Length += end - start
			continue
		}
		if len(answer.Ranges) == q.Max {
			return start
		}
		answer.Ranges = append(answer.Ranges, &v1.ChangedRange{Offset: start, Length: end - start})
	}
	return 0
}

// generation returns what a snapshot is called by stores, and its size; "" is 0.
func (d *daemon) generation(snapshot, volume string) (block.Generation, int64, error) {
	if snapshot == "" {
		return 0, 0, nil
	}
	snap, ok := d.view.snapshots.Get(snapshot)
	status, said := d.view.snapStatuses.Get(snapshot)
	switch {
	case !ok || !said || !status.Value.Ready: // or not yet, as far as this node has heard
		return 0, 0, fault.Errorf("node.changed", fault.NotFound, "snapshot %s is not known on this node", snapshot)
	case snap.Value.GetSpec().GetVolumeId() != volume:
		return 0, 0, fault.Errorf("node.changed", fault.Precondition, "snapshot %s is of another volume", snapshot)
	}
	return block.Generation(status.Value.Generation), status.Value.SizeBytes, nil
}

// residentOf returns the volume's replica here, or nil. The loop's.
func (d *daemon) residentOf(volume string) *resident {
	for _, r := range d.node.residents {
		if r.volume.String() == volume {
			return r
		}
	}
	return nil
}

// changedPage is /changed.
func (d *daemon) changedPage(w http.ResponseWriter, r *http.Request) {
	var q ChangedQuery
	if err := json.NewDecoder(io.LimitReader(r.Body, 1<<16)).Decode(&q); err != nil || q.Offset < 0 || q.Max < 1 {
		http.Error(w, "no query", http.StatusBadRequest)
		return
	}
	answer, err := d.changed(r.Context(), q)
	answerPage(w, answer, err)
}

// Changed asks the data process whose debug socket that is. fault.NotFound: the node has
// no replica of the volume that has the snapshots.
func Changed(ctx context.Context, socket string, q ChangedQuery) (*v1.ListChangedBlocksResponse, error) {
	const op = "node.Changed"
	raw, err := json.Marshal(q)
	if err != nil {
		return nil, fault.Wrap(op, err)
	}
	answer := &v1.ListChangedBlocksResponse{}
	return answer, askPage(ctx, op, page{socket: socket, path: "/changed", body: raw}, answer)
}

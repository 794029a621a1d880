package server

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/api/holdfast/v1/holdfastv1connect"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
)

// GetSnapshotTree shows how a volume's family descends.
func (s *snapshots) GetSnapshotTree(ctx context.Context, r *v1.GetSnapshotTreeRequest) (*v1.SnapshotTree, error) {
	e, err := s.findVolume(ctx, r.Volume)
	if err != nil {
		return nil, err
	}
	for depth := 0; depth < treeDepthMax; depth++ { // up to where the family begins
		parent, ok := s.view.volumes.Get(e.Value.GetSpec().GetSourceVolumeId())
		if !ok {
			break
		}
		e = parent
	}
	tree := &v1.SnapshotTree{}
	s.grow(tree, e, "", 0)
	return tree, nil
}

// treeDepthMax bounds how many generations of clones are followed.
const treeDepthMax = 64

// grow adds a volume's snapshots, in the order in which they were taken, with the clones
// of each, then the volume itself: it is what became of its last snapshot.
func (s *snapshots) grow(tree *v1.SnapshotTree, volume state.Entry[*v1.Volume], parent string, depth int) {
	if depth > treeDepthMax {
		return
	}
	var snaps []*v1.Snapshot
	for _, e := range s.view.snapshots.ByIndex(byVolume, volume.ID) {
		snaps = append(snaps, s.view.snapshot(e))
	}
	sortedBy(snaps, func(o *v1.Snapshot) string { // what is not taken yet comes last
		return fmt.Sprintf("%010d-%s", o.Status.Generation-1, o.GetMeta().GetCreated().AsTime().UTC().Format(time.RFC3339Nano)+o.Meta.Id)
	})
	for _, snap := range snaps {
		tree.Nodes = append(tree.Nodes, &v1.SnapshotTreeNode{Id: snap.Meta.Id, Name: snap.Meta.Name, ParentId: parent, Snapshot: snap})
		parent = snap.Meta.Id
		for _, e := range s.view.volumes.List() {
			if e.Value.GetSpec().GetSourceSnapshotId() == snap.Meta.Id {
				s.grow(tree, e, parent, depth+1)
			}
		}
	}
	tree.Nodes = append(tree.Nodes, &v1.SnapshotTreeNode{Id: volume.ID, Name: volume.Value.GetMeta().GetName(), ParentId: parent, Volume: true})
}

// RestoreSnapshot gives a volume the content of a snapshot again.
func (s *snapshots) RestoreSnapshot(ctx context.Context, r *v1.RestoreSnapshotRequest) (*v1.RestoreSnapshotResponse, error) {
	volume, err := s.usableVolume(ctx, r.Volume)
	if err != nil {
		return nil, err
	}
	snap, err := s.findSnapshot(ctx, r.Snapshot)
	if err != nil {
		return nil, err
	}
	name := volume.Value.Meta.Name
	switch {
	case snap.Value.GetSpec().GetVolumeId() != volume.ID:
		return nil, invalid("snapshot", "name one of this volume's: holdfast snapshot list --volume "+name, "%s is of volume %s", r.Snapshot, s.view.volumeName(snap.Value.GetSpec().GetVolumeId()))
	case !s.view.snapshot(snap).Status.Ready || snap.Value.GetSpec().GetDeleted():
		return nil, fault.Errorf("server", fault.Precondition, "snapshot %s is not there yet, or not any more", r.Snapshot)
	}
	if r.Preview {
		return s.preview(ctx, volume, snap)
	}
	if a := s.view.attachment(volume.ID); a != nil {
		return nil, fault.WithCure(fault.Errorf("server", fault.Precondition, "volume %s is attached to node %s", name, s.view.nodeName(cmp.Or(a.GetSpec().GetNodeId(), a.Status.NodeId))),
			"detach it first: holdfast volume detach "+name)
	}
	return s.restore(ctx, volume, snap, r)
}

// restore writes the safety snapshot and the operation. A volume that is being restored
// already is not restored twice.
func (s *snapshots) restore(ctx context.Context, volume state.Entry[*v1.Volume], snap state.Entry[*v1.Snapshot], r *v1.RestoreSnapshotRequest) (*v1.RestoreSnapshotResponse, error) {
	for _, o := range s.view.operations.List() {
		if o.Value.Kind != "VolumeRestore" || o.Value.TargetId != volume.ID || o.Value.Done {
			continue
		}
		if o.Value.Parameters["snapshot"] != snap.ID {
			return nil, fault.WithCure(fault.Errorf("server", fault.Precondition, "volume %s is being restored to another snapshot", volume.Value.Meta.Name), "wait for operation "+o.ID)
		}
		out := &v1.RestoreSnapshotResponse{Operation: clone(o.Value)}
		if e, ok := s.view.snapshots.Get(o.Value.Parameters["safety"]); ok {
			out.Safety = s.view.snapshot(e)
		}
		return out, nil
	}
	safetyName := cmp.Or(r.SafetyName, s.timed("before-restore-"+volume.Value.Meta.Name))
	if err := checkName("safety_name", safetyName); err != nil {
		return nil, err
	}
	meta, err := s.newMeta(safetyName, map[string]string{"holdfast.io/before-restore": "true"})
	if err != nil {
		return nil, err
	}
	safety := &v1.Snapshot{Meta: meta, Spec: &v1.SnapshotSpec{VolumeId: volume.ID}, Status: &v1.SnapshotStatus{}}
	o, create, err := s.operation(ctx, "VolumeRestore", state.KindVolume, volume.Value.Meta, map[string]string{"snapshot": snap.ID, "safety": meta.Id})
	if err != nil {
		return nil, err
	}
	ops := append(s.creates(ctx, volume, safety), create, state.Attachments.Require(volume.ID, 0), state.Snapshots.Require(snap.ID, snap.Revision))
	at, err := s.commit(ctx, ops...)
	if fault.Is(err, fault.Busy) {
		return nil, s.taken(ctx, state.KindSnapshot, safetyName, err)
	}
	if err != nil {
		return nil, err
	}
	restamp(o, at)
	restamp(safety, at)
	return &v1.RestoreSnapshotResponse{Operation: o, Safety: safety}, s.view.snapshots.Reach(ctx, at)
}

// preview counts the bytes that differ between a snapshot and the volume as it is now.
func (s *snapshots) preview(ctx context.Context, volume state.Entry[*v1.Volume], snap state.Entry[*v1.Snapshot]) (*v1.RestoreSnapshotResponse, error) {
	return elsewhere(ctx, s.Server, volume.ID, func(ctx context.Context) (*v1.RestoreSnapshotResponse, error) {
		if !s.countsHere(ctx, volume.ID) {
			return nil, fault.Errorf("server", fault.NotFound, "no replica on this node has all that was written")
		}
		total, err := s.changedSince(ctx, volume, snap)
		return &v1.RestoreSnapshotResponse{ChangedBytes: total}, err
	}, func(ctx context.Context, c holdfastv1connect.SnapshotServiceClient) (*v1.RestoreSnapshotResponse, error) {
		return c.RestoreSnapshot(ctx, &v1.RestoreSnapshotRequest{Volume: volume.ID, Snapshot: snap.ID, Preview: true})
	})
}

func (s *snapshots) changedSince(ctx context.Context, volume state.Entry[*v1.Volume], snap state.Entry[*v1.Snapshot]) (total int64, err error) {
	q := ChangedQuery{Volume: volume.ID, Base: snap.ID, RangesMax: rangesMax}
	for {
		answer, err := s.options.Blocks.Changed(ctx, q)
		if err != nil {
			return 0, err
		}
		for _, r := range answer.Ranges {
			total += r.Length
		}
		if q.Offset = answer.NextOffset; q.Offset == 0 {
			return total, nil
		}
	}
}

// Bounds of a page of changed ranges.
const (
	rangesDefault = 1000
	rangesMax     = 10000
)

// ListChangedBlocks lists what differs.
func (s *snapshots) ListChangedBlocks(ctx context.Context, r *v1.ListChangedBlocksRequest) (*v1.ListChangedBlocksResponse, error) {
	snap, err := s.findSnapshot(ctx, r.Snapshot)
	if err != nil {
		return nil, err
	}
	q := ChangedQuery{Volume: snap.Value.GetSpec().GetVolumeId(), Snapshot: snap.ID, Offset: r.Offset, RangesMax: int(cmp.Or(r.RangesMax, rangesDefault))}
	switch {
	case r.Offset < 0:
		return nil, invalid("offset", "give 0, or next_offset of the page before", "%d is negative", r.Offset)
	case r.RangesMax < 0 || r.RangesMax > rangesMax:
		return nil, invalid("ranges_max", "give a number up to 10000, or leave it out", "%d can't be", r.RangesMax)
	case !s.view.snapshot(snap).Status.Ready:
		return nil, fault.WithCure(fault.Errorf("server", fault.Unavailable, "snapshot %s is not taken yet", snap.Value.GetMeta().GetName()), "try again in a moment")
	}
	if r.Base != "" {
		base, err := s.findSnapshot(ctx, r.Base)
		if err != nil {
			return nil, fault.WithField(err, "base")
		}
		if err := s.earlier(base, snap); err != nil {
			return nil, err
		}
		q.Base = base.ID
	}
	return s.changed(ctx, q)
}

// earlier refuses a base that is not an earlier snapshot of the same volume.
func (s *snapshots) earlier(base, snap state.Entry[*v1.Snapshot]) error {
	const cure = "name an earlier snapshot of the same volume"
	a, b := s.view.snapshot(base), s.view.snapshot(snap)
	switch {
	case a.Spec.VolumeId != b.Spec.VolumeId:
		return invalid("base", cure, "%s is of another volume", a.Meta.Name)
	case !a.Status.Ready:
		return fault.Errorf("server", fault.Unavailable, "snapshot %s is not taken yet", a.Meta.Name)
	case a.Status.Generation > b.Status.Generation:
		return invalid("base", cure, "%s was taken after %s", a.Meta.Name, b.Meta.Name)
	}
	return nil
}

func (s *snapshots) changed(ctx context.Context, q ChangedQuery) (*v1.ListChangedBlocksResponse, error) {
	return elsewhere(ctx, s.Server, q.Volume, func(ctx context.Context) (*v1.ListChangedBlocksResponse, error) {
		return s.options.Blocks.Changed(ctx, q)
	}, func(ctx context.Context, c holdfastv1connect.SnapshotServiceClient) (*v1.ListChangedBlocksResponse, error) {
		return c.ListChangedBlocks(ctx, &v1.ListChangedBlocksRequest{Snapshot: q.Snapshot, Base: q.Base, Offset: q.Offset, RangesMax: int32(q.RangesMax)})
	})
}

// elsewhere has a question about a volume's bytes answered here, or, when there is nobody
// here who could, or a disk that can't, by the other nodes that have all of it, one after the other. What another
// node asks goes no further.
func elsewhere[T any](ctx context.Context, s *Server, volume string, here func(context.Context) (T, error), there func(context.Context, holdfastv1connect.SnapshotServiceClient) (T, error)) (answer T, err error) {
	err = fault.Errorf("server", fault.NotFound, "no replica of the volume lies on this node")
	if s.options.Blocks != nil {
		answer, err = here(ctx)
	}
	switch kind := fault.KindOf(err); {
	case who(ctx).Role == v1.Role_ROLE_NODE:
		return answer, err
	case kind != fault.NotFound && kind != fault.Unavailable && kind != fault.Corrupt && kind != fault.Media:
		return answer, err
	}
	asked := false
	for _, m := range value(s.view.records, volume).GetMembers() {
		address := value(s.view.nodeStatuses, m.NodeId).GetApiAddress()
		if m.NodeId == s.options.NodeID || m.State != uint32(spec.InSync) || !s.view.up(m.NodeId) || address == "" || s.options.Others == nil {
			continue
		}
		c, dialErr := s.options.Others.Snapshots(address)
		if dialErr != nil {
			return answer, dialErr
		}
		asked = true
		if answer, err = there(ctx, c); err == nil {
			return answer, nil
		}
	}
	if asked {
		return answer, fault.Errorf("server", fault.Unavailable, "no node that has the volume could answer: %w", err)
	}
	return answer, fault.WithCure(fault.Errorf("server", fault.Unavailable, "no node that has all of the volume is up"), "bring its nodes back: holdfast volume get shows which")
}

// countsHere reports whether this node has a replica that the volume counts on.
func (s *Server) countsHere(ctx context.Context, volume string) bool {
	e, err := state.Records.Get(ctx, s.store, volume)
	return err == nil && slices.ContainsFunc(e.Value.Members, func(m *statepb.Member) bool {
		return m.NodeId == s.options.NodeID && m.State == uint32(spec.InSync)
	})
}

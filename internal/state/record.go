package state

import (
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
)

// RecordMessage returns a volume's record as it is stored.
func RecordMessage(r spec.Record) *statepb.Record {
	m := &statepb.Record{VolumeId: r.Volume.String(), Version: r.Version, SizeBytes: r.Size, Epoch: uint64(r.Epoch),
		OwnerIncarnation: r.Incarnation, OwnerSince: uint64(r.OwnerSince),
		Settled: uint64(r.Settled), Generation: uint32(r.Generation)}
	if !r.Owner.IsZero() {
		m.OwnerNodeId = r.Owner.String()
	}
	for _, g := range r.Snapshots {
		m.Snapshots = append(m.Snapshots, uint32(g))
	}
	for _, x := range r.Members {
		m.Members = append(m.Members, &statepb.Member{ReplicaId: x.Replica.String(), NodeId: x.Node.String(),
			State: uint32(x.State), Since: uint64(x.Since)})
	}
	return m
}

// RecordOf reads what RecordMessage returned; fault.Corrupt when it did not.
func RecordOf(m *statepb.Record) (spec.Record, error) {
	r := spec.Record{Version: m.Version, Size: m.SizeBytes, Epoch: block.Epoch(m.Epoch),
		Incarnation: m.OwnerIncarnation, OwnerSince: block.Epoch(m.OwnerSince),
		Settled: block.Epoch(m.Settled), Generation: block.Generation(m.Generation)}
	for _, g := range m.Snapshots {
		r.Snapshots = append(r.Snapshots, block.Generation(g))
	}
	err := r.Volume.UnmarshalText([]byte(m.VolumeId))
	if err == nil && m.OwnerNodeId != "" {
		err = r.Owner.UnmarshalText([]byte(m.OwnerNodeId))
	}
	for _, x := range m.Members {
		member := spec.Member{State: spec.ReplicaState(x.State), Since: block.Epoch(x.Since)}
		if err == nil {
			err = member.Replica.UnmarshalText([]byte(x.ReplicaId))
		}
		if err == nil {
			err = member.Node.UnmarshalText([]byte(x.NodeId))
		}
		r.Members = append(r.Members, member)
	}
	if err != nil {
		return spec.Record{}, fault.Errorf("state.RecordOf", fault.Corrupt, "the record of volume %q: %w", m.VolumeId, err)
	}
	return r, nil
}

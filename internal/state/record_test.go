package state

import (
	"reflect"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
)

func TestRecordIsReadAsItWasWritten(t *testing.T) {
	detached := spec.Record{Version: 3, Volume: block.VolumeID{1}, Size: 1 << 30, Epoch: 7}
	attached := detached
	attached.Owner, attached.Incarnation, attached.OwnerSince = block.NodeID{2}, 9, 5
	attached.Settled, attached.Generation, attached.Snapshots = 4, 7, []block.Generation{2, 5}
	attached.Members = []spec.Member{{Replica: block.ReplicaID{3}, Node: block.NodeID{2}, State: spec.InSync},
		{Replica: block.ReplicaID{4}, Node: block.NodeID{5}, State: spec.Outdated, Since: 6}}
	for _, r := range []spec.Record{detached, attached} {
		got, err := RecordOf(RecordMessage(r))
		if err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("%+v became %+v, %v", r, got, err)
		}
	}
	m := RecordMessage(attached)
	for _, damage := range []func(*statepb.Record){
		func(m *statepb.Record) { m.VolumeId = "x" }, func(m *statepb.Record) { m.OwnerNodeId = "x" },
		func(m *statepb.Record) { m.Members[1].ReplicaId = "" }, func(m *statepb.Record) { m.Members[1].NodeId = "" }} {
		bad := proto.CloneOf(m)
		damage(bad)
		if _, err := RecordOf(bad); !fault.Is(err, fault.Corrupt) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

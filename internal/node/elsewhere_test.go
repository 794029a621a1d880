package node

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/memory"
)

func newNodeID(t *testing.T) block.NodeID {
	id, err := block.NewNodeID(rand.Reader)
	must(t, err)
	return id
}

// A node that has not heard that its volume was moved does not take it back from the node
// that has it now.
func TestAVolumeIsNotClaimedFromTheNodeItIsAttachedTo(t *testing.T) {
	store := memory.New()
	t.Cleanup(func() { must(t, store.Close()) })
	v, err := block.NewVolumeID(rand.Reader)
	must(t, err)
	old, owner := newNodeID(t), newNodeID(t)
	rec := spec.Record{Version: 1, Volume: v, Size: 1 << 20, Epoch: 4, Owner: owner, Incarnation: 1}
	_, err = store.Commit(t.Context(), state.Records.Create(v.String(), state.RecordMessage(rec)),
		state.Attachments.Create(v.String(), &v1.Attachment{VolumeId: v.String(), Spec: &v1.AttachmentSpec{NodeId: owner.String()}}))
	must(t, err)
	records := stateRecords{store}
	stolen := rec
	stolen.Version, stolen.Epoch, stolen.Owner = 2, 5, old
	if ok, _, err := records.Swap(t.Context(), stolen); ok || !fault.Is(err, fault.Precondition) {
		t.Errorf("another node's claim: %v, %v", ok, err)
	}
	restarted := rec
	restarted.Version, restarted.Epoch, restarted.Incarnation = 2, 5, 2
	if ok, _, err := records.Swap(t.Context(), restarted); !ok {
		t.Errorf("the claim of the node that it is attached to: %v", err)
	}
}

// The device that a dead data process left fails when its volume has gone to another node
// meanwhile, and what that node says of the volume stays.
func TestALeftDeviceFailsWhenItsVolumeIsAttachedElsewhere(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to mount")
	}
	m := newMachine(t)
	id := m.create("db", 512<<20)
	dir := filepath.Join(t.TempDir(), "mnt")
	m.commit(state.Attachments.Put(id, &v1.Attachment{VolumeId: id, Spec: &v1.AttachmentSpec{NodeId: m.o.Node.String(), MountPath: dir}}))
	await(m, state.AttachStatuses, id, func(s *v1.AttachmentStatus) bool { return s.MountPath == dir })
	sh(t, `echo kept >"$1/file"`, dir)
	m.stop()
	other := newNodeID(t).String()
	m.commit(state.Attachments.Put(id, &v1.Attachment{VolumeId: id, Spec: &v1.AttachmentSpec{NodeId: other}}),
		state.AttachStatuses.Put(id, &v1.AttachmentStatus{NodeId: other, State: v1.AttachmentState_ATTACHMENT_STATE_ATTACHED}))
	m.start()
	waitFor(t, func() bool {
		_, err := os.Stat(filepath.Join(dir, "file"))
		return err != nil
	})
	waitFor(t, func() bool {
		_, err := os.Lstat(filepath.Join(m.o.LinkDir, "db"))
		return err != nil
	})
	m.stop()
	if said, err := state.AttachStatuses.Get(t.Context(), m.store, id); err != nil || said.Value.NodeId != other {
		t.Errorf("of the volume is said %v, %v", said.Value, err)
	}
}

package node

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/emptypb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
)

// snapshot asks for a snapshot and waits until it is taken.
func (m *machine) snapshot(volume, name string, change func(*v1.SnapshotSpec)) *v1.SnapshotStatus {
	s := &v1.SnapshotSpec{VolumeId: volume}
	if change != nil {
		change(s)
	}
	m.commit(state.Snapshots.Create(name, &v1.Snapshot{Meta: &v1.Meta{Id: name, Name: name}, Spec: s}))
	return await(m, state.SnapshotStatuses, name, func(s *v1.SnapshotStatus) bool { return s.Ready || s.Problem != "" })
}

// tend has the volume's head run without a device, as control does.
func (m *machine) tend(id, node string) {
	e, err := state.Assignments.Get(m.t.Context(), m.store, id)
	must(m.t, err)
	e.Value.TendedOn = node
	m.commit(state.Assignments.Replace(id, e.Value, e.Revision))
}

// TestSnapshotGrowRestore is a volume's life in one story: snapshots of a mounted
// filesystem, growth while it is in use, and the content of the snapshot again.
func TestSnapshotGrowRestore(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to mount")
	}
	m := newMachine(t)
	id := m.create("db", 320<<20) // the least for XFS; ext4 grows only with CAP_SYS_RESOURCE
	dir := filepath.Join(t.TempDir(), "mnt")
	spec := &v1.AttachmentSpec{NodeId: m.o.Node.String(), MountPath: dir}
	m.commit(state.Attachments.Put(id, &v1.Attachment{VolumeId: id, Spec: spec}))
	await(m, state.AttachStatuses, id, func(s *v1.AttachmentStatus) bool { return s.MountPath == dir })
	sh(t, `echo first >"$1/file"`, dir)
	if s := m.snapshot(id, "one", func(s *v1.SnapshotSpec) { s.Freeze = true }); s.Problem != "" || s.Generation != 1 {
		t.Fatalf("the snapshot: %v", s)
	}
	sh(t, `echo second >"$1/file"; sync "$1/file"`, dir)

	before := sh(t, `df -B1 --output=size "$1" | tail -1`, dir)
	e, err := state.Assignments.Get(t.Context(), m.store, id)
	must(t, err)
	e.Value.SizeBytes = 512 << 20
	m.commit(state.Assignments.Replace(id, e.Value, e.Revision))
	await(m, state.Records, id, func(r *statepb.Record) bool { return r.SizeBytes == 512<<20 })
	waitFor(t, func() bool { return sh(t, `df -B1 --output=size "$1" | tail -1`, dir) != before })
	if got := sh(t, `cat "$1/file"`, dir); got != "second" {
		t.Errorf("after it grew the file holds %q", got)
	}
	m.detach(id)

	m.tend(id, m.o.Node.String())
	if s := m.snapshot(id, "safety", nil); s.Problem != "" || !s.Idle {
		t.Fatalf("the snapshot of a volume without a device: %v", s)
	}
	changed, err := Changed(t.Context(), m.o.Debug, ChangedQuery{Volume: id, Base: "one", Snapshot: "safety", Max: 10000})
	must(t, err)
	all, err := Changed(t.Context(), m.o.Debug, ChangedQuery{Volume: id, Snapshot: "safety", Max: 10000})
	must(t, err)
	if a, b := total(changed), total(all); a == 0 || a >= b {
		t.Errorf("%d bytes have changed, of %d", a, b)
	}
	var paged []*v1.ChangedRange
	for at, more := int64(0), true; more; more = at != 0 {
		page, err := Changed(t.Context(), m.o.Debug, ChangedQuery{Volume: id, Base: "one", Snapshot: "safety", Max: 3, Offset: at})
		must(t, err)
		paged, at = append(paged, page.Ranges...), page.NextOffset
	}
	if !slices.EqualFunc(paged, changed.Ranges, func(a, b *v1.ChangedRange) bool { return a.Offset == b.Offset && a.Length == b.Length }) {
		t.Errorf("in pages of 3: %v, at once: %v", paged, changed.Ranges)
	}
	restore := func(name string, canceled bool) *v1.Operation {
		m.commit(state.Operations.Create(name, &v1.Operation{Id: name, Kind: kindRestore, TargetId: id, Canceled: canceled, Parameters: map[string]string{"snapshot": "one", "safety": "safety"}}))
		return await(m, state.Operations, name, func(o *v1.Operation) bool { return o.Done })
	}
	if o := restore("restore", false); o.Error != "" || o.Progress.GetTotalBytes() == 0 || o.Progress.DoneBytes != o.Progress.TotalBytes {
		t.Fatalf("the restore: %v", o)
	}
	// As if that had come to here when it was canceled: the volume has again what it had.
	if o := restore("canceled", true); !strings.Contains(o.Error, "it was canceled: the volume has what it had before") {
		t.Fatalf("the restore that was canceled: %v", o)
	}
	m.tend(id, "")
	m.commit(state.Attachments.Put(id, &v1.Attachment{VolumeId: id, Spec: spec}))
	await(m, state.AttachStatuses, id, func(s *v1.AttachmentStatus) bool { return s.MountPath == dir })
	if got := sh(t, `cat "$1/file"`, dir); got != "second" {
		t.Errorf("after the restore that was canceled the file holds %q", got)
	}
	m.detach(id)
	m.tend(id, m.o.Node.String())
	if o := restore("again", false); o.Error != "" {
		t.Fatalf("the restore: %v", o)
	}
	m.commit(state.Snapshots.Put("one", &v1.Snapshot{Meta: &v1.Meta{Id: "one", Name: "one"}, Spec: &v1.SnapshotSpec{VolumeId: id, Deleted: true}}))
	await(m, state.Records, id, func(r *statepb.Record) bool { return len(r.Snapshots) == 1 && r.Snapshots[0] == 2 })
	m.tend(id, "")

	m.commit(state.Attachments.Put(id, &v1.Attachment{VolumeId: id, Spec: spec}))
	await(m, state.AttachStatuses, id, func(s *v1.AttachmentStatus) bool { return s.MountPath == dir })
	if got := sh(t, `cat "$1/file"`, dir); got != "first" {
		t.Errorf("after the restore the file holds %q", got)
	}
	m.detach(id)
}

// A replica that was left behind, and missed a snapshot, writes on in the generation that
// became the snapshot. What it holds of that is not the snapshot, so it does not answer.
func TestAReplicaThatMissedASnapshotDoesNotSayWhatChanged(t *testing.T) {
	m := newMachine(t)
	id := m.create("db", 64<<20)
	m.tend(id, m.o.Node.String())
	if s := m.snapshot(id, "one", nil); s.Problem != "" || s.Generation != 1 {
		t.Fatalf("the snapshot: %v", s)
	}
	m.commit(state.Snapshots.Create("missed", &v1.Snapshot{Meta: &v1.Meta{Id: "missed", Name: "missed"}, Spec: &v1.SnapshotSpec{VolumeId: id}}),
		state.SnapshotStatuses.Put("missed", &v1.SnapshotStatus{Ready: true, Generation: 2, SizeBytes: 64 << 20}))
	for _, q := range []ChangedQuery{{Base: "one", Snapshot: "missed"}, {Snapshot: "missed"}, {Base: "missed"}, {Snapshot: "unknown"}} {
		q.Volume, q.Max = id, 10
		if answer, err := Changed(t.Context(), m.o.Debug, q); !fault.Is(err, fault.NotFound) {
			t.Errorf("%+v: %v, %v", q, answer, err)
		}
	}
	if _, err := Changed(t.Context(), m.o.Debug, ChangedQuery{Volume: id, Snapshot: "one", Max: 10}); err != nil {
		t.Error(err)
	}
}

func total(r *v1.ListChangedBlocksResponse) (bytes int64) {
	for _, x := range r.Ranges {
		bytes += x.Length
	}
	return bytes
}

// TestGroupSnapshot takes snapshots of two volumes together.
func TestGroupSnapshot(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to make devices")
	}
	m := newMachine(t)
	a, b := m.create("a", 64<<20), m.create("b", 64<<20)
	m.attach(a)
	m.attach(b)
	ops := []state.Op{}
	for name, id := range map[string]string{"ga": a, "gb": b} {
		ops = append(ops, state.Snapshots.Create(name, &v1.Snapshot{Meta: &v1.Meta{Id: name, Name: name}, Spec: &v1.SnapshotSpec{VolumeId: id, GroupId: "g"}}))
	}
	m.commit(ops...)
	for _, name := range []string{"ga", "gb"} {
		if s := await(m, state.SnapshotStatuses, name, func(s *v1.SnapshotStatus) bool { return s.Ready || s.Problem != "" }); s.Problem != "" {
			t.Errorf("%s: %s", name, s.Problem)
		}
	}
	m.detach(a)
	m.detach(b)
}

// One snapshot can't be taken while another process has the filesystem frozen; one that is
// taken meanwhile gets the number that the first was to have. They are two. And one that a
// clone is being made of goes only when that has been made.
func TestASnapshotThatWaitsIsNotMistakenForAnother(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to mount")
	}
	m := newMachine(t)
	id := m.create("db", 320<<20)
	dir := filepath.Join(t.TempDir(), "mnt")
	m.commit(state.Attachments.Put(id, &v1.Attachment{VolumeId: id, Spec: &v1.AttachmentSpec{NodeId: m.o.Node.String(), MountPath: dir}}))
	await(m, state.AttachStatuses, id, func(s *v1.AttachmentStatus) bool { return s.MountPath == dir })
	sh(t, `fsfreeze --freeze "$1"`, dir)
	thawed := false
	defer func() {
		if !thawed {
			sh(t, `fsfreeze --unfreeze "$1"`, dir)
		}
	}()
	m.commit(state.Snapshots.Create("frozen", &v1.Snapshot{Meta: &v1.Meta{Id: "frozen", Name: "frozen"}, Spec: &v1.SnapshotSpec{VolumeId: id, Freeze: true}}))
	await(m, state.SnapshotStatuses, "frozen", func(s *v1.SnapshotStatus) bool { return s.Generation != 0 })
	plain := m.snapshot(id, "plain", nil)
	next := m.snapshot(id, "next", nil)
	if s, err := state.SnapshotStatuses.Get(t.Context(), m.store, "frozen"); err != nil || s.Value.Ready {
		t.Errorf("the filesystem is frozen by somebody else, and the snapshot is %v, %v; another is %v", s.Value, err, plain)
	}
	thawed = true
	sh(t, `fsfreeze --unfreeze "$1"`, dir)
	got := await(m, state.SnapshotStatuses, "frozen", func(s *v1.SnapshotStatus) bool { return s.Ready || s.Problem != "" })
	if got.Problem != "" || got.Generation == plain.Generation || got.Generation == next.Generation || plain.Generation == next.Generation {
		t.Errorf("the snapshots are %v, %v and %v", got, plain, next)
	}

	m.commit(state.Births.Create("plain/clone", &emptypb.Empty{}),
		state.Snapshots.Put("plain", &v1.Snapshot{Meta: &v1.Meta{Id: "plain", Name: "plain"}, Spec: &v1.SnapshotSpec{VolumeId: id, Deleted: true}}),
		state.Snapshots.Put("next", &v1.Snapshot{Meta: &v1.Meta{Id: "next", Name: "next"}, Spec: &v1.SnapshotSpec{VolumeId: id, Deleted: true}}))
	rec := await(m, state.Records, id, func(r *statepb.Record) bool { return !slices.Contains(r.Snapshots, next.Generation) })
	m.snapshot(id, "later", nil)
	if !slices.Contains(rec.Snapshots, plain.Generation) {
		t.Error("a snapshot went while a clone was being made of it")
	}
	m.commit(state.Births.Delete("plain/clone", 0))
	await(m, state.Records, id, func(r *statepb.Record) bool { return !slices.Contains(r.Snapshots, plain.Generation) })
	m.detach(id)
}

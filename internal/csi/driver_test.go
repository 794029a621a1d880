package csi_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	ours "github.com/holdfast-io/holdfast/internal/csi"
	"github.com/holdfast-io/holdfast/internal/csi/csitest"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
	"github.com/holdfast-io/holdfast/internal/state"
)

// rig is a driver, and what an orchestrator would hold of it.
type rig struct {
	t *testing.T
	*csitest.Cluster
	csi.ControllerClient
	csi.NodeClient
	csi.GroupControllerClient
	dir string
}

func newRig(t *testing.T, nodes int) *rig {
	t.Helper()
	c := csitest.Start(t, nodes)
	conn, err := grpc.NewClient("unix://"+serve(t, c, ours.Options{}), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"))
	must(t, err)
	t.Cleanup(func() { must(t, conn.Close()) })
	return &rig{t: t, Cluster: c, ControllerClient: csi.NewControllerClient(conn), NodeClient: csi.NewNodeClient(conn),
		GroupControllerClient: csi.NewGroupControllerClient(conn), dir: t.TempDir()}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (r *rig) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	r.t.Cleanup(cancel)
	return ctx
}

func filesystem() *csi.VolumeCapability {
	return &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER}}
}

func raw() *csi.VolumeCapability {
	return &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER}}
}

func (r *rig) create(name string, use *csi.VolumeCapability, more map[string]string) *csi.Volume {
	r.t.Helper()
	params := map[string]string{"repl": "1"}
	maps.Copy(params, more)
	v, err := r.CreateVolume(r.ctx(), &csi.CreateVolumeRequest{Name: name, VolumeCapabilities: []*csi.VolumeCapability{use},
		CapacityRange: &csi.CapacityRange{RequiredBytes: 64 << 20}, Parameters: params})
	must(r.t, err)
	return v.Volume
}

func (r *rig) publishAt(v *csi.Volume, node csitest.Node, use *csi.VolumeCapability) (map[string]string, error) {
	a, err := r.ControllerPublishVolume(r.ctx(), &csi.ControllerPublishVolumeRequest{VolumeId: v.VolumeId, NodeId: node.ID, VolumeCapability: use})
	return a.GetPublishContext(), err
}

// use takes a volume all the way to a path on the first node.
func (r *rig) use(v *csi.Volume, how *csi.VolumeCapability, path string, readOnly bool) {
	r.t.Helper()
	published, err := r.publishAt(v, r.Nodes[0], how)
	must(r.t, err)
	staging := filepath.Join(r.dir, "staging-"+v.VolumeId)
	_, err = r.NodeStageVolume(r.ctx(), &csi.NodeStageVolumeRequest{VolumeId: v.VolumeId, StagingTargetPath: staging, VolumeCapability: how,
		VolumeContext: v.VolumeContext, PublishContext: published, Secrets: map[string]string{"key": "hush"}})
	must(r.t, err)
	_, err = r.NodePublishVolume(r.ctx(), &csi.NodePublishVolumeRequest{VolumeId: v.VolumeId, StagingTargetPath: staging, TargetPath: path,
		VolumeCapability: how, VolumeContext: v.VolumeContext, PublishContext: published, Readonly: readOnly})
	must(r.t, err)
}

// leave takes it back.
func (r *rig) leave(v *csi.Volume, path string) {
	r.t.Helper()
	_, err := r.NodeUnpublishVolume(r.ctx(), &csi.NodeUnpublishVolumeRequest{VolumeId: v.VolumeId, TargetPath: path})
	must(r.t, err)
	_, err = r.NodeUnstageVolume(r.ctx(), &csi.NodeUnstageVolumeRequest{VolumeId: v.VolumeId, StagingTargetPath: filepath.Join(r.dir, "staging-"+v.VolumeId)})
	must(r.t, err)
	_, err = r.ControllerUnpublishVolume(r.ctx(), &csi.ControllerUnpublishVolumeRequest{VolumeId: v.VolumeId, NodeId: r.Nodes[0].ID})
	must(r.t, err)
}

func expect(t *testing.T, err error, code codes.Code, words string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(status.Convert(err).Message(), words) {
		t.Errorf("got %v, want %v with %q", err, code, words)
	}
}

func TestSecondNodeIsRefusedUntilTheFirstHasLetGoOrIsGone(t *testing.T) {
	r := newRig(t, 3)
	v := r.create("db", raw(), nil)
	_, err := r.publishAt(v, r.Nodes[0], raw())
	must(t, err)
	_, err = r.publishAt(v, r.Nodes[1], raw())
	expect(t, err, codes.FailedPrecondition, "node-a")
	_, err = r.ControllerUnpublishVolume(r.ctx(), &csi.ControllerUnpublishVolumeRequest{VolumeId: v.VolumeId, NodeId: r.Nodes[0].ID})
	must(t, err)
	_, err = r.publishAt(v, r.Nodes[1], raw())
	must(t, err)
	// Nobody asks the second node to let go: it is dead, and its lease has ended.
	r.Kill(r.Nodes[1])
	_, err = r.publishAt(v, r.Nodes[2], raw())
	must(t, err)
	got, err := r.ControllerGetVolume(r.ctx(), &csi.ControllerGetVolumeRequest{VolumeId: v.VolumeId})
	must(t, err)
	if on := got.Status.PublishedNodeIds; len(on) != 1 || on[0] != r.Nodes[2].ID {
		t.Errorf("it is published on %v", on)
	}
	// Unpublishing it from where it was is success, and takes nothing from who has it.
	_, err = r.ControllerUnpublishVolume(r.ctx(), &csi.ControllerUnpublishVolumeRequest{VolumeId: v.VolumeId, NodeId: r.Nodes[1].ID})
	must(t, err)
	_, err = r.publishAt(v, r.Nodes[2], raw())
	must(t, err)
}

func TestDeadNodeDoesNotHoldUpUnpublishing(t *testing.T) {
	r := newRig(t, 2)
	v := r.create("db", raw(), nil)
	_, err := r.publishAt(v, r.Nodes[1], raw())
	must(t, err)
	r.Kill(r.Nodes[1])
	_, err = r.ControllerUnpublishVolume(r.ctx(), &csi.ControllerUnpublishVolumeRequest{VolumeId: v.VolumeId, NodeId: r.Nodes[1].ID})
	must(t, err)
	_, err = r.publishAt(v, r.Nodes[0], raw())
	must(t, err)
}

func TestEveryCallAtOnceAndAgain(t *testing.T) {
	r := newRig(t, 1)
	path := filepath.Join(r.dir, "target")
	at := make(chan *csi.Volume, 8)
	each := func(what func()) {
		var all sync.WaitGroup
		for range cap(at) {
			all.Go(what)
		}
		all.Wait()
	}
	each(func() { at <- r.create("db", filesystem(), nil) })
	v := patiently.From(t, at)
	for range cap(at) - 1 {
		if other := patiently.From(t, at); other.VolumeId != v.VolumeId {
			t.Errorf("two volumes, %s and %s, have one name", v.VolumeId, other.VolumeId)
		}
	}
	each(func() { r.use(v, filesystem(), path, false) })
	must(t, os.WriteFile(filepath.Join(path, "hello"), []byte("there"), 0o600))
	each(func() { r.leave(v, path) })
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the target is still there: %v", err)
	}
	r.use(v, filesystem(), path, false)
	if text, err := os.ReadFile(filepath.Join(path, "hello")); string(text) != "there" {
		t.Errorf("read %q, %v", text, err)
	}
	r.leave(v, path)
	each(func() {
		_, err := r.DeleteVolume(r.ctx(), &csi.DeleteVolumeRequest{VolumeId: v.VolumeId})
		must(t, err)
	})
}

func TestEveryCallAboutAVolumeInUseAtOnce(t *testing.T) {
	r := newRig(t, 1)
	v := r.create("db", raw(), nil)
	_, err := r.publishAt(v, r.Nodes[0], raw())
	must(t, err)
	var mu sync.Mutex
	each := func(what string, call func() (id string, err error)) string {
		ids := map[string]bool{}
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				id, err := call()
				mu.Lock()
				defer mu.Unlock()
				if ids[id] = true; err != nil || len(ids) > 1 {
					t.Errorf("%s: %v, ids %v", what, err, ids)
				}
			})
		}
		all.Wait()
		for id := range ids {
			return id
		}
		return ""
	}
	snapshot := each("CreateSnapshot", func() (string, error) {
		s, err := r.CreateSnapshot(r.ctx(), &csi.CreateSnapshotRequest{Name: "now", SourceVolumeId: v.VolumeId})
		return s.GetSnapshot().GetSnapshotId(), err
	})
	group := each("CreateVolumeGroupSnapshot", func() (string, error) {
		g, err := r.CreateVolumeGroupSnapshot(r.ctx(), &csi.CreateVolumeGroupSnapshotRequest{Name: "both", SourceVolumeIds: []string{v.VolumeId}})
		return g.GetGroupSnapshot().GetGroupSnapshotId(), err
	})
	each("ControllerExpandVolume", func() (string, error) {
		g, err := r.ControllerExpandVolume(r.ctx(), &csi.ControllerExpandVolumeRequest{VolumeId: v.VolumeId, CapacityRange: &csi.CapacityRange{RequiredBytes: 96 << 20}, VolumeCapability: raw()})
		return fmt.Sprint(g.GetCapacityBytes()), err
	})
	each("ControllerModifyVolume", func() (string, error) {
		_, err := r.ControllerModifyVolume(r.ctx(), &csi.ControllerModifyVolumeRequest{VolumeId: v.VolumeId, MutableParameters: map[string]string{"iops": "500"}})
		return "", err
	})
	each("DeleteVolumeGroupSnapshot", func() (string, error) {
		_, err := r.DeleteVolumeGroupSnapshot(r.ctx(), &csi.DeleteVolumeGroupSnapshotRequest{GroupSnapshotId: group})
		return "", err
	})
	each("DeleteSnapshot", func() (string, error) {
		_, err := r.DeleteSnapshot(r.ctx(), &csi.DeleteSnapshotRequest{SnapshotId: snapshot})
		return "", err
	})
	left, err := r.ListSnapshots(r.ctx(), &csi.ListSnapshotsRequest{})
	must(t, err)
	if len(left.Entries) != 0 {
		t.Errorf("left: %v", left.Entries)
	}
	got, err := ours.NewAPI(r.Client, r.URL).Volumes.GetVolume(r.ctx(), getVolume(v.VolumeId))
	must(t, err)
	if got.Spec.SizeBytes != 96<<20 || got.Spec.GetLimits().GetReadIops() != 500 {
		t.Errorf("the volume is %v", got.Spec)
	}
}

func TestDeviceIsShownAsItIs(t *testing.T) {
	r := newRig(t, 1)
	v, path := r.create("raw", raw(), map[string]string{"fs": "xfs"}), filepath.Join(r.dir, "pod", "device")
	r.use(v, raw(), path, false)
	r.use(v, raw(), path, false)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	size, err := f.Seek(0, 2)
	must(t, err)
	if size != v.CapacityBytes {
		t.Errorf("the device has %d bytes, the volume %d", size, v.CapacityBytes)
	}
	must(t, f.Close())
	stats, err := r.NodeGetVolumeStats(r.ctx(), &csi.NodeGetVolumeStatsRequest{VolumeId: v.VolumeId, VolumePath: path})
	must(t, err)
	if stats.Usage[0].Total != size {
		t.Errorf("stats say %v", stats.Usage)
	}
	grown, err := r.ControllerExpandVolume(r.ctx(), &csi.ControllerExpandVolumeRequest{VolumeId: v.VolumeId, CapacityRange: &csi.CapacityRange{RequiredBytes: 96 << 20}, VolumeCapability: raw()})
	must(t, err)
	if grown.NodeExpansionRequired {
		t.Error("the node has nothing to do for a device")
	}
	onNode, err := r.NodeExpandVolume(r.ctx(), &csi.NodeExpandVolumeRequest{VolumeId: v.VolumeId, VolumePath: path, CapacityRange: &csi.CapacityRange{RequiredBytes: 96 << 20}})
	must(t, err)
	if onNode.CapacityBytes != 96<<20 {
		t.Errorf("the device has %d bytes", onNode.CapacityBytes)
	}
	r.leave(v, path)
}

func TestReadOnlyPathCannotBeWritten(t *testing.T) {
	r := newRig(t, 1)
	v, rw, ro := r.create("db", filesystem(), nil), filepath.Join(r.dir, "rw"), filepath.Join(r.dir, "ro")
	r.use(v, filesystem(), rw, false)
	r.use(v, filesystem(), ro, true)
	must(t, os.WriteFile(filepath.Join(rw, "a"), nil, 0o600))
	if err := os.WriteFile(filepath.Join(ro, "b"), nil, 0o600); err == nil || !strings.Contains(err.Error(), unix.EROFS.Error()) {
		t.Errorf("writing through the read-only path: %v", err)
	}
	_, err := r.NodePublishVolume(r.ctx(), &csi.NodePublishVolumeRequest{VolumeId: v.VolumeId, StagingTargetPath: filepath.Join(r.dir, "staging-"+v.VolumeId),
		TargetPath: ro, VolumeCapability: filesystem()})
	expect(t, err, codes.AlreadyExists, "in another way")
	_, err = r.NodeUnpublishVolume(r.ctx(), &csi.NodeUnpublishVolumeRequest{VolumeId: v.VolumeId, TargetPath: ro})
	must(t, err)
	r.leave(v, rw)
}

func TestSingleWriterHasOnePath(t *testing.T) {
	r := newRig(t, 1)
	alone := filesystem()
	alone.AccessMode.Mode = csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
	v, path, other := r.create("db", alone, nil), filepath.Join(r.dir, "pod"), filepath.Join(r.dir, "other")
	r.use(v, alone, path, false)
	r.use(v, alone, path, false)
	second := &csi.NodePublishVolumeRequest{VolumeId: v.VolumeId, StagingTargetPath: filepath.Join(r.dir, "staging-"+v.VolumeId), TargetPath: other, VolumeCapability: alone}
	_, err := r.NodePublishVolume(r.ctx(), second)
	expect(t, err, codes.FailedPrecondition, path)
	_, err = r.NodeUnpublishVolume(r.ctx(), &csi.NodeUnpublishVolumeRequest{VolumeId: v.VolumeId, TargetPath: path})
	must(t, err)
	_, err = r.NodePublishVolume(r.ctx(), second)
	must(t, err)
	r.leave(v, other)
}

func TestWhatIsNotUnderstoodIsRefused(t *testing.T) {
	r := newRig(t, 1)
	ask := func(change func(*csi.CreateVolumeRequest)) error {
		q := &csi.CreateVolumeRequest{Name: "x", VolumeCapabilities: []*csi.VolumeCapability{filesystem()}, Parameters: map[string]string{}}
		change(q)
		_, err := r.CreateVolume(r.ctx(), q)
		return err
	}
	expect(t, ask(func(q *csi.CreateVolumeRequest) { q.Parameters["rpl"] = "2" }), codes.InvalidArgument, "did you mean repl?")
	expect(t, ask(func(q *csi.CreateVolumeRequest) { q.Parameters["size"] = "1Gi" }), codes.InvalidArgument, "the claim says the size")
	expect(t, ask(func(q *csi.CreateVolumeRequest) { q.Parameters["csi.storage.k8s.io/new"] = "1" }), codes.InvalidArgument, "not one of the driver's")
	expect(t, ask(func(q *csi.CreateVolumeRequest) {
		q.CapacityRange = &csi.CapacityRange{RequiredBytes: 1, LimitBytes: 4095}
	}), codes.OutOfRange, "no multiple")
	expect(t, ask(func(q *csi.CreateVolumeRequest) {
		q.VolumeCapabilities[0].AccessMode.Mode = csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
	}), codes.InvalidArgument, "one node at a time")
	expect(t, ask(func(q *csi.CreateVolumeRequest) {
		q.AccessibilityRequirements = &csi.TopologyRequirement{Requisite: []*csi.Topology{{Segments: map[string]string{ours.TopologyZone: "moon"}}}}
	}), codes.ResourceExhausted, "no node")
	_, err := r.ControllerModifyVolume(r.ctx(), &csi.ControllerModifyVolumeRequest{VolumeId: r.create("y", raw(), nil).VolumeId, MutableParameters: map[string]string{"fs": "xfs"}})
	expect(t, err, codes.InvalidArgument, "can't be changed")
}

func TestClaimOfAVolumeSaysForWhomItIs(t *testing.T) {
	r := newRig(t, 2)
	v := r.create("pvc-1", filesystem(), map[string]string{"csi.storage.k8s.io/pvc/name": "data", "csi.storage.k8s.io/pvc/namespace": "shop"})
	got, err := ours.NewAPI(r.Client, r.URL).Volumes.GetVolume(r.ctx(), getVolume(v.VolumeId))
	must(t, err)
	if l := got.Meta.Labels; l["pvc"] != "data" || l["namespace"] != "shop" {
		t.Errorf("labels are %v", l)
	}
	if v.VolumeContext["filesystem"] != "ext4" {
		t.Errorf("context is %v", v.VolumeContext)
	}
}

func TestZonesOfTheClassNarrowPlacement(t *testing.T) {
	r := newRig(t, 3)
	zone := func(z string) *csi.Topology { return &csi.Topology{Segments: map[string]string{ours.TopologyZone: z}} }
	v, err := r.CreateVolume(r.ctx(), &csi.CreateVolumeRequest{Name: "x", VolumeCapabilities: []*csi.VolumeCapability{raw()}, Parameters: map[string]string{"repl": "1"},
		AccessibilityRequirements: &csi.TopologyRequirement{Requisite: []*csi.Topology{zone("b"), zone("a")}}})
	must(t, err)
	got, err := ours.NewAPI(r.Client, r.URL).Volumes.GetVolume(r.ctx(), getVolume(v.Volume.VolumeId))
	must(t, err)
	if zones := got.Spec.GetPlacement().GetZones(); len(zones) != 2 || zones[0] != "a" || zones[1] != "b" {
		t.Errorf("zones are %v", zones)
	}
	if v.Volume.AccessibleTopology != nil {
		t.Error("a volume can be used on every node")
	}
	all, err := r.GetCapacity(r.ctx(), &csi.GetCapacityRequest{})
	must(t, err)
	one, err := r.GetCapacity(r.ctx(), &csi.GetCapacityRequest{AccessibleTopology: zone("a"), Parameters: map[string]string{"repl": "1"}})
	must(t, err)
	if all.AvailableCapacity != 3*one.AvailableCapacity || one.AvailableCapacity != 90<<30 {
		t.Errorf("capacity is %d in all, %d in one of three zones", all.AvailableCapacity, one.AvailableCapacity)
	}
}

func TestFirstCopyGoesToTheNodeOfThePod(t *testing.T) {
	r := newRig(t, 3)
	on := func(n csitest.Node) *csi.Topology {
		return &csi.Topology{Segments: map[string]string{ours.TopologyNode: n.Name, ours.TopologyZone: n.Zone}}
	}
	create := func(first, second csitest.Node) string {
		all := []*csi.Topology{on(r.Nodes[0]), on(r.Nodes[1]), on(r.Nodes[2])}
		v, err := r.CreateVolume(r.ctx(), &csi.CreateVolumeRequest{Name: "x", VolumeCapabilities: []*csi.VolumeCapability{raw()}, Parameters: map[string]string{"repl": "2"},
			AccessibilityRequirements: &csi.TopologyRequirement{Requisite: all, Preferred: []*csi.Topology{on(first), on(second)}}})
		must(t, err)
		return v.Volume.VolumeId
	}
	id := create(r.Nodes[1], r.Nodes[2])
	got, err := ours.NewAPI(r.Client, r.URL).Volumes.GetVolume(r.ctx(), getVolume(id))
	must(t, err)
	if p := got.Spec.GetPlacement(); p.GetPrefer() != r.Nodes[1].ID || len(p.GetNodes())+len(p.GetZones()) != 0 {
		t.Errorf("placement is %v", p)
	}
	// The pod was scheduled anew before the answer arrived.
	if again := create(r.Nodes[2], r.Nodes[1]); again != id {
		t.Errorf("a second volume was made, %s", again)
	}
}

func TestGroupIsOfOneMomentAndGoesAsOne(t *testing.T) {
	r := newRig(t, 1)
	a, b := r.create("a", raw(), nil), r.create("b", raw(), nil)
	take := func() *csi.VolumeGroupSnapshot {
		g, err := r.CreateVolumeGroupSnapshot(r.ctx(), &csi.CreateVolumeGroupSnapshotRequest{Name: "both", SourceVolumeIds: []string{a.VolumeId, b.VolumeId}})
		must(t, err)
		return g.GroupSnapshot
	}
	g := take()
	if again := take(); again.GroupSnapshotId != g.GroupSnapshotId || len(again.Snapshots) != 2 {
		t.Errorf("the same name gave %v, then %v", g, again)
	}
	if !g.ReadyToUse || len(g.Snapshots) != 2 || g.Snapshots[0].SourceVolumeId != a.VolumeId {
		t.Errorf("got %v", g)
	}
	clone, err := r.CreateVolume(r.ctx(), &csi.CreateVolumeRequest{Name: "clone", VolumeCapabilities: []*csi.VolumeCapability{raw()},
		VolumeContentSource: &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
			Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: g.Snapshots[1].SnapshotId}}}})
	must(t, err)
	if clone.Volume.CapacityBytes != b.CapacityBytes {
		t.Errorf("the clone has %d bytes", clone.Volume.CapacityBytes)
	}
	_, err = r.DeleteVolume(r.ctx(), &csi.DeleteVolumeRequest{VolumeId: clone.Volume.VolumeId})
	must(t, err)
	for range 2 {
		_, err = r.DeleteVolumeGroupSnapshot(r.ctx(), &csi.DeleteVolumeGroupSnapshotRequest{GroupSnapshotId: g.GroupSnapshotId})
		must(t, err)
	}
	_, err = r.GetVolumeGroupSnapshot(r.ctx(), &csi.GetVolumeGroupSnapshotRequest{GroupSnapshotId: g.GroupSnapshotId})
	expect(t, err, codes.NotFound, "no group snapshot")
}

// all makes a hundred calls at once, and says how long they took.
func (r *rig) all(what string, call func(i int) error) {
	r.t.Helper()
	var calls sync.WaitGroup
	took := make([]time.Duration, 100)
	for i := range took {
		calls.Go(func() {
			began := time.Now()
			if err := call(i); err != nil {
				r.t.Errorf("%s %d: %v", what, i, err)
			}
			took[i] = time.Since(began)
		})
	}
	calls.Wait()
	slices.Sort(took)
	r.t.Logf("%d x %s: p50 %v, p99 %v", len(took), what, took[len(took)/2].Round(time.Millisecond), took[len(took)*99/100].Round(time.Millisecond))
}

// keys lists what the cluster has agreed on, but for events.
func (r *rig) keys() (keys []string) {
	r.t.Helper()
	items, _, err := r.Store.List(r.ctx(), state.Root)
	must(r.t, err)
	for _, i := range items {
		if !strings.HasPrefix(i.Key, state.Root+"events/") {
			keys = append(keys, i.Key)
		}
	}
	return keys
}

func TestHundredVolumesAtOnceLeaveNothing(t *testing.T) {
	r := newRig(t, 3)
	before := r.keys()
	volumes := make([]*csi.Volume, 100)
	r.all("create", func(i int) error {
		v, err := r.CreateVolume(r.ctx(), &csi.CreateVolumeRequest{Name: fmt.Sprint("pvc-", i), VolumeCapabilities: []*csi.VolumeCapability{raw()},
			CapacityRange: &csi.CapacityRange{RequiredBytes: 1 << 20}, Parameters: map[string]string{"repl": "2"}})
		volumes[i] = v.GetVolume()
		return err
	})
	r.all("publish", func(i int) error {
		_, err := r.publishAt(volumes[i], r.Nodes[i%3], raw())
		return err
	})
	listed, err := r.ListVolumes(r.ctx(), &csi.ListVolumesRequest{})
	must(t, err)
	for _, e := range listed.Entries {
		if len(e.Status.PublishedNodeIds) != 1 {
			t.Errorf("volume %s is published on %v", e.Volume.VolumeId, e.Status.PublishedNodeIds)
		}
	}
	r.all("unpublish", func(i int) error {
		_, err := r.ControllerUnpublishVolume(r.ctx(), &csi.ControllerUnpublishVolumeRequest{VolumeId: volumes[i].VolumeId, NodeId: r.Nodes[i%3].ID})
		return err
	})
	r.all("delete", func(i int) error {
		_, err := r.DeleteVolume(r.ctx(), &csi.DeleteVolumeRequest{VolumeId: volumes[i].VolumeId})
		return err
	})
	patiently.Until(t, func() error { // the last replicas go after the answer
		if now := r.keys(); !slices.Equal(before, now) {
			return fmt.Errorf("before there was %v, now %v", before, now)
		}
		return nil
	})
}

func TestHealthNamesTheCause(t *testing.T) {
	r := newRig(t, 2)
	v := r.create("db", raw(), map[string]string{"repl": "2"})
	health := func() []*csi.VolumeHealth_VolumeHealthEntry {
		got, err := r.ControllerGetVolumeHealth(r.ctx(), &csi.ControllerGetVolumeHealthRequest{VolumeId: v.VolumeId})
		must(t, err)
		return got.VolumeHealth.HealthStatuses
	}
	if ill := health(); len(ill) != 0 {
		t.Errorf("a healthy volume has %v", ill)
	}
	r.Kill(r.Nodes[1])
	var ill []*csi.VolumeHealth_VolumeHealthEntry
	patiently.True(t, "the volume is ill", func() bool { // the API's view follows the state
		ill = health()
		return len(ill) > 0
	})
	if ill[0].Status != csi.VolumeHealthErrorType_DEGRADED || !strings.Contains(ill[0].Message, "node-b") {
		t.Errorf("got %v", ill)
	}
	all, err := r.ControllerListVolumeHealth(r.ctx(), &csi.ControllerListVolumeHealthRequest{})
	must(t, err)
	if len(all.Entries) != 1 || all.Entries[0].VolumeId != v.VolumeId {
		t.Errorf("listed %v", all.Entries)
	}
}

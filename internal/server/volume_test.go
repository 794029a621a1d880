package server_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/server/servertest"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
)

func TestVolumeThroughItsLife(t *testing.T) {
	c := start(t, 3)
	vols, atts := c.Client.Volumes, c.Client.Attachments
	v := volume(t, c, "db", 3)
	if v.Status.Health != v1.Health_HEALTH_HEALTHY || len(v.Status.Replicas) != 3 || v.Spec.Filesystem != "ext4" || v.Spec.SectorBytes != 4096 {
		t.Errorf("made as %v", v)
	}
	a, err := atts.Attach(c.Ctx, &v1.AttachRequest{Volume: "db", Node: "n2", MountPath: "/mnt/db", Wait: patience})
	c.Must(err)
	if a.Status.State != v1.AttachmentState_ATTACHMENT_STATE_ATTACHED || a.Status.Device != "/dev/holdfast/db" || a.Status.MountPath != "/mnt/db" {
		t.Errorf("attached as %v", a)
	}
	_, err = vols.DeleteVolume(c.Ctx, &v1.DeleteVolumeRequest{Volume: "db"})
	refused(t, err, connect.CodeFailedPrecondition, "holdfast volume detach db")
	_, err = atts.Unmount(c.Ctx, &v1.UnmountRequest{Volume: "db", Wait: patience})
	c.Must(err)
	_, err = atts.Mount(c.Ctx, &v1.MountRequest{Volume: "db", Path: "/mnt/other", Wait: patience})
	c.Must(err)
	size := int64(2 << 30)
	v, err = vols.UpdateVolume(c.Ctx, &v1.UpdateVolumeRequest{Volume: v.Meta.Id, SizeBytes: &size, SetLabels: map[string]string{"app": "db"}, Wait: patience})
	c.Must(err)
	if v.Spec.SizeBytes != size || v.Meta.Labels["app"] != "db" {
		t.Errorf("updated to %v", v)
	}
	for _, r := range v.Status.Replicas { // all of it has come true
		h, err := state.Holdings.Get(c.Ctx, c.Store, r.Id)
		c.Must(err)
		if h.Value.SizeBytes != size || v.Status.Attachment.SizeBytes != size {
			t.Errorf("the wait ended with %d bytes in a replica, and a device of %d", h.Value.SizeBytes, v.Status.Attachment.SizeBytes)
		}
	}
	_, err = atts.Detach(c.Ctx, &v1.DetachRequest{Volume: "db", Wait: patience})
	c.Must(err)
	_, err = atts.Detach(c.Ctx, &v1.DetachRequest{Volume: "db", Wait: patience})
	c.Must(err)
	d, err := vols.DeleteVolume(c.Ctx, &v1.DeleteVolumeRequest{Volume: "db"})
	c.Must(err)
	if d.Volume.Status.Health != v1.Health_HEALTH_TRASHED || d.PurgeAt == nil {
		t.Errorf("deleted as %v", d)
	}
	volume(t, c, "db", 1) // the name is free
	_, err = vols.RestoreVolume(c.Ctx, &v1.RestoreVolumeRequest{Volume: "db"})
	refused(t, err, connect.CodeAlreadyExists, "--name NAME")
	v, err = vols.RestoreVolume(c.Ctx, &v1.RestoreVolumeRequest{Volume: v.Meta.Id, Name: "db-old"})
	c.Must(err)
	if v.Meta.Name != "db-old" || v.Status.Health != v1.Health_HEALTH_HEALTHY {
		t.Errorf("restored as %v", v)
	}
	_, err = vols.PurgeVolume(c.Ctx, &v1.PurgeVolumeRequest{Volume: "db-old"})
	refused(t, err, connect.CodeFailedPrecondition, "delete it first")
	_, err = vols.DeleteVolume(c.Ctx, &v1.DeleteVolumeRequest{Volume: "db-old", Purge: true, Wait: patience})
	c.Must(err)
	_, err = vols.GetVolume(c.Ctx, &v1.GetVolumeRequest{Volume: "db-old"})
	refused(t, err, connect.CodeNotFound, "holdfast volume list")
	_, err = vols.DeleteVolume(c.Ctx, &v1.DeleteVolumeRequest{Volume: "db-old"})
	c.Must(err)
}

// TestAChangeWaitsForNothingElse: a limit does not wait until the size comes true that was
// asked for before and can't, nor until a node is back.
func TestAChangeWaitsForNothingElse(t *testing.T) {
	c := start(t, 2)
	v := volume(t, c, "db", 2)
	c.Stage.Refuse("db", "no room")
	size := v.Spec.SizeBytes * 2
	_, err := c.Client.Volumes.UpdateVolume(c.Ctx, &v1.UpdateVolumeRequest{Volume: "db", SizeBytes: &size})
	c.Must(err)
	c.Commit(state.Verdicts.Put(v.Meta.Id, &statepb.Verdict{VolumeId: v.Meta.Id, Conditions: []*v1.Condition{{Type: "Grown", Reason: "NoSpace", Message: "pools are full"}}}))
	_, err = c.Client.Volumes.UpdateVolume(c.Ctx, &v1.UpdateVolumeRequest{Volume: "db", SizeBytes: &size, Wait: patience})
	refused(t, err, connect.CodeResourceExhausted, "")
	c.Stage.Outdate(v.Meta.Id, 2)
	paused := true
	v, err = c.Client.Volumes.UpdateVolume(c.Ctx, &v1.UpdateVolumeRequest{Volume: "db", Limits: &v1.Limits{ReadIops: 100}, RepairPaused: &paused,
		SetLabels: map[string]string{"app": "db"}, Wait: patience})
	c.Must(err)
	if v.Spec.Limits.GetReadIops() != 100 || v.Meta.Labels["app"] != "db" || v.Status.Health == v1.Health_HEALTH_HEALTHY {
		t.Errorf("%v", v)
	}
	c.Stage.Refuse("db", "")
	c.Commit(state.Verdicts.Delete(v.Meta.Id, 0)) // the copy that lacks writes does not keep it from growing
	_, err = c.Client.Volumes.UpdateVolume(c.Ctx, &v1.UpdateVolumeRequest{Volume: "db", SizeBytes: &size, Wait: patience})
	c.Must(err)
}

func TestSameCreateTwiceIsOneVolume(t *testing.T) {
	c := start(t, 1)
	r := &v1.CreateVolumeRequest{Name: "db", Labels: map[string]string{"a": "b"}, Spec: &v1.VolumeSpec{SizeBytes: 1 << 30, Class: "high", Limits: &v1.Limits{ReadIops: 5}}}
	var wg sync.WaitGroup
	ids := make([]string, 8)
	for i := range ids {
		wg.Go(func() {
			if v, err := c.Client.Volumes.CreateVolume(c.Ctx, r); err == nil {
				ids[i] = v.Meta.Id
			}
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id == "" || id != ids[0] {
			t.Fatalf("made %q", ids)
		}
	}
	for _, other := range []struct {
		change func(*v1.CreateVolumeRequest)
		says   string
	}{
		{func(r *v1.CreateVolumeRequest) { r.Spec.SizeBytes = 2 << 30 }, "size_bytes is 1073741824, not 2147483648"},
		{func(r *v1.CreateVolumeRequest) { r.Spec.Class = "low" }, "class is high, not low"},
		{func(r *v1.CreateVolumeRequest) { r.Spec.Limits = nil }, "limits.read_iops is 5, not 0"},
		{func(r *v1.CreateVolumeRequest) { r.Spec.Placement = &v1.Placement{Zones: []string{"a"}} }, "placement.zones is"},
		{func(r *v1.CreateVolumeRequest) { r.Spec.Filesystem = "none" }, "filesystem is ext4, not (none)"},
		{func(r *v1.CreateVolumeRequest) { r.Labels["a"] = "c" }, `label a is "b", not "c"`},
	} {
		r := proto.Clone(r).(*v1.CreateVolumeRequest)
		other.change(r)
		_, err := c.Client.Volumes.CreateVolume(c.Ctx, r)
		refused(t, err, connect.CodeAlreadyExists, "choose another name")
		if !strings.Contains(err.Error(), other.says) {
			t.Errorf("%v does not say %q", err, other.says)
		}
	}
}

func TestWrongVolumesAreRefusedByField(t *testing.T) {
	c := start(t, 1)
	ok := func() *v1.CreateVolumeRequest {
		return &v1.CreateVolumeRequest{Name: "v", Spec: &v1.VolumeSpec{SizeBytes: 1 << 30, Placement: &v1.Placement{}, Limits: &v1.Limits{}}}
	}
	for field, change := range map[string]func(*v1.CreateVolumeRequest){
		"name":                               func(r *v1.CreateVolumeRequest) { r.Name = "a/b" },
		"labels":                             func(r *v1.CreateVolumeRequest) { r.Labels = map[string]string{"a b": ""} },
		"labels.a":                           func(r *v1.CreateVolumeRequest) { r.Labels = map[string]string{"a": "ä"} },
		"spec.size_bytes":                    func(r *v1.CreateVolumeRequest) { r.Spec.SizeBytes = 1<<30 + 1 },
		"spec.replicas":                      func(r *v1.CreateVolumeRequest) { r.Spec.Replicas = -1 },
		"spec.class":                         func(r *v1.CreateVolumeRequest) { r.Spec.Class = "a b" },
		"spec.filesystem":                    func(r *v1.CreateVolumeRequest) { r.Spec.Filesystem = "ntfs" },
		"spec.sector_bytes":                  func(r *v1.CreateVolumeRequest) { r.Spec.SectorBytes = 1024 },
		"spec.limits.read_iops":              func(r *v1.CreateVolumeRequest) { r.Spec.Limits.ReadIops = -1 },
		"spec.limits.write_bytes_per_second": func(r *v1.CreateVolumeRequest) { r.Spec.Limits.WriteBytesPerSecond = 1 },
		"spec.placement.spread":              func(r *v1.CreateVolumeRequest) { r.Spec.Placement.Spread = "planet" },
		"spec.placement.group":               func(r *v1.CreateVolumeRequest) { r.Spec.Placement.GroupPolicy = "affinity" },
		"spec.placement.group_policy":        func(r *v1.CreateVolumeRequest) { r.Spec.Placement.GroupPolicy = "love" },
		"spec.snapshot_policies":             func(r *v1.CreateVolumeRequest) { r.Spec.SnapshotPolicies = []string{"nightly"} },
		"spec.deleting":                      func(r *v1.CreateVolumeRequest) { r.Spec.Deleting = true },
		"spec.source_snapshot_id":            func(r *v1.CreateVolumeRequest) { r.Spec.SourceSnapshotId = "x" },
		"source_snapshot":                    func(r *v1.CreateVolumeRequest) { r.SourceSnapshot = "gone" },
		"source_volume":                      func(r *v1.CreateVolumeRequest) { r.SourceVolume = "gone" },
		"wait":                               func(r *v1.CreateVolumeRequest) { r.Wait = durationpb.New(-1) },
	} {
		r := ok()
		change(r)
		_, err := c.Client.Volumes.CreateVolume(c.Ctx, r)
		if detail(err).GetField() != field || detail(err).GetCure() == "" {
			t.Errorf("%s: %v, detail %v", field, err, detail(err))
		}
	}
	_, err := c.Client.Volumes.CreateVolume(c.Ctx, ok())
	c.Must(err)
}

func TestVolumeWithoutAPlaceSaysWhy(t *testing.T) {
	c := start(t, 2)
	c.Stage.Refuse("big", "needs 3 zones, the cluster has 2")
	_, err := c.Client.Volumes.CreateVolume(c.Ctx, &v1.CreateVolumeRequest{Name: "big", Spec: &v1.VolumeSpec{SizeBytes: 1 << 30, Replicas: 2}, Wait: patience})
	refused(t, err, connect.CodeResourceExhausted, "holdfast volume delete big")
	if !strings.Contains(err.Error(), "needs 3 zones, the cluster has 2") {
		t.Error(err)
	}
	st, err := c.Client.Cluster.GetStatus(c.Ctx, &v1.GetStatusRequest{})
	c.Must(err)
	if len(st.Attention) != 1 || st.Attention[0].Name != "big" || !strings.Contains(st.Attention[0].Message, "3 zones") {
		t.Errorf("attention: %v", st.Attention)
	}
	c.Stage.Refuse("big", "")
	_, err = c.Client.Volumes.CreateVolume(c.Ctx, &v1.CreateVolumeRequest{Name: "other", Spec: &v1.VolumeSpec{SizeBytes: 1 << 30, Replicas: 2}, Wait: patience})
	c.Must(err)
}

func TestWaitThatEndsSaysWhatIsMissing(t *testing.T) {
	c := servertest.Start(t, servertest.Options{Still: true})
	c.Stage.Nodes(1)
	_, err := c.Client.Volumes.CreateVolume(c.Ctx, &v1.CreateVolumeRequest{Name: "v", Spec: &v1.VolumeSpec{SizeBytes: 1 << 30}, Wait: durationpb.New(1)})
	refused(t, err, connect.CodeDeadlineExceeded, "goes on by itself")
	if !strings.Contains(err.Error(), "not yet decided where") {
		t.Error(err)
	}
}

func TestListsFilterAndPage(t *testing.T) {
	c := start(t, 3)
	for i := range 7 {
		_, err := c.Client.Volumes.CreateVolume(c.Ctx, &v1.CreateVolumeRequest{Name: fmt.Sprintf("v%d", i), Labels: map[string]string{"odd": fmt.Sprint(i % 2)},
			Spec: &v1.VolumeSpec{SizeBytes: 1 << 30, Replicas: int32(1 + i%3)}, Wait: patience})
		c.Must(err)
	}
	list := func(r *v1.ListVolumesRequest) (names string) {
		for {
			out, err := c.Client.Volumes.ListVolumes(c.Ctx, r)
			c.Must(err)
			for _, v := range out.Volumes {
				names += v.Meta.Name + " "
			}
			if r.PageToken = out.NextPageToken; r.PageToken == "" {
				return strings.TrimSpace(names)
			}
			names += "| "
		}
	}
	_, err := c.Client.Attachments.Attach(c.Ctx, &v1.AttachRequest{Volume: "v4", Node: "n3", Wait: patience})
	c.Must(err)
	c.Stage.Down(2)
	until(t, "down", func() bool {
		n, err := c.Client.Nodes.GetNode(c.Ctx, &v1.GetNodeRequest{Node: "n2"})
		return err == nil && n.Status.State == v1.NodeState_NODE_STATE_DOWN
	})
	for want, r := range map[string]*v1.ListVolumesRequest{
		"v0 v1 v2 | v3 v4 v5 | v6": {PageSize: 3},
		"v1 v3 v5":                 {Selector: "odd=1"},
		"v2 v4 v5":                 {Node: "n3"},
		"v2 v5":                    {Pool: "n3-1"},
		"v4":                       {Attached: true},
		"v1 v2 v4 v5":              {Attention: true},
		"v0 v3 v6":                 {Health: v1.Health_HEALTH_HEALTHY},
		"v6":                       {NamePrefix: "v6"},
		"":                         {Trashed: true},
	} {
		if got := list(r); got != want {
			t.Errorf("%v lists %q, want %q", r, got, want)
		}
	}
	_, err = c.Client.Volumes.ListVolumes(c.Ctx, &v1.ListVolumesRequest{PageToken: "nonsense"})
	if detail(err).GetField() != "page_token" {
		t.Error(err)
	}
	_, err = c.Client.Volumes.ListVolumes(c.Ctx, &v1.ListVolumesRequest{Selector: "a b"})
	if detail(err).GetField() != "selector" {
		t.Error(err)
	}
}

func TestOneNodeHasAVolume(t *testing.T) {
	c := start(t, 2)
	volume(t, c, "db", 2)
	atts := c.Client.Attachments
	_, err := atts.Attach(c.Ctx, &v1.AttachRequest{Volume: "db", Node: "n1", Wait: patience})
	c.Must(err)
	_, err = atts.Attach(c.Ctx, &v1.AttachRequest{Volume: "db", Node: "n1", Wait: patience})
	c.Must(err)
	_, err = atts.Attach(c.Ctx, &v1.AttachRequest{Volume: "db", Node: "n1", ReadOnly: true})
	refused(t, err, connect.CodeFailedPrecondition, "detach it first")
	_, err = atts.Attach(c.Ctx, &v1.AttachRequest{Volume: "db", Node: "n2"})
	refused(t, err, connect.CodeFailedPrecondition, "--force")
	c.Stage.Down(1)
	until(t, "stalled", func() bool {
		a, err := atts.GetAttachment(c.Ctx, &v1.GetAttachmentRequest{Volume: "db"})
		return err == nil && a.Status.State == v1.AttachmentState_ATTACHMENT_STATE_STALLED
	})
	v, err := c.Client.Volumes.GetVolume(c.Ctx, &v1.GetVolumeRequest{Volume: "db"})
	c.Must(err)
	if v.Status.Health != v1.Health_HEALTH_UNAVAILABLE || !strings.Contains(v.Status.Conditions[0].Message, "attached to node n1, which is down") {
		t.Errorf("on a dead node it is %v", v.Status)
	}
	_, err = atts.Detach(c.Ctx, &v1.DetachRequest{Volume: "db", Wait: durationpb.New(1e6)})
	if connect.CodeOf(err) != connect.CodeDeadlineExceeded || !strings.Contains(err.Error(), "n1 is down and can't say") {
		t.Errorf("detach from a dead node: %v", err)
	}
	// Nobody can say that the device is gone, but its node's lease has ended.
	a, err := atts.Attach(c.Ctx, &v1.AttachRequest{Volume: "db", Node: "n2", Wait: patience})
	c.Must(err)
	if a.Status.NodeId != servertest.NodeID(2) {
		t.Errorf("taken over as %v", a)
	}
	_, err = atts.Detach(c.Ctx, &v1.DetachRequest{Volume: "db", Node: "n1", Wait: patience}) // it isn't there any more
	c.Must(err)
	if _, err := atts.GetAttachment(c.Ctx, &v1.GetAttachmentRequest{Volume: "db"}); err != nil {
		t.Errorf("n1's detach took it from n2: %v", err)
	}
	_, err = atts.Abort(c.Ctx, &v1.AbortRequest{Volume: "db"})
	c.Must(err)
	e, err := state.Attachments.Get(c.Ctx, c.Store, v.Meta.Id)
	c.Must(err)
	if !e.Value.Spec.Aborted {
		t.Error("nobody is told to abort")
	}
}

func TestDataLossIsAcceptedOnlyWhenNothingElseIsLeft(t *testing.T) {
	c := start(t, 2)
	v := volume(t, c, "db", 2)
	accept := func(epoch uint64) error {
		_, err := c.Client.Volumes.AcceptDataLoss(c.Ctx, &v1.AcceptDataLossRequest{Volume: "db", Epoch: epoch})
		return err
	}
	c.Stage.Outdate(v.Meta.Id, 2)
	health := func(want v1.Health) (epoch uint64) {
		until(t, want.String(), func() bool {
			v, err := c.Client.Volumes.GetVolume(c.Ctx, &v1.GetVolumeRequest{Volume: "db"})
			epoch = v.GetStatus().GetEpoch()
			return err == nil && v.Status.Health == want
		})
		return epoch
	}
	epoch := health(v1.Health_HEALTH_DEGRADED)
	if err := accept(epoch); connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("accepted although a good copy is there: %v", err)
	}
	c.Stage.Down(1)
	epoch = health(v1.Health_HEALTH_UNAVAILABLE)
	if err := accept(epoch - 1); detail(err).GetField() != "epoch" {
		t.Errorf("accepted what nobody has seen: %v", err)
	}
	c.Must(accept(epoch))
	e, err := state.Volumes.Get(c.Ctx, c.Store, v.Meta.Id)
	c.Must(err)
	if l := e.Value.Spec.AcceptedLoss; l.GetEpoch() != epoch || !strings.HasSuffix(l.GetReplicaId(), "1") {
		t.Errorf("accepted %v", l)
	}
}

func TestMovesAreOperations(t *testing.T) {
	c := start(t, 3)
	v := volume(t, c, "db", 2)
	move := func(from, to string) (*v1.Operation, error) {
		return c.Client.Volumes.MoveReplica(c.Ctx, &v1.MoveReplicaRequest{Volume: "db", From: from, To: to})
	}
	_, err := move("", "n3")
	if detail(err).GetField() != "from" || !strings.Contains(detail(err).GetCure(), "n1, n2") {
		t.Error(err, detail(err))
	}
	o, err := move("n1", "n3")
	c.Must(err)
	if o.Kind != "VolumeMove" || o.TargetId != v.Meta.Id || o.Parameters["to_node"] != servertest.NodeID(3) || o.Target != "volume/db" {
		t.Errorf("made %v", o)
	}
	same, err := move("n1", "n3")
	c.Must(err)
	if same.Id != o.Id {
		t.Error("the same move twice is two operations")
	}
	_, err = move("n1", "n2")
	refused(t, err, connect.CodeFailedPrecondition, "holdfast operation cancel")
	o, err = c.Client.Operations.CancelOperation(c.Ctx, &v1.CancelOperationRequest{Id: o.Id})
	c.Must(err)
	if !o.Canceled {
		t.Errorf("canceled as %v", o)
	}
	_, err = move("n3", "n1")
	if detail(err).GetField() != "from" {
		t.Error(err)
	}
}

func TestListsThatDifferAreShownInWords(t *testing.T) {
	c := start(t, 2)
	volume(t, c, "db", 1)
	_, err := c.Client.Volumes.CreateVolume(c.Ctx, &v1.CreateVolumeRequest{Name: "db", Spec: &v1.VolumeSpec{SizeBytes: 1 << 30, Replicas: 1,
		Placement: &v1.Placement{Zones: []string{"a", "b"}, NodeLabels: map[string]string{"disk": "ssd"}}}})
	refused(t, err, connect.CodeAlreadyExists, "holdfast volume update db")
	if want := "placement.zones is (none), not a,b; placement.node_labels is (none), not disk=ssd"; !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
}

package server_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpcreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"
	"sigs.k8s.io/yaml"

	"github.com/holdfast-io/holdfast/api/client"
	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
	"github.com/holdfast-io/holdfast/internal/server/servertest"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
)

func TestWhatACloneBeginsWithMayBeDeletedAtOnce(t *testing.T) {
	c := start(t, 2)
	volume(t, c, "db", 2)
	_, err := c.Client.Snapshots.CreateSnapshot(c.Ctx, &v1.CreateSnapshotRequest{Volume: "db", Name: "monday", Wait: patience})
	c.Must(err)
	_, err = c.Client.Snapshots.CloneSnapshot(c.Ctx, &v1.CloneSnapshotRequest{Snapshot: "monday", Name: "copy"})
	c.Must(err)
	_, err = c.Client.Snapshots.DeleteSnapshot(c.Ctx, &v1.DeleteSnapshotRequest{Snapshot: "monday"})
	c.Must(err)
	_, err = c.Client.Volumes.DeleteVolume(c.Ctx, &v1.DeleteVolumeRequest{Volume: "db"})
	c.Must(err)
	_, err = c.Client.Volumes.PurgeVolume(c.Ctx, &v1.PurgeVolumeRequest{Volume: "db"})
	c.Must(err)
	patiently.True(t, "the clone is healthy", func() bool {
		v, err := c.Client.Volumes.GetVolume(c.Ctx, &v1.GetVolumeRequest{Volume: "copy"})
		c.Must(err)
		return v.Status.Health == v1.Health_HEALTH_HEALTHY
	})
	patiently.True(t, "the source is gone", func() bool {
		_, err := c.Client.Volumes.GetVolume(c.Ctx, &v1.GetVolumeRequest{Volume: "db"})
		return connect.CodeOf(err) == connect.CodeNotFound
	})
}

func TestSnapshotThroughItsLife(t *testing.T) {
	c := start(t, 2)
	volume(t, c, "db", 2)
	snaps := c.Client.Snapshots
	r := &v1.CreateSnapshotRequest{Volume: "db", Name: "monday", Wait: patience}
	first, err := snaps.CreateSnapshot(c.Ctx, r)
	c.Must(err)
	again, err := snaps.CreateSnapshot(c.Ctx, r)
	c.Must(err)
	if first.Meta.Id != again.Meta.Id {
		t.Error("the same snapshot twice is two")
	}
	volume(t, c, "web", 1)
	_, err = snaps.CreateSnapshot(c.Ctx, &v1.CreateSnapshotRequest{Volume: "web", Name: "monday"})
	refused(t, err, connect.CodeAlreadyExists, "another name")
	clone, err := snaps.CloneSnapshot(c.Ctx, &v1.CloneSnapshotRequest{Snapshot: "monday", Name: "copy", Wait: patience})
	c.Must(err)
	if clone.Spec.SizeBytes != 1<<30 || clone.Spec.Replicas != 2 || clone.Spec.SourceSnapshotId != first.Meta.Id {
		t.Errorf("cloned as %v", clone.Spec)
	}
	_, err = snaps.CloneSnapshot(c.Ctx, &v1.CloneSnapshotRequest{Snapshot: "monday", Name: "small", Spec: &v1.VolumeSpec{SizeBytes: 1 << 20}})
	if detail(err).GetField() != "spec.size_bytes" {
		t.Error(err)
	}
	fromVolume, err := c.Client.Volumes.CreateVolume(c.Ctx, &v1.CreateVolumeRequest{Name: "copy2", SourceVolume: "db", Wait: patience})
	c.Must(err)
	same, err := c.Client.Volumes.CreateVolume(c.Ctx, &v1.CreateVolumeRequest{Name: "copy2", SourceVolume: "db", Wait: patience})
	c.Must(err)
	if fromVolume.Meta.Id != same.Meta.Id {
		t.Error("the same clone twice is two")
	}
	tree, err := snaps.GetSnapshotTree(c.Ctx, &v1.GetSnapshotTreeRequest{Volume: "copy"})
	c.Must(err)
	var names []string
	for _, n := range tree.Nodes {
		names = append(names, n.Name)
	}
	if got := strings.Join(names, " "); got != "monday copy for-clone-copy2 copy2 db" {
		t.Errorf("the tree is %s", got)
	}
	_, err = c.Client.Attachments.Attach(c.Ctx, &v1.AttachRequest{Volume: "db", Node: "n1", Wait: patience})
	c.Must(err)
	_, err = snaps.RestoreSnapshot(c.Ctx, &v1.RestoreSnapshotRequest{Volume: "db", Snapshot: "monday"})
	refused(t, err, connect.CodeFailedPrecondition, "detach it first")
	_, err = c.Client.Attachments.Detach(c.Ctx, &v1.DetachRequest{Volume: "db", Wait: patience})
	c.Must(err)
	back, err := snaps.RestoreSnapshot(c.Ctx, &v1.RestoreSnapshotRequest{Volume: "db", Snapshot: "monday", SafetyName: "before"})
	c.Must(err)
	if back.Operation.Kind != "VolumeRestore" || back.Operation.Parameters["snapshot"] != first.Meta.Id || back.Safety.Meta.Name != "before" {
		t.Errorf("restore is %v", back)
	}
	_, err = snaps.DeleteSnapshot(c.Ctx, &v1.DeleteSnapshotRequest{Snapshot: "monday", Wait: patience})
	c.Must(err)
	_, err = snaps.DeleteSnapshot(c.Ctx, &v1.DeleteSnapshotRequest{Snapshot: "monday", Wait: patience})
	c.Must(err)
}

func TestGroupSnapshotIsOneCommit(t *testing.T) {
	c := start(t, 1)
	for _, name := range []string{"a", "b", "c"} {
		volume(t, c, name, 1)
	}
	r := &v1.CreateGroupSnapshotRequest{Volumes: []string{"a", "b"}, Name: "g", Wait: patience}
	g, err := c.Client.Snapshots.CreateGroupSnapshot(c.Ctx, r)
	c.Must(err)
	again, err := c.Client.Snapshots.CreateGroupSnapshot(c.Ctx, r)
	c.Must(err)
	if g.GroupId != again.GroupId || len(g.Snapshots) != 2 || g.Snapshots[0].Spec.GroupId != g.GroupId || g.Snapshots[1].Meta.Name != "g-b" {
		t.Errorf("taken as %v, then %v", g, again)
	}
	_, err = c.Client.Snapshots.CreateGroupSnapshot(c.Ctx, &v1.CreateGroupSnapshotRequest{Volumes: []string{"a", "c"}, Name: "g"})
	refused(t, err, connect.CodeAlreadyExists, "another name")
	list, err := c.Client.Snapshots.ListSnapshots(c.Ctx, &v1.ListSnapshotsRequest{GroupId: g.GroupId})
	c.Must(err)
	if len(list.Snapshots) != 2 {
		t.Errorf("the group lists %v", list)
	}
}

// What could not be taken of all volumes is taken of none: it can't be used, and is out of
// the way of whoever tries again.
func TestGroupSnapshotThatFailsOnOneVolumeFailsOnAll(t *testing.T) {
	c := start(t, 1)
	for _, name := range []string{"a", "b"} {
		volume(t, c, name, 1)
	}
	snaps := c.Client.Snapshots
	r := &v1.CreateGroupSnapshotRequest{Volumes: []string{"a", "b"}, Name: "g", Wait: patience}
	first, err := snaps.CreateGroupSnapshot(c.Ctx, r)
	c.Must(err)
	c.Commit(state.SnapshotStatuses.Put(first.Snapshots[0].Meta.Id, &v1.SnapshotStatus{Problem: "writes were not held long enough"}))
	until(t, "both have failed", func() bool {
		b, err := snaps.GetSnapshot(c.Ctx, &v1.GetSnapshotRequest{Snapshot: "g-b"})
		return err == nil && !b.Status.Ready && strings.Contains(b.Status.Problem, "volume a: writes were not held")
	})
	_, err = snaps.CloneSnapshot(c.Ctx, &v1.CloneSnapshotRequest{Snapshot: "g-b", Name: "copy"})
	refused(t, err, connect.CodeUnavailable, "try again")
	again, err := snaps.CreateGroupSnapshot(c.Ctx, r)
	c.Must(err)
	if again.GroupId == first.GroupId || !again.Snapshots[1].Status.Ready {
		t.Errorf("asked for again it is %v", again)
	}
	until(t, "what failed is gone", func() bool {
		list, err := snaps.ListSnapshots(c.Ctx, &v1.ListSnapshotsRequest{})
		return err == nil && len(list.Snapshots) == 2
	})
}

func TestPolicies(t *testing.T) {
	c := start(t, 1)
	snaps := c.Client.Snapshots
	daily := &v1.SnapshotPolicySpec{Schedules: []*v1.SnapshotSchedule{{Kind: "daily", At: "23:30", Keep: 7}}}
	for field, s := range map[string]*v1.SnapshotSchedule{
		"spec.schedules[0].kind": {Kind: "hourly"},
		"spec.schedules[0].at":   {Kind: "interval", At: "5s"},
		"spec.schedules[0].keep": {Kind: "interval", At: "5m", Keep: -1},
	} {
		_, err := snaps.CreatePolicy(c.Ctx, &v1.CreatePolicyRequest{Name: "p", Spec: &v1.SnapshotPolicySpec{Schedules: []*v1.SnapshotSchedule{s}}})
		if detail(err).GetField() != field {
			t.Errorf("%v: %v", s, err)
		}
	}
	p, err := snaps.CreatePolicy(c.Ctx, &v1.CreatePolicyRequest{Name: "nightly", Spec: daily})
	c.Must(err)
	_, err = snaps.CreatePolicy(c.Ctx, &v1.CreatePolicyRequest{Name: "nightly", Spec: daily})
	c.Must(err)
	v, err := c.Client.Volumes.CreateVolume(c.Ctx, &v1.CreateVolumeRequest{Name: "db", Spec: &v1.VolumeSpec{SizeBytes: 1 << 30, SnapshotPolicies: []string{"nightly"}}})
	c.Must(err)
	if len(v.Spec.SnapshotPolicies) != 1 || v.Spec.SnapshotPolicies[0] != p.Meta.Id {
		t.Errorf("policies are %v", v.Spec.SnapshotPolicies)
	}
	_, err = snaps.DeletePolicy(c.Ctx, &v1.DeletePolicyRequest{Policy: "nightly"})
	refused(t, err, connect.CodeFailedPrecondition, "volume update db")
	_, err = c.Client.Volumes.UpdateVolume(c.Ctx, &v1.UpdateVolumeRequest{Volume: "db", SnapshotPolicies: &v1.SnapshotPolicies{}})
	c.Must(err)
	_, err = snaps.DeletePolicy(c.Ctx, &v1.DeletePolicyRequest{Policy: "nightly"})
	c.Must(err)
}

func TestNodeThroughItsLife(t *testing.T) {
	c := start(t, 3)
	volume(t, c, "one", 1) // on n1, as the stage places
	volume(t, c, "two", 2)
	nodes := c.Client.Nodes
	zone := "z9"
	n, err := nodes.UpdateNode(c.Ctx, &v1.UpdateNodeRequest{Node: "n1", Zone: &zone, SetLabels: map[string]string{"x": "y"}})
	c.Must(err)
	if n.Spec.Zone != "z9" || n.Meta.Labels["x"] != "y" {
		t.Errorf("updated as %v", n)
	}
	_, err = nodes.UpdateNode(c.Ctx, &v1.UpdateNodeRequest{Node: "n1", Zone: &zone, Revision: 1})
	refused(t, err, connect.CodeAborted, "look at it again")
	n, err = nodes.CordonNode(c.Ctx, &v1.CordonNodeRequest{Node: "n1", Cordoned: true})
	c.Must(err)
	if !n.Spec.Cordoned {
		t.Error("not cordoned")
	}
	d, err := nodes.DrainNode(c.Ctx, &v1.DrainNodeRequest{Node: "n1", Draining: true})
	c.Must(err)
	same, err := nodes.DrainNode(c.Ctx, &v1.DrainNodeRequest{Node: "n1", Draining: true})
	c.Must(err)
	if d.Operation.GetKind() != "NodeDrain" || same.Operation.GetId() != d.Operation.Id {
		t.Errorf("drained as %v, then %v", d, same)
	}
	_, err = nodes.DrainNode(c.Ctx, &v1.DrainNodeRequest{Node: "n1"})
	c.Must(err)
	o, err := c.Client.Operations.GetOperation(c.Ctx, &v1.GetOperationRequest{Id: d.Operation.Id})
	c.Must(err)
	if !o.Canceled {
		t.Error("the drain goes on")
	}
	_, err = nodes.RemoveNode(c.Ctx, &v1.RemoveNodeRequest{Node: "n1"})
	refused(t, err, connect.CodeFailedPrecondition, "holdfast node drain n1")
	p, err := nodes.RemoveNode(c.Ctx, &v1.RemoveNodeRequest{Node: "n1", Preview: true})
	c.Must(err)
	if p.Removal.VolumesLost != 1 || p.Removal.VolumesDegraded != 1 || p.Operation != nil || p.Removal.Effects[0].VolumeName != "one" {
		t.Errorf("the preview is %v", p)
	}
	r, err := nodes.RemoveNode(c.Ctx, &v1.RemoveNodeRequest{Node: "n1", Force: true})
	c.Must(err)
	if r.Operation.GetKind() != "NodeRemove" || r.Operation.Parameters["force"] != "true" {
		t.Errorf("removed by %v", r.Operation)
	}
}

func TestStatusNeverSaysHealthyOfWhatIsNot(t *testing.T) {
	c := start(t, 3)
	v := volume(t, c, "db", 3)
	verdict := func() (v1.Verdict, *v1.ClusterStatus) {
		st, err := c.Client.Cluster.GetStatus(c.Ctx, &v1.GetStatusRequest{})
		c.Must(err)
		return st.Verdict, st
	}
	if got, st := verdict(); got != v1.Verdict_VERDICT_HEALTHY {
		t.Fatal(st)
	}
	c.Stage.Down(3)
	until(t, "a warning", func() bool { got, _ := verdict(); return got == v1.Verdict_VERDICT_WARNING })
	_, st := verdict()
	if st.Nodes.Down != 1 || st.Volumes.Degraded != 1 || len(st.Attention) != 2 || !strings.Contains(st.Attention[1].Message, "node n3 is down: start it") {
		t.Errorf("%v", st)
	}
	c.Stage.Up(3)
	c.Stage.Record(v.Meta.Id, func(r *statepb.Record) {
		for _, m := range r.Members {
			m.NodeId = servertest.NodeID(99)
		}
	})
	until(t, "an error", func() bool { got, _ := verdict(); return got == v1.Verdict_VERDICT_ERROR })
	_, st = verdict()
	if st.Volumes.Unavailable != 1 || !strings.Contains(st.Summary, "1 of 1 volumes can't be used") {
		t.Errorf("%v", st)
	}
}

func TestWatchTellsAllThenWhatChanges(t *testing.T) {
	c := start(t, 1)
	volume(t, c, "a", 1)
	ctx, cancel := context.WithTimeout(c.Ctx, servertest.Patience)
	defer cancel()
	w, err := c.Client.Volumes.WatchVolumes(ctx, &v1.WatchVolumesRequest{})
	c.Must(err)
	next := func() *v1.WatchVolumesResponse {
		if !w.Receive() {
			t.Fatal(w.Err())
		}
		return w.Msg()
	}
	if m := next(); m.Change != v1.Change_CHANGE_ADDED || m.Volume.Meta.Name != "a" {
		t.Errorf("first %v", m)
	}
	if m := next(); m.Change != v1.Change_CHANGE_SYNCED || m.Volume != nil {
		t.Errorf("then %v", m)
	}
	volume(t, c, "b", 1)
	for m := next(); m.Change != v1.Change_CHANGE_ADDED || m.Volume.Meta.Name != "b"; m = next() {
	}
	_, err = c.Client.Volumes.DeleteVolume(c.Ctx, &v1.DeleteVolumeRequest{Volume: "a", Purge: true})
	c.Must(err)
	for m := next(); m.Change != v1.Change_CHANGE_REMOVED || m.Volume.Meta.Name != "a"; m = next() {
	}
}

func TestSettings(t *testing.T) {
	c := start(t, 1)
	set := func(s *v1.ClusterSettings, paths ...string) (*v1.Cluster, error) {
		return c.Client.Cluster.UpdateSettings(c.Ctx, &v1.UpdateSettingsRequest{Settings: s, Paths: paths})
	}
	k, err := set(&v1.ClusterSettings{DefaultReplicas: 3, DefaultFilesystem: "xfs", RepairDelay: durationpb.New(time.Hour)}, "default_replicas", "repair_delay")
	c.Must(err)
	if k.Settings.DefaultReplicas != 3 || k.Settings.DefaultFilesystem != "" || k.Settings.RepairDelay.AsDuration() != time.Hour {
		t.Errorf("set to %v", k.Settings)
	}
	if _, err := set(nil, "colour"); !strings.Contains(detail(err).GetCure(), "repair_delay") {
		t.Error(err)
	}
	if _, err := set(&v1.ClusterSettings{DefaultReplicas: 9}, "default_replicas"); detail(err).GetField() != "settings.default_replicas" {
		t.Error(err)
	}
	k, err = set(nil, "default_replicas")
	c.Must(err)
	if k.Settings.DefaultReplicas != 0 {
		t.Error("the default does not come back")
	}
}

func TestPoolIsRegisteredOnce(t *testing.T) {
	c := start(t, 2)
	r := &v1.RegisterPoolRequest{PoolId: servertest.PoolID(9), NodeId: servertest.NodeID(1), Class: "high"}
	p, err := c.Client.Pools.RegisterPool(c.Ctx, r)
	c.Must(err)
	if p.Meta.Name != "n1-70000900" {
		t.Errorf("it is called %s", p.Meta.Name)
	}
	_, err = c.Client.Pools.RegisterPool(c.Ctx, r)
	c.Must(err)
	r.NodeId = servertest.NodeID(2) // the disk moved
	p, err = c.Client.Pools.RegisterPool(c.Ctx, r)
	c.Must(err)
	if p.Spec.NodeId != r.NodeId {
		t.Errorf("it is on %s", p.Spec.NodeId)
	}
	_, err = c.Client.Pools.RegisterPool(c.Ctx, &v1.RegisterPoolRequest{PoolId: servertest.PoolID(1), NodeId: servertest.NodeID(2)})
	refused(t, err, connect.CodeAlreadyExists, "holdfast pool wipe")
}

func TestOneAddressAnswersAllProtocols(t *testing.T) {
	c := start(t, 1)
	grpc := c.Dial(client.Options{Address: "unix://" + c.Socket, GRPC: true})
	list, err := grpc.Nodes.ListNodes(c.Ctx, &v1.ListNodesRequest{})
	c.Must(err)
	if len(list.Nodes) != 1 {
		t.Errorf("gRPC lists %v", list)
	}
	h := c.Transport()
	answer, err := h.Post("http://holdfast/holdfast.v1.VolumeService/GetVolume", "application/json", strings.NewReader(`{"volume":"gone"}`))
	c.Must(err)
	body := read(t, answer)
	if answer.StatusCode != http.StatusNotFound || !strings.Contains(body, `there is no volume \"gone\"`) || answer.Header.Get("X-Request-Id") == "" {
		t.Errorf("%d %s", answer.StatusCode, body)
	}
	answer, err = h.Get("http://holdfast/holdfast.v1.NodeService/ListNodes?encoding=json&message=%7B%7D")
	c.Must(err)
	if body := read(t, answer); !strings.Contains(body, `"name":"n1"`) {
		t.Error(body)
	}
}

func read(t *testing.T, r *http.Response) string {
	t.Helper()
	raw, err := io.ReadAll(r.Body)
	_ = r.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestReflectionNamesEveryService(t *testing.T) {
	c := start(t, 1)
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	h := &http.Client{Transport: &http.Transport{Protocols: protocols}}
	stream := grpcreflect.NewClient(h, c.TCP, connect.WithGRPC()).NewStream(c.Ctx)
	defer stream.Close()
	names, err := stream.ListServices()
	c.Must(err)
	for _, m := range everyCall() {
		service := m.Parent().FullName()
		if !slices.Contains(names, service) {
			t.Errorf("%s is not among %v", service, names)
		}
		files, err := stream.FileContainingSymbol(m.FullName())
		c.Must(err)
		if len(files) == 0 {
			t.Errorf("%s is in no file", m.FullName())
		}
	}
}

func TestDocumentDescribesEveryCall(t *testing.T) {
	c := start(t, 1)
	answer, err := c.Transport().Get("http://holdfast/openapi.yaml")
	c.Must(err)
	var doc struct {
		Paths map[string]map[string]struct{ Description string }
	}
	c.Must(yaml.Unmarshal([]byte(read(t, answer)), &doc))
	for _, m := range everyCall() {
		if doc.Paths[procedure(m)]["post"].Description == "" {
			t.Errorf("%s is not described: make generate", m.FullName())
		}
		delete(doc.Paths, procedure(m))
	}
	for path := range doc.Paths {
		t.Errorf("%s is described and does not exist: make generate", path)
	}
}

func TestHealthAndMetrics(t *testing.T) {
	c := start(t, 2)
	volume(t, c, "db", 2)
	_, err := c.Client.Attachments.Attach(c.Ctx, &v1.AttachRequest{Volume: "db", Node: "n1", Wait: patience})
	c.Must(err)
	h := c.Transport()
	answer, err := h.Get("http://holdfast/healthz")
	c.Must(err)
	var health struct{ Ready bool }
	c.Must(json.Unmarshal([]byte(read(t, answer)), &health))
	if !health.Ready {
		t.Error("not ready")
	}
	for _, line := range []string{`holdfast_nodes{state="up"} 2`, `holdfast_volumes{health="healthy"} 1`, `holdfast_replicas{state="in_sync"} 2`,
		`holdfast_attachments{state="attached"} 1`, `holdfast_pool_healthy{node="n1",pool="n1-1"} 1`, `holdfast_state_reachable 1`} {
		patiently.Until(t, func() error { // each kind of entry has a mirror of its own, and the figures do not wait for any
			answer, err := h.Get("http://holdfast/metrics")
			if err != nil {
				return err
			}
			if text := read(t, answer); !strings.Contains(text, line+"\n") {
				return fmt.Errorf("%s is missing in\n%s", line, text)
			}
			return nil
		})
	}
}

func TestLookingGoesOnWhileTheStateIsAway(t *testing.T) {
	c := start(t, 1)
	volume(t, c, "db", 1)
	c.Must(c.Store.Close())
	v, err := c.Client.Volumes.GetVolume(c.Ctx, &v1.GetVolumeRequest{Volume: "db"})
	c.Must(err)
	if v.Meta.Name != "db" {
		t.Error(v)
	}
	_, err = c.Client.Volumes.CreateVolume(c.Ctx, &v1.CreateVolumeRequest{Name: "new", Spec: &v1.VolumeSpec{SizeBytes: 1 << 30}})
	refused(t, err, connect.CodeUnavailable, "holdfast status")
	if !strings.Contains(err.Error(), "attached volumes go on") {
		t.Error(err)
	}
	until(t, "told", func() bool {
		st, err := c.Client.Cluster.GetStatus(c.Ctx, &v1.GetStatusRequest{})
		c.Must(err)
		return st.Verdict == v1.Verdict_VERDICT_ERROR && !st.Metadata.Reachable && strings.Contains(st.Attention[0].Message, "may be old")
	})
}

func TestEventsTellWhatPeopleDid(t *testing.T) {
	c := start(t, 1)
	volume(t, c, "db", 1)
	_, err := c.As(v1.Role_ROLE_USER).Volumes.DeleteVolume(c.Ctx, &v1.DeleteVolumeRequest{Volume: "db"})
	c.Must(err)
	var text string
	until(t, "told", func() bool {
		list, err := c.Client.Events.ListEvents(c.Ctx, &v1.ListEventsRequest{Object: "db"})
		c.Must(err)
		text = ""
		for _, e := range list.Events {
			text += e.Reason + ": " + e.Message + "\n"
		}
		return strings.HasPrefix(text, "Deleted: it is in the trash (by ROLE_USER)\nCreateAsked: ")
	})
	_, err = c.Client.Events.ListEvents(c.Ctx, &v1.ListEventsRequest{Severity: "loud"})
	if detail(err).GetField() != "severity" {
		t.Error(err)
	}
}

func TestMachineJoinsWithAToken(t *testing.T) {
	c := start(t, 1)
	tok, err := c.Client.Cluster.CreateToken(c.Ctx, &v1.CreateTokenRequest{Kind: v1.TokenKind_TOKEN_KIND_JOIN})
	c.Must(err)
	if tok.Token.Expires == nil {
		t.Error("a join token lives for ever")
	}
	nobody := c.Dial(client.Options{Address: c.TCP})
	r := &v1.JoinRequest{Token: tok.Secret, Csr: csr(t), Name: "n7", Zone: "a"}
	j, err := nobody.Cluster.Join(c.Ctx, r)
	c.Must(err)
	if j.Node.Meta.Name != "n7" || len(j.Certificate) == 0 || len(j.Authorities) != 1 || j.ClusterName != "test" {
		t.Errorf("joined as %v", j)
	}
	_, err = nobody.Cluster.Join(c.Ctx, r)
	refused(t, err, connect.CodeAlreadyExists, "--name")
	other, err := block.NewNodeID(rand.Reader) // nodes choose theirs before they join
	c.Must(err)
	r.NodeId = other.String()
	_, err = nobody.Cluster.Join(c.Ctx, r)
	refused(t, err, connect.CodeAlreadyExists, "--name")
	r.NodeId = j.Node.Meta.Id // the same machine, anew
	_, err = nobody.Cluster.Join(c.Ctx, r)
	c.Must(err)
	c.Commit(state.Alive.Put(r.NodeId, &emptypb.Empty{}))
	until(t, "up", func() bool {
		_, err = nobody.Cluster.Join(c.Ctx, r)
		return connect.CodeOf(err) == connect.CodeAlreadyExists
	})
	r.Token = strings.Replace(tok.Secret, tok.Token.Id, "aaaaaaaa", 1)
	_, err = nobody.Cluster.Join(c.Ctx, r)
	if connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("with a wrong token: %v", err)
	}
}

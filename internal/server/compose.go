package server

import (
	"cmp"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
)

// volume returns a volume as the API shows it.
func (v *view) volume(e state.Entry[*v1.Volume]) *v1.Volume {
	out := clone(e.Value)
	out.Status = v.parts(e.ID, e.Value).status()
	if a := v.attachment(e.ID); a != nil {
		out.Status.Attachment = a.Status
	}
	if t := e.Value.GetSpec().GetDeleted(); t != nil && !e.Value.Spec.Deleting {
		out.Status.PurgeAt = timestamppb.New(t.AsTime().Add(v.trashKeep()))
	}
	return out
}

// trashKeep is how long the trash keeps volumes; 0 for not at all.
func (v *view) trashKeep() time.Duration {
	if d := v.setting().GetTrashKeep(); d != nil {
		return d.AsDuration()
	}
	return trashKeepDefault
}

// parts gathers what is known of a volume.
func (v *view) parts(id string, volume *v1.Volume) parts {
	p := parts{
		volume:     volume,
		assignment: value(v.assignments, id),
		record:     value(v.records, id),
		holdings:   map[string]*statepb.Holding{},
		attachment: value(v.attachments, id).GetSpec(),
		attached:   value(v.attachStatuses, id),
		verdict:    value(v.verdicts, id),
		node:       v.nodeFacts,
		pool:       v.poolFacts,
		delay:      orDuration(v.setting().GetRepairDelay().AsDuration(), repairDelayDefault),
	}
	for _, h := range v.holdings.ByIndex(byVolume, id) {
		p.holdings[h.ID] = h.Value
	}
	return p
}

// Defaults of settings, for what they are named in texts and at creation.
const (
	repairDelayDefault = 10 * time.Minute
	trashKeepDefault   = 24 * time.Hour
	replicasDefault    = 2
	filesystemDefault  = "ext4"
	snapshotsDefault   = 256
	overcommitDefault  = 200
)

func orDuration(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

// setting returns the cluster's settings; never nil.
func (v *view) setting() *v1.ClusterSettings {
	if s := value(v.settings, state.SettingsID); s != nil {
		return s
	}
	return &v1.ClusterSettings{}
}

func (v *view) nodeFacts(id string) nodeFacts {
	n := value(v.nodes, id)
	return nodeFacts{name: v.nodeName(id), exists: n != nil, up: v.up(id), maintenance: n.GetSpec().GetMaintenance()}
}

func (v *view) poolFacts(id string) poolFacts {
	f := poolFacts{name: cmp.Or(value(v.pools, id).GetMeta().GetName(), id)}
	if s := value(v.poolStatuses, id); s != nil && !s.Healthy {
		f.problem = words(s.Conditions, "it is not healthy; look at it with holdfast pool check "+s.Path)
	}
	return f
}

// node returns a node as the API shows it.
func (v *view) node(e state.Entry[*v1.Node]) *v1.Node {
	out := clone(e.Value)
	out.Status = &v1.NodeStatus{}
	if s := value(v.nodeStatuses, e.ID); s != nil {
		out.Status = clone(s)
	}
	out.Status.State, out.Status.Seen = v1.NodeState_NODE_STATE_UP, nil
	if !v.up(e.ID) {
		out.Status.Seen = v.lastSeen(e.ID)
		out.Status.State = v1.NodeState_NODE_STATE_DOWN
		out.Status.Conditions = append([]*v1.Condition{v.whyDown(out)}, out.Status.Conditions...)
	}
	return out
}

// lastSeen returns when a node that is down was heard of last: when its lease was found to
// be over, or else when it said something about itself; nil for never.
func (v *view) lastSeen(id string) *timestamppb.Timestamp {
	if away := value(v.absences, id); away != nil {
		return away.Since
	}
	return value(v.nodeStatuses, id).GetSeen()
}

func (v *view) whyDown(n *v1.Node) *v1.Condition {
	c := &v1.Condition{Type: "Down", Status: true, Reason: "LeaseEnded", Since: n.Status.Seen}
	seen := "it has not been heard of yet"
	if n.Status.Seen != nil {
		seen = "it was last heard of at " + n.Status.Seen.AsTime().UTC().Format(time.RFC3339)
	}
	c.Message = fmt.Sprintf("its lease has ended, %s; see on that machine whether holdfast runs and reaches the others: holdfast doctor", seen)
	if n.GetSpec().GetMaintenance() {
		c.Reason = "Maintenance"
		c.Message = fmt.Sprintf("it is down, in maintenance; nothing is rebuilt because of it. When it is back: holdfast node maintenance %s --off", n.GetMeta().GetName())
	}
	return c
}

// pool returns a pool as the API shows it. A pool on a node that is down is not healthy,
// whatever was said last.
func (v *view) poolOf(e state.Entry[*v1.Pool]) *v1.Pool {
	out := clone(e.Value)
	out.Status = &v1.PoolStatus{}
	if s := value(v.poolStatuses, e.ID); s != nil {
		out.Status = clone(s)
	}
	if node := e.Value.GetSpec().GetNodeId(); !v.up(node) {
		out.Status.Healthy = false
		out.Status.Conditions = append([]*v1.Condition{{Type: "Down", Status: true, Reason: "NodeDown",
			Message: fmt.Sprintf("node %s is down: start it", v.nodeName(node))}}, out.Status.Conditions...)
	}
	out.Status.Class = cmp.Or(out.GetSpec().GetClass(), out.Status.Class)
	out.Status.PromisedBytes, out.Status.TrashedBytes = v.promised(e.ID)
	return out
}

// promised sums up the volumes with a replica in a pool. Those in the trash hold their
// space, for they can come back.
func (v *view) promised(pool string) (all, trashed int64) {
	for _, a := range v.assignments.ByIndex(byPool, pool) {
		spec := value(v.volumes, a.ID).GetSpec()
		all += spec.GetSizeBytes()
		if spec.GetDeleted() != nil {
			trashed += spec.GetSizeBytes()
		}
	}
	return all, trashed
}

// operation returns an operation as the API shows it: with the names of now.
func (v *view) operation(o *v1.Operation) *v1.Operation {
	if len(o.GetSteps()) == 0 {
		return o
	}
	out := clone(o)
	for _, s := range out.Steps {
		s.VolumeName = value(v.volumes, s.VolumeId).GetMeta().GetName()
		s.FromPoolName = value(v.pools, s.FromPoolId).GetMeta().GetName()
		s.ToPoolName = value(v.pools, s.ToPoolId).GetMeta().GetName()
	}
	return out
}

// device returns what the node says that shows a volume, or nil. A head that is run for
// repair or growth alone shows nothing, and is no reason to wait: who attaches takes over.
func (v *view) device(volume string) *v1.AttachmentStatus {
	s := value(v.attachStatuses, volume)
	if s == nil || s.Frontend == "none" {
		return nil
	}
	if _, wanted := v.attachments.Get(volume); !wanted && s.Device == "" && s.Address == "" {
		return nil
	}
	return s
}

// attachment returns a volume's attachment as the API shows it, or nil. One that nobody
// wants any more is shown while its node still has the device.
func (v *view) attachment(volume string) *v1.Attachment {
	e, wanted := v.attachments.Get(volume)
	status := v.device(volume)
	if !wanted && status == nil {
		return nil
	}
	out := &v1.Attachment{VolumeId: volume, Status: &v1.AttachmentStatus{}}
	if status != nil {
		out.Status = clone(status)
	}
	add := func(reason, format string, args ...any) {
		c := &v1.Condition{Type: "Attached", Reason: reason, Message: fmt.Sprintf(format, args...)}
		out.Status.Conditions = append([]*v1.Condition{c}, out.Status.Conditions...)
	}
	if !wanted {
		out.Status.State = v1.AttachmentState_ATTACHMENT_STATE_DETACHING
		if !v.up(status.NodeId) {
			add("NodeDown", "node %s is down, and can't say whether the device is gone: start it, or detach with --force", v.nodeName(status.NodeId))
		}
		return out
	}
	out.Spec, out.Revision = clone(e.Value.Spec), int64(e.Revision)
	name := v.nodeName(out.Spec.NodeId)
	switch {
	case status == nil:
		out.Status.NodeId, out.Status.State = out.Spec.NodeId, v1.AttachmentState_ATTACHMENT_STATE_ATTACHING
		add("Attaching", "node %s has not begun to attach it yet", name)
	case status.NodeId != out.Spec.NodeId:
		out.Status = &v1.AttachmentStatus{NodeId: out.Spec.NodeId, State: v1.AttachmentState_ATTACHMENT_STATE_ATTACHING, Conditions: out.Status.Conditions}
		add("Moving", "node %s takes it over from node %s", name, v.nodeName(status.NodeId))
	}
	if !v.up(out.Spec.NodeId) {
		out.Status.State = v1.AttachmentState_ATTACHMENT_STATE_STALLED
		add("NodeDown", "node %s is down: start it, or attach the volume elsewhere", name)
	}
	return out
}

// snapshot returns a snapshot as the API shows it. One of a group that was not taken of all
// its volumes is none.
func (v *view) snapshot(e state.Entry[*v1.Snapshot]) *v1.Snapshot {
	out := clone(e.Value)
	out.Status = &v1.SnapshotStatus{}
	if s := value(v.snapStatuses, e.ID); s != nil {
		out.Status = clone(s)
	}
	if group := e.Value.GetSpec().GetGroupId(); group != "" && out.Status.Problem == "" {
		if why := v.groupProblem(group); why != "" {
			out.Status.Ready, out.Status.Problem = false, why
		}
	}
	return out
}

// groupProblem returns why a group's snapshot failed, "" if it did not.
func (v *view) groupProblem(group string) string {
	for _, e := range v.snapshots.ByIndex(byGroup, group) {
		if why := value(v.snapStatuses, e.ID).GetProblem(); why != "" {
			return fmt.Sprintf("it failed on volume %s: %s", v.volumeName(e.Value.GetSpec().GetVolumeId()), why)
		}
	}
	return ""
}

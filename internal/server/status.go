package server

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/state"
)

// GetStatus sums the cluster up.
func (s *clusters) GetStatus(ctx context.Context, _ *v1.GetStatusRequest) (*v1.ClusterStatus, error) {
	st := &v1.ClusterStatus{Version: s.options.Version, Time: s.stamp(),
		Nodes: &v1.NodeCounts{}, Pools: &v1.PoolCounts{}, Volumes: &v1.VolumeCounts{}, Metadata: s.metadata(ctx)}
	if st.Cluster = s.knownCluster(); st.Metadata.Reachable {
		st.Cluster = s.cluster(ctx)
	}
	sum := summary{s.view, st}
	sum.nodes()
	sum.pools()
	sum.volumes()
	sum.state()
	sum.end()
	return st, nil
}

// metadata says how the store does.
func (s *clusters) metadata(ctx context.Context) *v1.Metadata {
	m := &v1.Metadata{Reachable: true}
	if s.options.Metadata != nil {
		m, _ = s.options.Metadata.Status(ctx)
		m = clone(m) // others see it, too
	}
	if err := s.view.stale(); err != nil {
		m.Reachable = false
		_, cure := fault.Describe(unreachable(err))
		m.Problem = cmp.Or(m.Problem, fmt.Sprintf("%v; %s", err, cure))
	}
	if !m.Reachable {
		m.Problem = "what is shown may be old, and nothing can be changed; attached volumes go on: " + m.Problem
	}
	return m
}

// summary gathers the parts of a cluster's status.
type summary struct {
	*view
	st *v1.ClusterStatus
}

// attend adds something that somebody should know of.
func (s summary) attend(severity v1.Verdict, kind string, meta *v1.Meta, reason, message string) {
	s.st.Attention = append(s.st.Attention, &v1.Attention{Severity: severity, Kind: kind, Id: meta.GetId(), Name: meta.GetName(), Reason: reason, Message: message})
}

const (
	healthy = v1.Verdict_VERDICT_HEALTHY
	warning = v1.Verdict_VERDICT_WARNING
	failing = v1.Verdict_VERDICT_ERROR
)

func (s summary) nodes() {
	c := s.st.Nodes
	for _, e := range s.view.nodes.List() {
		n := s.node(e)
		c.Total++
		c.Cordoned += int32(one(n.GetSpec().GetCordoned()))
		c.Draining += int32(one(n.GetSpec().GetDraining()))
		c.Maintenance += int32(one(n.GetSpec().GetMaintenance()))
		if n.Status.State == v1.NodeState_NODE_STATE_UP {
			c.Up++
		} else {
			c.Down++
		}
		for _, cond := range n.Status.Conditions {
			if isTrouble(cond) {
				s.attend(warning, state.KindNode, n.Meta, cond.Reason, cond.Message)
			}
		}
	}
}

func (s summary) pools() {
	c := s.st.Pools
	for _, e := range s.view.pools.List() {
		p := s.poolOf(e)
		c.Total++
		c.CapacityBytes += p.Status.CapacityBytes
		c.UsedBytes += p.Status.UsedBytes
		c.Healthy += int32(one(p.Status.Healthy))
		if !p.Status.Healthy && s.up(p.GetSpec().GetNodeId()) {
			s.attend(warning, state.KindPool, p.Meta, "PoolUnhealthy", words(p.Status.Conditions, "its node does not say why; look at it with holdfast pool check "+p.Status.Path))
		}
	}
}

func (s summary) volumes() {
	c := s.st.Volumes
	for _, e := range s.view.volumes.List() {
		v := s.volume(e)
		c.Attached += int32(one(v.Status.Attachment != nil))
		c.Stalled += int32(one(v.Status.Attachment.GetState() == v1.AttachmentState_ATTACHMENT_STATE_STALLED))
		s.health(v)
		s.rebuilds(v)
		promised := v.Spec.GetSizeBytes() * int64(len(v.Status.Replicas))
		s.st.Pools.PromisedBytes += promised
		if v.Spec.GetDeleted() != nil {
			s.st.Pools.TrashedBytes += promised
		}
	}
}

// health counts a volume, and says what is wrong with it.
func (s summary) health(v *v1.Volume) {
	c := s.st.Volumes
	if h := v.Status.Health; h != v1.Health_HEALTH_TRASHED && h != v1.Health_HEALTH_DELETING {
		c.Total++
	}
	severity := warning
	switch v.Status.Health {
	case v1.Health_HEALTH_HEALTHY:
		c.Healthy++
	case v1.Health_HEALTH_DEGRADED:
		c.Degraded++
	case v1.Health_HEALTH_UNAVAILABLE:
		c.Unavailable++
		severity = failing
	case v1.Health_HEALTH_CREATING:
		c.Creating++
	case v1.Health_HEALTH_DELETING:
		c.Deleting++
	case v1.Health_HEALTH_TRASHED:
		c.Trashed++
	}
	if needsAttention(v) {
		reason := "Unhealthy"
		if len(v.Status.Conditions) > 0 {
			reason = v.Status.Conditions[0].Reason
		}
		s.attend(severity, state.KindVolume, v.Meta, reason, words(v.Status.Conditions, "nothing is known of it"))
	}
}

func (s summary) rebuilds(v *v1.Volume) {
	for _, r := range v.Status.Replicas {
		if r.State != v1.ReplicaState_REPLICA_STATE_SYNCING {
			continue
		}
		p := &v1.Progress{}
		if r.Progress != nil {
			p = clone(r.Progress)
		}
		p.Left = remaining(p)
		s.st.Rebuilds = append(s.st.Rebuilds, &v1.Rebuild{VolumeId: v.Meta.Id, VolumeName: v.Meta.Name, ReplicaId: r.Id, NodeId: r.NodeId, NodeName: s.nodeName(r.NodeId), Progress: p})
	}
}

// state says what is wrong with the store of the state.
func (s summary) state() {
	m := s.st.Metadata
	if !m.Reachable {
		s.attend(failing, "cluster", s.st.Cluster.Meta, "StateUnreachable", cmp.Or(m.Problem, "the cluster's state can't be reached"))
		return
	}
	voters := 0
	for _, member := range m.Members {
		if !member.Healthy {
			s.attend(warning, "cluster", s.st.Cluster.Meta, "MemberDown", fmt.Sprintf("metadata member %s does not answer; if it stays so it is replaced: holdfast metadata members", member.Name))
		}
		voters += one(!member.Learner)
	}
	if m.Kind == "embedded" && voters < votersMin && s.st.Nodes.Total > 1 {
		s.attend(warning, "cluster", s.st.Cluster.Meta, "FewVoters", fmt.Sprintf(
			"only %d of the nodes keep the cluster's state with a vote: when one of those is lost, nothing can be changed until it is back; have three nodes up, and wait until new members have caught up: holdfast metadata members", voters))
	}
}

// votersMin is how many members of the store must vote so that one of them may be lost.
const votersMin = 3

// end draws the sum.
func (s summary) end() {
	st := s.st
	slices.SortStableFunc(st.Attention, func(a, b *v1.Attention) int {
		return cmp.Or(cmp.Compare(b.Severity, a.Severity), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	slices.SortFunc(st.Rebuilds, func(a, b *v1.Rebuild) int {
		return cmp.Or(cmp.Compare(a.VolumeName, b.VolumeName), cmp.Compare(a.NodeName, b.NodeName))
	})
	st.Verdict, st.Summary = healthy, "everything is as it should be"
	for _, a := range st.Attention {
		st.Verdict = max(st.Verdict, a.Severity)
	}
	switch {
	case st.Verdict == failing && st.Volumes.Unavailable > 0:
		st.Summary = fmt.Sprintf("%d of %d volumes can't be used", st.Volumes.Unavailable, st.Volumes.Total)
	case st.Verdict == failing:
		st.Summary = st.Attention[0].Message
	case st.Verdict == warning && st.Volumes.Degraded > 0:
		st.Summary = fmt.Sprintf("every volume can be used; %d of %d have fewer copies than they should", st.Volumes.Degraded, st.Volumes.Total)
	case st.Verdict == warning:
		st.Summary = "every volume can be used; " + many(len(st.Attention), "thing needs", "things need") + " attention"
	}
}

package server

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/control"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/spec/schedule"
	"github.com/holdfast-io/holdfast/internal/state"
)

// CreatePolicy makes a schedule.
func (s *snapshots) CreatePolicy(ctx context.Context, r *v1.CreatePolicyRequest) (*v1.SnapshotPolicy, error) {
	if err := checkName("name", r.Name); err != nil {
		return nil, err
	}
	if err := checkLabels("labels", r.Labels); err != nil {
		return nil, err
	}
	if err := checkPolicy(r.Spec); err != nil {
		return nil, err
	}
	for range attemptsMax {
		id, err := s.fresh(ctx, state.KindPolicy, r.Name)
		if err == nil {
			return s.samePolicy(ctx, id, r)
		}
		if !fault.Is(err, fault.NotFound) {
			return nil, unreachableIf(err)
		}
		meta, err := s.newMeta(r.Name, r.Labels)
		if err != nil {
			return nil, err
		}
		p := &v1.SnapshotPolicy{Meta: meta, Spec: r.Spec}
		at, err := s.commit(ctx, state.Policies.Create(meta.Id, p), state.Create(state.NameKey(state.KindPolicy, r.Name), []byte(meta.Id)),
			s.event(ctx, state.KindPolicy, meta, "Created", "a schedule of snapshots"))
		if fault.Is(err, fault.Busy) {
			continue
		}
		if err != nil {
			return nil, err
		}
		restamp(p, at)
		return p, s.view.policies.Reach(ctx, at)
	}
	return nil, fault.Errorf("server", fault.Busy, "policy %s was not made: %w", r.Name, errTooBusy)
}

func (s *snapshots) samePolicy(ctx context.Context, id string, r *v1.CreatePolicyRequest) (*v1.SnapshotPolicy, error) {
	e, err := state.Policies.Get(ctx, s.store, id)
	if err != nil {
		return nil, unreachableIf(err)
	}
	if !proto.Equal(e.Value.Spec, r.Spec) {
		return nil, fault.WithCure(fault.Errorf("server", fault.Exists, "policy %s exists, and is another: %s", r.Name, joined(differences(r.Spec.ProtoReflect(), e.Value.Spec.ProtoReflect(), ""))),
			"choose another name, or change it: holdfast policy update "+r.Name)
	}
	return e.Value, nil
}

// keepMax is more snapshots than a volume has room for.
const keepMax = 10000

// checkPolicy refuses schedules that nobody can follow.
func checkPolicy(p *v1.SnapshotPolicySpec) error {
	if len(p.GetSchedules()) == 0 {
		return invalid("spec.schedules", "give at least one, such as kind daily at 23:30", "it is empty")
	}
	for i, sc := range p.Schedules {
		field := fmt.Sprintf("spec.schedules[%d]", i)
		if !slices.Contains(schedule.Kinds, sc.GetKind()) {
			return invalid(field+".kind", "use "+strings.Join(schedule.Kinds, ", "), "%q is not known", sc.GetKind())
		}
		if _, err := schedule.Parse(sc.GetKind(), sc.GetAt()); err != nil {
			return invalid(field+".at", "write it as "+scheduleExamples[sc.GetKind()], "%v", err)
		}
		if sc.GetKeep() < 0 || sc.GetKeep() > keepMax {
			return invalid(field+".keep", "give a number up to 10000, or 0 for the default", "%d can't be", sc.GetKeep())
		}
	}
	return checkLabels("spec.selector", p.GetSelector())
}

// scheduleExamples are how the times of schedules are written.
var scheduleExamples = map[string]string{schedule.Interval: "15m, 6h or 2d", schedule.Daily: "23:30", schedule.Weekly: "sunday@23:30",
	schedule.Monthly: "1@23:30", schedule.Cron: "five fields, such as 30 2 * * 1"}

// GetPolicy returns one policy.
func (s *snapshots) GetPolicy(ctx context.Context, r *v1.GetPolicyRequest) (*v1.SnapshotPolicy, error) {
	e, err := s.findPolicy(ctx, r.Policy)
	if err != nil {
		return nil, err
	}
	return s.policy(e), nil
}

// policy returns a policy with how many volumes it holds for, and when it is due.
func (s *snapshots) policy(e state.Entry[*v1.SnapshotPolicy]) *v1.SnapshotPolicy {
	out := clone(e.Value)
	if out.Status == nil {
		out.Status = &v1.SnapshotPolicyStatus{}
	}
	out.Status.Volumes = 0
	if next := control.Next(out.Spec, s.now()); !next.IsZero() {
		out.Status.Next = timestamppb.New(next)
	}
	for _, v := range s.view.volumes.List() {
		if usable(v.Value) == nil && control.HoldsFor(e.Value, v.Value) {
			out.Status.Volumes++
		}
	}
	return out
}

// ListPolicies lists policies, by name.
func (s *snapshots) ListPolicies(_ context.Context, r *v1.ListPoliciesRequest) (*v1.ListPoliciesResponse, error) {
	var list []*v1.SnapshotPolicy
	for _, e := range s.view.policies.List() {
		list = append(list, s.policy(e))
	}
	list, next, err := page(sortedBy(list, nameKey), r.PageSize, r.PageToken, nameKey)
	return &v1.ListPoliciesResponse{Policies: list, NextPageToken: next}, err
}

// UpdatePolicy replaces a policy's spec.
func (s *snapshots) UpdatePolicy(ctx context.Context, r *v1.UpdatePolicyRequest) (*v1.SnapshotPolicy, error) {
	if err := checkPolicy(r.Spec); err != nil {
		return nil, err
	}
	e, err := s.findPolicy(ctx, r.Policy)
	if err != nil {
		return nil, err
	}
	e, err = update(ctx, s.Server, state.Policies, s.view.policies, e.ID, func(p *v1.SnapshotPolicy) ([]state.Op, error) {
		p.Spec = r.Spec
		return nil, checkRevision(r.Revision, p.Meta.Revision)
	})
	if err != nil {
		return nil, err
	}
	return s.policy(e), nil
}

// DeletePolicy deletes a policy that no volume names.
func (s *snapshots) DeletePolicy(ctx context.Context, r *v1.DeletePolicyRequest) (*v1.DeletePolicyResponse, error) {
	e, err := s.findPolicy(ctx, r.Policy)
	if fault.Is(err, fault.NotFound) {
		return &v1.DeletePolicyResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	for _, v := range s.view.volumes.List() {
		if slices.Contains(v.Value.GetSpec().GetSnapshotPolicies(), e.ID) && usable(v.Value) == nil {
			name := v.Value.GetMeta().GetName()
			return nil, fault.WithCure(fault.Errorf("server", fault.Precondition, "volume %s has the policy %s", name, e.Value.GetMeta().GetName()),
				"take it from the volume first: holdfast volume update "+name+" --snap-policy ''")
		}
	}
	ops := append(s.freeName(ctx, state.KindPolicy, e.Value.Meta), state.Policies.Delete(e.ID, e.Revision), s.event(ctx, state.KindPolicy, e.Value.Meta, "Deleted", "its snapshots stay"))
	at, err := s.commit(ctx, ops...)
	if err != nil {
		return nil, err
	}
	return &v1.DeletePolicyResponse{}, s.view.policies.Reach(ctx, at)
}

package server

import (
	"context"
	"errors"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/state"
)

// attemptsMax is how often a change is tried anew when somebody else was faster.
const attemptsMax = 20

var errTooBusy = errors.New("others change it all the time")

// commit commits ops. Unavailable is explained.
func (s *Server) commit(ctx context.Context, ops ...state.Op) (state.Revision, error) {
	ctx, span := s.tracer.Start(ctx, "state.Commit", trace.WithAttributes(attribute.Int("ops", len(ops))))
	defer span.End()
	at, err := s.store.Commit(ctx, ops...)
	if fault.Is(err, fault.Unavailable) {
		err = unreachable(err)
	}
	return at, err
}

// change is what update does to an object: extra ops of the same commit may be returned.
type change[T proto.Message] func(old T) (extra []state.Op, err error)

// update reads an object from the store, has it changed, and writes it back, again and
// again while others are faster. What isn't changed isn't written. It returns the object
// once the view shows it, too.
func update[T proto.Message](ctx context.Context, s *Server, t state.Table[T], m *state.Mirror[T], id string, do change[T]) (state.Entry[T], error) {
	for range attemptsMax {
		e, err := t.Get(ctx, s.store, id)
		if err != nil {
			if fault.Is(err, fault.Unavailable) {
				err = unreachable(err)
			}
			return e, err
		}
		old := proto.Clone(e.Value)
		extra, err := do(e.Value)
		if err != nil {
			return e, err
		}
		if proto.Equal(old, e.Value) && len(extra) == 0 {
			return e, m.Reach(ctx, e.Revision)
		}
		at, err := s.commit(ctx, append(extra, t.Replace(id, e.Value, e.Revision))...)
		if fault.Is(err, fault.Busy) {
			continue
		}
		if err != nil {
			return e, err
		}
		e.Revision = at
		restamp(e.Value, at)
		return e, m.Reach(ctx, at)
	}
	return state.Entry[T]{}, fault.Errorf("server", fault.Busy, "%s was not changed: %w", t.Key(id), errTooBusy)
}

// restamp sets the revision that an object has now.
func restamp(m proto.Message, at state.Revision) {
	switch o := m.(type) {
	case named:
		o.GetMeta().Revision = int64(at)
	case *v1.Attachment:
		o.Revision = int64(at)
	case *v1.Operation:
		o.Revision = int64(at)
	}
}

// checkRevision refuses a change of something else than what was looked at.
func checkRevision(asked, have int64) error {
	if asked == 0 || asked == have {
		return nil
	}
	return fault.WithCure(fault.Errorf("server", fault.Busy, "it was changed meanwhile: it has revision %d, not %d", have, asked), "look at it again, then change it")
}

// newID draws an id. All ids are UUIDs; those of volumes are as good as others.
func (s *Server) newID() (string, error) {
	id, err := block.NewVolumeID(s.random)
	return id.String(), fault.Wrap("server", err)
}

// newMeta makes the meta of a new object.
func (s *Server) newMeta(name string, labels map[string]string) (*v1.Meta, error) {
	id, err := s.newID()
	return &v1.Meta{Id: id, Name: name, Labels: labels, Created: timestamppb.New(s.now())}, err
}

// event makes the op that records something that somebody did.
func (s *Server) event(ctx context.Context, kind string, meta *v1.Meta, reason, format string, args ...any) state.Op {
	now := s.now()
	id, err := s.newID()
	if err != nil {
		return state.Op{Err: err}
	}
	e := &v1.Event{
		Id: state.EventID(now, id), Time: timestamppb.New(now), Object: kind + "/" + meta.GetId(), ObjectName: meta.GetName(),
		Severity: "info", Reason: reason, Message: fmt.Sprintf(format, args...), NodeId: s.options.NodeID,
	}
	if by := who(ctx).Subject; by != "" {
		e.Message += " (by " + by + ")"
	}
	return state.Events.Create(e.Id, e)
}

// operation makes a new operation, and the op that creates it.
func (s *Server) operation(ctx context.Context, kind, targetKind string, target *v1.Meta, parameters map[string]string) (*v1.Operation, state.Op, error) {
	id, err := s.newID()
	if err != nil {
		return nil, state.Op{}, err
	}
	o := &v1.Operation{Id: id, Kind: kind, Target: targetKind + "/" + target.GetName(), TargetId: target.GetId(), Parameters: parameters,
		Created: timestamppb.New(s.now()), Message: "waits to be taken up", By: who(ctx).Subject}
	return o, state.Operations.Create(id, o), nil
}

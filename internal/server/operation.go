package server

import (
	"context"
	"strings"
	"time"

	"connectrpc.com/connect"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/state"
)

// operations is the OperationService.
type operations struct{ *Server }

func (s *operations) find(ctx context.Context, id string) (state.Entry[*v1.Operation], error) {
	if id == "" {
		return state.Entry[*v1.Operation]{}, invalid("id", "give the id of an operation: holdfast operation list", "it is empty")
	}
	e, ok := s.view.operations.Get(id)
	if ok {
		return e, nil
	}
	e, err := state.Operations.Get(ctx, s.store, id)
	if fault.Is(err, fault.NotFound) {
		err = fault.WithCure(fault.Errorf("server", fault.NotFound, "there is no operation %q, or not any more", id), "see which there are: holdfast operation list")
	}
	return e, unreachableIf(err)
}

// GetOperation returns one operation.
func (s *operations) GetOperation(ctx context.Context, r *v1.GetOperationRequest) (*v1.Operation, error) {
	e, err := s.find(ctx, r.Id)
	return s.view.operation(e.Value), err
}

func operationKey(o *v1.Operation) string {
	return newestFirst(o.GetCreated().AsTime().UnixNano(), o.Id)
}

// ListOperations lists operations, the newest first.
func (s *operations) ListOperations(_ context.Context, r *v1.ListOperationsRequest) (*v1.ListOperationsResponse, error) {
	var list []*v1.Operation
	for _, e := range s.view.operations.List() {
		o := e.Value
		kind, _, _ := strings.Cut(o.Target, "/")
		if (r.Kind == "" || r.Kind == o.Kind) && (r.Target == "" || r.Target == o.Target || r.Target == kind+"/"+o.TargetId) && (!r.Running || !o.Done) {
			list = append(list, o)
		}
	}
	list, next, err := page(sortedBy(list, operationKey), r.PageSize, r.PageToken, operationKey)
	for i, o := range list {
		list[i] = s.view.operation(o)
	}
	return &v1.ListOperationsResponse{Operations: list, NextPageToken: next}, err
}

// WatchOperations tells of operations.
func (s *operations) WatchOperations(ctx context.Context, r *v1.WatchOperationsRequest, out *connect.ServerStream[v1.WatchOperationsResponse]) error {
	if r.Id != "" {
		if _, err := s.find(ctx, r.Id); err != nil {
			return err
		}
	}
	return watch(ctx, s.Server, func() watched[*v1.Operation] {
		all := watched[*v1.Operation]{}
		for _, e := range s.view.operations.List() {
			if r.Id == "" || r.Id == e.ID {
				all[e.ID] = s.view.operation(e.Value)
			}
		}
		return all
	}, stream(out, func(c v1.Change, o *v1.Operation) *v1.WatchOperationsResponse {
		return &v1.WatchOperationsResponse{Change: c, Operation: o}
	}))
}

// operationWait is how long WaitOperation waits when nobody says.
const operationWait = time.Minute

// WaitOperation answers when an operation has ended, or with what it is at.
func (s *operations) WaitOperation(ctx context.Context, r *v1.WaitOperationRequest) (*v1.Operation, error) {
	wait, err := checkWait(r.Wait)
	if err != nil {
		return nil, err
	}
	if r.Wait == nil {
		wait = operationWait
	}
	e, err := s.find(ctx, r.Id)
	if err != nil {
		return nil, err
	}
	err = s.waitFor(ctx, wait, "the operation has not ended", func() (bool, string, error) {
		if now, ok := s.view.operations.Get(r.Id); ok {
			e = now
		}
		return e.Value.Done, e.Value.Message, nil
	})
	if fault.Is(err, fault.Timeout) && ctx.Err() == nil {
		err = nil // it says itself that it hasn't ended
	}
	return s.view.operation(e.Value), err
}

// CancelOperation asks for an operation to be given up.
func (s *operations) CancelOperation(ctx context.Context, r *v1.CancelOperationRequest) (*v1.Operation, error) {
	e, err := s.find(ctx, r.Id)
	if err != nil {
		return nil, err
	}
	e, err = update(ctx, s.Server, state.Operations, s.view.operations, e.ID, func(o *v1.Operation) ([]state.Op, error) {
		if !o.Done {
			o.Canceled = true
		}
		return nil, nil
	})
	return e.Value, err
}

// events is the EventService.
type events struct{ *Server }

// severities are ranked.
var severities = map[string]int{"info": 1, "warning": 2, "error": 3}

// eventFilter is what events are limited to.
type eventFilter struct {
	object, reason, node string
	severity             int
	since                time.Time
}

func (s *events) filter(ctx context.Context, object, severity, reason, node string) (f eventFilter, err error) {
	f = eventFilter{object: object, reason: reason, severity: severities[severity]}
	if severity != "" && f.severity == 0 {
		return f, invalid("severity", "use info, warning or error", "%q is not known", severity)
	}
	f.node, err = s.nodeID(ctx, node)
	return f, err
}

func (f eventFilter) matches(e *v1.Event) bool {
	kind, _, _ := strings.Cut(e.Object, "/")
	about := f.object == "" || f.object == e.Object || f.object == kind || f.object == e.ObjectName || f.object == kind+"/"+e.ObjectName
	return about && severities[e.Severity] >= f.severity && (f.reason == "" || f.reason == e.Reason) &&
		(f.node == "" || f.node == e.NodeId) && !e.GetTime().AsTime().Before(f.since)
}

func eventKey(e *v1.Event) string { return newestFirst(e.GetTime().AsTime().UnixNano(), e.Id) }

// ListEvents lists events, the newest first.
func (s *events) ListEvents(ctx context.Context, r *v1.ListEventsRequest) (*v1.ListEventsResponse, error) {
	f, err := s.filter(ctx, r.Object, r.Severity, r.Reason, r.Node)
	if err != nil {
		return nil, err
	}
	if r.Since != nil {
		f.since = r.Since.AsTime()
	}
	var list []*v1.Event
	for _, e := range s.view.events.List() {
		if f.matches(e.Value) {
			list = append(list, e.Value)
		}
	}
	list, next, err := page(sortedBy(list, eventKey), r.PageSize, r.PageToken, eventKey)
	return &v1.ListEventsResponse{Events: list, NextPageToken: next}, err
}

// WatchEvents tells of events as they happen.
func (s *events) WatchEvents(ctx context.Context, r *v1.WatchEventsRequest, out *connect.ServerStream[v1.WatchEventsResponse]) error {
	f, err := s.filter(ctx, r.Object, r.Severity, r.Reason, r.Node)
	if err != nil {
		return err
	}
	past := map[string]bool{}
	if !r.Past {
		for _, e := range s.view.events.List() {
			past[e.ID] = true
		}
	}
	return watch(ctx, s.Server, func() watched[*v1.Event] {
		all := watched[*v1.Event]{}
		for _, e := range s.view.events.List() {
			if !past[e.ID] && f.matches(e.Value) {
				all[e.ID] = e.Value // ids begin with the time
			}
		}
		return all
	}, func(c v1.Change, e *v1.Event) error {
		if c == v1.Change_CHANGE_REMOVED {
			return nil // it only is too old to be kept
		}
		return out.Send(&v1.WatchEventsResponse{Change: c, Event: e})
	})
}

package cli

import (
	"cmp"
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/holdfast-io/holdfast/api/client"
	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/fault"
)

func operationColumns() []column[*v1.Operation] {
	return []column[*v1.Operation]{
		{head: "ID", cell: func(o *v1.Operation) string { return o.Id }},
		{head: "KIND", cell: func(o *v1.Operation) string { return o.Kind }},
		{head: "TARGET", cell: func(o *v1.Operation) string { return o.Target }},
		{head: "STATE", cell: operationState},
		{head: "PROGRESS", cell: func(o *v1.Operation) string { return progressText(o.Progress) }},
		{head: "MESSAGE", cell: func(o *v1.Operation) string { return cmp.Or(o.Error, o.Message) }},
		{head: "BY", wide: true, cell: func(o *v1.Operation) string { return o.By }},
		{head: "CREATED", wide: true, cell: func(o *v1.Operation) string { return timeText(o.Created) }},
		{head: "ENDED", wide: true, cell: func(o *v1.Operation) string { return timeText(o.Ended) }},
	}
}

func operationState(o *v1.Operation) string {
	switch {
	case o.Done && o.Error != "":
		return "failed"
	case o.Done:
		return "done"
	case o.Canceled:
		return "being canceled"
	}
	return "running"
}

func (r *remote) printOperation(o *v1.Operation) error {
	return printOne(r.out, o, operationColumns(), func(t *table) {
		if len(o.Steps) == 0 {
			return
		}
		t.section()
		rows(t, false, []column[*v1.Step]{
			{head: "VOLUME", cell: func(s *v1.Step) string { return cmp.Or(s.VolumeName, s.VolumeId) }},
			{head: "FROM POOL", cell: func(s *v1.Step) string { return cmp.Or(s.FromPoolName, s.FromPoolId) }},
			{head: "TO POOL", cell: func(s *v1.Step) string { return cmp.Or(s.ToPoolName, s.ToPoolId) }},
			{head: "BYTES", cell: func(s *v1.Step) string { return bytesText(s.Bytes) }},
			{head: "DONE", cell: func(s *v1.Step) string { return yesNo(s.Done) }},
		}, true, o.Steps...)
	})
}

// finish prints an operation; waiting, when it has ended, and how far it is meanwhile.
func (r *remote) finish(cmd *cobra.Command, c *client.Client, o *v1.Operation, wait bool) error {
	if o == nil {
		r.out.say("nothing is to be done")
		return nil
	}
	if !wait {
		return r.printOperation(o)
	}
	o, err := r.ended(cmd, c, o)
	if err != nil {
		return err
	}
	if err := r.printOperation(o); err != nil || o.Error == "" {
		return err
	}
	return fault.WithCure(fault.Errorf("cli", fault.Precondition, "the operation failed: %s", o.Error), "mend what the message says, then ask again")
}

// ended waits for an operation, and shows its progress at a terminal.
func (r *remote) ended(cmd *cobra.Command, c *client.Client, o *v1.Operation) (*v1.Operation, error) {
	bar := newProgress(cmd, "done", o.GetProgress().GetTotalBytes())
	defer bar.end()
	for !o.Done {
		next, err := c.Operations.WaitOperation(cmd.Context(), &v1.WaitOperationRequest{Id: o.Id, Wait: durationpb.New(time.Second)})
		if cmd.Context().Err() != nil {
			return o, fault.WithCure(fault.Errorf("cli", fault.Canceled, "the wait was interrupted; the operation goes on: %s", o.Message),
				"wait again: holdfast operation get "+o.Id+" --wait; or give it up: holdfast operation cancel "+o.Id)
		}
		if err != nil {
			return o, err
		}
		o = next
		bar.total = o.GetProgress().GetTotalBytes()
		bar.show(o.GetProgress().GetDoneBytes())
	}
	return o, nil
}

func newOperationCommand(r *remote) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:     "operation",
		Aliases: []string{"operations", "op"},
		Short:   "See and cancel long work that was asked for",
		Long:    "An operation is long work that was asked for: a move, a drain, a restore.",
	})
	cmd.AddCommand(newOperationList(r), newOperationGet(r), newOperationCancel(r))
	return cmd
}

func newOperationList(r *remote) *cobra.Command {
	q := &v1.ListOperationsRequest{}
	var watch bool
	var most int
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List operations, the newest first",
		Long:    "List operations, the newest first. Those that have ended are kept for a while.",
		Example: `  holdfast operation list --running
  holdfast operation list --watch`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				if watch {
					s, err := c.Operations.WatchOperations(ctx, &v1.WatchOperationsRequest{})
					if err != nil {
						return err
					}
					return follow(r.out, s, func(m *v1.WatchOperationsResponse) (v1.Change, *v1.Operation) { return m.Change, m.Operation }, operationColumns())
				}
				all, err := collectMost(most, func(token string, size int32) ([]*v1.Operation, string, error) {
					q.PageToken, q.PageSize = token, size
					out, err := c.Operations.ListOperations(ctx, q)
					return out.GetOperations(), out.GetNextPageToken(), err
				})
				if err != nil {
					return err
				}
				return printList(r.out, all, operationColumns())
			})
		},
	}
	cmd.Flags().BoolVar(&q.Running, "running", false, "only those that haven't ended")
	cmd.Flags().StringVar(&q.Kind, "kind", "", "only of this `kind`, such as VolumeMove")
	cmd.Flags().StringVar(&q.Target, "target", "", "only of this `object`, such as volume/db")
	limitFlag(cmd, &most)
	watchFlag(cmd, &watch)
	return cmd
}

func newOperationGet(r *remote) *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use:   "get ID",
		Short: "Show an operation and its steps, or wait for its end",
		Long: `Show an operation, what it is at and what its steps are. With --wait, when it
has ended; a failure is then the command's, too.`,
		Example: "  holdfast operation get 0d9f3c6e-52a1-4c5e-8d8a-6a8f3b1c2d4e --wait",
		Args:    exactly("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				o, err := c.Operations.GetOperation(ctx, &v1.GetOperationRequest{Id: args[0]})
				if err != nil {
					return err
				}
				return r.finish(cmd, c, o, wait)
			})
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until it has ended")
	return cmd
}

func newOperationCancel(r *remote) *cobra.Command {
	return &cobra.Command{
		Use:     "cancel ID",
		Short:   "Ask for an operation to be given up",
		Long:    "Ask for an operation to be given up. What it did already stays, but\na restore gives the volume back what it had.",
		Example: "  holdfast operation cancel 0d9f3c6e-52a1-4c5e-8d8a-6a8f3b1c2d4e",
		Args:    exactly("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				o, err := c.Operations.CancelOperation(ctx, &v1.CancelOperationRequest{Id: args[0]})
				if err != nil {
					return err
				}
				return r.printOperation(o)
			})
		},
	}
}

func eventColumns() []column[*v1.Event] {
	return []column[*v1.Event]{
		{head: "TIME", cell: func(e *v1.Event) string { return timeText(e.Time) }},
		{head: "SEVERITY", cell: func(e *v1.Event) string { return e.Severity }},
		{head: "OBJECT", cell: func(e *v1.Event) string {
			kind, id, _ := strings.Cut(e.Object, "/")
			return kind + "/" + cmp.Or(e.ObjectName, id)
		}},
		{head: "REASON", cell: func(e *v1.Event) string { return e.Reason }},
		{head: "MESSAGE", cell: func(e *v1.Event) string { return e.Message }},
		{head: "NODE", wide: true, cell: func(e *v1.Event) string { return e.NodeId }},
		{head: "ID", wide: true, cell: func(e *v1.Event) string { return e.Id }},
	}
}

func newEventsCommand(r *remote) *cobra.Command {
	q := &v1.ListEventsRequest{}
	var watch bool
	var since time.Duration
	var most int
	cmd := &cobra.Command{
		Use:     "events [OBJECT]",
		Aliases: []string{"event"},
		Short:   "Show what happened",
		Long: `Show what happened, the newest first: of everything, or of one object by its
name, its kind (volume, node, pool, snapshot) or both (volume/db).`,
		Example: `  holdfast events --severity warning --since 1h
  holdfast events volume/db
  holdfast events --watch`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				q.Object = args[0]
			}
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				if watch {
					s, err := c.Events.WatchEvents(ctx, &v1.WatchEventsRequest{Object: q.Object, Severity: q.Severity, Reason: q.Reason, Node: q.Node})
					if err != nil {
						return err
					}
					return follow(r.out, s, func(m *v1.WatchEventsResponse) (v1.Change, *v1.Event) { return m.Change, m.Event }, eventColumns())
				}
				if since > 0 {
					q.Since = timestamppb.New(time.Now().Add(-since))
				}
				all, err := collectMost(most, func(token string, size int32) ([]*v1.Event, string, error) {
					q.PageToken, q.PageSize = token, size
					out, err := c.Events.ListEvents(ctx, q)
					return out.GetEvents(), out.GetNextPageToken(), err
				})
				if err != nil {
					return err
				}
				return printList(r.out, all, eventColumns())
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&q.Severity, "severity", "", "at least `info|warning|error`")
	f.StringVar(&q.Reason, "reason", "", "only of this `reason`")
	f.StringVar(&q.Node, "node", "", "only what this `node` says")
	f.DurationVar(&since, "since", 0, "only of the last `time`, such as 1h")
	limitFlag(cmd, &most)
	watchFlag(cmd, &watch)
	return cmd
}

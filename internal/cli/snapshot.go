package cli

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-io/holdfast/api/client"
	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
)

func newSnapshotCommand(r *remote) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:     "snapshot",
		Aliases: []string{"snapshots", "snap"},
		Short:   "Keep volumes as they were at one moment, and go back to that",
		Long: `A snapshot is a volume as it was at one moment. It takes no time to make, and
only the space of what is written afterwards.

Snapshots are named by name or by id.`,
	})
	cmd.AddCommand(newSnapshotCreate(r), newSnapshotGroup(r), newSnapshotList(r), newSnapshotTree(r), newSnapshotGet(r), newSnapshotUpdate(r), newSnapshotDelete(r),
		newSnapshotClone(r), newSnapshotRestore(r), newSnapshotChanged(r))
	return cmd
}

func snapshotColumns(names map[string]string) []column[*v1.Snapshot] {
	return []column[*v1.Snapshot]{
		{head: "NAME", cell: func(s *v1.Snapshot) string { return s.GetMeta().GetName() }},
		{head: "VOLUME", cell: func(s *v1.Snapshot) string {
			return cmp.Or(names[s.GetSpec().GetVolumeId()], s.GetSpec().GetVolumeId())
		}},
		{head: "STATE", cell: snapshotState},
		{head: "TAKEN", cell: func(s *v1.Snapshot) string { return timeText(s.GetStatus().GetTaken()) }},
		{head: "SIZE", cell: func(s *v1.Snapshot) string { return bytesText(s.GetStatus().GetSizeBytes()) }},
		{head: "ITS OWN", cell: func(s *v1.Snapshot) string { return ownText(s.GetStatus()) }},
		{head: "SHARED", wide: true, cell: func(s *v1.Snapshot) string { return takesText(s.GetStatus(), s.GetStatus().GetSharedBytes()) }},
		{head: "GROUP", wide: true, cell: func(s *v1.Snapshot) string { return s.GetSpec().GetGroupId() }},
		{head: "POLICY", wide: true, cell: func(s *v1.Snapshot) string { return cmp.Or(names[s.GetSpec().GetPolicy()], s.GetSpec().GetPolicy()) }},
		{head: "LABELS", wide: true, cell: func(s *v1.Snapshot) string { return labelsText(s.GetMeta().GetLabels()) }},
		{head: "ID", wide: true, cell: func(s *v1.Snapshot) string { return s.GetMeta().GetId() }},
	}
}

// ownText says what comes back when the snapshot is deleted.
func ownText(s *v1.SnapshotStatus) string { return takesText(s, s.GetExclusiveBytes()) }

// takesText is bytesText of a part of what a snapshot takes, and nothing until that was
// counted, some seconds after it was taken.
func takesText(s *v1.SnapshotStatus, bytes int64) string {
	if s.GetExclusiveBytes()+s.GetSharedBytes() == 0 {
		return ""
	}
	return bytesText(bytes)
}

func snapshotState(s *v1.Snapshot) string {
	switch {
	case s.GetSpec().GetDeleted():
		return "being deleted"
	case s.GetStatus().GetReady():
		return "ready"
	case s.GetStatus().GetProblem() != "":
		return "failed"
	}
	return "being taken"
}

// snapshotNames returns the names of volumes and policies by id. Without them ids are shown.
func snapshotNames(ctx context.Context, c *client.Client) map[string]string {
	names := map[string]string{}
	for _, trashed := range []bool{true, false} {
		all, _ := collect(func(token string) ([]*v1.Volume, string, error) {
			out, err := c.Volumes.ListVolumes(ctx, &v1.ListVolumesRequest{Trashed: trashed, PageSize: 1000, PageToken: token})
			return out.GetVolumes(), out.GetNextPageToken(), err
		})
		for _, v := range all {
			names[v.GetMeta().GetId()] = v.GetMeta().GetName()
		}
	}
	policies, _ := collect(func(token string) ([]*v1.SnapshotPolicy, string, error) {
		out, err := c.Snapshots.ListPolicies(ctx, &v1.ListPoliciesRequest{PageToken: token})
		return out.GetPolicies(), out.GetNextPageToken(), err
	})
	for _, p := range policies {
		names[p.GetMeta().GetId()] = p.GetMeta().GetName()
	}
	return names
}

func (r *remote) printSnapshot(ctx context.Context, c *client.Client, s *v1.Snapshot) error {
	return printOne(r.out, s, snapshotColumns(snapshotNames(ctx, c)), func(t *table) { t.field("problem", s.GetStatus().GetProblem()) })
}

func newSnapshotCreate(r *remote) *cobra.Command {
	q := &v1.CreateSnapshotRequest{}
	var w waiting
	cmd := &cobra.Command{
		Use:   "create VOLUME [NAME]",
		Short: "Take a snapshot of a volume",
		Long: `Take a snapshot of a volume, in use or not. Without a name it gets the
volume's, and the time. --freeze freezes the mounted filesystem for that
moment, so that a program that wrote files finds them whole.`,
		Example: `  holdfast snapshot create db db-monday
  holdfast snapshot create db --freeze`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			q.Volume, q.Wait = args[0], w.proto()
			if len(args) > 1 {
				q.Name = args[1]
			}
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				s, err := c.Snapshots.CreateSnapshot(ctx, q)
				if err != nil {
					return err
				}
				return r.printSnapshot(ctx, c, s)
			})
		},
	}
	cmd.Flags().BoolVar(&q.Freeze, "freeze", false, "freeze the mounted filesystem first")
	cmd.Flags().StringToStringVar(&q.Labels, "label", nil, "`labels`, such as keep=yes")
	w.flags(cmd, "until it is taken")
	return cmd
}

func newSnapshotGroup(r *remote) *cobra.Command {
	q := &v1.CreateGroupSnapshotRequest{}
	var w waiting
	cmd := &cobra.Command{
		Use:   "group VOLUME...",
		Short: "Take snapshots of several volumes at one moment",
		Long:  "Take snapshots of several volumes at one moment, wherever they are attached: a\nwrite that followed another is in none without it.",
		Example: `  holdfast snapshot group db web --name monday
  holdfast snapshot group --selector app=shop --freeze`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			q.Volumes, q.Wait = args, w.proto()
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				out, err := c.Snapshots.CreateGroupSnapshot(ctx, q)
				if err != nil {
					return err
				}
				return printList(r.out, out.Snapshots, snapshotColumns(snapshotNames(ctx, c)))
			})
		},
	}
	cmd.Flags().StringVar(&q.Name, "name", "", "each is called `name`-volume")
	cmd.Flags().StringVarP(&q.Selector, "selector", "l", "", "volumes with these `labels`")
	cmd.Flags().BoolVar(&q.Freeze, "freeze", false, "freeze mounted filesystems first")
	cmd.Flags().StringToStringVar(&q.Labels, "label", nil, "`labels` of the snapshots")
	w.flags(cmd, "until they are taken")
	return cmd
}

func newSnapshotList(r *remote) *cobra.Command {
	q := &v1.ListSnapshotsRequest{}
	var watch bool
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List snapshots",
		Long:    "List snapshots by name, all of them or those that are asked for.",
		Example: `  holdfast snapshot list
  holdfast snapshot list --volume db --watch`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				columns := snapshotColumns(snapshotNames(ctx, c))
				if watch {
					s, err := c.Snapshots.WatchSnapshots(ctx, &v1.WatchSnapshotsRequest{Volume: q.Volume, GroupId: q.GroupId})
					if err != nil {
						return err
					}
					return follow(r.out, s, func(m *v1.WatchSnapshotsResponse) (v1.Change, *v1.Snapshot) { return m.Change, m.Snapshot }, columns)
				}
				all, err := collect(func(token string) ([]*v1.Snapshot, string, error) {
					q.PageToken = token
					out, err := c.Snapshots.ListSnapshots(ctx, q)
					return out.GetSnapshots(), out.GetNextPageToken(), err
				})
				if err != nil {
					return err
				}
				return printList(r.out, all, columns)
			})
		},
	}
	cmd.Flags().StringVar(&q.Volume, "volume", "", "only of this `volume`")
	cmd.Flags().StringVar(&q.GroupId, "group", "", "only of the group with this `id`")
	cmd.Flags().StringVar(&q.Policy, "policy", "", "only what this `policy` made")
	cmd.Flags().StringVarP(&q.Selector, "selector", "l", "", "only those with these `labels`")
	watchFlag(cmd, &watch)
	return cmd
}

func newSnapshotTree(r *remote) *cobra.Command {
	return &cobra.Command{
		Use:     "tree VOLUME",
		Short:   "Show how a volume, its snapshots and its clones descend",
		Long:    "Show how a volume, its snapshots and its clones descend from each other: what is\nindented more descends from what stands above it.",
		Example: "  holdfast snapshot tree db",
		Args:    exactly("VOLUME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				tree, err := c.Snapshots.GetSnapshotTree(ctx, &v1.GetSnapshotTreeRequest{Volume: args[0]})
				if err != nil {
					return err
				}
				if f := r.out.format.String(); f == "json" || f == "yaml" {
					return r.out.raw(tree)
				}
				return r.out.print(nil, func(t *table) { drawTree(t, tree) })
			})
		},
	}
}

// drawTree draws each by its depth. A chain of snapshots is not indented: only clones are.
func drawTree(t *table, tree *v1.SnapshotTree) {
	t.row("NAME", "KIND", "TAKEN", "ITS OWN")
	depth := map[string]int{}
	children := map[string]int{}
	for _, n := range tree.Nodes {
		d := depth[n.ParentId]
		if children[n.ParentId]++; n.ParentId != "" && n.Volume && n.Id != lastOf(tree, n.ParentId) {
			d++
		}
		depth[n.Id] = d
		kind, own := "snapshot", ownText(n.GetSnapshot().GetStatus())
		if n.Volume {
			kind, own = "volume", ""
		}
		t.row(strings.Repeat("  ", d)+n.Name, kind, timeText(n.GetSnapshot().GetStatus().GetTaken()), own)
	}
}

// lastOf returns the last that descends from a snapshot directly: what it lives on in.
func lastOf(tree *v1.SnapshotTree, parent string) (id string) {
	for _, n := range tree.Nodes {
		if n.ParentId == parent {
			id = n.Id
		}
	}
	return id
}

func newSnapshotGet(r *remote) *cobra.Command {
	return &cobra.Command{
		Use:     "get SNAPSHOT",
		Aliases: []string{"show", "inspect"},
		Short:   "Show a snapshot",
		Long:    "Show a snapshot: of which volume, when it was taken, what it takes.",
		Example: "  holdfast snapshot get db-monday",
		Args:    exactly("SNAPSHOT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				s, err := c.Snapshots.GetSnapshot(ctx, &v1.GetSnapshotRequest{Snapshot: args[0]})
				if err != nil {
					return err
				}
				return r.printSnapshot(ctx, c, s)
			})
		},
	}
}

func newSnapshotUpdate(r *remote) *cobra.Command {
	q := &v1.UpdateSnapshotRequest{}
	var unset, name string
	cmd := &cobra.Command{
		Use:     "update SNAPSHOT",
		Short:   "Change a snapshot's name and labels",
		Long:    "Change a snapshot's name and labels. What it holds never changes.",
		Example: "  holdfast snapshot update db-monday --name db-release --label keep=yes",
		Args:    exactly("SNAPSHOT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			q.Snapshot, q.RemoveLabels = args[0], list(unset)
			if cmd.Flags().Changed("name") {
				q.Name = &name
			}
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				s, err := c.Snapshots.UpdateSnapshot(ctx, q)
				if err != nil {
					return err
				}
				return r.printSnapshot(ctx, c, s)
			})
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "another `name`")
	cmd.Flags().StringToStringVar(&q.SetLabels, "label", nil, "`labels` to give")
	cmd.Flags().StringVar(&unset, "unlabel", "", "`labels` to take away")
	return cmd
}

func newSnapshotDelete(r *remote) *cobra.Command {
	var w waiting
	cmd := &cobra.Command{
		Use:     "delete SNAPSHOT...",
		Aliases: []string{"rm"},
		Short:   "Delete snapshots",
		Long: `Delete snapshots, in any order. What only they hold is free at once. One that
does not exist is success.`,
		Example: "  holdfast snapshot delete db-monday db-tuesday",
		Args:    some("SNAPSHOT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				for _, name := range args {
					if _, err := c.Snapshots.DeleteSnapshot(ctx, &v1.DeleteSnapshotRequest{Snapshot: name, Wait: w.proto()}); err != nil {
						return err
					}
					r.out.say("snapshot %s is deleted", name)
				}
				return nil
			})
		},
	}
	w.flags(cmd, "until it is gone")
	return cmd
}

func newSnapshotClone(r *remote) *cobra.Command {
	var flags optionFlags
	var w waiting
	cmd := &cobra.Command{
		Use:   "clone SNAPSHOT NAME",
		Short: "Make a volume that begins with a snapshot",
		Long: `Make a writable volume that begins with a snapshot, at once. What isn't said is
as it is with the snapshot's volume. Either can be deleted first.`,
		Example: "  holdfast snapshot clone db-monday db-test --repl 1",
		Args:    exactly("SNAPSHOT", "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := flags.request(cmd)
			if err != nil {
				return err
			}
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				v, err := c.Snapshots.CloneSnapshot(ctx, &v1.CloneSnapshotRequest{Snapshot: args[0], Name: args[1], Labels: q.Labels, Spec: q.Spec, Wait: w.proto()})
				if err != nil {
					return err
				}
				return printVolume(r.out, v, nodeNames(ctx, c))
			})
		},
	}
	flags.flags(cmd, "name", "snapshot", "source", "sector")
	w.flags(cmd, "until it can be used")
	return cmd
}

func newSnapshotRestore(r *remote) *cobra.Command {
	q := &v1.RestoreSnapshotRequest{}
	var wait bool
	cmd := &cobra.Command{
		Use:   "restore VOLUME SNAPSHOT",
		Short: "Give a volume the content of one of its snapshots again",
		Long: `Give a volume that is not attached the content of one of its snapshots again.
What it had is kept in a safety snapshot. --preview says how much would change.`,
		Example: `  holdfast snapshot restore db db-monday --preview
  holdfast snapshot restore db db-monday --wait`,
		Args: exactly("VOLUME", "SNAPSHOT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				q.Volume, q.Snapshot = args[0], args[1]
				out, err := c.Snapshots.RestoreSnapshot(ctx, q)
				if err != nil {
					return err
				}
				if q.Preview {
					return printOne(r.out, out, []column[*v1.RestoreSnapshotResponse]{
						{head: "WOULD CHANGE", cell: func(o *v1.RestoreSnapshotResponse) string { return bytesText(o.ChangedBytes) }}}, nil)
				}
				r.out.say("what the volume has is kept in snapshot %s", out.GetSafety().GetMeta().GetName())
				return r.finish(cmd, c, out.Operation, wait)
			})
		},
	}
	cmd.Flags().BoolVar(&q.Preview, "preview", false, "only say how much would change")
	cmd.Flags().StringVar(&q.SafetyName, "safety-name", "", "`name` of the safety snapshot")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until it is done")
	return cmd
}

func newSnapshotChanged(r *remote) *cobra.Command {
	q := &v1.ListChangedBlocksRequest{}
	cmd := &cobra.Command{
		Use:   "changed SNAPSHOT",
		Short: "List what differs between two snapshots",
		Long: `List the ranges of bytes that differ between an earlier snapshot of the same
volume and this one; without --base, all that this one holds.`,
		Example: `  holdfast snapshot changed db-tuesday --base db-monday
  holdfast snapshot changed db-monday -o json`,
		Args: exactly("SNAPSHOT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				q.Snapshot = args[0]
				var all []*v1.ChangedRange
				for {
					out, err := c.Snapshots.ListChangedBlocks(ctx, q)
					if err != nil {
						return err
					}
					all = append(all, out.Ranges...)
					if q.Offset = out.NextOffset; q.Offset == 0 {
						break
					}
				}
				return printList(r.out, all, []column[*v1.ChangedRange]{
					{head: "OFFSET", cell: func(c *v1.ChangedRange) string { return fmt.Sprint(c.Offset) }},
					{head: "LENGTH", cell: func(c *v1.ChangedRange) string { return fmt.Sprint(c.Length) }},
				})
			})
		},
	}
	cmd.Flags().StringVar(&q.Base, "base", "", "the earlier `snapshot`")
	return cmd
}

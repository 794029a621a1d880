package cli

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-io/holdfast/api/client"
	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
)

func newVolumeCommand(r *remote) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:     "volume",
		Aliases: []string{"volumes", "vol"},
		Short:   "Make and use volumes: devices whose data is kept on several nodes",
		Long: `A volume is a virtual block device. Its data is kept in replicas on several
nodes, and it can be attached to any one node at a time.

Volumes are named by name or by id.`,
	})
	cmd.AddCommand(newVolumeCreate(r), newVolumeList(r), newVolumeGet(r), newVolumeUpdate(r), newVolumeDelete(r), newVolumeRestore(r),
		newVolumePurge(r), newVolumeAttach(r), newVolumeExport(r), newVolumeDetach(r), newVolumeMount(r), newVolumeUnmount(r), newVolumeAbort(r),
		newVolumeMove(r), newVolumeAcceptLoss(r), newVolumeUsage(r), newVolumeStats(r))
	return cmd
}

// volumeColumns are how volumes look in a table; names tells nodes by id.
func volumeColumns(names map[string]string) []column[*v1.Volume] {
	name := func(id string) string { return cmp.Or(names[id], id) }
	return []column[*v1.Volume]{
		{head: "NAME", cell: func(v *v1.Volume) string { return v.GetMeta().GetName() }},
		{head: "HEALTH", cell: func(v *v1.Volume) string { return healthText(v.GetStatus().GetHealth()) }},
		{head: "SIZE", cell: func(v *v1.Volume) string { return bytesText(v.GetSpec().GetSizeBytes()) }},
		{head: "USED", cell: func(v *v1.Volume) string { return bytesText(v.GetStatus().GetUsedBytes()) }},
		{head: "REPLICAS", cell: replicasText},
		{head: "ATTACHED", cell: func(v *v1.Volume) string {
			a := v.GetStatus().GetAttachment()
			if a == nil {
				return ""
			}
			text := name(a.NodeId)
			if a.State != v1.AttachmentState_ATTACHMENT_STATE_ATTACHED {
				text += " (" + enumText(a.State.String(), "ATTACHMENT_STATE_") + ")"
			}
			return text
		}},
		{head: "DEVICE", wide: true, cell: func(v *v1.Volume) string {
			a := v.GetStatus().GetAttachment()
			return cmp.Or(a.GetDevice(), a.GetAddress())
		}},
		{head: "MOUNT", wide: true, cell: func(v *v1.Volume) string { return v.GetStatus().GetAttachment().GetMountPath() }},
		{head: "CLASS", wide: true, cell: func(v *v1.Volume) string { return v.GetSpec().GetClass() }},
		{head: "FILESYSTEM", wide: true, cell: func(v *v1.Volume) string { return v.GetSpec().GetFilesystem() }},
		{head: "LABELS", wide: true, cell: func(v *v1.Volume) string { return labelsText(v.GetMeta().GetLabels()) }},
		{head: "CREATED", wide: true, cell: func(v *v1.Volume) string { return timeText(v.GetMeta().GetCreated()) }},
		{head: "ID", wide: true, cell: func(v *v1.Volume) string { return v.GetMeta().GetId() }},
	}
}

// leftText is how long a volume stays in the trash.
func leftText(v *v1.Volume, now time.Time) string {
	at := v.GetStatus().GetPurgeAt()
	if at == nil {
		return ""
	}
	return max(at.AsTime().Sub(now), 0).Round(time.Second).String()
}

func healthText(h v1.Health) string { return enumText(h.String(), "HEALTH_") }

// replicasText counts the good replicas of those that are wanted.
func replicasText(v *v1.Volume) string {
	good := 0
	for _, r := range v.GetStatus().GetReplicas() {
		if r.State == v1.ReplicaState_REPLICA_STATE_IN_SYNC && r.Reachable {
			good++
		}
	}
	return fmt.Sprintf("%d/%d", good, v.GetSpec().GetReplicas())
}

// nodeNames returns the names of nodes by id. Without them ids are shown.
func nodeNames(ctx context.Context, c *client.Client) map[string]string {
	names := map[string]string{}
	list, err := allNodes(ctx, c, &v1.ListNodesRequest{})
	if err != nil {
		return names
	}
	for _, n := range list {
		names[n.GetMeta().GetId()] = n.GetMeta().GetName()
	}
	return names
}

func newVolumeList(r *remote) *cobra.Command {
	q := &v1.ListVolumesRequest{}
	var watch bool
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List volumes",
		Long:    "List volumes by name, all of them or those that are asked for.",
		Example: `  holdfast volume list
  holdfast volume list --attention -o wide
  holdfast volume list --selector app=db,tier!=test --node n1
  holdfast volume list --watch`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				columns := volumeColumns(nodeNames(ctx, c))
				if q.Trashed {
					columns = append(columns[:2:2], append([]column[*v1.Volume]{{head: "GONE IN", cell: func(v *v1.Volume) string { return leftText(v, time.Now()) }}}, columns[2:]...)...)
				}
				if watch {
					s, err := c.Volumes.WatchVolumes(ctx, &v1.WatchVolumesRequest{Selector: q.Selector})
					if err != nil {
						return err
					}
					return follow(r.out, s, func(m *v1.WatchVolumesResponse) (v1.Change, *v1.Volume) { return m.Change, m.Volume }, columns)
				}
				list, err := collect(func(token string) ([]*v1.Volume, string, error) {
					q.PageToken = token
					out, err := c.Volumes.ListVolumes(ctx, q)
					return out.GetVolumes(), out.GetNextPageToken(), err
				})
				if err != nil {
					return err
				}
				return printList(r.out, list, columns)
			})
		},
	}
	f := cmd.Flags()
	f.StringVarP(&q.Selector, "selector", "l", "", "only those with these `labels`, such as app=db,tier!=test")
	f.StringVar(&q.Node, "node", "", "only those on this `node`, attached or with a replica")
	f.StringVar(&q.Pool, "pool", "", "only those with a replica in this `pool`")
	f.StringVar(&q.Group, "group", "", "only those of this placement `group`")
	f.StringVar(&q.SourceVolume, "clones-of", "", "only clones of this `volume`")
	f.StringVar(&q.NamePrefix, "prefix", "", "only those whose name begins with `text`")
	f.BoolVar(&q.Attached, "attached", false, "only those that are attached")
	f.BoolVar(&q.Attention, "attention", false, "only those that need attention")
	f.BoolVar(&q.Trashed, "trash", false, "those in the trash instead")
	watchFlag(cmd, &watch)
	return cmd
}

func newVolumeGet(r *remote) *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use:     "get VOLUME",
		Aliases: []string{"show", "inspect"},
		Short:   "Show a volume: its replicas, where it is attached, and what is wrong",
		Long: `Show what a volume is, how it does, where its replicas are, and, when something
is wrong with it, the cause and the cure.`,
		Example: `  holdfast volume get db
  holdfast volume get db -o yaml`,
		Args: exactly("VOLUME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				names := nodeNames(ctx, c)
				if watch {
					s, err := c.Volumes.WatchVolumes(ctx, &v1.WatchVolumesRequest{Volume: args[0]})
					if err != nil {
						return err
					}
					return follow(r.out, s, func(m *v1.WatchVolumesResponse) (v1.Change, *v1.Volume) { return m.Change, m.Volume }, volumeColumns(names))
				}
				v, err := c.Volumes.GetVolume(ctx, &v1.GetVolumeRequest{Volume: args[0]})
				if err != nil {
					return err
				}
				return printVolume(r.out, v, names)
			})
		},
	}
	watchFlag(cmd, &watch)
	return cmd
}

// printVolume prints one volume with everything.
func printVolume(o *output, v *v1.Volume, names map[string]string) error {
	return printOne(o, v, volumeColumns(names), func(t *table) {
		conditions(t, v.GetStatus().GetConditions())
		conditions(t, v.GetStatus().GetAttachment().GetConditions())
		if len(v.GetStatus().GetReplicas()) == 0 {
			return
		}
		t.section()
		rows(t, o.format == "wide", replicaColumns(names), true, v.Status.Replicas...)
	})
}

func replicaColumns(names map[string]string) []column[*v1.ReplicaStatus] {
	return []column[*v1.ReplicaStatus]{
		{head: "REPLICA ON", cell: func(r *v1.ReplicaStatus) string { return cmp.Or(names[r.NodeId], r.NodeId) }},
		{head: "STATE", cell: func(r *v1.ReplicaStatus) string {
			text := enumText(r.State.String(), "REPLICA_STATE_")
			if !r.Reachable {
				text += ", not reachable"
			}
			return text
		}},
		{head: "PROGRESS", cell: func(r *v1.ReplicaStatus) string { return progressText(r.Progress) }},
		{head: "ID", wide: true, cell: func(r *v1.ReplicaStatus) string { return r.Id }},
		{head: "POOL", wide: true, cell: func(r *v1.ReplicaStatus) string { return r.PoolId }},
		{head: "PROBLEM", cell: func(r *v1.ReplicaStatus) string { return r.Problem }},
	}
}

func newVolumeDelete(r *remote) *cobra.Command {
	var purge bool
	var w waiting
	cmd := &cobra.Command{
		Use:     "delete VOLUME...",
		Aliases: []string{"rm"},
		Short:   "Put volumes into the trash, or delete them for good",
		Long: `Put volumes into the trash, from where they can be restored for as long as the
cluster keeps them. With --purge they are deleted for good, at once. A volume
that is attached is refused; one that does not exist is success.`,
		Example: `  holdfast volume delete db
  holdfast volume delete old1 old2 --purge`,
		Args: some("VOLUME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				for _, name := range args {
					out, err := c.Volumes.DeleteVolume(ctx, &v1.DeleteVolumeRequest{Volume: name, Purge: purge, Wait: w.proto()})
					if err != nil {
						return err
					}
					switch {
					case out.Volume == nil:
						r.out.say("there is no volume %s", name)
					case purge:
						r.out.say("volume %s is deleted for good", name)
					default:
						r.out.say("volume %s is in the trash until %s; take it back with holdfast volume restore %s", name, timeText(out.PurgeAt), name)
					}
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&purge, "purge", false, "delete for good, not into the trash")
	w.flags(cmd, "until a purge is through")
	return cmd
}

// say prints a sentence for people; other formats have none.
func (o *output) say(format string, args ...any) {
	if f := o.format.String(); f == "table" || f == "wide" {
		fmt.Fprintf(o.w, format+"\n", args...)
	}
}

func newVolumeRestore(r *remote) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "restore VOLUME",
		Short: "Take a volume out of the trash",
		Long: `Take a volume out of the trash. When its name was taken meanwhile, give it
another with --name. To give a volume the content of a snapshot again, see
holdfast snapshot restore.`,
		Example: `  holdfast volume restore db
  holdfast volume restore 0d9f3c6e-52a1-4c5e-8d8a-6a8f3b1c2d4e --name db-old`,
		Args: exactly("VOLUME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				v, err := c.Volumes.RestoreVolume(ctx, &v1.RestoreVolumeRequest{Volume: args[0], Name: name})
				if err != nil {
					return err
				}
				return printVolume(r.out, v, nodeNames(ctx, c))
			})
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "another `name` for it")
	return cmd
}

func newVolumePurge(r *remote) *cobra.Command {
	var w waiting
	cmd := &cobra.Command{
		Use:   "purge VOLUME...",
		Short: "Delete for good what is in the trash",
		Long: `Delete for good volumes that are in the trash, without waiting for their time
to be over. Until then they hold their space in the pools. One that does not
exist is success.`,
		Example: "  holdfast volume purge db",
		Args:    some("VOLUME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				for _, name := range args {
					out, err := c.Volumes.PurgeVolume(ctx, &v1.PurgeVolumeRequest{Volume: name, Wait: w.proto()})
					if err != nil {
						return err
					}
					if out.Volume == nil {
						r.out.say("there is no volume %s in the trash", name)
						continue
					}
					r.out.say("volume %s is deleted for good", name)
				}
				return nil
			})
		},
	}
	w.flags(cmd, "until it is gone")
	return cmd
}

func newVolumeMove(r *remote) *cobra.Command {
	q := &v1.MoveReplicaRequest{}
	var wait bool
	cmd := &cobra.Command{
		Use:   "move VOLUME",
		Short: "Move a replica of a volume to another node or pool",
		Long: `Move one replica of a volume, while the volume is in use. The new one is filled
before the old one is given up. Without --to it goes where placement finds best.`,
		Example: `  holdfast volume move db --from n1 --to n4
  holdfast volume move db --from n1 --wait`,
		Args: exactly("VOLUME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				q.Volume = args[0]
				o, err := c.Volumes.MoveReplica(ctx, q)
				if err != nil {
					return err
				}
				return r.finish(cmd, c, o, wait)
			})
		},
	}
	cmd.Flags().StringVar(&q.From, "from", "", "`node`, pool or id of the replica that moves")
	cmd.Flags().StringVar(&q.To, "to", "", "`node` or pool where it goes")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until it is done")
	return cmd
}

func newVolumeAcceptLoss(r *remote) *cobra.Command {
	q := &v1.AcceptDataLossRequest{}
	cmd := &cobra.Command{
		Use:   "accept-loss VOLUME",
		Short: "Let a volume work again from a copy that missed writes",
		Long: `When every copy of a volume that has all writes is lost for good, a copy that
missed some is better than none. This makes that copy count. What it missed is
lost. holdfast volume get shows the epoch to give, which protects from
accepting a loss that nobody has looked at.`,
		Example: "  holdfast volume accept-loss db --epoch 7",
		Args:    exactly("VOLUME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				q.Volume = args[0]
				v, err := c.Volumes.AcceptDataLoss(ctx, q)
				if err != nil {
					return err
				}
				return printVolume(r.out, v, nodeNames(ctx, c))
			})
		},
	}
	cmd.Flags().StringVar(&q.Replica, "replica", "", "`id` of the copy to go on from; else the one that missed least")
	cmd.Flags().Uint64Var(&q.Epoch, "epoch", 0, "`epoch` of the volume, as it was shown")
	return cmd
}

func newVolumeUsage(r *remote) *cobra.Command {
	return &cobra.Command{
		Use:   "usage VOLUME",
		Short: "Show what a volume and its snapshots take on the disks",
		Long: `Show what each replica of a volume takes, and what deleting each of its
snapshots would free.`,
		Example: "  holdfast volume usage db",
		Args:    exactly("VOLUME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				u, err := c.Volumes.GetVolumeUsage(ctx, &v1.GetVolumeUsageRequest{Volume: args[0]})
				if err != nil {
					return err
				}
				names := nodeNames(ctx, c)
				return printOne(r.out, u, []column[*v1.VolumeUsage]{
					{head: "SIZE", cell: func(u *v1.VolumeUsage) string { return bytesText(u.SizeBytes) }},
					{head: "USED", cell: func(u *v1.VolumeUsage) string { return bytesText(u.UsedBytes) }},
				}, func(t *table) {
					for _, rep := range u.Replicas {
						t.field("on "+cmp.Or(names[rep.NodeId], rep.NodeId), bytesText(rep.UsedBytes))
					}
					for _, s := range u.Snapshots {
						t.field("snapshot "+s.Name, bytesText(s.ExclusiveBytes)+" of its own")
					}
				})
			})
		},
	}
}

// list splits words between commas.
func list(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' })
}

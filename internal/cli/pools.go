package cli

import (
	"cmp"
	"context"
	"os"

	"github.com/spf13/cobra"

	"github.com/holdfast-io/holdfast/api/client"
	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
)

// poolVerbs are the commands that work on the pools of a cluster.
func poolVerbs(r *remote) []*cobra.Command {
	return []*cobra.Command{newPoolGet(r), newPoolUpdate(r), newPoolDrain(r), newPoolUndrain(r), newPoolRemove(r), newPoolRebalance(r)}
}

func poolColumns(names map[string]string) []column[*v1.Pool] {
	return []column[*v1.Pool]{
		{head: "NAME", cell: func(p *v1.Pool) string { return p.GetMeta().GetName() }},
		{head: "NODE", cell: func(p *v1.Pool) string {
			return cmp.Or(names[p.GetSpec().GetNodeId()], p.GetSpec().GetNodeId())
		}},
		{head: "CLASS", cell: func(p *v1.Pool) string { return p.GetStatus().GetClass() }},
		{head: "CAPACITY", cell: func(p *v1.Pool) string { return bytesText(p.GetStatus().GetCapacityBytes()) }},
		{head: "USED", cell: func(p *v1.Pool) string { return bytesText(p.GetStatus().GetUsedBytes()) }},
		{head: "PROMISED", cell: promisedText},
		{head: "STATE", cell: poolStateText},
		{head: "RESERVE", wide: true, cell: func(p *v1.Pool) string { return bytesText(p.GetStatus().GetReserveBytes()) }},
		{head: "PATH", wide: true, cell: func(p *v1.Pool) string { return p.GetStatus().GetPath() }},
		{head: "LABELS", wide: true, cell: func(p *v1.Pool) string { return labelsText(p.GetMeta().GetLabels()) }},
		{head: "ID", wide: true, cell: func(p *v1.Pool) string { return p.GetMeta().GetId() }},
	}
}

// promisedText is how much the volumes with a replica in a pool may take.
func promisedText(p *v1.Pool) string {
	text := bytesText(p.GetStatus().GetPromisedBytes())
	if n := p.GetStatus().GetTrashedBytes(); n > 0 {
		text += " (" + bytesText(n) + " in the trash)"
	}
	return text
}

func poolStateText(p *v1.Pool) string {
	text := "healthy"
	if !p.GetStatus().GetHealthy() {
		text = "unhealthy"
	}
	switch {
	case p.GetSpec().GetRemoved():
		text += ", leaving for good"
	case p.GetSpec().GetDraining():
		text += ", draining"
	case p.GetSpec().GetCordoned():
		text += ", cordoned"
	}
	return text
}

// reachable reports whether a cluster is named, or a node's socket is there to be found.
func (r *remote) reachable() bool {
	if r.options.Address != "" || os.Getenv(client.EnvAddress) != "" {
		return true
	}
	for _, path := range client.Sockets {
		if _, err := os.Stat(path); err == nil {
			return true
		}
	}
	return false
}

// listPools lists the pools of the cluster.
func (r *remote) listPools(cmd *cobra.Command, q *v1.ListPoolsRequest, watch bool) error {
	return r.do(cmd, func(ctx context.Context, c *client.Client) error {
		columns := poolColumns(nodeNames(ctx, c))
		if watch {
			s, err := c.Pools.WatchPools(ctx, &v1.WatchPoolsRequest{Selector: q.Selector, Node: q.Node})
			if err != nil {
				return err
			}
			return follow(r.out, s, func(m *v1.WatchPoolsResponse) (v1.Change, *v1.Pool) { return m.Change, m.Pool }, columns)
		}
		all, err := collect(func(token string) ([]*v1.Pool, string, error) {
			q.PageToken = token
			out, err := c.Pools.ListPools(ctx, q)
			return out.GetPools(), out.GetNextPageToken(), err
		})
		if err != nil {
			return err
		}
		return printList(r.out, all, columns)
	})
}

func (r *remote) printPool(ctx context.Context, c *client.Client, p *v1.Pool) error {
	return printOne(r.out, p, poolColumns(nodeNames(ctx, c)), func(t *table) { conditions(t, p.GetStatus().GetConditions()) })
}

func newPoolGet(r *remote) *cobra.Command {
	return &cobra.Command{
		Use:   "get POOL",
		Short: "Show a pool of the cluster, and what is wrong with it",
		Long: `Show a pool of the cluster by name or id. For a pool of this machine by its
path, without a cluster, see holdfast pool show.`,
		Example: "  holdfast pool get n1-68eb3d73",
		Args:    exactly("POOL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				p, err := c.Pools.GetPool(ctx, &v1.GetPoolRequest{Pool: args[0]})
				if err != nil {
					return err
				}
				return r.printPool(ctx, c, p)
			})
		},
	}
}

func newPoolUpdate(r *remote) *cobra.Command {
	q := &v1.UpdatePoolRequest{}
	var unset, class, name string
	var cordon bool
	var reserve int32
	cmd := &cobra.Command{
		Use:   "update POOL",
		Short: "Change a pool of the cluster: class, labels, name, whether it gets replicas",
		Long:  "Change what the cluster knows of a pool. Only what is named changes.",
		Example: `  holdfast pool update n1-68eb3d73 --class high --label disk=nvme
  holdfast pool update n1-68eb3d73 --cordon`,
		Args: exactly("POOL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			q.Pool, q.RemoveLabels = args[0], list(unset)
			changed := cmd.Flags().Changed
			if changed("class") {
				q.Class = &class
			}
			if changed("name") {
				q.Name = &name
			}
			if changed("cordon") {
				q.Cordoned = &cordon
			}
			if changed("reserve") {
				q.ReservePercent = &reserve
			}
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				p, err := c.Pools.UpdatePool(ctx, q)
				if err != nil {
					return err
				}
				return r.printPool(ctx, c, p)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&class, "class", "", "its `class`; '' is the measured one")
	f.StringVar(&name, "name", "", "another `name`")
	f.BoolVar(&cordon, "cordon", false, "it gets no new replicas; --cordon=false ends that")
	f.Int32Var(&reserve, "reserve", 0, "`percent` to keep free; 0 is the default")
	f.StringToStringVar(&q.SetLabels, "label", nil, "`labels` to give, such as disk=nvme")
	f.StringVar(&unset, "unlabel", "", "`labels` to take away")
	return cmd
}

func newPoolDrain(r *remote) *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use:   "drain POOL",
		Short: "Move a pool's replicas to other pools",
		Long: `Move all replicas of a pool of the cluster to other pools, and give it no new
ones.`,
		Example: "  holdfast pool drain n1-68eb3d73 --wait",
		Args:    exactly("POOL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				out, err := c.Pools.DrainPool(ctx, &v1.DrainPoolRequest{Pool: args[0], Draining: true})
				if err != nil {
					return err
				}
				return r.finish(cmd, c, out.Operation, wait)
			})
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until it is empty")
	return cmd
}

func newPoolUndrain(r *remote) *cobra.Command {
	return &cobra.Command{
		Use:     "undrain POOL",
		Short:   "Stop moving a pool's replicas away",
		Long:    "Stop moving a pool's replicas away, and let it have new ones again.",
		Example: "  holdfast pool undrain n1-68eb3d73",
		Args:    exactly("POOL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				out, err := c.Pools.DrainPool(ctx, &v1.DrainPoolRequest{Pool: args[0]})
				if err != nil {
					return err
				}
				return r.printPool(ctx, c, out.Pool)
			})
		},
	}
}

func newPoolRemove(r *remote) *cobra.Command {
	q := &v1.RemovePoolRequest{}
	var wait bool
	cmd := &cobra.Command{
		Use:   "remove POOL",
		Short: "Make the cluster forget a pool",
		Long: `Make the cluster forget a pool for good. --preview says what that would mean,
and changes nothing. It is refused where data would be lost, unless it is
forced.`,
		Example: "  holdfast pool remove n1-68eb3d73 --preview",
		Args:    exactly("POOL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				q.Pool = args[0]
				out, err := c.Pools.RemovePool(ctx, q)
				if err != nil {
					return err
				}
				if q.Preview {
					return printRemoval(r.out, out.Removal)
				}
				return r.finish(cmd, c, out.Operation, wait)
			})
		},
	}
	cmd.Flags().BoolVar(&q.Preview, "preview", false, "only say what it would mean")
	cmd.Flags().BoolVar(&q.Force, "force", false, "although data is lost")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until it is gone")
	return cmd
}

func newPoolRebalance(r *remote) *cobra.Command {
	q := &v1.RebalanceRequest{}
	var wait bool
	cmd := &cobra.Command{
		Use:   "rebalance",
		Short: "Move replicas until the cluster's pools are about equally full",
		Long:  "Move replicas until the pools of the cluster are about equally full.",
		Example: `  holdfast pool rebalance --dry-run --wait
  holdfast pool rebalance`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				o, err := c.Pools.Rebalance(ctx, q)
				if err != nil {
					return err
				}
				return r.finish(cmd, c, o, wait)
			})
		},
	}
	cmd.Flags().BoolVar(&q.DryRun, "dry-run", false, "only say what would move")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until it is done")
	return cmd
}

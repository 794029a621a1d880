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

// newNodesCommand is the command that runs a node, with those that work on nodes below it.
func newNodesCommand(out *output, r *remote) *cobra.Command {
	cmd := newNodeCommand(out)
	cmd.Aliases, cmd.Args, cmd.SuggestionsMinimumDistance = []string{"nodes"}, onlyCommands, 2
	cmd.AddCommand(nodeVerbs(r)...)
	return cmd
}

// nodeVerbs are the commands that work on the nodes of a cluster.
func nodeVerbs(r *remote) []*cobra.Command {
	return []*cobra.Command{
		newNodeList(r), newNodeGet(r), newNodeUpdate(r),
		newNodeSwitch(r, "cordon", "Keep new replicas away from a node", func(ctx context.Context, c *client.Client, node string) (*v1.Node, error) {
			return c.Nodes.CordonNode(ctx, &v1.CordonNodeRequest{Node: node, Cordoned: true})
		}),
		newNodeSwitch(r, "uncordon", "Let a node have new replicas again", func(ctx context.Context, c *client.Client, node string) (*v1.Node, error) {
			return c.Nodes.CordonNode(ctx, &v1.CordonNodeRequest{Node: node})
		}),
		newNodeDrain(r),
		newNodeSwitch(r, "undrain", "Stop moving a node's replicas away", func(ctx context.Context, c *client.Client, node string) (*v1.Node, error) {
			out, err := c.Nodes.DrainNode(ctx, &v1.DrainNodeRequest{Node: node})
			return out.GetNode(), err
		}),
		newNodeMaintenance(r), newNodeRemove(r),
	}
}

// metadataRoles tells by node what it is to the cluster's metadata. Without them nothing
// is shown.
func metadataRoles(ctx context.Context, c *client.Client) map[string]string {
	roles := map[string]string{}
	st, err := c.Cluster.GetStatus(ctx, &v1.GetStatusRequest{})
	if err != nil {
		return roles
	}
	for _, m := range st.GetMetadata().GetMembers() {
		roles[m.NodeId] = memberRole(m)
		if !m.Healthy {
			roles[m.NodeId] += ", down"
		}
	}
	return roles
}

func memberRole(m *v1.MetadataMember) string {
	switch {
	case m.Leader:
		return "leader"
	case m.Learner:
		return "learner"
	}
	return "voter"
}

// nodeColumns are how nodes look in a table; roles tells what they are to the metadata.
func nodeColumns(roles map[string]string) []column[*v1.Node] {
	return []column[*v1.Node]{
		{head: "NAME", cell: func(n *v1.Node) string { return n.GetMeta().GetName() }},
		{head: "STATE", cell: nodeStateText},
		{head: "ZONE", cell: func(n *v1.Node) string { return n.GetSpec().GetZone() }},
		{head: "RACK", wide: true, cell: func(n *v1.Node) string { return n.GetSpec().GetRack() }},
		{head: "REGION", wide: true, cell: func(n *v1.Node) string { return n.GetSpec().GetRegion() }},
		{head: "API", cell: func(n *v1.Node) string { return n.GetStatus().GetApiAddress() }},
		{head: "DATA", wide: true, cell: func(n *v1.Node) string { return n.GetStatus().GetDataAddress() }},
		{head: "METADATA", wide: true, cell: func(n *v1.Node) string { return roles[n.GetMeta().GetId()] }},
		{head: "VERSION", cell: func(n *v1.Node) string { return n.GetStatus().GetVersion() }},
		{head: "LABELS", wide: true, cell: func(n *v1.Node) string { return labelsText(n.GetMeta().GetLabels()) }},
		{head: "SEEN", wide: true, cell: seenText},
		{head: "ID", wide: true, cell: func(n *v1.Node) string { return n.GetMeta().GetId() }},
	}
}

// seenText is when a node was heard of last.
func seenText(n *v1.Node) string {
	if n.GetStatus().GetState() == v1.NodeState_NODE_STATE_UP {
		return "now"
	}
	return timeText(n.GetStatus().GetSeen())
}

// nodeStateText is a node's state, with what was asked of it.
func nodeStateText(n *v1.Node) string {
	words := []string{enumText(n.GetStatus().GetState().String(), "NODE_STATE_")}
	if n.GetSpec().GetRemoved() {
		return words[0] + ", leaving for good"
	}
	if n.GetSpec().GetCordoned() {
		words = append(words, "cordoned")
	}
	if n.GetSpec().GetDraining() {
		words = append(words, "draining")
	}
	if n.GetSpec().GetMaintenance() {
		words = append(words, "maintenance")
	}
	return strings.Join(words, ", ")
}

func allNodes(ctx context.Context, c *client.Client, q *v1.ListNodesRequest) ([]*v1.Node, error) {
	return collect(func(token string) ([]*v1.Node, string, error) {
		q.PageToken = token
		out, err := c.Nodes.ListNodes(ctx, q)
		return out.GetNodes(), out.GetNextPageToken(), err
	})
}

func newNodeList(r *remote) *cobra.Command {
	q := &v1.ListNodesRequest{}
	var watch bool
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the nodes of the cluster",
		Long:    "List the nodes of the cluster by name, with their state.",
		Example: `  holdfast node list
  holdfast node list --zone a -o wide
  holdfast node list --watch`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				columns := nodeColumns(nil)
				if r.out.format == "wide" {
					columns = nodeColumns(metadataRoles(ctx, c))
				}
				if watch {
					s, err := c.Nodes.WatchNodes(ctx, &v1.WatchNodesRequest{Selector: q.Selector})
					if err != nil {
						return err
					}
					return follow(r.out, s, func(m *v1.WatchNodesResponse) (v1.Change, *v1.Node) { return m.Change, m.Node }, columns)
				}
				all, err := allNodes(ctx, c, q)
				if err != nil {
					return err
				}
				return printList(r.out, all, columns)
			})
		},
	}
	cmd.Flags().StringVarP(&q.Selector, "selector", "l", "", "only those with these `labels`")
	cmd.Flags().StringVar(&q.Zone, "zone", "", "only those of this `zone`")
	watchFlag(cmd, &watch)
	return cmd
}

func (r *remote) printNode(ctx context.Context, c *client.Client, n *v1.Node) error {
	return printOne(r.out, n, nodeColumns(metadataRoles(ctx, c)), func(t *table) { conditions(t, n.GetStatus().GetConditions()) })
}

func newNodeGet(r *remote) *cobra.Command {
	return &cobra.Command{
		Use:     "get NODE",
		Aliases: []string{"show", "inspect"},
		Short:   "Show a node, and what is wrong with it",
		Long: `Show what a node is, how it does, and, when something is wrong with it, the
cause and the cure.`,
		Example: "  holdfast node get n1",
		Args:    exactly("NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				n, err := c.Nodes.GetNode(ctx, &v1.GetNodeRequest{Node: args[0]})
				if err != nil {
					return err
				}
				return r.printNode(ctx, c, n)
			})
		},
	}
}

func newNodeUpdate(r *remote) *cobra.Command {
	var set map[string]string
	var unset, region, zone, rack string
	cmd := &cobra.Command{
		Use:   "update NODE",
		Short: "Change a node's labels and its place",
		Long:  "Change the labels of a node, and the region, zone and rack where it is.",
		Example: `  holdfast node update n1 --zone b --rack r7
  holdfast node update n1 --label disk=fast --unlabel old`,
		Args: exactly("NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := &v1.UpdateNodeRequest{Node: args[0], SetLabels: set, RemoveLabels: list(unset)}
			for name, to := range map[string]**string{"region": &q.Region, "zone": &q.Zone, "rack": &q.Rack} {
				if cmd.Flags().Changed(name) {
					value, _ := cmd.Flags().GetString(name) // it exists
					*to = &value
				}
			}
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				n, err := c.Nodes.UpdateNode(ctx, q)
				if err != nil {
					return err
				}
				return r.printNode(ctx, c, n)
			})
		},
	}
	f := cmd.Flags()
	f.StringToStringVar(&set, "label", nil, "`labels` to give, such as disk=fast")
	f.StringVar(&unset, "unlabel", "", "`labels` to take away, such as old,test")
	f.StringVar(&region, "region", "", "the `region` where it is")
	f.StringVar(&zone, "zone", "", "the `zone` where it is")
	f.StringVar(&rack, "rack", "", "the `rack` where it is")
	return cmd
}

// newNodeSwitch makes a command that turns something on or off.
func newNodeSwitch(r *remote, verb, short string, turn func(context.Context, *client.Client, string) (*v1.Node, error)) *cobra.Command {
	return &cobra.Command{
		Use:     verb + " NODE",
		Short:   short,
		Long:    short + ".",
		Example: "  holdfast node " + verb + " n1",
		Args:    exactly("NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				n, err := turn(ctx, c, args[0])
				if err != nil {
					return err
				}
				return r.printNode(ctx, c, n)
			})
		},
	}
}

func newNodeDrain(r *remote) *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use:   "drain NODE",
		Short: "Move a node's replicas to other nodes",
		Long: `Move all replicas of a node to other nodes, and give it no new ones. Volumes
stay in use meanwhile. holdfast node undrain ends it.`,
		Example: `  holdfast node drain n1
  holdfast node drain n1 --wait`,
		Args: exactly("NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				out, err := c.Nodes.DrainNode(ctx, &v1.DrainNodeRequest{Node: args[0], Draining: true})
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

func newNodeMaintenance(r *remote) *cobra.Command {
	var off bool
	cmd := &cobra.Command{
		Use:   "maintenance NODE",
		Short: "Say that a node may be away for long",
		Long: `Say that a node may be away for long, so that nothing is rebuilt because of it.
With --off it counts again.`,
		Example: `  holdfast node maintenance n1
  holdfast node maintenance n1 --off`,
		Args: exactly("NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				n, err := c.Nodes.SetMaintenance(ctx, &v1.SetMaintenanceRequest{Node: args[0], Maintenance: !off})
				if err != nil {
					return err
				}
				return r.printNode(ctx, c, n)
			})
		},
	}
	cmd.Flags().BoolVar(&off, "off", false, "it is over")
	return cmd
}

func newNodeRemove(r *remote) *cobra.Command {
	q := &v1.RemoveNodeRequest{}
	var wait bool
	cmd := &cobra.Command{
		Use:   "remove NODE",
		Short: "Take a node out of the cluster for good",
		Long: `Take a node out of the cluster for good. --preview says what that would mean,
and changes nothing. It is refused where data would be lost, unless it is
forced.`,
		Example: `  holdfast node remove n1 --preview
  holdfast node remove n1`,
		Args: exactly("NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				q.Node = args[0]
				out, err := c.Nodes.RemoveNode(ctx, q)
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

// printRemoval prints what the loss of a node or pool means.
func printRemoval(o *output, removal *v1.Removal) error {
	columns := []column[*v1.Removal]{
		{head: "VOLUMES LOST", cell: func(r *v1.Removal) string { return fmt.Sprint(r.VolumesLost) }},
		{head: "WITH FEWER COPIES", cell: func(r *v1.Removal) string { return fmt.Sprint(r.VolumesDegraded) }},
		{head: "ATTACHED THERE", cell: func(r *v1.Removal) string { return fmt.Sprint(r.VolumesDetached) }},
		{head: "TO COPY", cell: func(r *v1.Removal) string { return bytesText(r.BytesToCopy) }},
	}
	return printOne(o, removal, columns, func(t *table) {
		if len(removal.GetEffects()) == 0 {
			return
		}
		t.section()
		rows(t, false, []column[*v1.RemovalEffect]{
			{head: "VOLUME", cell: func(e *v1.RemovalEffect) string { return cmp.Or(e.VolumeName, e.VolumeId) }},
			{head: "COPIES LEFT", cell: func(e *v1.RemovalEffect) string { return fmt.Sprintf("%d/%d", e.InSyncLeft, e.ReplicasWanted) }},
			{head: "LOST", cell: func(e *v1.RemovalEffect) string { return yesNo(e.Lost) }},
			{head: "WHAT", cell: func(e *v1.RemovalEffect) string { return e.Message }},
		}, true, removal.Effects...)
	})
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

package cli

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-io/holdfast/api/client"
	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
)

// completionWait is how long a shell is kept waiting for names.
const completionWait = 2 * time.Second

// kinds are the objects whose names a shell can complete, by the words that stand for them
// in a command's usage and in its flags.
var kinds = map[string]func(context.Context, *client.Client, string) []string{
	"volume": func(ctx context.Context, c *client.Client, prefix string) (names []string) {
		out, _ := c.Volumes.ListVolumes(ctx, &v1.ListVolumesRequest{NamePrefix: prefix}) // without an answer there are no names
		for _, v := range out.GetVolumes() {
			names = append(names, v.GetMeta().GetName())
		}
		return names
	},
	"node": func(ctx context.Context, c *client.Client, _ string) (names []string) {
		out, _ := c.Nodes.ListNodes(ctx, &v1.ListNodesRequest{})
		for _, n := range out.GetNodes() {
			names = append(names, n.GetMeta().GetName())
		}
		return names
	},
	"pool": func(ctx context.Context, c *client.Client, _ string) (names []string) {
		out, _ := c.Pools.ListPools(ctx, &v1.ListPoolsRequest{})
		for _, p := range out.GetPools() {
			names = append(names, p.GetMeta().GetName())
		}
		return names
	},
	"snapshot": func(ctx context.Context, c *client.Client, _ string) (names []string) {
		out, _ := c.Snapshots.ListSnapshots(ctx, &v1.ListSnapshotsRequest{PageSize: 1000})
		for _, s := range out.GetSnapshots() {
			names = append(names, s.GetMeta().GetName())
		}
		return names
	},
	"policy": func(ctx context.Context, c *client.Client, _ string) (names []string) {
		out, _ := c.Snapshots.ListPolicies(ctx, &v1.ListPoliciesRequest{})
		for _, p := range out.GetPolicies() {
			names = append(names, p.GetMeta().GetName())
		}
		return names
	},
	"id": func(ctx context.Context, c *client.Client, _ string) (ids []string) {
		out, _ := c.Operations.ListOperations(ctx, &v1.ListOperationsRequest{Running: true})
		for _, o := range out.GetOperations() {
			ids = append(ids, o.Id)
		}
		return ids
	},
}

// completions lets shells complete the names of objects, in arguments and in flags, of
// all commands below cmd that talk to a cluster.
func (r *remote) completions(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		r.completions(sub)
	}
	words := strings.Fields(cmd.Use)
	if len(words) > 1 && cmd.Parent() != nil && cmd.ValidArgsFunction == nil {
		cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
			at := min(len(args)+1, len(words)-1)
			if len(args)+1 > at && !strings.HasSuffix(words[at], "...") {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return r.names(cmd, objectOf(cmd, words[at]), prefix)
		}
	}
	for _, flag := range []string{"node", "pool", "volume", "snapshot", "policy"} {
		if cmd.Flags().Lookup(flag) != nil && cmd.Name() != "up" {
			_ = cmd.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
				return r.names(cmd, flag, prefix)
			}) // the flag exists
		}
	}
}

// objectOf returns the kind that a word of a command's usage stands for.
func objectOf(cmd *cobra.Command, word string) string {
	kind := strings.ToLower(strings.Trim(strings.TrimSuffix(word, "..."), "[]"))
	if kind == "name" && cmd.Parent().Name() == "policy" && cmd.Name() != "create" {
		return "policy"
	}
	return kind
}

// names returns the names of a kind, or leaves what is no object to the shell.
func (r *remote) names(cmd *cobra.Command, kind, prefix string) ([]string, cobra.ShellCompDirective) {
	list, known := kinds[kind]
	if !known {
		return nil, cobra.ShellCompDirectiveDefault
	}
	c, err := client.Dial(r.options)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(cmd.Context(), completionWait)
	defer cancel()
	var fits []string
	for _, name := range list(ctx, c, prefix) {
		if strings.HasPrefix(name, prefix) {
			fits = append(fits, name)
		}
	}
	return fits, cobra.ShellCompDirectiveNoFileComp
}

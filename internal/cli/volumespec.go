package cli

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-io/holdfast/api/client"
	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/spec/options"
)

// optionFlags makes a flag of each option of volumes but those that are left out: --repl
// for repl, --snap-policy for snap_policy.
type optionFlags struct {
	pairs []string // of --opt
	given map[string]*string
}

func (o *optionFlags) flags(cmd *cobra.Command, without ...string) {
	o.given = map[string]*string{}
	for _, opt := range options.All() {
		if slices.Contains(without, opt.Key) || strings.HasPrefix(opt.Key, "io_throttle") {
			continue
		}
		o.given[opt.Key] = cmd.Flags().String(strings.ReplaceAll(opt.Key, "_", "-"), "", opt.Help+": `"+opt.Value+"`")
	}
	cmd.Flags().StringArrayVar(&o.pairs, "opt", nil, "an option as StorageClasses and Docker write it, such as `repl=3`")
}

// request reads what the flags say.
func (o *optionFlags) request(cmd *cobra.Command) (*v1.CreateVolumeRequest, error) {
	params, err := options.Split(o.pairs)
	if err != nil {
		return nil, err
	}
	for key, value := range o.given {
		if cmd.Flags().Changed(strings.ReplaceAll(key, "_", "-")) {
			if _, twice := params[key]; twice {
				return nil, fault.WithCure(fault.Errorf("cli", fault.Invalid, "%s is given as a flag and with --opt", key), "say it once")
			}
			params[key] = *value
		}
	}
	return options.Parse(params)
}

func newVolumeCreate(r *remote) *cobra.Command {
	var flags optionFlags
	var w waiting
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a volume",
		Long: `Make a volume. What isn't said is the cluster's default. The same command again
finds the volume that is there already; if it differs, that is an error that
names the difference.

NAME can be a whole specification: name=db,size=10Gi,repl=3. --opt takes the
words of a StorageClass:

` + options.Table(),
		Example: `  holdfast volume create db --size 10Gi
  holdfast volume create db --size 10Gi --repl 3 --spread zone --class high
  holdfast volume create copy --snapshot db-monday
  holdfast volume create name=db,size=10Gi,repl=3`,
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := flags.request(cmd)
			if err != nil {
				return err
			}
			inline, is, err := options.Inline(args[0])
			if err != nil {
				return err
			}
			q.Name = args[0]
			if is {
				proto.Merge(inline, q)
				inline.Name = strings.TrimPrefix(inlineName(args[0]), "name=")
				q = inline
			}
			q.Wait = w.proto()
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				v, err := c.Volumes.CreateVolume(ctx, q)
				if err != nil {
					return err
				}
				return printVolume(r.out, v, nodeNames(ctx, c))
			})
		},
	}
	flags.flags(cmd, "name")
	w.flags(cmd, "until it can be used")
	return cmd
}

// inlineName returns the part of an inline specification that is its name.
func inlineName(text string) string {
	for part := range strings.SplitSeq(text, ",") {
		if strings.HasPrefix(part, "name=") {
			return part
		}
	}
	return ""
}

func newVolumeUpdate(r *remote) *cobra.Command {
	var flags optionFlags
	var w waiting
	var name, unlabel string
	var pause bool
	cmd := &cobra.Command{
		Use:   "update VOLUME",
		Short: "Grow a volume, or change its replicas, limits, labels and policies",
		Long: `Change a volume while it is in use. Only what is named changes: a size grows,
with the filesystem on it; a limit of 0 is none; labels are added, or taken
away with --unlabel; policies and places are replaced, and '' takes them away.`,
		Example: `  holdfast volume update db --size 20Gi
  holdfast volume update db --repl 3 --no-wait
  holdfast volume update db --labels app=db --unlabel test
  holdfast volume update db --snap-policy ''`,
		Args: exactly("VOLUME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				have, err := c.Volumes.GetVolume(ctx, &v1.GetVolumeRequest{Volume: args[0]})
				if err != nil {
					return err
				}
				q, err := flags.change(cmd, have)
				if err != nil {
					return err
				}
				q.Wait, q.RemoveLabels = w.proto(), list(unlabel)
				if cmd.Flags().Changed("name") {
					q.Name = &name
				}
				if cmd.Flags().Changed("repair-paused") {
					q.RepairPaused = &pause
				}
				v, err := c.Volumes.UpdateVolume(ctx, q)
				if err != nil {
					return err
				}
				return printVolume(r.out, v, nodeNames(ctx, c))
			})
		},
	}
	flags.flags(cmd, "name", "fs", "sector", "snapshot", "source")
	cmd.Flags().StringVar(&name, "name", "", "another `name`")
	cmd.Flags().StringVar(&unlabel, "unlabel", "", "`labels` to take away, such as test,old")
	cmd.Flags().BoolVar(&pause, "repair-paused", false, "whether nothing is rebuilt")
	w.flags(cmd, "until it is so")
	return cmd
}

// change makes the request that changes what the flags name, of a volume as it is. Limits
// and places are sent whole, so what isn't named is taken from the volume.
func (o *optionFlags) change(cmd *cobra.Command, have *v1.Volume) (*v1.UpdateVolumeRequest, error) {
	changed := func(keys ...string) bool {
		return slices.ContainsFunc(keys, func(k string) bool {
			return cmd.Flags().Changed(strings.ReplaceAll(k, "_", "-")) || slices.ContainsFunc(o.pairs, func(p string) bool { return strings.HasPrefix(p, k+"=") })
		})
	}
	emptied := o.takeEmpty(cmd)
	r, err := o.request(cmd)
	if err != nil {
		return nil, err
	}
	q := &v1.UpdateVolumeRequest{Volume: have.GetMeta().GetId(), SetLabels: r.Labels}
	s := r.Spec
	if s.SizeBytes > 0 {
		q.SizeBytes = &s.SizeBytes
	}
	if s.Replicas > 0 {
		q.Replicas = &s.Replicas
	}
	if s.Class != "" || emptied["class"] {
		q.Class = &s.Class
	}
	if changed("nodiscard") {
		q.NoDiscard = &s.NoDiscard
	}
	if changed("snap_policy") {
		q.SnapshotPolicies = &v1.SnapshotPolicies{Policies: s.SnapshotPolicies}
	}
	q.Limits = changedLimits(have, s.Limits, emptied)
	if changed("nodes", "zones", "racks", "node_labels", "spread", "group", "group_policy") {
		q.Placement = changedPlacement(have, s.Placement, emptied)
	}
	return q, nil
}

// takeEmpty takes the flags that are given as empty, or as no limit, away, and returns
// their keys.
func (o *optionFlags) takeEmpty(cmd *cobra.Command) map[string]bool {
	empty := map[string]bool{}
	for key, value := range o.given {
		flag := cmd.Flags().Lookup(strings.ReplaceAll(key, "_", "-"))
		limit := strings.HasSuffix(key, "iops") || strings.HasSuffix(key, "bandwidth")
		if flag.Changed && (*value == "" || limit && *value == "0") {
			empty[key] = true
		}
	}
	for key := range empty {
		delete(o.given, key)
	}
	return empty
}

func changedLimits(have *v1.Volume, want *v1.Limits, emptied map[string]bool) *v1.Limits {
	none := slices.ContainsFunc(slices.Collect(maps.Keys(emptied)), func(k string) bool { return strings.Contains(k, "iops") || strings.Contains(k, "bandwidth") })
	if want == nil && !none {
		return nil
	}
	out := &v1.Limits{}
	if l := have.GetSpec().GetLimits(); l != nil {
		out = proto.Clone(l).(*v1.Limits)
	}
	if want != nil {
		proto.Merge(out, want)
	}
	for field, keys := range map[*int64][]string{
		&out.ReadIops: {"iops", "read_iops"}, &out.WriteIops: {"iops", "write_iops"},
		&out.ReadBytesPerSecond: {"bandwidth", "read_bandwidth"}, &out.WriteBytesPerSecond: {"bandwidth", "write_bandwidth"},
	} {
		if emptied[keys[0]] || emptied[keys[1]] {
			*field = 0
		}
	}
	return out
}

func changedPlacement(have *v1.Volume, want *v1.Placement, emptied map[string]bool) *v1.Placement {
	out := &v1.Placement{}
	if p := have.GetSpec().GetPlacement(); p != nil {
		out = proto.Clone(p).(*v1.Placement)
	}
	replace := func(to, from *[]string, key string) {
		if len(*from) > 0 || emptied[key] {
			*to = *from
		}
	}
	word := func(to, from *string, key string) {
		if *from != "" || emptied[key] {
			*to = *from
		}
	}
	if want == nil {
		want = &v1.Placement{}
	}
	replace(&out.Nodes, &want.Nodes, "nodes")
	replace(&out.Zones, &want.Zones, "zones")
	replace(&out.Racks, &want.Racks, "racks")
	word(&out.Prefer, &want.Prefer, "prefer")
	word(&out.Spread, &want.Spread, "spread")
	word(&out.Group, &want.Group, "group")
	word(&out.GroupPolicy, &want.GroupPolicy, "group_policy")
	if len(want.NodeLabels) > 0 || emptied["node_labels"] {
		out.NodeLabels = want.NodeLabels
	}
	return out
}

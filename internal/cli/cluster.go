package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/holdfast-io/holdfast/api/client"
	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/spec"
)

func newClusterCommand(r *remote) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "cluster",
		Short: "See what the cluster is, and change its settings",
		Long:  "See what the cluster is, who you are to it, and what its settings are.",
	})
	cmd.AddCommand(newClusterGet(r), newClusterSettings(r), newClusterWhoAmI(r))
	return cmd
}

func newClusterGet(r *remote) *cobra.Command {
	return &cobra.Command{
		Use:     "get",
		Short:   "Show the cluster's name, id and settings",
		Long:    "Show the cluster's name, its id and its settings.",
		Example: "  holdfast cluster get",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				k, err := c.Cluster.GetCluster(ctx, &v1.GetClusterRequest{})
				if err != nil {
					return err
				}
				return r.printCluster(k)
			})
		},
	}
}

func (r *remote) printCluster(k *v1.Cluster) error {
	return printOne(r.out, k, []column[*v1.Cluster]{
		{head: "NAME", cell: func(k *v1.Cluster) string { return k.GetMeta().GetName() }},
		{head: "ID", cell: func(k *v1.Cluster) string { return k.GetMeta().GetId() }},
	}, func(t *table) {
		fields := k.GetSettings().ProtoReflect().Descriptor().Fields()
		for i := range fields.Len() {
			if f := fields.Get(i); f.Name() != "revision" {
				t.row(string(f.Name())+":", settingText(k, f))
			}
		}
	})
}

// settingText prints a setting, or what holds as nothing is set.
func settingText(k *v1.Cluster, f protoreflect.FieldDescriptor) string {
	if s := k.GetSettings().ProtoReflect(); s.Has(f) {
		return valueText(s, f)
	}
	return valueText(k.GetDefaults().ProtoReflect(), f) + " (default)"
}

func valueText(m protoreflect.Message, f protoreflect.FieldDescriptor) string {
	if strings.HasSuffix(string(f.Name()), "bytes_per_second") {
		if n := m.Get(f).Int(); n > 0 {
			return bytesText(n) + "/s"
		}
		return "no limit"
	}
	if f.Message() != nil {
		if d, ok := m.Get(f).Message().Interface().(*durationpb.Duration); ok {
			return d.AsDuration().String()
		}
	}
	return m.Get(f).String()
}

func newClusterSettings(r *remote) *cobra.Command {
	return &cobra.Command{
		Use:   "set NAME=VALUE...",
		Short: "Change settings of the cluster",
		Long: `Change settings of the cluster, which hold at once on all nodes. A setting
without a value gets its default back. holdfast cluster get shows the settings.`,
		Example: `  holdfast cluster set repair_delay=30m rebuilds_max=4
  holdfast cluster set repair_delay=`,
		Args: some("NAME=VALUE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := &v1.UpdateSettingsRequest{Settings: &v1.ClusterSettings{}}
			for _, arg := range args {
				if err := readSetting(q, arg); err != nil {
					return err
				}
			}
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				k, err := c.Cluster.UpdateSettings(ctx, q)
				if err != nil {
					return err
				}
				return r.printCluster(k)
			})
		},
	}
}

// readSetting reads name=value.
func readSetting(q *v1.UpdateSettingsRequest, arg string) error {
	name, text, found := strings.Cut(arg, "=")
	if !found {
		return fmt.Errorf("%q is no name=value", arg)
	}
	m := q.Settings.ProtoReflect()
	q.Paths = append(q.Paths, name)
	f := m.Descriptor().Fields().ByName(protoreflect.Name(name))
	if f == nil || text == "" {
		return nil // the server names the settings that there are; nothing is the default
	}
	var value protoreflect.Value
	switch f.Kind() {
	case protoreflect.MessageKind:
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%s: %q is no time: write one such as 10m or 24h", name, text)
		}
		value = protoreflect.ValueOfMessage(durationpb.New(d).ProtoReflect())
	case protoreflect.Int32Kind:
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			return fmt.Errorf("%s: %q is no number", name, text)
		}
		value = protoreflect.ValueOfInt32(int32(n))
	case protoreflect.Int64Kind:
		n, err := spec.ParseBytes(text)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		value = protoreflect.ValueOfInt64(n)
	case protoreflect.BoolKind:
		yes, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%s: %q is neither true nor false", name, text)
		}
		value = protoreflect.ValueOfBool(yes)
	default:
		value = protoreflect.ValueOfString(text)
	}
	m.Set(f, value)
	return nil
}

func newClusterWhoAmI(r *remote) *cobra.Command {
	return &cobra.Command{
		Use:     "whoami",
		Short:   "Show whom the cluster takes you for",
		Long:    "Show whom the cluster takes you for, in which role, and how it knows.",
		Example: "  holdfast cluster whoami",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				me, err := c.Cluster.WhoAmI(ctx, &v1.WhoAmIRequest{})
				if err != nil {
					return err
				}
				return printOne(r.out, me, []column[*v1.WhoAmIResponse]{
					{head: "WHO", cell: func(m *v1.WhoAmIResponse) string { return m.Subject }},
					{head: "ROLE", cell: func(m *v1.WhoAmIResponse) string { return enumText(m.Role.String(), "ROLE_") }},
					{head: "BY", cell: func(m *v1.WhoAmIResponse) string { return m.Method }},
				}, nil)
			})
		},
	}
}

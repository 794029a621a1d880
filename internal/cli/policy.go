package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-io/holdfast/api/client"
	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
)

func newPolicyCommand(r *remote) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:     "policy",
		Aliases: []string{"policies"},
		Short:   "Have snapshots taken by the clock",
		Long: `A snapshot policy takes snapshots by the clock and keeps so many of them: of
volumes that name it (holdfast volume update db --snap-policy nightly), and of
those with labels that it selects. All times are UTC.`,
	})
	cmd.AddCommand(newPolicyCreate(r), newPolicyList(r), newPolicyGet(r), newPolicyUpdate(r), newPolicyDelete(r))
	return cmd
}

func policyColumns() []column[*v1.SnapshotPolicy] {
	return []column[*v1.SnapshotPolicy]{
		{head: "NAME", cell: func(p *v1.SnapshotPolicy) string { return p.GetMeta().GetName() }},
		{head: "SCHEDULES", cell: func(p *v1.SnapshotPolicy) string {
			var all []string
			for _, s := range p.GetSpec().GetSchedules() {
				all = append(all, scheduleText(s))
			}
			return strings.Join(all, "; ")
		}},
		{head: "SELECTOR", cell: func(p *v1.SnapshotPolicy) string { return labelsText(p.GetSpec().GetSelector()) }},
		{head: "VOLUMES", cell: func(p *v1.SnapshotPolicy) string { return fmt.Sprint(p.GetStatus().GetVolumes()) }},
		{head: "FREEZE", wide: true, cell: func(p *v1.SnapshotPolicy) string { return yesNo(p.GetSpec().GetFreeze()) }},
		{head: "SUSPENDED", wide: true, cell: func(p *v1.SnapshotPolicy) string { return yesNo(p.GetSpec().GetSuspended()) }},
		{head: "NEXT", wide: true, cell: func(p *v1.SnapshotPolicy) string { return timeText(p.GetStatus().GetNext()) }},
		{head: "ID", wide: true, cell: func(p *v1.SnapshotPolicy) string { return p.GetMeta().GetId() }},
	}
}

func scheduleText(s *v1.SnapshotSchedule) string {
	text := s.Kind + " " + s.At
	if s.Keep > 0 {
		text += fmt.Sprintf(", keep %d", s.Keep)
	}
	return text
}

// policyFlags describe a policy: a flag for each kind of schedule.
type policyFlags struct {
	schedules map[string]*[]string
	spec      v1.SnapshotPolicySpec
}

// scheduleExamples are the kinds of schedules, and how their times are written.
var scheduleExamples = map[string]string{"interval": "15m", "daily": "23:30", "weekly": "sunday@23:30", "monthly": "1@02:00", "cron": "30 2 * * 1"}

func (p *policyFlags) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	p.schedules = map[string]*[]string{}
	for kind, example := range scheduleExamples {
		p.schedules[kind] = f.StringArray(kind, nil, "take one then, and keep so many: `"+example+",keep=7`")
	}
	f.StringToStringVar(&p.spec.Selector, "for", nil, "volumes with these `labels`, such as app=db")
	f.BoolVar(&p.spec.Freeze, "freeze", false, "freeze mounted filesystems first")
	f.BoolVar(&p.spec.Together, "together", false, "of all its volumes at one moment, as a group")
	f.BoolVar(&p.spec.Suspended, "suspended", false, "take none for now, and delete none")
}

// read reads the schedules, and leaves it to the server to check them.
func (p *policyFlags) read() error {
	for _, kind := range sortedKeys(p.schedules) {
		for _, text := range *p.schedules[kind] {
			at, keep, found := strings.Cut(text, ",keep=")
			s := &v1.SnapshotSchedule{Kind: kind, At: at}
			if found {
				n, err := strconv.ParseInt(keep, 10, 32)
				if err != nil {
					return fmt.Errorf("--%s %s: %q is no number", kind, text, keep)
				}
				s.Keep = int32(n)
			}
			p.spec.Schedules = append(p.spec.Schedules, s)
		}
	}
	return nil
}

func newPolicyCreate(r *remote) *cobra.Command {
	var p policyFlags
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a snapshot policy",
		Long:  "Make a snapshot policy with one or more schedules, each of which keeps its own\nsnapshots.",
		Example: `  holdfast policy create nightly --daily 23:30,keep=7
  holdfast policy create often --interval 15m,keep=8 --daily 01:00,keep=7 --for app=db
  holdfast policy create shop --interval 1h,keep=24 --for app=shop --together`,
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := p.read(); err != nil {
				return err
			}
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				out, err := c.Snapshots.CreatePolicy(ctx, &v1.CreatePolicyRequest{Name: args[0], Spec: &p.spec})
				if err != nil {
					return err
				}
				return printOne(r.out, out, policyColumns(), nil)
			})
		},
	}
	p.flags(cmd)
	return cmd
}

func newPolicyUpdate(r *remote) *cobra.Command {
	var p policyFlags
	cmd := &cobra.Command{
		Use:   "update NAME",
		Short: "Change a snapshot policy",
		Long: `Change a snapshot policy. Only what is named changes; schedules are replaced as
a whole.`,
		Example: "  holdfast policy update nightly --suspended",
		Args:    exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := p.read(); err != nil {
				return err
			}
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				have, err := c.Snapshots.GetPolicy(ctx, &v1.GetPolicyRequest{Policy: args[0]})
				if err != nil {
					return err
				}
				changed := cmd.Flags().Changed
				if len(p.spec.Schedules) > 0 {
					have.Spec.Schedules = p.spec.Schedules
				}
				if changed("for") {
					have.Spec.Selector = p.spec.Selector
				}
				if changed("freeze") {
					have.Spec.Freeze = p.spec.Freeze
				}
				if changed("together") {
					have.Spec.Together = p.spec.Together
				}
				if changed("suspended") {
					have.Spec.Suspended = p.spec.Suspended
				}
				out, err := c.Snapshots.UpdatePolicy(ctx, &v1.UpdatePolicyRequest{Policy: args[0], Revision: have.Meta.Revision, Spec: have.Spec})
				if err != nil {
					return err
				}
				return printOne(r.out, out, policyColumns(), nil)
			})
		},
	}
	p.flags(cmd)
	return cmd
}

func newPolicyList(r *remote) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List snapshot policies",
		Long:    "List snapshot policies by name, with the number of volumes that each holds for.",
		Example: "  holdfast policy list -o wide",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				all, err := collect(func(token string) ([]*v1.SnapshotPolicy, string, error) {
					out, err := c.Snapshots.ListPolicies(ctx, &v1.ListPoliciesRequest{PageToken: token})
					return out.GetPolicies(), out.GetNextPageToken(), err
				})
				if err != nil {
					return err
				}
				return printList(r.out, all, policyColumns())
			})
		},
	}
}

func newPolicyGet(r *remote) *cobra.Command {
	return &cobra.Command{
		Use:   "get NAME",
		Short: "Show a snapshot policy",
		Long: `Show a snapshot policy: when it takes snapshots, of which volumes, and how many
it keeps.`,
		Example: "  holdfast policy get nightly",
		Args:    exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				out, err := c.Snapshots.GetPolicy(ctx, &v1.GetPolicyRequest{Policy: args[0]})
				if err != nil {
					return err
				}
				return printOne(r.out, out, policyColumns(), func(t *table) { conditions(t, out.GetStatus().GetConditions()) })
			})
		},
	}
}

func newPolicyDelete(r *remote) *cobra.Command {
	return &cobra.Command{
		Use:     "delete NAME",
		Aliases: []string{"rm"},
		Short:   "Delete a snapshot policy that no volume names",
		Long:    "Delete a snapshot policy that no volume names. The snapshots that it took stay.",
		Example: "  holdfast policy delete nightly",
		Args:    exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				if _, err := c.Snapshots.DeletePolicy(ctx, &v1.DeletePolicyRequest{Policy: args[0]}); err != nil {
					return err
				}
				r.out.say("policy %s is deleted; its snapshots stay", args[0])
				return nil
			})
		},
	}
}

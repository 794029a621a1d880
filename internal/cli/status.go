package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-io/holdfast/api/client"
	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
)

func newStatusCommand(r *remote) *cobra.Command {
	var watch bool
	var every time.Duration
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how the cluster does, on one screen",
		Long: `Show how the cluster does: nodes, pools, volumes, what needs attention and why,
and how long rebuilds take yet. The worst stands first.`,
		Example: `  holdfast status
  holdfast status -o json
  holdfast status --watch`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				for {
					st, err := c.Cluster.GetStatus(ctx, &v1.GetStatusRequest{})
					if err != nil {
						return err
					}
					if watch && isTerminal(cmd.OutOrStdout()) {
						fmt.Fprint(r.out.w, "\x1b[H\x1b[2J")
					}
					if err := r.printStatus(st); err != nil || !watch {
						return err
					}
					select {
					case <-time.After(every):
					case <-ctx.Done():
						return nil
					}
				}
			})
		},
	}
	watchFlag(cmd, &watch)
	cmd.Flags().DurationVar(&every, "every", 2*time.Second, "how often --watch looks")
	return cmd
}

func (r *remote) printStatus(st *v1.ClusterStatus) error {
	if f := r.out.format.String(); f == "json" || f == "yaml" {
		return r.out.raw(st)
	}
	return r.out.print(nil, func(t *table) {
		t.field("cluster", st.GetCluster().GetMeta().GetName())
		t.field("health", enumText(st.Verdict.String(), "VERDICT_")+": "+st.Summary)
		t.field("nodes", nodesText(st.GetNodes()))
		t.field("pools", poolsText(st.GetPools()))
		t.field("volumes", volumesText(st.GetVolumes()))
		t.field("metadata", metadataText(st.GetMetadata()))
		t.field("version", st.Version)
		drawAttention(t, st.Attention)
		drawRebuilds(t, st.Rebuilds)
	})
}

// tally prints counts that aren't 0: "2 down, 1 draining".
func tally(parts ...any) string {
	var all []string
	for i := 0; i < len(parts); i += 2 {
		if n := parts[i].(int32); n > 0 {
			all = append(all, fmt.Sprintf("%d %s", n, parts[i+1]))
		}
	}
	return strings.Join(all, ", ")
}

func nodesText(n *v1.NodeCounts) string {
	text := fmt.Sprintf("%d", n.GetTotal())
	if more := tally(n.GetUp(), "up", n.GetDown(), "down", n.GetCordoned(), "cordoned", n.GetDraining(), "draining", n.GetMaintenance(), "in maintenance"); more != "" {
		text += ": " + more
	}
	return text
}

func poolsText(p *v1.PoolCounts) string {
	text := fmt.Sprintf("%d", p.GetTotal())
	if p.GetTotal() > 0 {
		text += fmt.Sprintf(": %d healthy; %s of %s used, %s promised", p.GetHealthy(), bytesText(p.GetUsedBytes()), bytesText(p.GetCapacityBytes()), bytesText(p.GetPromisedBytes()))
		if n := p.GetTrashedBytes(); n > 0 {
			text += ", " + bytesText(n) + " of it to volumes in the trash"
		}
	}
	return text
}

func volumesText(v *v1.VolumeCounts) string {
	text := fmt.Sprintf("%d", v.GetTotal())
	if more := tally(v.GetHealthy(), "healthy", v.GetDegraded(), "degraded", v.GetUnavailable(), "unavailable", v.GetCreating(), "being made"); more != "" {
		text += ": " + more
	}
	if more := tally(v.GetAttached(), "attached", v.GetStalled(), "stalled", v.GetTrashed(), "in the trash", v.GetDeleting(), "being deleted"); more != "" {
		text += "; " + more
	}
	return text
}

func metadataText(m *v1.Metadata) string {
	healthy := 0
	for _, member := range m.GetMembers() {
		if member.Healthy {
			healthy++
		}
	}
	switch {
	case !m.GetReachable():
		return fmt.Sprintf("can't be reached, %d of %d members healthy", healthy, len(m.GetMembers()))
	case len(m.GetMembers()) > 0:
		return fmt.Sprintf("%s, %d of %d members healthy", m.GetKind(), healthy, len(m.Members))
	}
	return "reachable"
}

// attentionMax is how many troubles fit on a screen.
const attentionMax = 20

func drawAttention(t *table, list []*v1.Attention) {
	if len(list) == 0 {
		return
	}
	t.section()
	t.row("NEEDS ATTENTION", "HOW BAD", "WHY")
	for i, a := range list {
		if i == attentionMax {
			t.row(fmt.Sprintf("and %d more", len(list)-i), "", "holdfast volume list --attention; holdfast status -o json")
			break
		}
		t.row(a.Kind+" "+a.Name, enumText(a.Severity.String(), "VERDICT_"), a.Message)
	}
}

func drawRebuilds(t *table, list []*v1.Rebuild) {
	if len(list) == 0 {
		return
	}
	t.section()
	t.row("BEING REBUILT", "ON", "PROGRESS", "SPEED")
	for i, b := range list {
		if i == attentionMax {
			t.row(fmt.Sprintf("and %d more", len(list)-i))
			break
		}
		speed := "-"
		if n := b.GetProgress().GetBytesPerSecond(); n > 0 {
			speed = bytesText(n) + "/s"
		}
		progress := progressText(b.Progress)
		if progress == "" {
			progress = "-"
		}
		t.row("volume "+b.VolumeName, b.NodeName, progress, speed)
	}
}

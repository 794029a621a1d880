package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/holdfast-io/holdfast/api/client"
	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/fault"
)

func newVolumeStats(r *remote) *cobra.Command {
	q := &v1.GetVolumeStatsRequest{}
	var over time.Duration
	var total, watch bool
	cmd := &cobra.Command{
		Use:   "stats VOLUME",
		Short: "Show a volume's I/O: how much, and how long it takes",
		Long: `Show what I/O an attached volume has in the next second, or in the time that
--over says: requests and bytes a second, and how long requests took, from the
device (or a client) to the replicas and back. P99 is what 99 % of them took at
most. With --total it is all since the node's data process has served it.
-o json has the whole histograms.`,
		Example: `  holdfast volume stats db
  holdfast volume stats db --watch --over 5s
  holdfast volume stats db --total -o json`,
		Args: exactly("VOLUME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if q.Volume = args[0]; !total {
				q.Over = durationpb.New(over)
			}
			if watch && (total || over <= 0) {
				return fault.WithCure(fault.Errorf("cli", fault.Invalid, "--watch shows what is done between two looks"), "leave --total out, and give --over a time")
			}
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				names := nodeNames(ctx, c)
				for first := true; ; first = false {
					s, err := c.Volumes.GetVolumeStats(ctx, q)
					if watch && (errors.Is(err, context.Canceled) || connect.CodeOf(err) == connect.CodeCanceled) {
						return nil // interrupted, as it has to be
					}
					if err == nil {
						err = printStats(r.out, s, statsView{names: names, watch: watch, first: first})
					}
					if err != nil || !watch {
						return err
					}
				}
			})
		},
	}
	cmd.Flags().DurationVar(&over, "over", time.Second, "for how long it is measured, a `time` up to 1m")
	cmd.Flags().BoolVar(&total, "total", false, "all since the node's data process has served it")
	watchFlag(cmd, &watch)
	return cmd
}

// statsView is how stats are shown.
type statsView struct {
	names        map[string]string // of nodes, by id
	watch, first bool
}

func statsColumns() []column[*v1.OperationStats] {
	return []column[*v1.OperationStats]{
		{head: "OPERATION", cell: (*v1.OperationStats).GetOperation},
		{head: "PER SECOND", cell: func(s *v1.OperationStats) string { return strconv.FormatFloat(s.PerSecond, 'f', 0, 64) }},
		{head: "BANDWIDTH", cell: func(s *v1.OperationStats) string { return bytesText(int64(s.BytesPerSecond)) + "/s" }},
		{head: "P50", cell: func(s *v1.OperationStats) string { return latencyText(s.P50) }},
		{head: "P99", cell: func(s *v1.OperationStats) string { return latencyText(s.P99) }},
		{head: "P99.9", cell: func(s *v1.OperationStats) string { return latencyText(s.P999) }},
		{head: "ERRORS", cell: func(s *v1.OperationStats) string { return strconv.FormatUint(s.Errors, 10) }},
		{head: "MEAN", wide: true, cell: func(s *v1.OperationStats) string { return latencyText(s.Mean) }},
		{head: "COUNT", wide: true, cell: func(s *v1.OperationStats) string { return strconv.FormatUint(s.Count, 10) }},
		{head: "BYTES", wide: true, cell: func(s *v1.OperationStats) string { return bytesText(int64(s.Bytes)) }},
	}
}

// latencyText prints how long requests took: "" for no requests.
func latencyText(d *durationpb.Duration) string {
	if d == nil {
		return ""
	}
	return d.AsDuration().Round(time.Microsecond).String()
}

// printStats prints stats: alone as a page, one look of a watch as rows with the time, an
// object in a line of JSON, or a document of YAML.
func printStats(o *output, s *v1.VolumeStats, v statsView) error {
	if !v.watch {
		return printOne(o, s, []column[*v1.VolumeStats]{
			{head: "ON", cell: func(s *v1.VolumeStats) string { return cmp.Or(v.names[s.NodeId], s.NodeId) }},
			{head: "OVER", cell: func(s *v1.VolumeStats) string { return s.Over.AsDuration().Round(time.Millisecond).String() }},
			{head: "IN FLIGHT", cell: func(s *v1.VolumeStats) string { return strconv.FormatInt(s.InFlight, 10) }},
		}, func(t *table) {
			t.section()
			rows(t, o.format == "wide", statsColumns(), true, s.Operations...)
		})
	}
	var text strings.Builder
	switch o.format.String() {
	case "json":
		raw, err := protojson.Marshal(s)
		if err != nil {
			return fault.Wrap("print", err)
		}
		fmt.Fprintf(&text, "%s\n", raw)
	case "yaml":
		if _, err := o.w.Write([]byte("---\n")); err != nil {
			return fault.Wrap("print", err)
		}
		return o.raw(s)
	default:
		t := &table{tabwriter.NewWriter(&text, 12, 0, 2, ' ', 0)}
		at := column[*v1.OperationStats]{head: "AT", cell: func(*v1.OperationStats) string { return timeText(s.At) }}
		rows(t, o.format == "wide", append([]column[*v1.OperationStats]{at}, statsColumns()...), v.first, s.Operations...)
		if err := t.w.Flush(); err != nil {
			return fault.Wrap("print", err)
		}
	}
	_, err := o.w.Write([]byte(text.String()))
	return fault.Wrap("print", err)
}

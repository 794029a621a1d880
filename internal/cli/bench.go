package cli

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-io/holdfast/api/client"
	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host/load"
)

// benchJobs are what a volume and the disk below it are compared by.
var benchJobs = []load.Job{
	{Name: "4 KiB random read, depth 1", Bytes: 4 << 10, Depth: 1, Random: true},
	{Name: "4 KiB random read, depth 32", Bytes: 4 << 10, Depth: 32, Random: true},
	{Name: "128 KiB read in order, depth 8", Bytes: 128 << 10, Depth: 8},
	{Name: "4 KiB random write, depth 1", Bytes: 4 << 10, Depth: 1, Random: true, Write: true},
	{Name: "4 KiB random write, depth 32", Bytes: 4 << 10, Depth: 32, Random: true, Write: true},
	{Name: "128 KiB write in order, depth 8", Bytes: 128 << 10, Depth: 8, Write: true},
	{Name: "4 KiB write and flush, depth 1", Bytes: 4 << 10, Depth: 1, Random: true, Write: true, Flush: true},
}

// How big the files are that are written, and how many samples are taken.
const (
	benchSize    = 512 << 20
	benchSizeMin = 64 << 20
	benchRounds  = 3
)

// benchReport is what the command prints.
type benchReport struct {
	Volume   string        `json:"volume"`
	Replicas int32         `json:"replicas"`
	On       string        `json:"on"`  // what of the volume was used
	Raw      string        `json:"raw"` // what it was compared with; empty for nothing
	Notes    []string      `json:"notes,omitempty"`
	Results  []benchResult `json:"results"`
}

// benchResult is one kind of work on both. Without a raw disk its figures are 0.
type benchResult struct {
	Work      string  `json:"work"`
	PerSecond float64 `json:"per_second"`
	Bytes     int     `json:"bytes"` // of each operation
	P50       float64 `json:"p50_us"`
	P99       float64 `json:"p99_us"`
	RawRate   float64 `json:"raw_per_second,omitempty"`
	RawP50    float64 `json:"raw_p50_us,omitempty"`
	RawP99    float64 `json:"raw_p99_us,omitempty"`
	Ratio     float64 `json:"ratio,omitempty"`        // of the rates: 1 is as fast as raw
	P50Ratio  float64 `json:"p50_ratio,omitempty"`    // of the latencies
	AddedP50  float64 `json:"added_p50_us,omitempty"` // latency that the volume adds
}

func newBenchCommand(r *remote) *cobra.Command {
	b := &benching{remote: r, size: benchSize}
	cmd := &cobra.Command{
		Use:   "bench VOLUME",
		Short: "Measure a volume against the raw disk of its pool",
		Long: `Measure a volume, on the node where it is attached, against a plain file on the
filesystem of that node's pool: both take turns, and what counts is their ratio,
for each kind of work. A volume with three replicas writes three times; the raw
file is written once.

A mounted volume is written in a scratch file on its filesystem, which is gone
afterwards. One that is not mounted is only read, unless --destructive allows to
overwrite what it holds; it is empty then.`,
		Example: `  holdfast bench db
  holdfast bench db --time 5s -o json
  holdfast bench scratch --destructive`,
		Args: exactly("VOLUME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.do(cmd, func(ctx context.Context, c *client.Client) error {
				report, err := b.run(cmd, c, args[0])
				if err != nil {
					return err
				}
				return r.out.print(report, report.draw)
			})
		},
	}
	cmd.Flags().DurationVar(&b.time, "time", time.Second, "how long each of the samples takes")
	cmd.Flags().Var(&b.size, "size", "`bytes` of the scratch file, and of the raw file")
	cmd.Flags().BoolVar(&b.destructive, "destructive", false, "overwrite the content of a volume that is not mounted")
	return cmd
}

// benching is one run of the command.
type benching struct {
	*remote
	time        time.Duration
	size        quantity
	destructive bool
}

func (b *benching) run(cmd *cobra.Command, c *client.Client, name string) (*benchReport, error) {
	ctx := cmd.Context()
	if b.time <= 0 || b.size < benchSizeMin {
		return nil, fault.WithCure(fault.Errorf("bench", fault.Invalid, "%s a sample, in files of %s", b.time, bytesText(int64(b.size))),
			"say a --time above 0, and a --size of at least "+bytesText(benchSizeMin))
	}
	v, err := c.Volumes.GetVolume(ctx, &v1.GetVolumeRequest{Volume: name})
	if err != nil {
		return nil, err
	}
	bar := newProgress(cmd, "", 0)
	defer bar.end()
	bar.say("preparing")
	subject, err := b.subject(ctx, v)
	if err != nil {
		return nil, err
	}
	defer subject.close()
	report := &benchReport{Volume: v.GetMeta().GetName(), Replicas: v.GetSpec().GetReplicas(), On: subject.what, Notes: subject.notes}
	raw, err := b.raw(ctx, c, v)
	if err != nil {
		return nil, err
	}
	if raw == nil {
		report.Notes = append(report.Notes, "this node has no pool, so there is no disk to compare with")
	} else {
		defer raw.Close()
		report.Raw = raw.what
	}
	for i, job := range benchJobs {
		if job.Write && subject.readOnly {
			continue
		}
		bar.say(fmt.Sprintf("%d of %d: %s", i+1, len(benchJobs), job.Name))
		one, err := b.sample(ctx, job, subject, raw)
		if err != nil {
			return nil, err
		}
		report.Results = append(report.Results, one)
	}
	return report, nil
}

// sample has both do a job in turns, the first turns for nothing, and compares them.
func (b *benching) sample(ctx context.Context, job load.Job, subject *benchTarget, raw *benchTarget) (benchResult, error) {
	var volume, disk []load.Result
	for round := range benchRounds + 1 {
		lasting := b.time
		if round == 0 {
			lasting /= 4
		}
		turns := []func() error{
			func() error { return measured(ctx, subject, job, lasting, &volume) },
			func() error { return measured(ctx, raw, job, lasting, &disk) },
		}
		if round%2 == 1 { // so that a drift of the machine favours neither
			slices.Reverse(turns)
		}
		for _, turn := range turns {
			if err := turn(); err != nil {
				return benchResult{}, err
			}
		}
	}
	return compare(job, volume[1:], disk[min(1, len(disk)):]), nil
}

func measured(ctx context.Context, t *benchTarget, job load.Job, lasting time.Duration, into *[]load.Result) error {
	if t == nil {
		return nil
	}
	r, err := t.Run(ctx, job, lasting)
	*into = append(*into, r)
	return err
}

// compare makes figures of samples that were taken in turns: medians, and the median of
// the ratios of neighbours, which on a busy machine is steadier.
func compare(job load.Job, volume, raw []load.Result) benchResult {
	rate := func(r load.Result) float64 { return r.PerSecond() }
	p50 := func(r load.Result) float64 { return float64(r.P50.Nanoseconds()) / 1e3 }
	p99 := func(r load.Result) float64 { return float64(r.P99.Nanoseconds()) / 1e3 }
	out := benchResult{Work: job.Name, Bytes: job.Bytes, PerSecond: middle(volume, rate), P50: middle(volume, p50), P99: middle(volume, p99)}
	if len(raw) == 0 {
		return out
	}
	out.RawRate, out.RawP50, out.RawP99 = middle(raw, rate), middle(raw, p50), middle(raw, p99)
	ratio := func(of func(load.Result) float64) float64 {
		var all []float64
		for i, v := range volume {
			if base := of(raw[i]); base > 0 {
				all = append(all, of(v)/base)
			}
		}
		return median(all)
	}
	out.Ratio, out.P50Ratio, out.AddedP50 = ratio(rate), ratio(p50), out.P50-out.RawP50
	return out
}

func middle(of []load.Result, pick func(load.Result) float64) float64 {
	var all []float64
	for _, r := range of {
		all = append(all, pick(r))
	}
	return median(all)
}

func median(all []float64) float64 {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return (all[(len(all)-1)/2] + all[len(all)/2]) / 2
}

func (b *benchReport) draw(t *table) {
	t.field("volume", fmt.Sprintf("%s, %d replicas", b.Volume, b.Replicas))
	t.field("measured", b.On)
	t.field("raw", b.Raw)
	for _, note := range b.Notes {
		t.field("note", note)
	}
	t.section()
	t.row("WORK", "VOLUME", "RAW", "RATIO", "P50", "RAW P50", "P99", "RAW P99")
	for _, r := range b.Results {
		if b.Raw == "" {
			t.row(r.Work, r.rate(r.PerSecond), "-", "-", micros(r.P50), "-", micros(r.P99), "-")
			continue
		}
		t.row(r.Work, r.rate(r.PerSecond), r.rate(r.RawRate), fmt.Sprintf("%.2f", r.Ratio), micros(r.P50), micros(r.RawP50), micros(r.P99), micros(r.RawP99))
	}
}

// rate prints operations a second, or bytes where operations are big.
func (r benchResult) rate(perSecond float64) string {
	if r.Bytes > 64<<10 {
		return bytesText(int64(perSecond*float64(r.Bytes))) + "/s"
	}
	return fmt.Sprintf("%.0f/s", perSecond)
}

func micros(us float64) string {
	return time.Duration(us * 1e3).Round(time.Microsecond).String()
}

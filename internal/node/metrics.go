package node

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/spec"
)

// What is measured of each volume that is attached here. Operations are read, write, zero
// (discards too) and flush; a volume adds 4 histograms and some ten numbers.
var (
	ioSeconds = prometheus.NewDesc("holdfast_volume_io_seconds", "How long requests took, from the device and back.", []string{"volume", "op"}, nil)
	ioBytes   = prometheus.NewDesc("holdfast_volume_io_bytes_total", "Bytes of requests.", []string{"volume", "op"}, nil)
	ioErrors  = prometheus.NewDesc("holdfast_volume_io_errors_total", "Requests that failed.", []string{"volume", "op"}, nil)
	inFlight  = prometheus.NewDesc("holdfast_volume_in_flight", "Requests that are with the data process.", []string{"volume"}, nil)
	serving   = prometheus.NewDesc("holdfast_volume_serving", "1 while the volume can be used.", []string{"volume"}, nil)
	epoch     = prometheus.NewDesc("holdfast_volume_epoch", "The epoch of the volume's record.", []string{"volume"}, nil)
	replicas  = prometheus.NewDesc("holdfast_volume_replicas", "Replicas, by state.", []string{"volume", "state"}, nil)
	lease     = prometheus.NewDesc("holdfast_volume_lease_left_seconds", "For how long yet the volume can be used without a word from its replicas: the shortest of their leases; 0 when one has ended.", []string{"volume"}, nil)
	toResync  = prometheus.NewDesc("holdfast_volume_resync_left_bytes", "Bytes that replicas which catch up have yet to look at.", []string{"volume"}, nil)
	ejected   = prometheus.NewDesc("holdfast_volume_ejections_total", "Replicas that were left behind.", []string{"volume"}, nil)
	slow      = prometheus.NewDesc("holdfast_volume_slow_ejections_total", "Of the replicas that were left behind, those that the others had to wait for too long.", []string{"volume"}, nil)
	resynced  = prometheus.NewDesc("holdfast_volume_resyncs_total", "Replicas that were brought up to date.", []string{"volume"}, nil)
	copied    = prometheus.NewDesc("holdfast_volume_resync_bytes_total", "Bytes that bringing replicas up to date has moved.", []string{"volume"}, nil)
	repaired  = prometheus.NewDesc("holdfast_volume_repaired_blocks_total", "Blocks that were bad on one replica and repaired from another.", []string{"volume"}, nil)
)

// volumesCollector measures when it is asked, and keeps nothing.
type volumesCollector struct{ d *daemon }

// Describe is prometheus.Collector.Describe.
func (c volumesCollector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{ioSeconds, ioBytes, ioErrors, inFlight, serving, epoch, replicas, lease, toResync, ejected, slow, resynced, copied, repaired} {
		to <- d
	}
}

// Collect is prometheus.Collector.Collect.
func (c volumesCollector) Collect(to chan<- prometheus.Metric) {
	names := map[string]string{}
	for _, s := range c.d.show.all() {
		names[s.id] = s.name
		if f := s.at.frontend(); f != nil {
			collectIO(to, s.name, f.Stats())
		}
	}
	c.d.node.do(func() {
		for id, h := range c.d.node.heads {
			collectHead(to, names[id.String()], h)
		}
	})
}

func collectIO(to chan<- prometheus.Metric, volume string, s attach.Stats) {
	for op, o := range map[string]attach.OpStats{"read": s.Read, "write": s.Write, "zero": s.Zero, "flush": s.Flush} {
		to <- prometheus.MustNewConstHistogram(ioSeconds, o.Latency.Count(), o.Latency.Sum.Seconds(), bucketsOf(&o.Latency), volume, op)
		to <- prometheus.MustNewConstMetric(ioBytes, prometheus.CounterValue, float64(o.Bytes), volume, op)
		to <- prometheus.MustNewConstMetric(ioErrors, prometheus.CounterValue, float64(o.Errors), volume, op)
	}
	to <- prometheus.MustNewConstMetric(inFlight, prometheus.GaugeValue, float64(s.InFlight), volume)
}

// bucketsOf returns every fourth of the histogram's ends, which are a doubling apart,
// from 16 µs to 34 s.
func bucketsOf(h *attach.Histogram) map[float64]uint64 {
	const first, last, step = 16, 100, 4
	buckets, sum := map[float64]uint64{}, uint64(0)
	for i, n := range h.Counts {
		sum += n
		if i >= first && i <= last && (i+1)%step == 0 {
			buckets[attach.BucketEnd(i).Seconds()] = sum
		}
	}
	return buckets
}

// collectHead measures a head. The loop's.
func collectHead(to chan<- prometheus.Metric, volume string, h *head) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, append([]string{volume}, labels...)...)
	}
	count := func(d *prometheus.Desc, v float64) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, volume)
	}
	rec, s := h.coord.Record(), h.coord.Stats()
	up := 0.0
	if h.coord.Serving(h.n.loop.Now()) {
		up = 1
	}
	gauge(serving, up)
	gauge(epoch, float64(rec.Epoch))
	gauge(lease, max(0, h.coord.LeaseLeft(h.n.loop.Now()).Seconds()))
	left := 0
	for _, sync := range h.coord.Syncs() {
		left += sync.RegionsLeft
	}
	gauge(toResync, float64(left)*block.RegionSize)
	states := map[string]int{"in_sync": 0, "outdated": 0}
	for _, m := range rec.Members {
		switch m.State {
		case spec.InSync:
			states["in_sync"]++
		case spec.Outdated:
			states["outdated"]++
		}
	}
	for state, n := range states {
		gauge(replicas, float64(n), state)
	}
	count(ejected, float64(s.Ejected))
	count(slow, float64(s.Slow))
	count(resynced, float64(s.Resynced))
	count(copied, float64(s.Copied))
	count(repaired, float64(s.Repaired))
}

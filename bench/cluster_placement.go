package main

import (
	"time"

	"github.com/holdfast-io/holdfast/internal/bench"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/placement/placementtest"
)

var placementBenchmarks = []bench.Benchmark{{
	Name: "cluster/placement",
	What: "a simulated cluster of 10,000 nodes and 1,000,000 volumes of three replicas: balance, time, losses",
	Run:  benchPlacement,
}}

// benchPlacement is simulated once: by its seed it is the same each time, but for the
// times.
func benchPlacement(r *bench.Run) error {
	got, err := placementtest.Simulate(placementtest.Options{Nodes: 10_000, Volumes: 1_000_000, Zones: 5, Seed: 1, Now: host.RealClock{}.Now})
	if err != nil {
		return err
	}
	report := func(name, unit string, value float64, goal bench.Goal) {
		r.Report(bench.Single("cluster/placement/"+name, unit, value, goal))
	}
	report("used", "max/mean", got.UsedMaxToMean, bench.ValueAtMost(1.10))
	report("promised", "max/mean", got.PromisedMaxToMean, bench.None)
	report("decision", "us", float64(got.Decision)/float64(time.Microsecond), bench.ValueAtMost(20))
	report("rebalance/used", "max/mean", got.Rebalance.UsedMaxToMean, bench.ValueAtMost(1.10))
	report("rebalance/moved", "% of bytes", got.Rebalance.BytesPercent, bench.None)
	for name, loss := range map[string]placementtest.LossReport{"node-loss": got.NodeLoss, "zone-loss": got.ZoneLoss} {
		report(name+"/moved", "% of bytes", loss.BytesPercent, bench.None)
		report(name+"/pools", "pools", float64(loss.Targets), bench.None)
		report(name+"/into-one", "% of moved", loss.MostPercent, bench.None)
		report(name+"/used", "max/mean", loss.UsedMaxToMean, bench.None)
		report(name+"/lost", "volumes", float64(loss.Lost+loss.Homeless), bench.ValueAtMost(0))
		report(name+"/preview", "s", loss.Took.Seconds(), bench.None)
	}
	return nil
}

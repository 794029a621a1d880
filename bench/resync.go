package main

import (
	"time"

	"github.com/holdfast-io/holdfast/internal/bench"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/store"
)

// resynced is what a replica's return took.
type resynced struct {
	bench.Cost               // from when copying began
	begin      time.Duration // from when its node was back until then
	copied     int64
}

// benchResync takes a replica away, changes every second block, and brings it back. What
// can be had at most is what the disk makes of single blocks, so there are two baselines.
func benchResync(r *bench.Run, bytes int64) error {
	return newGround(r, 4*bytes+1<<30, func(g *ground) error {
		v, err := newReplicated(g, bytes, 3, true)
		if err != nil {
			return err
		}
		defer v.close()
		if err := v.fill(); err != nil {
			return err
		}
		_, file, err := g.fullFile(bytes)
		if err != nil {
			return err
		}
		raw := func(l load) (resynced, error) {
			c, err := l.run(g.ctx(), g.disk, rawLane(g.disk, file, host.OpWrite))
			return resynced{Cost: c}, err
		}
		var single []resynced
		rounds, err := bench.Alternate(r.Context, r.Rounds, v.resync, func() (resynced, error) {
			s, err := raw(v.everySecond())
			if err != nil {
				return s, err
			}
			single = append(single, s)
			return raw(once(v.blocks/2, fillStep).all(8, fillStep))
		})
		if err != nil {
			return err
		}
		name := r.Name() + "/"
		rate := func(s resynced) float64 { return s.MiBPerSecond() }
		r.Report(rounds.Compare(rate).Figure(name+"rate", "MiB/s", bench.RatioAtLeast(0.5)))
		rounds.Baseline = single[len(single)-len(rounds.Subject):]
		r.Report(rounds.Compare(rate).Figure(name+"rate-4k", "MiB/s", bench.None))
		r.Report(bench.Single(name+"moved", "bytes/changed", rounds.Value(func(s resynced) float64 { return float64(s.copied) / float64(s.Bytes) }), bench.ValueAtMost(1.2)))
		r.Report(bench.Single(name+"cpu", "us/block", rounds.Value(func(s resynced) float64 { return s.CPUPerOp() }), bench.None))
		r.Report(bench.Single(name+"begin", "ms", rounds.Value(func(s resynced) float64 { return float64(s.begin.Milliseconds()) }), bench.None))
		return nil
	})
}

// everySecond goes to every second block.
func (v *replicated) everySecond() load { return once(v.blocks/2, 1).spread(2).all(32, 1) }

// resync tells what it took until the last replica was in sync again after every second
// block had changed without it.
func (v *replicated) resync() (s resynced, err error) {
	last := v.nodes[len(v.nodes)-1]
	last.Leave() // one that just vanishes, again and again, is left alone for minutes
	if err = v.await(len(v.nodes) - 1); err != nil {
		return s, err
	}
	last.Close()
	if _, err = v.run(v.everySecond(), store.Write); err != nil {
		return s, err
	}
	before, began := v.Stats().Copied, time.Now()
	if err := last.start(v.on.ctx()); err != nil {
		return s, err
	}
	for !v.Syncing() {
		select {
		case <-time.After(time.Millisecond):
		case <-v.on.ctx().Done():
			return s, v.on.ctx().Err()
		}
	}
	s.begin = time.Since(began)
	s.Cost, err = bench.Measure(func(c *bench.Cost) error {
		c.Ops, c.Bytes = int64(v.blocks/2), int64(v.blocks/2)*block.Size
		return v.await(len(v.nodes))
	})
	s.copied = v.Stats().Copied - before
	return s, err
}

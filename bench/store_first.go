package main

import (
	"context"
	"math/rand/v2"
	"slices"

	"github.com/holdfast-io/holdfast/internal/bench"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/host"
)

const firstBytes = 256 << 20 // of the volumes here: four chunks

// rotate samples each of turns rounds times, after one turn that is thrown away; who
// goes first changes. The samples of turn i are the i-th list.
func rotate(ctx context.Context, rounds int, turns ...func() (bench.Cost, error)) ([][]bench.Cost, error) {
	samples := make([][]bench.Cost, len(turns))
	for round := range rounds + 1 {
		for k := range turns {
			i := (round + k) % len(turns)
			c, err := turns[i]()
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				return nil, err
			}
			if round > 0 {
				samples[i] = append(samples[i], c)
			}
		}
	}
	return samples, nil
}

// longest is the longest that an operation took, in milliseconds.
func longest(c bench.Cost) float64 { return c.Latency.Max().Seconds() * 1e3 }

// benchCleanRegion shows what the intent costs that a clean region's first write waits
// for: alone, shared by many, and marked ahead of a sequential writer.
func benchCleanRegion(r *bench.Run) error {
	return newGround(r, 3<<30, func(g *ground) error {
		v, err := g.fullVolume(1 << 30)
		if err != nil {
			return err
		}
		regions := v.blocks / block.PerRegion
		compare := func(name string, make func() load) (bench.Rounds[bench.Cost], error) {
			r.Logf("%s", name)
			return bench.Alternate(r.Context, r.Rounds,
				func() (bench.Cost, error) {
					if err := v.clean(); err != nil {
						return bench.Cost{}, err
					}
					return v.write(make())
				},
				func() (bench.Cost, error) { return v.write(make()) }) // the same once more: dirty
		}
		for name, depth := range map[string]int{"qd1": 1, "qd32": 32} {
			rounds, err := compare(name, func() load { return oneOfEach(regions).all(depth, 1) })
			if err != nil {
				return err
			}
			r.Report(rounds.Compare(bench.Quantile(0.5)).Figure("store/clean-region/"+name+"/p50", "us", bench.None))
			r.Report(rounds.Compare(longest).Figure("store/clean-region/"+name+"/longest", "ms", bench.None))
		}
		rounds, err := compare("sequential", func() load { return once(v.blocks, 32).all(8, 32) })
		if err != nil {
			return err
		}
		r.Report(rounds.Compare(bench.Cost.MiBPerSecond).Figure("store/clean-region/sequential", "MiB/s", bench.None))
		return v.close()
	})
}

// oneOfEach goes to one block of each region, at random.
func oneOfEach(regions int) order {
	places := make([]block.Index, regions)
	for i, n := range rand.Perm(regions) {
		places[i] = block.Region(n).Start() + block.Index(rand.IntN(block.PerRegion))
	}
	return func() (block.Index, bool) {
		if len(places) == 0 {
			return 0, false
		}
		at := places[0]
		places = places[1:]
		return at, true
	}
}

// benchAfterSnapshot writes every block of a volume once, at random: steadily, and then
// after a snapshot. What the snapshot has was written in order, or at random.
func benchAfterSnapshot(r *bench.Run) error {
	return newGround(r, 2<<30, func(g *ground) error {
		for _, state := range []string{"contiguous", "fragments"} {
			var deep, single bench.Rounds[bench.Cost]
			for round := range r.Rounds {
				r.Logf("chunks are %s, round %d", state, round+1)
				if err := g.afterSnapshot(state == "fragments", &deep, &single); err != nil {
					return err
				}
			}
			name := "store/first-write-after-snapshot/" + state + "/"
			r.Report(deep.Compare(bench.Cost.PerSecond).Figure(name+"iops", "1/s", bench.RatioAtLeast(0.6)))
			r.Report(bench.Single(name+"longest", "ms", deep.Value(longest), bench.ValueAtMost(20)))
			r.Report(deep.Compare(longest).Figure(name+"longest-against-steady", "ms", bench.None))
			r.Report(deep.Compare(bench.Quantile(0.99)).Figure(name+"p99", "us", bench.None))
			r.Report(deep.Compare(bench.Cost.CPUPerOp).Figure(name+"cpu", "us/op", bench.None))
			r.Report(deep.Compare(bench.Cost.AllocsPerOp).Figure(name+"allocs", "allocs/op", bench.None))
			r.Report(single.Compare(bench.Quantile(0.5)).Figure(name+"qd1-p50", "us", bench.None))
		}
		return nil
	})
}

// afterSnapshot adds a round: first writes as the subject, overwrites as the baseline.
func (g *ground) afterSnapshot(fragments bool, deep, single *bench.Rounds[bench.Cost]) error {
	const singles = 2000
	v, err := g.volume(firstBytes)
	if err != nil {
		return err
	}
	fill := once(v.blocks, fillStep).all(8, fillStep)
	if fragments {
		fill = shuffled(v.blocks, v.blocks).all(32, 1)
	}
	if _, err := v.write(fill); err != nil {
		return err
	}
	if err := v.flush(); err != nil {
		return err
	}
	write := func() error {
		places := shuffled(v.blocks, v.blocks)
		few := 0
		one, err := v.write(order(func() (block.Index, bool) {
			if few++; few > singles {
				return 0, false
			}
			return places()
		}).all(1, 1))
		if err != nil {
			return err
		}
		rest, err := v.write(places.all(32, 1))
		if err != nil {
			return err
		}
		// The first time is the baseline, the second the subject.
		if len(deep.Baseline) == len(deep.Subject) {
			deep.Baseline, single.Baseline = append(deep.Baseline, rest), append(single.Baseline, one)
		} else {
			deep.Subject, single.Subject = append(deep.Subject, rest), append(single.Subject, one)
		}
		return nil
	}
	if err := write(); err != nil {
		return err
	}
	if _, _, err := v.snapshot(); err != nil {
		return err
	}
	if err := write(); err != nil {
		return err
	}
	return v.close()
}

// benchFill fills what is empty at random: a thin volume, against files that have their
// space already, and that have none.
func benchFill(r *bench.Run) error {
	return newGround(r, 2<<30, func(g *ground) error {
		const blocks = firstBytes / block.Size
		load := func() load { return shuffled(blocks, blocks).all(32, 1) }
		samples, err := rotate(r.Context, r.Rounds,
			func() (bench.Cost, error) {
				v, err := g.volume(firstBytes)
				if err != nil {
					return bench.Cost{}, err
				}
				c, err := v.write(load())
				if err != nil {
					return c, err
				}
				return c, v.close()
			},
			func() (bench.Cost, error) { return g.fillFile(load(), true) },
			func() (bench.Cost, error) { return g.fillFile(load(), false) })
		if err != nil {
			return err
		}
		for i, name := range []string{"against-preallocated-file", "against-sparse-file"} {
			rounds := bench.Rounds[bench.Cost]{Subject: slices.Clone(samples[0]), Baseline: samples[i+1]}
			r.Report(rounds.Compare(bench.Cost.PerSecond).Figure("store/fill/"+name+"/iops", "1/s", bench.None))
			r.Report(rounds.Compare(longest).Figure("store/fill/"+name+"/longest", "ms", bench.None))
		}
		return nil
	})
}

// fillFile does the load on a new file of firstBytes.
func (g *ground) fillFile(l load, allocated bool) (bench.Cost, error) {
	name, f, err := g.file(firstBytes)
	if err != nil {
		return bench.Cost{}, err
	}
	if allocated {
		if err := g.do(&host.Op{Kind: host.OpAllocate, File: f, Length: firstBytes}); err != nil {
			return bench.Cost{}, err
		}
	}
	c, err := l.run(g.ctx(), g.disk, rawLane(g.disk, f, host.OpWrite))
	if err != nil {
		return c, err
	}
	return c, g.drop(name, f)
}

package main

import (
	"github.com/holdfast-io/holdfast/internal/bench"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/host"
)

var checksumBenchmarks = []bench.Benchmark{{
	Name: "block/checksum",
	What: "checksums of 4 KiB blocks, against copying them",
	Run:  benchChecksum,
}}

// benchChecksum shows what end-to-end checksums cost: every byte is summed twice, once
// where it enters and once where it leaves.
func benchChecksum(r *bench.Run) error {
	const blocks, passes = 1024, 200 // 4 MiB, more than a core's own cache
	data, copied := host.Buffer(blocks*block.Size), host.Buffer(blocks*block.Size)
	sums := make([]block.Sum, blocks)
	for i := range data {
		data[i] = byte(i * 7)
	}
	pass := func(work func()) func() (bench.Cost, error) {
		return func() (bench.Cost, error) {
			return bench.Measure(func(c *bench.Cost) error {
				for range passes {
					work()
					c.Ops += blocks
					c.Bytes += int64(len(data))
				}
				return r.Context.Err()
			})
		}
	}
	rounds, err := bench.Alternate(r.Context, r.Rounds,
		pass(func() { block.Checksums(sums, data) }),
		pass(func() { copy(copied, data) }))
	if err != nil {
		return err
	}
	r.Report(rounds.Compare(bench.Cost.MiBPerSecond).Figure("block/checksum/throughput", "MiB/s", bench.None))
	r.Report(rounds.Compare(bench.Cost.CPUPerOp).Figure("block/checksum/cpu", "us/block", bench.None))
	r.Report(bench.Single("block/checksum/allocs", "allocs/block", rounds.Value(bench.Cost.AllocsPerOp), bench.ValueAtMost(0.001)))
	return nil
}

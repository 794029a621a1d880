package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-io/holdfast/internal/bench"
	"github.com/holdfast-io/holdfast/internal/host"
)

var hostBenchmarks = []bench.Benchmark{{
	Name: "host/disk",
	What: "4 KiB at random through host.Disk, against fio's io_uring on the same file",
	Run:  benchDisk,
}}

const (
	diskFileBytes = 1 << 30
	diskBlock     = 4096
	diskTime      = time.Second // each sample
)

// benchDisk shows what is lost between the raw file and the store: the cost of driving
// io_uring from Go.
func benchDisk(r *bench.Run) error {
	root, err := r.XFS(4 << 30)
	if err != nil {
		return err
	}
	if err := fill(filepath.Join(root, "data")); err != nil {
		return err
	}
	disk, err := host.Open(root, host.Options{})
	if err != nil {
		return err
	}
	defer disk.Close()
	open := &host.Op{Kind: host.OpOpen, Path: "data", Flags: host.Direct}
	if err := host.Do(disk, open); err != nil {
		return err
	}
	for _, kind := range []string{"randread", "randwrite"} {
		for _, depth := range []int{1, 32} {
			r.Logf("%s at depth %d", kind, depth)
			rounds, err := bench.Alternate(r.Context, r.Rounds,
				func() (bench.Cost, error) { return driveDisk(disk, open.File, kind, depth) },
				func() (bench.Cost, error) {
					return bench.Fio{File: filepath.Join(root, "data"), Kind: kind, Block: diskBlock, Depth: depth, Time: diskTime}.Run(r.Context)
				})
			if err != nil {
				return err
			}
			name := fmt.Sprintf("host/disk/%s/depth%d/", kind, depth)
			r.Report(rounds.Compare(bench.Cost.PerSecond).Figure(name+"iops", "1/s", bench.None))
			r.Report(rounds.Compare(bench.Quantile(0.5)).Figure(name+"p50", "us", bench.None))
			r.Report(rounds.Compare(bench.Quantile(0.99)).Figure(name+"p99", "us", bench.None))
			r.Report(rounds.Compare(bench.Cost.CPUPerOp).Figure(name+"cpu", "us/op", bench.None))
			r.Report(bench.Single(name+"allocs", "allocs/op", rounds.Value(bench.Cost.AllocsPerOp), bench.ValueAtMost(0.001)))
		}
	}
	return host.Do(disk, &host.Op{Kind: host.OpClose, File: open.File})
}

// fill makes a file of diskFileBytes that has no holes and no unwritten extents.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	for i := range buf {
		buf[i] = byte(i)
	}
	for range diskFileBytes / len(buf) {
		if _, err := f.Write(buf); err != nil {
			return err
		}
	}
	return f.Sync()
}

// driveDisk keeps depth operations in flight for diskTime.
func driveDisk(disk host.Disk, file host.File, kind string, depth int) (bench.Cost, error) {
	op := host.OpRead
	if kind == "randwrite" {
		op = host.OpWrite
	}
	var failed error
	var end time.Time
	latency := new(bench.Histogram)
	cost := &bench.Cost{}
	ops, began := make([]*host.Op, depth), make([]time.Time, depth)
	for i := range ops {
		ops[i] = &host.Op{Kind: op, File: file, Buf: host.Buffer(diskBlock)}
		ops[i].Done = func(o *host.Op) {
			now := time.Now()
			latency.Record(now.Sub(began[i]))
			cost.Ops++
			cost.Bytes += diskBlock
			if o.Err != nil {
				failed = o.Err
			}
			if now.Before(end) && failed == nil {
				began[i] = now
				o.Offset = rand.Int64N(diskFileBytes/diskBlock) * diskBlock
				disk.Submit(ops[i : i+1]...) // Submit(o) would allocate a slice
			}
		}
	}
	measured, err := bench.Measure(func(c *bench.Cost) error {
		cost = c
		end = time.Now().Add(diskTime)
		for i, o := range ops {
			began[i] = time.Now()
			o.Offset = rand.Int64N(diskFileBytes/diskBlock) * diskBlock
			disk.Submit(ops[i : i+1]...)
		}
		for disk.InFlight() > 0 {
			disk.Poll(-1)
		}
		return failed
	})
	measured.Latency = latency
	return measured, err
}

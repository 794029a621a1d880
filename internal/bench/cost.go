package bench

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// Cost is what a number of operations took.
type Cost struct {
	Ops     int64
	Bytes   int64
	Elapsed time.Duration
	CPU     time.Duration // of all threads of this process, in user space and in the kernel
	Allocs  uint64        // objects on the Go heap
	Latency *Histogram    // of each operation; nil when the work did not record it
}

// Measure runs work, which counts its operations and bytes, and its latencies if it
// likes, in the Cost that it is given, and fills in the rest. Nothing else may run in
// the process meanwhile. CPU that kernel threads spend on the work, such as a loop
// device's, is not in it.
func Measure(work func(*Cost) error) (Cost, error) {
	var c Cost
	var before, after runtime.MemStats
	runtime.GC() // of what was before
	runtime.ReadMemStats(&before)
	cpu, err := processCPU()
	if err != nil {
		return Cost{}, err
	}
	start := time.Now()
	if err := work(&c); err != nil {
		return Cost{}, err
	}
	c.Elapsed = time.Since(start)
	end, err := processCPU()
	if err != nil {
		return Cost{}, err
	}
	runtime.ReadMemStats(&after)
	c.CPU, c.Allocs = end-cpu, after.Mallocs-before.Mallocs
	return c, nil
}

// PerSecond returns operations a second.
func (c Cost) PerSecond() float64 { return float64(c.Ops) / c.Elapsed.Seconds() }

// MiBPerSecond returns mebibytes a second.
func (c Cost) MiBPerSecond() float64 { return float64(c.Bytes) / (1 << 20) / c.Elapsed.Seconds() }

// CPUPerOp returns microseconds of CPU an operation.
func (c Cost) CPUPerOp() float64 { return float64(c.CPU.Nanoseconds()) / 1e3 / float64(c.Ops) }

// AllocsPerOp returns allocations an operation.
func (c Cost) AllocsPerOp() float64 { return float64(c.Allocs) / float64(c.Ops) }

// Quantile returns a function that picks the latency, in microseconds, that the share
// q of the operations did not exceed, for Rounds.Compare.
func Quantile(q float64) func(Cost) float64 {
	return func(c Cost) float64 { return float64(c.Latency.Quantile(q).Nanoseconds()) / 1e3 }
}

// processCPU returns the CPU that the process has used so far.
func processCPU() (time.Duration, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0, fault.Wrap("bench.Measure", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

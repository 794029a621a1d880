package bench

import (
	"context"
	"encoding/json"
	"os/exec"
	"strconv"
	"time"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// Fio is a job for fio on one file with direct I/O through io_uring: what the disk and
// the filesystem give to a program in C that does nothing else.
type Fio struct {
	File  string        // exists, and has its full size
	Kind  string        // read, write, randread, randwrite
	Block int           // bytes of each operation
	Depth int           // operations in flight
	Jobs  int           // threads, each with Depth in flight; 0 is 1
	Sync  bool          // fdatasync after each write
	Time  time.Duration // how long it runs; whole seconds, at least one
}

// Run runs the job. Its Cost has no Allocs, and the CPU is fio's.
func (f Fio) Run(ctx context.Context) (Cost, error) {
	sync := 0
	if f.Sync {
		sync = 1
	}
	out, err := exec.CommandContext(ctx, "fio", "--name=raw", "--fdatasync="+strconv.Itoa(sync), "--filename="+f.File, "--rw="+f.Kind,
		"--bs="+strconv.Itoa(f.Block), "--iodepth="+strconv.Itoa(f.Depth), "--numjobs="+strconv.Itoa(max(f.Jobs, 1)),
		"--ioengine=io_uring", "--direct=1", "--norandommap", "--randrepeat=0", "--allow_file_create=0",
		"--time_based", "--runtime="+strconv.Itoa(max(int(f.Time/time.Second), 1)), "--thread", "--group_reporting",
		"--clat_percentiles=0", "--lat_percentiles=1", "--output-format=json+").Output()
	if err != nil {
		return Cost{}, fault.Errorf("bench.Fio", fault.Unknown, "fio: %w: %s", err, out)
	}
	return fioCost(out, f.Block)
}

// fioSide is the half of fio's report that is about reads, or about writes.
type fioSide struct {
	Ops     int64   `json:"total_ios"`
	Runtime float64 `json:"runtime"` // milliseconds
	Latency struct {
		Bins map[string]uint64 `json:"bins"` // nanoseconds to how many
	} `json:"lat_ns"`
}

// fioCost reads what fio printed as json+ about one group of jobs.
func fioCost(out []byte, blockBytes int) (Cost, error) {
	var report struct {
		Jobs []struct {
			Read   fioSide `json:"read"`
			Write  fioSide `json:"write"`
			User   float64 `json:"usr_cpu"` // percent of the runtime
			System float64 `json:"sys_cpu"`
		} `json:"jobs"`
	}
	if err := json.Unmarshal(out, &report); err != nil || len(report.Jobs) != 1 {
		return Cost{}, fault.Errorf("bench.Fio", fault.Unknown, "fio printed what is not a report of one job: %v: %.200s", err, out)
	}
	job := report.Jobs[0]
	side := job.Read
	if job.Write.Ops > 0 {
		side = job.Write
	}
	c := Cost{Ops: side.Ops, Bytes: side.Ops * int64(blockBytes), Latency: new(Histogram)}
	c.Elapsed = time.Duration(side.Runtime * float64(time.Millisecond))
	c.CPU = time.Duration(float64(c.Elapsed) * (job.User + job.System) / 100)
	for text, n := range side.Latency.Bins {
		ns, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return Cost{}, fault.Errorf("bench.Fio", fault.Unknown, "fio counts a latency of %q ns", text)
		}
		c.Latency.record(time.Duration(ns), n)
	}
	return c, nil
}

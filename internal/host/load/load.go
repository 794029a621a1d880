// Package load puts a known load on a file or a block device, and says how fast it was.
// Two targets that took turns under the same job can be compared.
package load

import (
	"context"
	"crypto/rand"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// Job is one kind of work.
type Job struct {
	Name   string
	Write  bool
	Flush  bool // each write is followed by a flush, and ends with it
	Random bool // else from the start to the end, again and again
	Bytes  int  // of each operation, a multiple of host.Align
	Depth  int  // operations in flight
}

// Result is what a job did.
type Result struct {
	Ops     int64
	Elapsed time.Duration
	P50     time.Duration // of an operation
	P99     time.Duration
}

// PerSecond returns operations a second.
func (r Result) PerSecond() float64 { return float64(r.Ops) / r.Elapsed.Seconds() }

// Target is what the load is put on. One goroutine uses it.
type Target struct {
	disk *host.Dir
	file host.File
	size int64
}

// Scratch makes a file of so many bytes in a directory, and writes all of it. The file has
// no name any more, so whatever happens to this process, its space comes back.
func Scratch(ctx context.Context, dir string, size int64) (*Target, error) {
	name := ".holdfast-bench-" + rand.Text()
	t, err := open(dir, &host.Op{Kind: host.OpOpen, Path: name, Flags: host.Create | host.Exclusive | host.Direct}, size)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		t.Close()
		return nil, fault.Wrap("load.Scratch", err)
	}
	if err := t.fill(ctx); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// Device opens a block device, or a file that is there, of so many bytes.
func Device(path string, size int64, readOnly bool) (*Target, error) {
	op := &host.Op{Kind: host.OpOpen, Path: filepath.Base(path), Flags: host.Direct | host.Device}
	if readOnly {
		op.Flags |= host.ReadOnly
	}
	return open(filepath.Dir(path), op, size)
}

func open(dir string, op *host.Op, size int64) (*Target, error) {
	disk, err := host.Open(dir, host.Options{})
	if err != nil {
		return nil, err
	}
	if err := host.Do(disk, op); err != nil {
		disk.Close()
		return nil, err
	}
	return &Target{disk: disk, file: op.File, size: size}, nil
}

// Close gives the target back.
func (t *Target) Close() { t.disk.Close() }

// fill writes all of the target, and has it on the medium.
func (t *Target) fill(ctx context.Context) error {
	job := Job{Write: true, Bytes: fillBytes, Depth: fillDepth}
	if _, err := t.run(ctx, job, func(ops int64) bool { return ops < t.size/fillBytes }); err != nil {
		return err
	}
	return host.Do(t.disk, &host.Op{Kind: host.OpSync, File: t.file})
}

// How a scratch file is filled; its size is rounded down to whole steps.
const (
	fillBytes = 1 << 20
	fillDepth = 8
)

// Run does a job for a time, or until ctx ends, which is an error.
func (t *Target) Run(ctx context.Context, job Job, lasting time.Duration) (Result, error) {
	end := time.Now().Add(lasting)
	return t.run(ctx, job, func(int64) bool { return time.Now().Before(end) })
}

// run does a job for as long as more says so of the number of operations that were begun.
func (t *Target) run(ctx context.Context, job Job, more func(begun int64) bool) (Result, error) {
	if int64(job.Bytes) > t.size {
		return Result{}, fault.Errorf("load.Run", fault.Invalid, "%d bytes are too few for operations of %d", t.size, job.Bytes)
	}
	r := &run{Target: t, job: job}
	r.more = func() bool { return ctx.Err() == nil && more(r.begun) }
	began := time.Now()
	for range job.Depth {
		r.lane()
	}
	for t.disk.InFlight() > 0 {
		t.disk.Poll(-1)
	}
	elapsed := time.Since(began)
	if r.failed == nil {
		r.failed = ctx.Err()
	}
	if r.failed != nil {
		return Result{}, r.failed
	}
	slices.Sort(r.took)
	return Result{Ops: int64(len(r.took)), Elapsed: elapsed, P50: r.quantile(0.5), P99: r.quantile(0.99)}, nil
}

// run is one run of a job.
type run struct {
	*Target
	job    Job
	more   func() bool
	begun  int64
	took   []time.Duration
	failed error
}

// lane keeps one operation in flight.
func (r *run) lane() {
	op := &host.Op{File: r.file, Buf: host.Buffer(r.job.Bytes)}
	_, _ = rand.Read(op.Buf) // never fails; nothing on the way can shrink it
	kept := []*host.Op{op}
	var began time.Time
	begin := func() {
		if r.failed != nil || !r.more() {
			return
		}
		op.Kind, op.Offset = r.kind(), r.next()
		began = time.Now()
		r.disk.Submit(kept...)
	}
	op.Done = func(op *host.Op) {
		if op.Err != nil {
			r.failed = op.Err
			return
		}
		if op.Kind == host.OpWrite && r.job.Flush {
			op.Kind = host.OpSync
			r.disk.Submit(kept...)
			return
		}
		r.took = append(r.took, time.Since(began))
		begin()
	}
	begin()
}

func (r *run) kind() host.Kind {
	if r.job.Write {
		return host.OpWrite
	}
	return host.OpRead
}

// next returns where the next operation goes.
func (r *run) next() int64 {
	places := r.size / int64(r.job.Bytes)
	at := r.begun % places
	if r.job.Random {
		at = mrand.Int64N(places)
	}
	r.begun++
	return at * int64(r.job.Bytes)
}

func (r *run) quantile(q float64) time.Duration {
	if len(r.took) == 0 {
		return 0
	}
	return r.took[min(int(q*float64(len(r.took))), len(r.took)-1)]
}

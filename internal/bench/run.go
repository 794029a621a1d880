package bench

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// Benchmark is a named measurement.
type Benchmark struct {
	Name string // slash-separated; its figures are called that, or something below it
	What string // one line: what is measured against what
	Run  func(*Run) error
}

// Owns reports whether a figure of the name is the benchmark's.
func (b Benchmark) Owns(figure string) bool {
	return figure == b.Name || strings.HasPrefix(figure, b.Name+"/")
}

// Select returns the benchmarks that are called prefix, or something below it; all for
// an empty prefix. When there are none it is fault.NotFound.
func Select(all []Benchmark, prefix string) ([]Benchmark, error) {
	var chosen []Benchmark
	for _, b := range all {
		if prefix == "" || b.Name == prefix || strings.HasPrefix(b.Name, strings.TrimSuffix(prefix, "/")+"/") {
			chosen = append(chosen, b)
		}
	}
	if len(chosen) == 0 {
		names := make([]string, len(all))
		for i, b := range all {
			names[i] = b.Name
		}
		return nil, fault.Errorf("bench.Select", fault.NotFound, "no benchmark is called %q or %s/...: there are %s",
			prefix, prefix, strings.Join(names, ", "))
	}
	return chosen, nil
}

// Options say how to measure.
type Options struct {
	Rounds int       // turns of subject and baseline; odd numbers have a true median
	Dir    string    // where scratch directories are made, on the disk to be measured
	Log    io.Writer // progress, for people
}

// Run is one run of one benchmark. It belongs to the goroutine that measures.
type Run struct {
	Options
	Context context.Context // ends when the user gives up

	benchmark Benchmark
	figures   []Figure
	undo      []func() error // what to take down, in reverse order
}

// Do runs the benchmark, takes down its scratch directories, and returns its figures
// in the order in which they were reported.
func (o Options) Do(ctx context.Context, b Benchmark) ([]Figure, error) {
	r := &Run{Options: o, Context: ctx, benchmark: b}
	err := b.Run(r)
	for _, undo := range slices.Backward(r.undo) {
		if e := undo(); err == nil {
			err = e
		}
	}
	if err != nil {
		return nil, fault.Wrap("bench "+b.Name, err)
	}
	return r.figures, nil
}

// Name returns the benchmark's.
func (r *Run) Name() string { return r.benchmark.Name }

// Report adds a figure, whose name must be the benchmark's or below it.
func (r *Run) Report(f Figure) {
	if !r.benchmark.Owns(f.Name) {
		panic(fault.Bug("benchmark %s reports %s", r.benchmark.Name, f.Name))
	}
	r.figures = append(r.figures, f)
}

// Undo has f called after the run, before what was to be called so far.
func (r *Run) Undo(f func() error) { r.undo = append(r.undo, f) }

// Logf tells the user how far the benchmark has come.
func (r *Run) Logf(format string, args ...any) {
	fmt.Fprintf(r.Log, "%s: %s\n", r.benchmark.Name, fmt.Sprintf(format, args...))
}

// Scratch returns a new empty directory under Dir, which is removed after the run. It is
// locked (flock) until then, so that make stop can tell it from what a killed run left.
func (r *Run) Scratch() (string, error) {
	if err := os.MkdirAll(r.Dir, 0o755); err != nil {
		return "", fault.Wrap("bench.Scratch", err)
	}
	dir, err := os.MkdirTemp(r.Dir, "bench-*")
	if err != nil {
		return "", fault.Wrap("bench.Scratch", err)
	}
	lock, err := os.Open(dir)
	if err != nil {
		return "", fault.Wrap("bench.Scratch", err)
	}
	r.undo = append(r.undo, func() error {
		defer lock.Close()
		return fault.Wrap("bench.Scratch", os.RemoveAll(dir))
	})
	return dir, fault.Wrap("bench.Scratch", unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB))
}

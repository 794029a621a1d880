// Command bench measures Holdfast and keeps the figures in bench/results.json. It is
// not part of the product; `make bench` runs it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/bench"
)

// all are the benchmarks, in the order in which they run.
var all = slices.Concat(
	checksumBenchmarks,
	hostBenchmarks,
	storeBenchmarks,
	cowBenchmarks,
	deviceBenchmarks,
	replicationBenchmarks,
	placementBenchmarks,
	clusterBenchmarks,
	snapshotBenchmarks,
)

func main() {
	if role := os.Getenv(roleEnv); role != "" {
		os.Exit(play(role))
	}
	prefix := flag.String("run", "", "run the benchmark of this `name`, or those below it; empty for all")
	list := flag.Bool("list", false, "list the benchmarks and exit")
	results := flag.String("results", "bench/results.json", "merge the figures into this `file`")
	o := bench.Options{Log: os.Stderr}
	flag.IntVar(&o.Rounds, "rounds", 5, "take this `number` of turns of subject and baseline")
	profile := flag.String("cpuprofile", "", "write a CPU profile to this `file`, for go tool pprof")
	flag.StringVar(&o.Dir, "dir", "run", "make scratch files in this `directory`, on the disk to be measured")
	flag.Parse()

	if *list {
		for _, b := range all {
			fmt.Printf("%-24s %s\n", b.Name, b.What)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := profiled(*profile, func() error { return measure(ctx, o, *prefix, *results) }); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// profiled runs f, and keeps a CPU profile of it in the file, unless that is empty.
func profiled(file string, f func() error) error {
	if file == "" {
		return f()
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := pprof.StartCPUProfile(out); err != nil {
		return err
	}
	defer pprof.StopCPUProfile()
	return f()
}

// measure runs the chosen benchmarks one by one, and keeps the figures of each as soon
// as it is done, so that a later failure does not lose them.
func measure(ctx context.Context, o bench.Options, prefix, results string) error {
	chosen, err := bench.Select(all, prefix)
	if err != nil {
		return err
	}
	fmt.Println(machine())
	var figures []bench.Figure
	for _, b := range chosen {
		fmt.Fprintf(o.Log, "%s: %s\n", b.Name, b.What)
		got, err := o.Do(ctx, b)
		if err != nil {
			return err
		}
		if err := bench.Merge(results, all, b, got); err != nil {
			return err
		}
		figures = append(figures, got...)
	}
	return bench.Print(os.Stdout, figures)
}

// machine says in one line what is measured, where and when; a figure means nothing
// without it.
func machine() string {
	var u unix.Utsname
	kernel := "unknown kernel"
	if unix.Uname(&u) == nil {
		kernel = unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
	}
	commit := "unknown commit"
	if out, err := exec.Command("git", "describe", "--always", "--dirty").Output(); err == nil {
		commit = "commit " + strings.TrimSpace(string(out))
	}
	return fmt.Sprintf("%s, %s, %d CPUs (%s), %s, %s", time.Now().UTC().Format("2006-01-02 15:04 MST"),
		commit, runtime.NumCPU(), processor(), kernel, runtime.Version())
}

// processor returns the model of the first CPU, as Linux names it.
func processor() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

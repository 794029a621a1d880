package main

import (
	"os/exec"
	"regexp"
	"strconv"

	"github.com/holdfast-io/holdfast/internal/bench"
	"github.com/holdfast-io/holdfast/internal/fault"
)

var eventsPerSecond = regexp.MustCompile(`([0-9.e+]+) events/s`)

// benchStep runs the benchmarks that stand beside the coordinator's tests, on one core.
func benchStep(r *bench.Run) error {
	for name, test := range map[string]string{"write-qd1": "StepWriteDepth1", "write-qd32": "StepWriteDepth32", "read-qd32": "StepReadDepth32"} {
		var rates []float64
		for range r.Rounds {
			out, err := exec.CommandContext(r.Context, "go", "test", "-run", "^$", "-cpu", "1", "-bench", test+"$", "./internal/coordinator").CombinedOutput()
			found := eventsPerSecond.FindSubmatch(out)
			if err != nil || found == nil {
				return fault.Errorf("bench.step", fault.Unknown, "go test: %v: %s", err, out)
			}
			rate, err := strconv.ParseFloat(string(found[1]), 64)
			if err != nil {
				return err
			}
			rates = append(rates, rate)
		}
		r.Report(bench.Single("replication/step/"+name, "events/s", bench.Median(rates), bench.ValueAtLeast(2e6)))
	}
	return nil
}

// Package bench measures against a baseline in the same run, because machines are
// shared and noisy: the subject and the baseline take turns, and what counts is the
// median of their ratios.
//
// A [Benchmark] reports [Figure]s to its [Run]; [Merge] keeps them in a file from one
// run to the next. A missed goal is shown, never an error: only a benchmark that could
// not measure fails.
package bench

import (
	"fmt"
	"math"
)

// Figure is one measured number.
type Figure struct {
	Name     string   `json:"name"` // the benchmark's name, or a name below it: store/read/4k/depth32
	Unit     string   `json:"unit"`
	Value    float64  `json:"value"`
	Baseline *float64 `json:"baseline"` // the same of what it is compared with; null when there is none
	Ratio    *float64 `json:"ratio"`    // of value to baseline, by round; null with Baseline
	Goal     string   `json:"goal"`     // such as "ratio >= 0.9"; empty when it is for information
	Met      *bool    `json:"met"`      // null without a goal
}

// Goal is a bound on a figure. The zero Goal is none.
type Goal struct {
	ratio   bool
	least   bool
	bound   float64
	bounded bool
}

// None is the goal of a figure that is for information.
var None Goal

// ValueAtLeast wants the value to be bound, in the figure's unit, or more.
func ValueAtLeast(bound float64) Goal { return Goal{least: true, bound: bound, bounded: true} }

// ValueAtMost wants the value to be bound, in the figure's unit, or less.
func ValueAtMost(bound float64) Goal { return Goal{bound: bound, bounded: true} }

// RatioAtLeast wants the value to be bound times the baseline or more.
func RatioAtLeast(bound float64) Goal {
	return Goal{ratio: true, least: true, bound: bound, bounded: true}
}

// RatioAtMost wants the value to be bound times the baseline or less.
func RatioAtMost(bound float64) Goal { return Goal{ratio: true, bound: bound, bounded: true} }

// String prints the goal as it stands in a Figure.
func (g Goal) String() string {
	if !g.bounded {
		return ""
	}
	of, sign := "value", "<="
	if g.ratio {
		of = "ratio"
	}
	if g.least {
		sign = ">="
	}
	return fmt.Sprintf("%s %s %g", of, sign, g.bound)
}

// met judges before rounding.
func (g Goal) met(value, ratio float64) *bool {
	if !g.bounded {
		return nil
	}
	v := value
	if g.ratio {
		v = ratio
	}
	met := v <= g.bound
	if g.least {
		met = v >= g.bound
	}
	return &met
}

// Single makes the figure of a value that has no baseline.
func Single(name, unit string, value float64, goal Goal) Figure {
	return Figure{Name: name, Unit: unit, Value: round(value), Goal: goal.String(), Met: goal.met(value, math.NaN())}
}

// Figure makes the figure of a comparison.
func (c Compared) Figure(name, unit string, goal Goal) Figure {
	baseline, ratio := round(c.Baseline), round(c.Ratio)
	return Figure{Name: name, Unit: unit, Value: round(c.Value), Baseline: &baseline, Ratio: &ratio,
		Goal: goal.String(), Met: goal.met(c.Value, c.Ratio)}
}

// round keeps four digits: more are noise, and make every run a diff.
func round(v float64) float64 {
	if v == 0 || math.IsNaN(v) || math.IsInf(v, 0) {
		return 0
	}
	scale := math.Pow(10, 3-math.Floor(math.Log10(math.Abs(v))))
	return math.Round(v*scale) / scale
}

package bench

import (
	"context"
	"slices"
)

// Rounds are the samples of a subject and of its baseline, taken in turns: Subject[i]
// and Baseline[i] are neighbours in time.
type Rounds[T any] struct {
	Subject, Baseline []T
}

// Alternate samples subject and baseline in turns, rounds times each, after one turn
// that is thrown away because it finds caches cold. Who goes first changes with every
// round, so that a drift of the machine favours neither. It stops at the first error,
// or when ctx ends.
func Alternate[T any](ctx context.Context, rounds int, subject, baseline func() (T, error)) (Rounds[T], error) {
	var r Rounds[T]
	for i := range rounds + 1 {
		var s, b T
		turns := []func() error{
			func() (err error) { s, err = subject(); return },
			func() (err error) { b, err = baseline(); return },
		}
		if i%2 == 1 {
			slices.Reverse(turns)
		}
		for _, turn := range turns {
			if err := ctx.Err(); err != nil {
				return Rounds[T]{}, err
			}
			if err := turn(); err != nil {
				return Rounds[T]{}, err
			}
		}
		if i > 0 {
			r.Subject, r.Baseline = append(r.Subject, s), append(r.Baseline, b)
		}
	}
	return r, nil
}

// Compared is one number of a subject against its baseline. Ratio is the median of the
// rounds' ratios, which on a noisy machine is steadier than the ratio of the medians
// that Value and Baseline are.
type Compared struct {
	Value, Baseline, Ratio float64
}

// Compare picks one number from every sample and compares them.
func (r Rounds[T]) Compare(pick func(T) float64) Compared {
	n := len(r.Subject)
	s, b, ratio := make([]float64, n), make([]float64, n), make([]float64, n)
	for i := range n {
		s[i], b[i] = pick(r.Subject[i]), pick(r.Baseline[i])
		if b[i] != 0 {
			ratio[i] = s[i] / b[i]
		}
	}
	return Compared{Value: Median(s), Baseline: Median(b), Ratio: Median(ratio)}
}

// Value picks one number from every sample of the subject and returns the median.
func (r Rounds[T]) Value(pick func(T) float64) float64 {
	s := make([]float64, len(r.Subject))
	for i := range s {
		s[i] = pick(r.Subject[i])
	}
	return Median(s)
}

// Median returns the middle of values, the mean of the two middle ones when their
// number is even, and 0 when there are none. It sorts values.
func Median(values []float64) float64 {
	n := len(values)
	if n == 0 {
		return 0
	}
	slices.Sort(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

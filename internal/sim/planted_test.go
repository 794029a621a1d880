//go:build planted

package sim

import (
	"strings"
	"testing"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// The simulator must find each of these within so many seeds: one that has gone quiet
// proves nothing. One bug is not among them, "clean covers what is in flight": the store
// makes a region clean only when no write to it is in flight, after a flush of its own, so
// it does no harm; the store's own tests find it.
func TestPlantedBugsAreFound(t *testing.T) {
	for _, x := range []struct {
		bug  string
		from uint64 // where it was found last: a good place to begin
	}{
		{"complete before every flush is", 0},
		{"complete before the ejection is recorded", 0},
		{"old owner not fenced", 0},
		{"lease of the owner before ignored", 31},
		{"stale replica trusted", 0},
		{"intent not durable before data", 146},
		{"overlapping writes in any order", 0},
		{"lease counted from the answer", 43},
		{"resync misses a discard", 0},
		{"no gate after an owner died", 0},
		{"snapshot during a resync mixes generations", 0},
		{"clean while gates are closed", 358},
		{"no drain before a promise", 91},
		{"late duplicate admitted", 268},
		{"members of a group do not wait", 14},
		{"heads of before speak for a group member", 26},
	} {
		t.Run(strings.ReplaceAll(x.bug, " ", "-"), func(t *testing.T) {
			fault.PlantedBug = x.bug
			defer func() { fault.PlantedBug = "" }()
			for seed := x.from; seed < x.from+seedsMax; seed++ {
				if _, err := Run(seed, nil); err != nil {
					t.Logf("found by seed %d: %.200v", seed, err)
					return
				}
			}
			t.Errorf("not found in %d seeds", seedsMax)
		})
	}
}

// seedsMax is ten times what the rarest one takes on average: one seed in three hundred.
const seedsMax = 3000

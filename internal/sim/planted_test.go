//go:build planted

package sim

import (
	"testing"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// The simulator must find each of these within so many seeds: one that has gone quiet
// proves nothing.
func TestPlantedBugsAreFound(t *testing.T) {
	for _, bug := range []string{
		"complete before every flush is",
		"complete before the ejection is recorded",
		"old owner not fenced",
		"lease of the owner before ignored",
		"stale replica trusted",
		"intent not durable before data",
		"overlapping writes in any order",
		"lease counted from the answer",
		"resync misses a discard",
		"no gate after an owner died",
		"snapshot during a resync mixes generations",
		"clean while gates are closed",
		"clean covers what is in flight",
		"no drain before a promise",
		"resync copies before the copies agree",
		"late duplicate undoes a newer write",
	} {
		fault.PlantedBug = bug
		found := false
		for seed := range uint64(seedsMax) {
			if _, err := Run(seed, nil); err != nil {
				t.Logf("%q: found by seed %d: %v", bug, seed, err)
				found = true
				break
			}
		}
		if !found {
			t.Errorf("%q was not found in %d seeds", bug, seedsMax)
		}
	}
	fault.PlantedBug = ""
}

const seedsMax = 400

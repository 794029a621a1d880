package sim

import (
	_ "embed"
	"fmt"
	"hash/fnv"
	"os/exec"
	"strings"
	"sync"
	"testing"
)

// found are seeds that found a bug once, or reach what few do, and what that is.
//
//go:embed testdata/seeds.txt
var found string

// TestSeeds runs the first seeds, and as many more that the commit's hash names: so each
// commit looks somewhere new, and the same commit always at the same places.
func TestSeeds(t *testing.T) {
	const count = 100
	seeds := make([]uint64, 0, 2*count)
	for i := range uint64(count) {
		seeds = append(seeds, i, commit()+i)
	}
	for _, line := range strings.Split(strings.TrimSpace(found), "\n") {
		var seed uint64
		if _, err := fmt.Sscan(line, &seed); err != nil {
			t.Fatalf("testdata/seeds.txt: %q: %v", line, err)
		}
		seeds = append(seeds, seed)
	}
	var mu sync.Mutex
	reached := make(map[string]int)
	t.Cleanup(func() {
		t.Logf("of %d runs, what happened in how many: %v", len(seeds), reached)
		for _, what := range []string{"left behind", "too slow", "resynced", "gates", "losses", "snapshots", "deletions", "growth", "restores", "clones", "groups", "failed groups"} {
			if reached[what] == 0 {
				t.Errorf("the simulator does not reach this any more: %s", what)
			}
		}
	})
	for _, seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r, err := Run(seed, nil)
			if err != nil {
				t.Fatalf("%v\nreplay: make sim SEED=%d", err, seed)
			}
			mu.Lock()
			defer mu.Unlock()
			for what, n := range r.reached() {
				if n > 0 {
					reached[what]++
				}
			}
		})
	}
}

// reached names what a run did that not every run does. What is looked for above is in one
// of twenty runs or more, or two hundred could miss it.
func (r Result) reached() map[string]int {
	return map[string]int{"left behind": int(r.Stats.Ejected), "too slow": int(r.Stats.Slow), "resynced": int(r.Stats.Resynced), "repaired": int(r.Stats.Repaired),
		"gates": int(r.Stats.Gated), "losses": r.Losses, "snapshots": r.Snapshots, "deletions": r.Deleted, "growth": r.Grown,
		"restores": r.Restored, "clones": r.Cloned, "groups": r.Groups, "failed groups": r.GroupsFailed}
}

// commit returns a number that follows from the commit that is checked out, 1<<32
// outside a repository.
func commit() uint64 {
	out, err := exec.Command("git", "rev-parse", "HEAD").Output()
	if err != nil {
		return 1 << 32
	}
	h := fnv.New32a()
	h.Write(out)
	return uint64(h.Sum32())
}

func TestSameSeedSameRun(t *testing.T) {
	for seed := range uint64(20) {
		a, _ := Run(seed, nil)
		b, _ := Run(seed, nil)
		if a != b {
			t.Errorf("seed %d: %+v, then %+v", seed, a, b)
		}
	}
}

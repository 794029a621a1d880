package sim

import (
	_ "embed"
	"fmt"
	"hash/fnv"
	"os/exec"
	"strings"
	"testing"
)

// found are seeds that found a bug once, and what it was.
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
	for _, seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			if _, err := Run(seed, nil); err != nil {
				t.Fatalf("%v\nreplay: make sim SEED=%d", err, seed)
			}
		})
	}
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

package sim

import (
	"fmt"
	"os"
	"strconv"
	"testing"
)

// TestReplay runs the seeds that the environment names: make sim SEED=n [SEEDS=count].
// With one seed it prints the whole run.
func TestReplay(t *testing.T) {
	first, err := strconv.ParseUint(os.Getenv("SIM_SEED"), 10, 64)
	if err != nil {
		first = 1
	}
	count, err := strconv.ParseUint(os.Getenv("SIM_SEEDS"), 10, 64)
	if err != nil {
		count = 1
	}
	var trace func(string)
	if os.Getenv("SIM_TRACE") != "" {
		trace = func(line string) { fmt.Println(line) }
	}
	for seed := first; seed < first+count; seed++ {
		r, err := Run(seed, trace)
		if err != nil {
			t.Errorf("%v\nreplay: make sim SEED=%d", err, seed)
		}
		t.Logf("seed %d: %+v", seed, r)
	}
}

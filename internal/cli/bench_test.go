package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/host/load"
)

func TestRatiosAreOfNeighbours(t *testing.T) {
	sample := func(ops int64, p50 time.Duration) load.Result {
		return load.Result{Ops: ops, Elapsed: time.Second, P50: p50, P99: 2 * p50}
	}
	volume := []load.Result{sample(50, 20*time.Microsecond), sample(10, 100*time.Microsecond), sample(60, 20*time.Microsecond)}
	raw := []load.Result{sample(100, 10*time.Microsecond), sample(20, 50*time.Microsecond), sample(80, 15*time.Microsecond)}
	got := compare(load.Job{Name: "work", Bytes: 4096}, volume, raw)
	want := benchResult{Work: "work", Bytes: 4096, PerSecond: 50, P50: 20, P99: 40, RawRate: 80, RawP50: 15, RawP99: 30, Ratio: 0.5, P50Ratio: 2, AddedP50: 5}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got := compare(load.Job{}, volume, nil); got.Ratio != 0 || got.RawRate != 0 || got.PerSecond != 50 {
		t.Errorf("without a raw disk: %+v", got)
	}
}

func TestBenchSaysWhatItWants(t *testing.T) {
	s := newTerminal(t)
	s.run("volume create db --size 1Gi --repl 1")
	for line, want := range map[string]string{
		"bench db":           "volume db is not attached\n  cure: holdfast volume attach db --mount /mnt/db",
		"bench nothing":      `there is no volume "nothing"`,
		"bench db --time 0":  "a --time above 0",
		"bench db --size 1K": "a --size of at least 64.0 MiB",
	} {
		if got := s.run(line); got.status == 0 || !strings.Contains(got.err, want) {
			t.Errorf("%s: status %d, %s; want %q", line, got.status, got.err, want)
		}
	}
	s.run("volume attach db --node n1")
	if got := s.run("bench db"); got.status != 4 || !strings.Contains(got.err, "has no device on this machine") {
		t.Errorf("attached elsewhere: status %d, %s", got.status, got.err)
	}
}

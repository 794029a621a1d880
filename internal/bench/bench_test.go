package bench

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/fault"
)

func TestTurnsAlternateAndTheFirstIsThrownAway(t *testing.T) {
	var order strings.Builder
	n := 0.0
	turn := func(who string, value float64) func() (float64, error) {
		return func() (float64, error) {
			order.WriteString(who)
			n++
			return value * n, nil
		}
	}
	r, err := Alternate(t.Context(), 3, turn("s", 2), turn("b", 1))
	if err != nil {
		t.Fatal(err)
	}
	if got := order.String(); got != "sb"+"bs"+"sb"+"bs" {
		t.Errorf("order %s", got)
	}
	if !slices.Equal(r.Subject, []float64{8, 10, 16}) || !slices.Equal(r.Baseline, []float64{3, 6, 7}) {
		t.Errorf("got %v", r)
	}
	self := func(v float64) float64 { return v }
	if got, want := r.Compare(self), (Compared{Value: 10, Baseline: 6, Ratio: 16. / 7}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := r.Value(self); got != 10 {
		t.Errorf("got %v", got)
	}
}

func TestAlternateStopsAtAnErrorAndWhenAsked(t *testing.T) {
	broken := errors.New("broken")
	ok, bad := func() (int, error) { return 1, nil }, func() (int, error) { return 0, broken }
	if _, err := Alternate(t.Context(), 3, ok, bad); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	turns := 0
	last := func() (int, error) {
		turns++
		cancel()
		return 1, nil
	}
	if _, err := Alternate(ctx, 3, last, last); !errors.Is(err, context.Canceled) || turns != 1 {
		t.Errorf("got %v after %d turns", err, turns)
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{3, 1}, 2}, {[]float64{9, 1, 3}, 3}} {
		if got := Median(c.values); got != c.want {
			t.Errorf("Median(%v) = %v, want %v", c.values, got, c.want)
		}
	}
}

func TestHistogramQuantilesAreCloseToTheSortedTruth(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var whole Histogram
	var parts [2]Histogram
	var all []time.Duration
	for i := range 100_000 {
		d := time.Duration(1) << random.IntN(34)
		d += time.Duration(random.Int64N(int64(d)))
		all = append(all, d)
		whole.Record(d)
		parts[i%2].Record(d)
	}
	parts[0].Merge(&parts[1])
	if parts[0] != whole {
		t.Error("merged parts differ from the whole")
	}
	slices.Sort(all)
	for _, q := range []float64{0, 0.01, 0.5, 0.99, 0.999} {
		got, want := whole.Quantile(q), all[int(q*float64(len(all)))]
		if got < want || float64(got) > float64(want)*65/64+1 {
			t.Errorf("quantile %v: got %v, want %v and at most 1/64 more", q, got, want)
		}
	}
	if got, want := whole.Quantile(1), all[len(all)-1]; got != want || whole.Max() != want {
		t.Errorf("longest: got %v and %v, want %v", got, whole.Max(), want)
	}
}

func TestEveryDurationIsInItsBucket(t *testing.T) {
	for i := range buckets - 1 {
		d := longest(i)
		if bucket(d) != i || bucket(d+1) != i+1 {
			t.Fatalf("bucket %d ends at %d: it is in %d, the next in %d", i, d, bucket(d), bucket(d+1))
		}
	}
	if got := bucket(1 << 62); got != buckets-1 {
		t.Errorf("the longest durations are in bucket %d, want %d", got, buckets-1)
	}
	if got := bucket(-1); got != 0 {
		t.Errorf("a negative duration is in bucket %d", got)
	}
}

func TestRecordingDoesNotAllocate(t *testing.T) {
	var h Histogram
	if n := testing.AllocsPerRun(100, func() { h.Record(time.Second); _ = h.Quantile(0.5) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

var sink []byte

func TestMeasureCounts(t *testing.T) {
	c, err := Measure(func(c *Cost) error {
		for range 1000 {
			sink = make([]byte, 100)
			c.Ops++
			c.Bytes += 100
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := c.AllocsPerOp(); got < 1 || got > 1.5 {
		t.Errorf("%v allocations an operation, want 1", got)
	}
	if c.Elapsed <= 0 || c.CPU < 0 || c.PerSecond() <= 0 || c.MiBPerSecond() <= 0 || c.CPUPerOp() < 0 {
		t.Errorf("got %+v", c)
	}
	if _, err := Measure(func(*Cost) error { return os.ErrInvalid }); !errors.Is(err, os.ErrInvalid) {
		t.Errorf("got %v", err)
	}
}

func TestGoals(t *testing.T) {
	c := Compared{Value: 9, Baseline: 10, Ratio: 0.9}
	for _, g := range []struct {
		goal Goal
		text string
		met  bool
	}{
		{RatioAtLeast(0.9), "ratio >= 0.9", true},
		{RatioAtLeast(0.91), "ratio >= 0.91", false},
		{RatioAtMost(0.9), "ratio <= 0.9", true},
		{RatioAtMost(0.89), "ratio <= 0.89", false},
		{ValueAtLeast(9), "value >= 9", true},
		{ValueAtLeast(10), "value >= 10", false},
		{ValueAtMost(9), "value <= 9", true},
		{ValueAtMost(8), "value <= 8", false},
	} {
		f := c.Figure("a", "x", g.goal)
		if f.Goal != g.text || f.Met == nil || *f.Met != g.met {
			t.Errorf("%v: got %q, %v", g, f.Goal, f.Met)
		}
	}
	if f := c.Figure("a", "x", None); f.Goal != "" || f.Met != nil {
		t.Errorf("no goal: got %+v", f)
	}
}

func TestFiguresAreRoundedAfterTheyAreJudged(t *testing.T) {
	f := Single("a", "x", 10.0001, ValueAtMost(10))
	if f.Value != 10 || *f.Met {
		t.Errorf("got %v, %v", f.Value, *f.Met)
	}
	for in, want := range map[float64]float64{0: 0, 123456: 123500, 0.00123456: 0.001235, -1.23456: -1.235} {
		if got := round(in); got != want {
			t.Errorf("round(%v) = %v, want %v", in, got, want)
		}
	}
}

func TestSelectByWholeNames(t *testing.T) {
	all := []Benchmark{{Name: "store/read"}, {Name: "store/write"}, {Name: "storeroom"}}
	for prefix, want := range map[string]int{"": 3, "store": 2, "store/": 2, "store/read": 1, "storeroom": 1} {
		if got, err := Select(all, prefix); err != nil || len(got) != want {
			t.Errorf("%q: got %d, %v; want %d", prefix, len(got), err, want)
		}
	}
	if _, err := Select(all, "stor"); !fault.Is(err, fault.NotFound) || !strings.Contains(err.Error(), "storeroom") {
		t.Errorf("got %v", err)
	}
}

func TestMergeReplacesOnlyWhatRan(t *testing.T) {
	path := filepath.Join(t.TempDir(), "results.json")
	read, write, gone := Benchmark{Name: "store/read"}, Benchmark{Name: "store/write"}, Benchmark{Name: "gone"}
	all := []Benchmark{read, write}
	single := func(name string, v float64) []Figure { return []Figure{Single(name, "x", v, None)} }
	for _, step := range []struct {
		all     []Benchmark
		ran     Benchmark
		figures []Figure
		want    string
	}{
		{append(all, gone), gone, single("gone/a", 1), "gone/a=1"},
		{append(all, gone), write, single("store/write/a", 2), "gone/a=1 store/write/a=2"},
		{all, read, append(single("store/read/b", 3), single("store/read/a", 4)...), "store/read/a=4 store/read/b=3 store/write/a=2"},
		{all, read, single("store/read/b", 5), "store/read/b=5 store/write/a=2"},
	} {
		if err := Merge(path, step.all, step.ran, step.figures); err != nil {
			t.Fatal(err)
		}
		figures, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range figures {
			got = append(got, f.Name+"="+number(&f.Value))
		}
		if got := strings.Join(got, " "); got != step.want {
			t.Errorf("got %s, want %s", got, step.want)
		}
	}
}

func TestResultsOfAnotherShapeAreNotOverwritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "results.json")
	if err := os.WriteFile(path, []byte(`{"a": 1}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Merge(path, nil, Benchmark{Name: "a"}, nil); !fault.Is(err, fault.Corrupt) {
		t.Errorf("got %v", err)
	}
}

func TestTheFileIsAListOfSevenFields(t *testing.T) {
	path := filepath.Join(t.TempDir(), "results.json")
	b := Benchmark{Name: "a"}
	figures := []Figure{Single("a/alone", "ms", 2, None), Compared{Value: 9, Baseline: 10, Ratio: 0.9}.Figure("a/compared", "IOPS", RatioAtLeast(0.95))}
	if err := Merge(path, []Benchmark{b}, b, figures); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := `[
  {
    "name": "a/alone",
    "unit": "ms",
    "value": 2,
    "baseline": null,
    "ratio": null,
    "goal": "",
    "met": null
  },
  {
    "name": "a/compared",
    "unit": "IOPS",
    "value": 9,
    "baseline": 10,
    "ratio": 0.9,
    "goal": "ratio >= 0.95",
    "met": false
  }
]
`
	if string(got) != want {
		t.Errorf("got %s", got)
	}
	var table bytes.Buffer
	if err := Print(&table, figures); err != nil {
		t.Fatal(err)
	}
	wantTable := "NAME        VALUE  UNIT  BASELINE  RATIO  GOAL           MET\n" +
		"a/alone     2      ms    -         -      -              -\n" +
		"a/compared  9      IOPS  10        0.9    ratio >= 0.95  NO\n"
	if table.String() != wantTable {
		t.Errorf("got\n%s", table.String())
	}
}

func TestFioReportIsRead(t *testing.T) {
	report := `{"jobs": [{"read": {"total_ios": 0, "runtime": 0, "lat_ns": {"min": 0}},
		"write": {"total_ios": 1000, "runtime": 2000, "lat_ns": {"bins": {"1000": 990, "1000000": 10}}},
		"usr_cpu": 10.0, "sys_cpu": 15.0}]}`
	c, err := fioCost([]byte(report), 4096)
	if err != nil {
		t.Fatal(err)
	}
	if c.PerSecond() != 500 || c.Bytes != 4096000 || c.CPUPerOp() != 500 || c.Latency.Count() != 1000 {
		t.Errorf("got %+v", c)
	}
	if p50, max := Quantile(0.5)(c), c.Latency.Max(); p50 < 1 || p50 > 1.02 || max != time.Millisecond {
		t.Errorf("latency: median %v us, longest %v", p50, max)
	}
	for _, broken := range []string{"", "{}", `{"jobs": [{"write": {"total_ios": 1, "lat_ns": {"bins": {"soon": 1}}}}]}`} {
		if _, err := fioCost([]byte(broken), 4096); err == nil {
			t.Errorf("%q was read", broken)
		}
	}
}

func TestXFSIsThereForTheRunAndGoneAfterIt(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a filesystem needs root")
	}
	o := Options{Rounds: 1, Dir: t.TempDir(), Log: &bytes.Buffer{}}
	var root string
	figures, err := o.Do(t.Context(), Benchmark{Name: "a", Run: func(r *Run) error {
		var err error
		if root, err = r.XFS(512 << 20); err != nil {
			return err
		}
		var s unix.Statfs_t
		if err := unix.Statfs(root, &s); err != nil {
			return err
		}
		if s.Type != unix.XFS_SUPER_MAGIC {
			t.Errorf("filesystem %#x is not XFS", s.Type)
		}
		r.Report(Single("a/b", "x", 1, None))
		return nil
	}})
	if err != nil || len(figures) != 1 {
		t.Fatalf("got %v, %v", figures, err)
	}
	if left, err := os.ReadDir(o.Dir); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(mounts, []byte(o.Dir)) {
		t.Error("it is still mounted")
	}
}

func TestFailedRunCleansUpToo(t *testing.T) {
	o := Options{Dir: t.TempDir(), Log: &bytes.Buffer{}}
	broken := errors.New("broken")
	_, err := o.Do(t.Context(), Benchmark{Name: "a", Run: func(r *Run) error {
		if _, err := r.Scratch(); err != nil {
			return err
		}
		return broken
	}})
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if left, err := os.ReadDir(o.Dir); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

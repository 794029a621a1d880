package store

import "testing"

func TestMarkDoesNotCoverWhatIsInFlight(t *testing.T) {
	var f flights
	last := uint64(0)
	begin := func() uint64 { last++; f.begin(last); return last }
	if got := f.through(last); got != 0 {
		t.Errorf("nothing was written: %d", got)
	}
	a, b, c := begin(), begin(), begin()
	f.end(b)
	if got := f.through(last); got != a-1 {
		t.Errorf("the first of three is in flight: %d", got)
	}
	f.end(a)
	if got := f.through(last); got != b {
		t.Errorf("the last of three is in flight: %d", got)
	}
	f.end(c)
	if got := f.through(last); got != c {
		t.Errorf("none is in flight: %d", got)
	}
	var open []uint64
	for range 500 {
		open = append(open, begin())
		if len(open) > 100 {
			f.end(open[50])
			open = append(open[:50], open[51:]...)
			if got := f.through(last); got != open[0]-1 {
				t.Fatalf("through %d, the oldest in flight is %d", got, open[0])
			}
		}
	}
}

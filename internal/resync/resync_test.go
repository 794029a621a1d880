package resync

import (
	"slices"
	"testing"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/wire"
)

func TestRegionsToCopy(t *testing.T) {
	source := []wire.RegionState{{Region: 1, Epoch: 3}, {Region: 2, Epoch: 5, Dirty: true}, {Region: 9, Epoch: 6}}
	target := []wire.RegionState{{Region: 1, Epoch: 3, Dirty: true}, {Region: 4, Epoch: 4}, {Region: 7, Epoch: 2, Dirty: true}}
	for _, c := range []struct {
		since block.Epoch
		want  []block.Region
	}{
		{5, []block.Region{1, 2, 7, 9}},
		{7, []block.Region{1, 7}},
		{0, []block.Region{1, 2, 4, 7, 9}},
	} {
		if got := Regions(source, target, c.since); !slices.Equal(got, c.want) {
			t.Errorf("since %d: %v, want %v", c.since, got, c.want)
		}
	}
}

func TestDifferingBlocksComeInBoundedRuns(t *testing.T) {
	a := []block.Sum{1, 2, 3, 4, 5, 6, 7}
	b := []block.Sum{1, 0, 0, 0, 5, 6, 0}
	got := Differing(100, a, b, 2)
	want := []block.Extent{{Start: 101, Count: 2}, {Start: 103, Count: 1}, {Start: 106, Count: 1}}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

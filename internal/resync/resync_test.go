package resync

import (
	"math/rand/v2"
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

func TestRunsMoveWhatDiffers(t *testing.T) {
	z := block.ZeroSum
	a := []block.Sum{1, 2, 3, z, z, 6, 7, 8}
	b := []block.Sum{1, 9, 9, 9, z, 9, 7, 9}
	got := Runs(10, [][]block.Sum{a, b})
	want := []Run{{block.Extent{Start: 11, Count: 2}, false}, {block.Extent{Start: 13, Count: 1}, true},
		{block.Extent{Start: 15, Count: 1}, false}, {block.Extent{Start: 17, Count: 1}, false}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := Runs(0, [][]block.Sum{a, a, a}); len(got) != 0 {
		t.Errorf("nothing differs, got %v", got)
	}
	if got := Runs(0, [][]block.Sum{{1, 2}, {1, 2}, {1, 3}}); len(got) != 1 || got[0].Extent.Start != 1 {
		t.Errorf("the third copy differs, got %v", got)
	}
}

// Whatever differs, all of it is moved, and at most a fifth more.
func TestRunsMoveLittleMoreThanDiffers(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for percent := range 101 {
		a, b := make([]block.Sum, 256), make([]block.Sum, 256)
		differ := 0
		for i := range a {
			a[i] = block.Sum(i + 1)
			b[i] = a[i]
			if random.IntN(100) < percent {
				b[i] = 0
				differ++
			}
		}
		moved := map[block.Index]bool{}
		for _, r := range Runs(0, [][]block.Sum{a, b}) {
			for i := r.Extent.Start; i < r.Extent.End(); i++ {
				moved[i] = true
			}
		}
		if len(moved)*10 > differ*12 {
			t.Errorf("%d%%: %d blocks are moved for %d that differ", percent, len(moved), differ)
		}
		for i := range a {
			if a[i] != b[i] && !moved[block.Index(i)] {
				t.Errorf("%d%%: block %d differs and is not moved", percent, i)
			}
		}
	}
}

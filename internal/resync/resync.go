// Package resync decides, given what two copies say of themselves, what to copy from the
// one to the other, and when the other may be trusted.
//
// It promises: a copy that was left behind in epoch e, and to which every region was
// copied that a survivor stamped with e or later or that is dirty in the copy itself,
// holds what the survivor holds. Only blocks whose checksums differ are moved.
package resync

import (
	"slices"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/wire"
)

// Regions returns the regions to compare, ascending: those that the source stamped with
// epoch since or later, because the target missed them, and those that are dirty in the
// target, because it may have what nobody was promised. With since 0, all regions that
// either ever wrote.
func Regions(source, target []wire.RegionState, since block.Epoch) []block.Region {
	var list []block.Region
	for _, r := range source {
		if r.Epoch >= since {
			list = append(list, r.Region)
		}
	}
	for _, r := range target {
		if r.Dirty || since == 0 || r.Epoch >= since {
			list = append(list, r.Region)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// Run is a run of blocks that some copy lacks.
type Run struct {
	Extent block.Extent
	Zero   bool // the giving copy has only zeros there: they can be sent as a hole
}

// Runs returns the runs of blocks, from block start on, in which one of the copies differs
// from the first one, ascending. sums are the checksums that each copy has. A gap of equal
// blocks is bridged when that adds less than a tenth to what must be moved: fewer and
// longer runs are quicker, and what is moved stays close to what changed.
func Runs(start block.Index, sums [][]block.Sum) (runs []Run) {
	first := sums[0]
	pending := 0 // differing blocks in the last run, which pay for gaps
	for i, sum := range first {
		if !differs(sums, i) {
			continue
		}
		at, zero := start+block.Index(i), sum == block.ZeroSum
		if n := len(runs); n > 0 && runs[n-1].Zero == zero {
			last := &runs[n-1]
			gap := int(at - last.Extent.End())
			if gap == 0 || !zero && gap*10 < pending && noZeros(first[i-gap:i]) {
				last.Extent.Count += uint64(gap) + 1
				pending += 1 - gap*10
				continue
			}
		}
		runs = append(runs, Run{block.Extent{Start: at, Count: 1}, zero})
		pending = 1
	}
	return runs
}

func differs(sums [][]block.Sum, i int) bool {
	for _, other := range sums[1:] {
		if other[i] != sums[0][i] {
			return true
		}
	}
	return false
}

func noZeros(sums []block.Sum) bool { return !slices.Contains(sums, block.ZeroSum) }

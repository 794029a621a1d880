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

// Differing returns the runs of blocks, from block start on, whose checksums differ, each
// at most limit blocks long.
func Differing(start block.Index, a, b []block.Sum, limit int) (runs []block.Extent) {
	for i := range a {
		if a[i] == b[i] {
			continue
		}
		at := start + block.Index(i)
		if n := len(runs); n > 0 && runs[n-1].End() == at && runs[n-1].Count < uint64(limit) {
			runs[n-1].Count++
		} else {
			runs = append(runs, block.Extent{Start: at, Count: 1})
		}
	}
	return runs
}

// AllZero reports whether every checksum is that of zeros, so that a run can be sent as
// a hole.
func AllZero(sums []block.Sum) bool {
	for _, s := range sums {
		if s != block.ZeroSum {
			return false
		}
	}
	return true
}

// Package lineage knows a volume's snapshot ancestry: what a copy that was away lacks,
// and what it has too much.
//
// A volume's history is a line of generations. A copy that was away has a live
// generation that is a snapshot by now, or no longer exists; it is brought up to date
// one generation at a time, oldest first, so that what it holds is always the line's
// beginning.
package lineage

import (
	"slices"

	"github.com/holdfast-io/holdfast/internal/block"
)

// Line is a copy's generations.
type Line struct {
	Snapshots []block.Generation // readable, ascending
	Live      block.Generation   // above all of them
}

// Surplus returns the snapshots of a copy that no longer exist in the volume.
func Surplus(volume, copy Line) (gone []block.Generation) {
	for _, g := range copy.Snapshots {
		if !slices.Contains(volume.Snapshots, g) {
			gone = append(gone, g)
		}
	}
	return gone
}

// Missing returns the volume's snapshots that a copy must take, oldest first: each is
// filled in the copy's live generation, and then sealed under the snapshot's number.
func Missing(volume, copy Line) (fill []block.Generation) {
	for _, g := range volume.Snapshots {
		if g >= copy.Live {
			fill = append(fill, g)
		}
	}
	return fill
}

// Diverged reports whether a copy can't be brought up to date along the line: it lacks a
// snapshot that is older than its live generation, or it is ahead of the volume.
func Diverged(volume, copy Line) bool {
	if copy.Live > volume.Live {
		return true
	}
	for _, g := range volume.Snapshots {
		if g < copy.Live && !slices.Contains(copy.Snapshots, g) {
			return true
		}
	}
	return false
}

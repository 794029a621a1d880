package replica

import (
	"slices"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/wire"
)

// Changes returns the answer to a Changed for which the store has found list, up to
// region next of a volume that has regions up to end. What does not fit is left for the
// next question.
func Changes(list []block.Extent, next, end block.Region) *wire.ExtentList {
	if len(list) > wire.ExtentsMax {
		next = list[wire.ExtentsMax-1].LastRegion() // a region has fewer extents than fit
		bound := block.Extent{Count: uint64(next.Start())}
		for i, e := range list {
			if list[i] = e.Clip(bound); list[i].Empty() {
				list = list[:i]
				break
			}
		}
	}
	return &wire.ExtentList{List: slices.Clip(list), Next: next, Last: next >= end}
}

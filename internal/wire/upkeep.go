package wire

import "github.com/holdfast-io/holdfast/internal/block"

// Clean says that all in-sync replicas are the same in every region that was not
// written after the moment that the replica named in Flushed. The answer is Done, or
// Fail.
type Clean struct {
	Epoch block.Epoch
	Mark  uint64
}

// Kind returns KindClean.
func (*Clean) Kind() Kind { return KindClean }

func (m *Clean) code(c coder) coder {
	c.epoch(&m.Epoch)
	c.u64(&m.Mark)
	return c
}

// Snapshot makes a generation, the live one, read-only and begins the next. The answer
// is Done, or Fail.
type Snapshot struct {
	Epoch      block.Epoch
	Generation block.Generation
}

// Kind returns KindSnapshot.
func (*Snapshot) Kind() Kind { return KindSnapshot }

func (m *Snapshot) code(c coder) coder {
	c.epoch(&m.Epoch)
	c.u32((*uint32)(&m.Generation))
	return c
}

// SealStep is a step of a snapshot during which writes don't wait for the disk.
type SealStep uint8

// The steps.
const (
	SealPrepare SealStep = iota + 1 // the generation is about to end
	SealEnd                         // it ends; done as soon as what is written belongs to the next
	SealConfirm                     // done when it is durable that it is a snapshot; fails if it was not ended
)

// Seal takes a step of a snapshot. The answer is Done, or Fail. Snapshot does all of it at
// once.
type Seal struct {
	Epoch      block.Epoch
	Generation block.Generation
	Step       SealStep
}

// Kind returns KindSeal.
func (*Seal) Kind() Kind { return KindSeal }

func (m *Seal) code(c coder) coder {
	c.epoch(&m.Epoch)
	c.u32((*uint32)(&m.Generation))
	if c.u8((*uint8)(&m.Step)); m.Step < SealPrepare || m.Step > SealConfirm {
		c.wrong("step %d of a snapshot", m.Step)
	}
	return c
}

// DeleteSnapshot makes a generation unreadable and frees what no other sees. The answer
// is Done, or Fail.
type DeleteSnapshot struct {
	Epoch      block.Epoch
	Generation block.Generation
}

// Kind returns KindDeleteSnapshot.
func (*DeleteSnapshot) Kind() Kind { return KindDeleteSnapshot }

func (m *DeleteSnapshot) code(c coder) coder {
	c.epoch(&m.Epoch)
	c.u32((*uint32)(&m.Generation))
	return c
}

// Grow makes the volume larger. The answer is Done, or Fail.
type Grow struct {
	Epoch block.Epoch
	Size  int64 // bytes
}

// Kind returns KindGrow.
func (*Grow) Kind() Kind { return KindGrow }

func (m *Grow) code(c coder) coder {
	c.epoch(&m.Epoch)
	c.size(&m.Size)
	return c
}

// Generations tells a replica that comes back which generations still exist: it deletes
// all others. The answer is Done, or Fail.
type Generations struct {
	Epoch block.Epoch
	List  []block.Generation // ascending, the live one last; at most GenerationsMax
}

// Kind returns KindGenerations.
func (*Generations) Kind() Kind { return KindGenerations }

func (m *Generations) code(c coder) coder {
	c.epoch(&m.Epoch)
	c.generations(&m.List)
	return c
}

// Regions asks for the regions that were ever written. The answer is RegionList, or
// Fail.
type Regions struct {
	Epoch block.Epoch
	From  block.Region // the first that is of interest
	Limit uint32       // of regions in the answer; 1 to RegionsMax
}

// Kind returns KindRegions.
func (*Regions) Kind() Kind { return KindRegions }

func (m *Regions) code(c coder) coder {
	c.epoch(&m.Epoch)
	c.region(&m.From)
	c.count(&m.Limit, RegionsMax)
	return c
}

// RegionState is what a replica's region table says of a region.
type RegionState struct {
	Region block.Region
	Epoch  block.Epoch // of the last write
	Dirty  bool        // written since it was last known to be the same on every replica
}

// RegionList answers Regions.
type RegionList struct {
	Next block.Region  // where to go on
	Last bool          // there is nothing to go on with
	List []RegionState // ascending; at most RegionsMax
}

// Kind returns KindRegionList.
func (*RegionList) Kind() Kind { return KindRegionList }

func (m *RegionList) code(c coder) coder {
	c.flag(flagLast, &m.Last)
	c.region(&m.Next)
	c.regions(&m.List)
	return c
}

// Changed asks for the extents that were written or zeroed after one generation and up
// to another. The answer is ExtentList, or Fail.
type Changed struct {
	Epoch      block.Epoch
	Since      block.Generation // 0 asks for all that has data
	Generation block.Generation // 0 is the live one
	From       block.Region     // the first that is of interest
	Limit      uint32           // of regions to look at; at least 1
}

// Kind returns KindChanged.
func (*Changed) Kind() Kind { return KindChanged }

func (m *Changed) code(c coder) coder {
	c.epoch(&m.Epoch)
	c.u32((*uint32)(&m.Since))
	c.u32((*uint32)(&m.Generation))
	c.region(&m.From)
	c.count(&m.Limit, block.VolumeSizeMax/block.RegionSize)
	return c
}

// ExtentList answers Changed. The replica looks at fewer regions than it was asked to
// when the list would be too long.
type ExtentList struct {
	Next block.Region   // where to go on
	Last bool           // there is nothing to go on with
	List []block.Extent // ascending, apart from each other; at most ExtentsMax
}

// Kind returns KindExtentList.
func (*ExtentList) Kind() Kind { return KindExtentList }

func (m *ExtentList) code(c coder) coder {
	c.flag(flagLast, &m.Last)
	c.region(&m.Next)
	c.extents(&m.List)
	return c
}

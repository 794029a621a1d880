package wire

import (
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
)

// What a frame may hold at most. Both sides keep to them: Append refuses to write what
// Decode would refuse to read.
const (
	// DataBlocksMax is the most blocks of data in a frame, 1 MiB: what a replica's store
	// takes in one request.
	DataBlocksMax = 256
	// DataMax is DataBlocksMax in bytes.
	DataMax = DataBlocksMax * block.Size
	// MetaMax is the most bytes of meta in a frame.
	MetaMax = 1<<16 - 1
	// HeadMax is the most bytes in the head of a frame, which is header and meta.
	HeadMax = HeaderSize + MetaMax

	// ZeroBlocksMax is the most blocks that one Zero, or one Fill of a hole, may name,
	// 1 GiB, so that one request is not hours of work.
	ZeroBlocksMax = 1 << 18
	// VerifyBlocksMax is the most blocks that one Verify may name: a region.
	VerifyBlocksMax = block.PerRegion
	// GenerationsMax is the most generations in a list, and so the most snapshots that
	// a replicated volume may have.
	GenerationsMax = 4096
	// RegionsMax is the most regions in a RegionList.
	RegionsMax = 4096
	// ExtentsMax is the most extents in an ExtentList. A region has at most 512.
	ExtentsMax = 4096
	// TextMax is the most bytes in a text for people.
	TextMax = 1 << 10
	// NameMax is the most bytes in a node's name.
	NameMax = 253
	// DurationMax is the longest lease, and the longest wait that may be asked for.
	DurationMax = time.Hour
)

// blocksMax is the number of blocks in the largest volume.
const blocksMax = block.VolumeSizeMax / block.Size

// extentBlocksMax is the most blocks that the count of an extent can tell.
const extentBlocksMax = 1<<32 - 1

// Package block names bytes: volumes, replicas, nodes and pools by id; extents,
// regions and chunks by number; generations and epochs in time; checksums by value.
//
// It holds words and the arithmetic between them, nothing that acts. Every other
// room may import it; it imports none.
package block

import "fmt"

// Size is the number of bytes in a block, the unit of I/O, of checksums and of
// copy-on-write.
const Size = 4096

const (
	// RegionSize is the number of bytes in a region, the unit of dirty tracking,
	// resync, backup and hydration bookkeeping.
	RegionSize = 4 << 20
	// ChunkSize is the number of volume bytes that one chunk covers; a chunk version
	// is one file of a replica.
	ChunkSize = 64 << 20

	// PerRegion is the number of blocks in a region.
	PerRegion = RegionSize / Size
	// PerChunk is the number of blocks in a chunk.
	PerChunk = ChunkSize / Size
	// RegionsPerChunk is the number of regions in a chunk.
	RegionsPerChunk = ChunkSize / RegionSize
)

// VolumeSizeMax is the largest volume, in bytes: 1 PiB keeps the in-memory region
// table of one replica below 8 GiB and every number below 2^63.
const VolumeSizeMax = 1 << 50

// Index is the number of a block in a volume, from 0.
type Index uint64

// Region returns the region that holds the block.
func (i Index) Region() Region { return Region(i / PerRegion) }

// Chunk returns the chunk that holds the block.
func (i Index) Chunk() Chunk { return Chunk(i / PerChunk) }

// Offset returns the block's first byte in its volume.
func (i Index) Offset() int64 { return int64(i) * Size }

// InRegion returns the block's place in its region, 0 to PerRegion-1.
func (i Index) InRegion() int { return int(i % PerRegion) }

// InChunk returns the block's place in its chunk, 0 to PerChunk-1.
func (i Index) InChunk() int { return int(i % PerChunk) }

// Region is the number of a region in a volume, from 0.
type Region uint32

// Start returns the region's first block.
func (r Region) Start() Index { return Index(r) * PerRegion }

// Chunk returns the chunk that holds the region.
func (r Region) Chunk() Chunk { return Chunk(r / RegionsPerChunk) }

// InChunk returns the region's place in its chunk, 0 to RegionsPerChunk-1.
func (r Region) InChunk() int { return int(r % RegionsPerChunk) }

// Chunk is the number of a chunk in a volume, from 0.
type Chunk uint32

// Start returns the chunk's first block.
func (c Chunk) Start() Index { return Index(c) * PerChunk }

// Generation counts a volume's snapshots: it names what a chunk file belongs to.
// The first generation is 1; 0 means none.
type Generation uint32

// Epoch counts changes of a volume's owner or in-sync set. A replica refuses an
// epoch lower than the one it promised. The first epoch is 1; 0 means none.
type Epoch uint64

// Extent is a run of blocks.
type Extent struct {
	Start Index  // first block
	Count uint64 // number of blocks
}

// End returns the block after the last one.
func (e Extent) End() Index { return e.Start + Index(e.Count) }

// Bytes returns the extent's length in bytes.
func (e Extent) Bytes() int64 { return int64(e.Count) * Size }

// Empty reports whether the extent holds no block.
func (e Extent) Empty() bool { return e.Count == 0 }

// Overlaps reports whether the two extents share a block.
func (e Extent) Overlaps(o Extent) bool {
	return e.Count > 0 && o.Count > 0 && e.Start < o.End() && o.Start < e.End()
}

// Clip returns the part of e that lies in o.
func (e Extent) Clip(o Extent) Extent {
	start, end := max(e.Start, o.Start), min(e.End(), o.End())
	if start >= end {
		return Extent{Start: start}
	}
	return Extent{Start: start, Count: uint64(end - start)}
}

// FirstRegion returns the region of the extent's first block.
func (e Extent) FirstRegion() Region { return e.Start.Region() }

// LastRegion returns the region of the extent's last block. The extent must not be
// empty.
func (e Extent) LastRegion() Region { return (e.End() - 1).Region() }

// String prints the extent as start+count, in blocks.
func (e Extent) String() string { return fmt.Sprintf("%d+%d", e.Start, e.Count) }

// ExtentOf converts bytes to an extent; ok is false when offset or length is
// negative or not a multiple of Size.
func ExtentOf(offset, length int64) (e Extent, ok bool) {
	if offset < 0 || length < 0 || offset%Size != 0 || length%Size != 0 {
		return Extent{}, false
	}
	return Extent{Start: Index(offset / Size), Count: uint64(length / Size)}, true
}

// Regions returns how many regions a volume of size bytes has.
func Regions(size int64) int { return int((size + RegionSize - 1) / RegionSize) }

// Chunks returns how many chunks a volume of size bytes has.
func Chunks(size int64) int { return int((size + ChunkSize - 1) / ChunkSize) }

// ValidSize reports whether size bytes is a legal volume size: a positive multiple
// of Size, at most VolumeSizeMax.
func ValidSize(size int64) bool { return size > 0 && size <= VolumeSizeMax && size%Size == 0 }

package wire

import (
	"math/bits"

	"github.com/holdfast-io/holdfast/internal/block"
)

// Blocks are some of the DataBlocksMax blocks from Start on. A volume that was written all
// over differs from its copy in single blocks: to ask for each by itself costs more than
// to move it.
type Blocks struct {
	Start block.Index                // the first of them
	Mask  [DataBlocksMax / 64]uint64 // bit i%64 of word i/64 is block Start+i; that of Start is set
}

// Add adds e to the blocks. Extents come in ascending order, and end at most DataBlocksMax
// blocks after the start of the first one.
func (b *Blocks) Add(e block.Extent) {
	if b.Mask[0] == 0 {
		b.Start = e.Start
	}
	for i := uint64(e.Start - b.Start); i < uint64(e.End()-b.Start); i++ {
		b.Mask[i/64] |= 1 << (i % 64)
	}
}

// Count returns how many blocks they are.
func (b *Blocks) Count() (n int) {
	for _, w := range b.Mask {
		n += bits.OnesCount64(w)
	}
	return n
}

// Span returns the extent from the first to the last of them.
func (b *Blocks) Span() block.Extent {
	for i := len(b.Mask) - 1; i >= 0; i-- {
		if w := b.Mask[i]; w != 0 {
			return block.Extent{Start: b.Start, Count: uint64(64*i + bits.Len64(w))}
		}
	}
	return block.Extent{Start: b.Start}
}

// Next returns the first run of blocks from block at on; it is empty when there is none.
func (b *Blocks) Next(at block.Index) block.Extent {
	i, end := uint64(max(at, b.Start)-b.Start), uint64(DataBlocksMax)
	for i < end && !b.has(i) {
		i++
	}
	run := block.Extent{Start: b.Start + block.Index(i)}
	for ; i < end && b.has(i); i++ {
		run.Count++
	}
	return run
}

func (b *Blocks) has(i uint64) bool { return b.Mask[i/64]>>(i%64)&1 != 0 }

// blocks are start u64, mask u64 four times.
func (c *coder) blocks(b *Blocks) {
	c.u64((*uint64)(&b.Start))
	for i := range b.Mask {
		c.u64(&b.Mask[i])
	}
	if span := b.Span(); !b.has(0) || span.Start >= blocksMax || span.Count > blocksMax-uint64(span.Start) {
		c.wrong("blocks from %d on that leave the largest volume, or not the first of them", b.Start)
	}
}

// ReadBlocks asks for some blocks as of a generation. The answer is ReadDone with these
// blocks in order, or Fail.
type ReadBlocks struct {
	Epoch      block.Epoch
	Generation block.Generation // 0 is the live one
	Blocks     Blocks
}

// Kind returns KindReadBlocks.
func (*ReadBlocks) Kind() Kind { return KindReadBlocks }

func (m *ReadBlocks) code(c coder) coder {
	c.epoch(&m.Epoch)
	c.u32((*uint32)(&m.Generation))
	c.blocks(&m.Blocks)
	return c
}

// WriteBlocks stores some blocks. The answer is Done when all are stored, or Fail, after
// which some may be.
type WriteBlocks struct {
	Epoch  block.Epoch
	Blocks Blocks
	Sums   []block.Sum // of each block
	Data   []byte      // of each block, in order
}

// Kind returns KindWriteBlocks.
func (*WriteBlocks) Kind() Kind { return KindWriteBlocks }

func (m *WriteBlocks) code(c coder) coder {
	c.epoch(&m.Epoch)
	c.blocks(&m.Blocks)
	c.payload(uint64(m.Blocks.Count()), &m.Sums, &m.Data)
	return c
}

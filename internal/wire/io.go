package wire

import "github.com/holdfast-io/holdfast/internal/block"

// The flags, each of the messages that name it.
const (
	flagFUA      = 1 << iota // Write, Zero: durable before Done
	flagUnmap                // Zero: the space is given back
	flagSameNode             // Promise
	flagHole                 // Fill: no data, the extent reads as zeros
	flagLast                 // RegionList, ExtentList: nothing comes after
	flagWhole                // Flush
)

// Write stores data. The answer is Done, or Fail.
type Write struct {
	Epoch  block.Epoch
	Extent block.Extent // 1 to DataBlocksMax blocks
	FUA    bool         // durable before Done, as if by Flush
	Sums   []block.Sum  // of each block
	Data   []byte       // Extent.Bytes() of them
}

// Kind returns KindWrite.
func (*Write) Kind() Kind { return KindWrite }

func (m *Write) code(c coder) coder {
	c.epoch(&m.Epoch)
	c.flag(flagFUA, &m.FUA)
	c.extent(&m.Extent, DataBlocksMax)
	c.payload(m.Extent.Count, &m.Sums, &m.Data)
	return c
}

// Zero makes an extent read as zeros: discard and write zeroes. The answer is Done, or
// Fail.
type Zero struct {
	Epoch  block.Epoch
	Extent block.Extent // 1 to ZeroBlocksMax blocks
	FUA    bool         // durable before Done, as if by Flush
	Unmap  bool         // the space may be given back
}

// Kind returns KindZero.
func (*Zero) Kind() Kind { return KindZero }

func (m *Zero) code(c coder) coder {
	c.epoch(&m.Epoch)
	c.flag(flagFUA, &m.FUA)
	c.flag(flagUnmap, &m.Unmap)
	c.extent(&m.Extent, ZeroBlocksMax)
	return c
}

// Read asks for data as of a generation. The answer is ReadDone, or Fail.
type Read struct {
	Epoch      block.Epoch
	Generation block.Generation // 0 is the live one
	Extent     block.Extent     // 1 to DataBlocksMax blocks
}

// Kind returns KindRead.
func (*Read) Kind() Kind { return KindRead }

func (m *Read) code(c coder) coder {
	c.epoch(&m.Epoch)
	c.u32((*uint32)(&m.Generation))
	c.extent(&m.Extent, DataBlocksMax)
	return c
}

// ReadDone answers Read.
type ReadDone struct {
	Sums []block.Sum // of each block, as the replica keeps them: who asked compares them with the data
	Data []byte      // 1 to DataBlocksMax blocks
}

// Kind returns KindReadDone.
func (*ReadDone) Kind() Kind { return KindReadDone }

func (m *ReadDone) code(c coder) coder {
	blocks := uint64(len(m.Data) / block.Size)
	if c.decoding {
		blocks = uint64(c.head.blocks)
	}
	c.payload(blocks, &m.Sums, &m.Data)
	return c
}

// Flush makes durable what was answered with Done before it was sent. The answer is
// Flushed, or Fail, after which nobody knows what is durable.
type Flush struct {
	Epoch block.Epoch
	// Whole says that after this flush the replica has all that those in sync have: it is
	// neither Lost nor Forgot any more.
	Whole bool
}

// Kind returns KindFlush.
func (*Flush) Kind() Kind { return KindFlush }

func (m *Flush) code(c coder) coder {
	c.epoch(&m.Epoch)
	c.flag(flagWhole, &m.Whole)
	return c
}

// Flushed answers Flush.
type Flushed struct {
	// Incarnation is that of the replica's process. When it is not the one that answered
	// the writes, they may be lost although this flush succeeded.
	Incarnation uint64
	Mark        uint64 // the replica's name for the moment before the flush, for Clean
}

// Kind returns KindFlushed.
func (*Flushed) Kind() Kind { return KindFlushed }

func (m *Flushed) code(c coder) coder {
	c.u64(&m.Incarnation)
	c.u64(&m.Mark)
	return c
}

// Verify asks for checksums as of a generation, without the data. The answer is
// Verified, or Fail.
type Verify struct {
	Epoch      block.Epoch
	Generation block.Generation // 0 is the live one
	Extent     block.Extent     // 1 to VerifyBlocksMax blocks
}

// Kind returns KindVerify.
func (*Verify) Kind() Kind { return KindVerify }

func (m *Verify) code(c coder) coder {
	c.epoch(&m.Epoch)
	c.u32((*uint32)(&m.Generation))
	c.extent(&m.Extent, VerifyBlocksMax)
	return c
}

// Verified answers Verify.
type Verified struct {
	Sums []block.Sum // of each block, block.ZeroSum for holes
}

// Kind returns KindVerified.
func (*Verified) Kind() Kind { return KindVerified }

func (m *Verified) code(c coder) coder {
	c.sums(&m.Sums, VerifyBlocksMax)
	return c
}

// Fill gives a generation the data that it has in another replica: resync. The answer
// is Done, or Fail.
type Fill struct {
	Epoch      block.Epoch
	Generation block.Generation // 0 is the live one
	Extent     block.Extent     // 1 to DataBlocksMax blocks; to ZeroBlocksMax for a hole
	Hole       bool             // the extent reads as zeros and takes no space; Sums and Data are empty
	Sums       []block.Sum      // of each block
	Data       []byte           // Extent.Bytes() of them
}

// Kind returns KindFill.
func (*Fill) Kind() Kind { return KindFill }

func (m *Fill) code(c coder) coder {
	c.epoch(&m.Epoch)
	c.u32((*uint32)(&m.Generation))
	c.flag(flagHole, &m.Hole)
	if m.Hole {
		c.extent(&m.Extent, ZeroBlocksMax)
		c.noPayload(&m.Sums, &m.Data)
		return c
	}
	c.extent(&m.Extent, DataBlocksMax)
	c.payload(m.Extent.Count, &m.Sums, &m.Data)
	return c
}

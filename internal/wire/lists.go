package wire

import (
	"encoding/binary"
	"slices"
	"unicode/utf8"

	"github.com/holdfast-io/holdfast/internal/block"
)

// Extents, and the parts of a message whose length varies. A message has at most one of
// those, at its end: the length of the meta tells how many elements it has.

// extent is start u64, count u32: from 1 to max blocks, within the largest volume.
func (c *coder) extent(v *block.Extent, max uint64) {
	start, count := uint64(v.Start), uint32(v.Count)
	if !c.decoding && v.Count > extentBlocksMax {
		c.wrong("an extent of %d blocks", v.Count)
	}
	c.u64(&start)
	c.u32(&count)
	if start >= blocksMax || count == 0 || uint64(count) > max || uint64(count) > blocksMax-start {
		c.wrong("the extent %d+%d, of 1 to %d blocks within %d", start, count, max, uint64(blocksMax))
	}
	if c.decoding {
		*v = block.Extent{Start: block.Index(start), Count: uint64(count)}
	}
}

// region is u32.
func (c *coder) region(v *block.Region) {
	u := uint32(*v)
	if c.u32(&u); u > block.VolumeSizeMax/block.RegionSize {
		c.wrong("region %d", u)
	}
	if c.decoding {
		*v = block.Region(u)
	}
}

// count is u32, from 1 to max.
func (c *coder) count(v *uint32, max uint32) {
	u := *v
	if c.u32(&u); u == 0 || u > max {
		c.wrong("%d where 1 to %d are expected", u, max)
	}
	if c.decoding {
		*v = u
	}
}

// text is UTF-8, to the end of the meta.
func (c *coder) text(v *string, max int) {
	if !c.decoding {
		c.checkText(len(*v), max, utf8.ValidString(*v))
		c.buf = append(c.buf, *v...)
		return
	}
	c.checkText(len(c.buf), max, utf8.Valid(c.buf))
	if c.what == nil {
		*v = string(c.buf)
	}
	c.buf = nil
}

func (c *coder) checkText(size, max int, valid bool) {
	switch {
	case size > max:
		c.wrong("a text of %d bytes, at most %d", size, max)
	case !valid:
		c.wrong("a text that is not UTF-8")
	}
}

// elements returns how many elements, of size bytes each, the list has that follows:
// have when encoding. When it has more than max, or bytes that are no whole element, it
// says 0, so that nothing is made for them.
func (c *coder) elements(have, size, max int) int {
	n := have
	if c.decoding {
		if n = len(c.buf) / size; n*size != len(c.buf) {
			c.wrong("%d bytes are not a list of elements of %d", len(c.buf), size)
		}
	}
	if n > max {
		c.wrong("a list of %d, at most %d", n, max)
	}
	if c.what != nil {
		return 0
	}
	return n
}

// resize returns list with n elements, whatever is in them; it allocates only when there
// is no room.
func resize[T any](list []T, n int) []T { return slices.Grow(list[:0], n)[:n] }

// sums are u32 each.
func (c *coder) sums(v *[]block.Sum, max int) {
	n := c.elements(len(*v), 4, max)
	if !c.decoding {
		for _, sum := range (*v)[:n] {
			c.buf = binary.LittleEndian.AppendUint32(c.buf, uint32(sum))
		}
		return
	}
	*v = resize(*v, n)
	b := c.take(4 * n)
	for i := range *v {
		(*v)[i] = block.Sum(binary.LittleEndian.Uint32(b[4*i:]))
	}
}

// payload is the checksums of count blocks, in the meta, and their data, which follows
// the head.
func (c *coder) payload(count uint64, sums *[]block.Sum, data *[]byte) {
	c.sums(sums, DataBlocksMax)
	if c.decoding {
		*data = nil
	} else {
		c.head.blocks = uint16(min(len(*data)/block.Size, DataBlocksMax+1))
		if len(*data)%block.Size != 0 {
			c.wrong("%d bytes of data are no blocks", len(*data))
		}
	}
	switch blocks := uint64(c.head.blocks); {
	case blocks == 0 || blocks > DataBlocksMax:
		c.wrong("%d blocks of data, from 1 to %d", blocks, DataBlocksMax)
	case blocks != count || blocks != uint64(len(*sums)):
		c.wrong("%d blocks of data with %d checksums for %d blocks", blocks, len(*sums), count)
	}
}

// noPayload is a message that could have data and has none.
func (c *coder) noPayload(sums *[]block.Sum, data *[]byte) {
	if c.decoding {
		*sums, *data = (*sums)[:0], nil
	}
	if c.head.blocks != 0 || len(*sums) != 0 || len(*data) != 0 {
		c.wrong("data where none belongs")
	}
}

// generations are u32 each, ascending, none 0.
func (c *coder) generations(v *[]block.Generation) {
	n := c.elements(len(*v), 4, GenerationsMax)
	if c.decoding {
		*v = resize(*v, n)
	}
	for i := range n {
		g := &(*v)[i]
		if c.u32((*uint32)(g)); *g == 0 || i > 0 && *g <= (*v)[i-1] {
			c.wrong("generation %d out of order", *g)
		}
	}
}

// regions are region u32, epoch u64, dirty u8 each, ascending by region.
func (c *coder) regions(v *[]RegionState) {
	n := c.elements(len(*v), 13, RegionsMax)
	if c.decoding {
		*v = resize(*v, n)
	}
	for i := range n {
		r := &(*v)[i]
		dirty := uint8(0)
		if r.Dirty && !c.decoding {
			dirty = 1
		}
		c.region(&r.Region)
		c.u64((*uint64)(&r.Epoch))
		if c.u8(&dirty); dirty > 1 {
			c.wrong("dirty is %d", dirty)
		}
		if c.decoding {
			r.Dirty = dirty == 1
		}
		if i > 0 && r.Region <= (*v)[i-1].Region {
			c.wrong("region %d out of order", r.Region)
		}
	}
}

// extents are extents, ascending, that do not overlap.
func (c *coder) extents(v *[]block.Extent) {
	n := c.elements(len(*v), 12, ExtentsMax)
	if c.decoding {
		*v = resize(*v, n)
	}
	for i := range n {
		e := &(*v)[i]
		c.extent(e, extentBlocksMax)
		if i > 0 && e.Start < (*v)[i-1].End() {
			c.wrong("extent %v out of order", *e)
		}
	}
}

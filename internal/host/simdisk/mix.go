package simdisk

import "bytes"

// mix draws what is left of a file's bytes and size: between what is durable and what
// processes saw.
func (d *Disk) mix(n *inode) image {
	out, now, s := n.kept, n.now, d.stampNext()
	differ(out.pages, now.pages, func(i int64, old, fresh *page) {
		if _, lost := n.lost[i]; lost {
			return
		}
		if fresh == nil && i*pageSize >= now.size {
			return // cut off, or not, by the size
		}
		out.pages.set(i, d.mixPage(old, fresh, n.base), s)
	})
	if size := d.mixSize(out.size, now.size); size < max(out.size, now.size) {
		out.cut(size, s)
	} else {
		out.size = size
	}
	return out
}

// mixSize draws a size.
func (d *Disk) mixSize(kept, now int64) int64 {
	switch k := d.rand.IntN(4); {
	case kept == now || k == 0:
		return now
	case k == 1 || kept > now:
		return kept
	default: // as far as the data had been written back
		return kept + d.rand.Int64N(now-kept+1)
	}
}

// mixPage draws what is left of one page: whole, or sector by sector.
func (d *Disk) mixPage(old, fresh *page, base stamp) *page {
	switch k := d.rand.IntN(4); {
	case k == 0 || k == 1 && fresh == nil:
		return old
	case k == 1 || fresh == nil:
		return fresh
	}
	from := []*page{old, fresh}
	if fresh.older != nil && fresh.older.stamp >= base {
		from = append(from, fresh.older)
	}
	torn := &page{}
	for s := range sectors {
		if p := from[d.rand.IntN(len(from))]; p != nil {
			copy(torn.data[s*sectorSize:(s+1)*sectorSize], p.data[s*sectorSize:])
		}
	}
	if old == nil && bytes.Equal(torn.data[:], reserved.data[:]) {
		return nil
	}
	return torn
}

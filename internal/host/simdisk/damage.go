package simdisk

import (
	"maps"
	"slices"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// fail does what an op that fails by a fault does all the same.
func (d *Disk) fail(op *host.Op, kind fault.Kind) error {
	switch op.Kind {
	case host.OpWrite:
		d.writePart(d.handles[op.File].inode, op)
	case host.OpSync:
		d.drop(d.handles[op.File].inode)
	case host.OpSyncAll:
		for _, i := range slices.Sorted(maps.Keys(d.inodes)) {
			d.drop(d.inodes[i])
		}
	}
	return bad(op, kind, "%s: injected %s", tracePath(d.pathOf(op)), kind)
}

// drop is a failed sync of n.
func (d *Disk) drop(n *inode) {
	before := n.now.pages.used()
	n.file.drop(d.coin())
	d.grew(n, before)
}

// writePart lets a random selection of a write's sectors land.
func (d *Disk) writePart(n *inode, op *host.Op) {
	before := n.now.pages.used()
	room := d.room()
	for done := 0; done < len(op.Buf); {
		at := op.Offset + int64(done)
		part := op.Buf[done:min(len(op.Buf), done+int(sectorSize-at%sectorSize))]
		if d.coin() {
			n.write(at, part, room-(n.now.pages.used()-before), d.rand)
		}
		done += len(part)
	}
	d.grew(n, before)
}

// misdirect lets a write land at another page of its file.
func (d *Disk) misdirect(n *inode, op *host.Op) {
	pages := max(n.now.size, op.Offset+int64(len(op.Buf)))/pageSize - int64(len(op.Buf)-1)/pageSize
	d.allot(n, op)
	if pages < 2 || len(op.Buf) == 0 {
		return
	}
	to := d.rand.Int64N(pages - 1)
	if to >= op.Offset/pageSize {
		to++
	}
	at := to*pageSize + op.Offset%pageSize
	n.write(at, op.Buf[:min(int64(len(op.Buf)), n.now.size-at)], d.room(), d.rand)
}

// allot gives a write that does not land its space and size.
func (d *Disk) allot(n *inode, op *host.Op) {
	if len(op.Buf) == 0 {
		return
	}
	end := op.Offset + int64(len(op.Buf))
	n.now.pages.fill(op.Offset/pageSize, (end-1)/pageSize+1, n.own)
	n.now.size = max(n.now.size, end)
}

// FlipBit flips one bit of a file, where it is stored and in the cache: bit 0 is the
// lowest of byte 0. It fails when there is no such file, or no data there.
func (d *Disk) FlipBit(path string, bit int64) error {
	op := &host.Op{Path: path}
	if !validPath(path) {
		return fault.Errorf("simdisk.FlipBit", fault.Invalid, "path %q is not one below the root", path)
	}
	_, n, err := d.existing(op, path)
	if err != nil {
		return fault.Wrap("simdisk.FlipBit", err)
	}
	if n.dir || bit < 0 || bit/8 >= n.now.size || !d.flip(n, bit) {
		return fault.Errorf("simdisk.FlipBit", fault.Invalid, "%s has no data at bit %d", path, bit)
	}
	return nil
}

// flip flips a bit of n and returns false when it is in a hole.
func (d *Disk) flip(n *inode, bit int64) bool {
	at, in, mask := bit/8/pageSize, bit/8%pageSize, byte(1)<<(bit%8)
	now, kept := n.now.pages.get(at), n.kept.pages.get(at)
	if now == nil || now == reserved {
		return false
	}
	flipped := func(p *page) *page {
		c := *p
		c.data[in] ^= mask
		return &c
	}
	bad := flipped(now)
	n.now.pages.set(at, bad, d.stampNext())
	switch kept {
	case now:
		n.kept.pages.set(at, bad, d.stampNext())
	case nil, reserved:
	default:
		n.kept.pages.set(at, flipped(kept), d.stampNext())
	}
	return true
}

// rotRead flips a bit of what op is about to read, if there is data.
func (d *Disk) rotRead(op *host.Op) {
	h := d.handles[op.File]
	if h == nil || op.Offset < 0 {
		return
	}
	end := min(op.Offset+int64(len(op.Buf)), h.inode.now.size)
	if end <= op.Offset {
		return
	}
	if bit := op.Offset*8 + d.rand.Int64N((end-op.Offset)*8); d.flip(h.inode, bit) && d.trace != nil {
		d.trace(traceRot(h.path, bit))
	}
}

// Rot flips a random bit of the stored data of a random file, and returns which; ok is
// false when there are only empty files.
func (d *Disk) Rot() (path string, bit int64, ok bool) {
	var files []Info
	for _, f := range d.Files() {
		if !f.Dir && f.Size > 0 && f.Allocated > 0 {
			files = append(files, f)
		}
	}
	for range 100 { // a draw may hit a page that was reserved and never written
		if len(files) == 0 {
			break
		}
		f := files[d.rand.IntN(len(files))]
		n := d.inodes[f.ino]
		page := n.now.pages.nth(d.rand.Int64N(n.now.pages.used()))
		bit := page*pageSize*8 + d.rand.Int64N(pageSize*8)
		if bit/8 < n.now.size && d.flip(n, bit) {
			return f.Path, bit, true
		}
	}
	return "", 0, false
}

package simdisk

import "math/rand/v2"

// image is what a file holds: its bytes and its size. Bytes beyond the size are zeros.
type image struct {
	pages tree
	size  int64
}

// read fills buf from offset and returns how many bytes there were.
func (m *image) read(offset int64, buf []byte) int {
	if offset >= m.size {
		return 0
	}
	buf = buf[:min(int64(len(buf)), m.size-offset)]
	for done := 0; done < len(buf); {
		at, in := (offset+int64(done))/pageSize, int((offset+int64(done))%pageSize)
		part := buf[done:min(len(buf), done+pageSize-in)]
		if p := m.pages.get(at); p != nil {
			copy(part, p.data[in:])
		} else {
			clear(part)
		}
		done += len(part)
	}
	return len(buf)
}

// cut sets the size and drops what lies beyond it.
func (m *image) cut(size int64, s stamp) {
	m.size = size
	if in := size % pageSize; in != 0 {
		if p := m.pages.get(size / pageSize); p != nil && p != reserved {
			tail := &page{stamp: p.stamp}
			copy(tail.data[:in], p.data[:in])
			m.pages.set(size/pageSize, tail, s)
		}
	}
	m.pages.clear((size+pageSize-1)/pageSize, pagesMax, s)
}

// pagesMax is more pages than a file can have.
const pagesMax = 1 << 52

// file is the data of one file: what processes see, and what the medium has.
type file struct {
	now  image // with what was not synced
	kept image // what power loss leaves for sure

	own  stamp // of the pages and nodes that now may change in place
	base stamp // own as of the last sync: pages with a lower stamp are clean

	// lost holds the pages that a failed sync dropped: now has them, like a page
	// cache that marked them clean, but no sync makes them durable until they are
	// written again.
	lost map[int64]struct{}
}

// edit returns page i for change in place, or nil when it is a hole. A page that was
// not synced may leave its present version behind, which can be what a crash finds.
func (f *file) edit(i int64, r *rand.Rand) *page {
	p := f.now.pages.get(i)
	if p == nil {
		return nil
	}
	delete(f.lost, i)
	if p.stamp == f.own {
		if r.Uint64()%8 == 0 {
			p.older = &page{stamp: p.stamp, data: p.data}
		}
		return p
	}
	c := &page{stamp: f.own, data: p.data}
	if p.stamp >= f.base {
		c.older = p
	}
	f.now.pages.set(i, c, f.own)
	return c
}

// write puts data at offset and returns how many bytes it wrote: fewer than all when
// more than room new pages are needed.
func (f *file) write(offset int64, data []byte, room int64, r *rand.Rand) int {
	done := 0
	for done < len(data) {
		at, in := (offset+int64(done))/pageSize, int((offset+int64(done))%pageSize)
		p := f.edit(at, r)
		if p == nil {
			if room == 0 {
				break
			}
			room--
			delete(f.lost, at)
			p = &page{stamp: f.own}
			f.now.pages.set(at, p, f.own)
		}
		done += copy(p.data[in:], data[done:])
	}
	if done > 0 {
		f.now.size = max(f.now.size, offset+int64(done))
	}
	return done
}

// zero clears bytes within one page, without allocating it.
func (f *file) zero(from, to int64, r *rand.Rand) {
	at := from / pageSize
	if p := f.now.pages.get(at); from < to && p != nil && p != reserved {
		clear(f.edit(at, r).data[from-at*pageSize : to-at*pageSize])
	}
}

// punch makes a hole; the parts of pages at its ends are zeroed.
func (f *file) punch(from, to int64, r *rand.Rand) {
	first, last := (from+pageSize-1)/pageSize, to/pageSize
	if first > last { // within one page
		f.zero(from, to, r)
		return
	}
	f.zero(from, first*pageSize, r)
	f.zero(last*pageSize, to, r)
	f.now.pages.clear(first, last, f.own)
	f.found(first, last)
}

// truncate sets the size.
func (f *file) truncate(size int64) {
	if size < f.now.size {
		f.now.cut(size, f.own)
		f.found(size/pageSize, pagesMax)
	}
	f.now.size = size
}

// found forgets that pages were lost: what they hold now was decided afresh.
func (f *file) found(from, to int64) {
	for i := range f.lost {
		if i >= from && i < to {
			delete(f.lost, i)
		}
	}
}

// sync makes what the file holds durable, without the pages that were lost earlier.
func (f *file) sync(next func() stamp) {
	if f.now == f.kept {
		return
	}
	before := f.kept
	f.kept = f.now
	f.restore(&f.kept, before, next())
	f.own = next()
	f.base = f.own
}

// restore gives m the lost pages as they are in before.
func (f *file) restore(m *image, before image, s stamp) {
	if len(f.lost) == 0 {
		return
	}
	for i := range f.lost {
		m.pages.set(i, before.pages.get(i), s)
	}
	m.cut(m.size, s)
}

// drop is a sync that failed: the pages that it should have made durable will never
// be. With evict the cache forgets them at once, so that reads tell; without, reads
// go on returning them until a crash.
func (f *file) drop(evict bool) {
	differ(f.kept.pages, f.now.pages, func(i int64, _, _ *page) {
		if f.lost == nil {
			f.lost = make(map[int64]struct{})
		}
		f.lost[i] = struct{}{}
	})
	if evict {
		f.restore(&f.now, f.kept, f.own)
		f.lost = nil
	}
}

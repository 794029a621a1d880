package simdisk

import "fmt"

// Check recounts what the disk keeps count of.
func (d *Disk) Check() error {
	links, refs := map[ino]int{}, map[ino]int{root: 1}
	count := func(c change) {
		for _, e := range c.edits {
			refs[e.ino]++
		}
		for _, dir := range c.dirs {
			refs[dir]++
		}
	}
	for _, n := range d.inodes {
		for _, e := range n.names.list {
			links[e.ino]++
			refs[e.ino]++
		}
		for _, e := range n.namesKept.list {
			refs[e.ino]++
		}
	}
	for _, h := range d.handles {
		refs[h.inode.id]++
	}
	for _, c := range d.journal {
		count(c)
	}
	var used int64
	for i, n := range d.inodes {
		if links[i] != n.links || refs[i] != n.refs {
			return fmt.Errorf("inode %d has %d links and %d refs, counted %d and %d", i, n.links, n.refs, links[i], refs[i])
		}
		if n.alive() {
			used += n.now.pages.used() * pageSize
		}
		for _, m := range []*image{&n.now, &n.kept} {
			if err := m.check(); err != nil {
				return fmt.Errorf("inode %d: %w", i, err)
			}
		}
	}
	if used != d.used {
		return fmt.Errorf("%d bytes in use, counted %d", d.used, used)
	}
	return nil
}

func (m *image) check() (err error) {
	var pages int64
	m.pages.each(func(i int64, p *page) {
		pages++
		for in := max(0, min(pageSize, m.size-i*pageSize)); in < pageSize; in++ {
			if p.data[in] != 0 {
				err = fmt.Errorf("byte %d beyond the size %d is %#x", i*pageSize+in, m.size, p.data[in])
				return
			}
		}
	})
	if pages != m.pages.used() {
		return fmt.Errorf("%d pages, counted %d", m.pages.used(), pages)
	}
	return err
}

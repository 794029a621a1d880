package simdisk

import "slices"

// change is one change of names that is not durable yet: a creation, rename, link or
// removal. It survives power loss whole or not at all.
type change struct {
	edits []edit // what it does to the tables
	waits []ino  // directories that are still to be synced before it is durable
	dirs  []ino  // directories whose changes before it survive if it does

	// after is set when every change before it survives if it does: directories that
	// move between directories would otherwise form rings.
	after bool
}

// edit makes name in dir stand for ino, or for nothing when ino is 0.
type edit struct {
	dir  ino
	name string
	ino  ino
}

// commit makes a change of names visible, and pending until the directories in which
// it changes names are synced. gone is a directory that it removes or replaces, or 0.
func (d *Disk) commit(after bool, gone ino, edits ...edit) {
	c := change{edits: edits, after: after}
	for _, e := range edits {
		if !slices.Contains(c.waits, e.dir) {
			c.waits = append(c.waits, e.dir)
		}
	}
	c.dirs = slices.Clone(c.waits)
	if gone != 0 {
		c.dirs = append(c.dirs, gone)
	}
	d.pin(c, +1)
	d.journal = append(d.journal, c)
	for _, e := range edits {
		d.setName(d.inodes[e.dir], e.name, e.ino)
	}
}

// pin keeps the inodes that c mentions, or lets them go.
func (d *Disk) pin(c change, by int) {
	one := func(i ino) {
		if n := d.inodes[i]; by > 0 {
			n.refs++
		} else {
			d.release(n)
		}
	}
	for _, e := range c.edits {
		if e.ino != 0 {
			one(e.ino)
		}
	}
	for _, dir := range c.dirs {
		one(dir)
	}
}

// syncDir makes every change of names in dir durable for which dir was the last
// directory to wait for, and what those depend on. So a rename into another directory
// that was not synced stays in doubt, unless something that must survive came after it.
func (d *Disk) syncDir(dir ino) {
	for i := range d.journal {
		c := &d.journal[i]
		if at := slices.Index(c.waits, dir); at >= 0 {
			c.waits = slices.Delete(slices.Clone(c.waits), at, at+1)
		}
	}
	keep := make([]bool, len(d.journal))
	needed := make(map[ino]bool)
	all := false
	for i, c := range slices.Backward(d.journal) {
		keep[i] = all || len(c.waits) == 0 || slices.ContainsFunc(c.dirs, func(i ino) bool { return needed[i] })
		if keep[i] {
			all = all || c.after
			for _, dir := range c.dirs {
				needed[dir] = true
			}
		}
	}
	d.settle(keep)
}

// settle makes the marked changes durable and leaves the others pending.
func (d *Disk) settle(keep []bool) {
	var rest, settled []change
	for i, c := range d.journal {
		if !keep[i] {
			rest = append(rest, c)
			continue
		}
		settled = append(settled, c)
		for _, e := range c.edits {
			d.setKept(d.inodes[e.dir], e.name, e.ino)
		}
	}
	d.journal = rest
	for _, c := range settled {
		d.pin(c, -1)
	}
}

// settleAll makes every change durable.
func (d *Disk) settleAll() {
	d.settle(slices.Repeat([]bool{true}, len(d.journal)))
}

// settleSome draws how far each directory's changes got, and makes durable the
// changes that got through in all of their directories.
func (d *Disk) settleSome() {
	left := make(map[ino]int) // changes that may still survive, by directory
	for _, c := range d.journal {
		for _, dir := range c.dirs {
			left[dir]++
		}
	}
	drawn := make(map[ino]bool)
	keep := make([]bool, len(d.journal))
	cut := false
	for i, c := range d.journal {
		keep[i] = !c.after || !cut
		for _, dir := range c.dirs {
			if !drawn[dir] {
				drawn[dir], left[dir] = true, d.rand.IntN(left[dir]+1)
			}
			keep[i] = keep[i] && left[dir] > 0
		}
		for _, dir := range c.dirs {
			if left[dir]--; !keep[i] {
				left[dir] = 0
			}
		}
		cut = cut || !keep[i]
	}
	d.settle(keep)
}

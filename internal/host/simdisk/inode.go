package simdisk

// inode is a file or a directory: names refer to it, it does not know them.
type inode struct {
	id  ino
	dir bool

	file // of a file

	names     names // of a directory: what processes see
	namesKept names // of a directory: what power loss leaves for sure

	links  int  // names that processes see
	opens  int  // handles
	refs   int  // links, kept names, handles and pending changes; at 0 it is forgotten
	locked bool // by a handle that was opened with Lock
	freed  bool // gave its space back: it has neither name nor handle
}

// alive reports whether the inode holds space: it has a name or a handle.
func (n *inode) alive() bool { return n.links > 0 || n.opens > 0 || n.id == root }

// stampNext returns a stamp that nothing carries yet.
func (d *Disk) stampNext() stamp {
	d.stamp++
	return d.stamp
}

func (d *Disk) newInode(dir bool) *inode {
	d.inoLast++
	n := &inode{id: d.inoLast, dir: dir}
	n.own = d.stampNext()
	n.base = n.own
	d.inodes[n.id] = n
	return n
}

// grew accounts for the space that n took since it had before pages.
func (d *Disk) grew(n *inode, before int64) {
	if !n.freed {
		d.used += (n.now.pages.used() - before) * pageSize
	}
}

// room returns how many more pages the disk has space for.
func (d *Disk) room() int64 { return max(0, d.capacity-d.used) / pageSize }

// setName changes what processes see: name in dir stands for i, or for nothing.
func (d *Disk) setName(dir *inode, name string, i ino) {
	if i != 0 {
		n := d.inodes[i]
		n.links++
		n.refs++
	}
	if before := dir.names.put(name, i); before != 0 {
		n := d.inodes[before]
		n.links--
		d.release(n)
	}
}

// setKept is setName for what power loss leaves.
func (d *Disk) setKept(dir *inode, name string, i ino) {
	if i != 0 {
		d.inodes[i].refs++
	}
	if before := dir.namesKept.put(name, i); before != 0 {
		d.release(d.inodes[before])
	}
}

// release takes one reference away, and gives the space back when nobody can reach
// the file any more.
func (d *Disk) release(n *inode) {
	if !n.alive() && !n.freed {
		n.freed = true
		d.used -= n.now.pages.used() * pageSize
	}
	if n.refs--; n.refs == 0 {
		delete(d.inodes, n.id)
	}
}

package simdisk

import (
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// applyNames performs an op on names whose paths are valid.
func (d *Disk) applyNames(op *host.Op) error {
	switch op.Kind {
	case host.OpOpen:
		return d.open(op)
	case host.OpRename:
		return d.rename(op)
	case host.OpLink:
		return d.link(op)
	case host.OpRemove:
		return d.remove(op)
	case host.OpMkdir:
		return d.mkdir(op)
	case host.OpList:
		return d.list(op)
	}
	dir, err := d.directory(op) // OpSyncDir
	if err == nil {
		d.syncDir(dir.id)
	}
	return err
}

func (d *Disk) open(op *host.Op) error {
	at, err := d.lookup(op, op.Path)
	if err != nil {
		return err
	}
	n := d.inodes[at.ino]
	create, exclusive := op.Flags&host.Create != 0, op.Flags&host.Exclusive != 0
	switch {
	case n == nil && !create:
		return bad(op, fault.NotFound, "%s does not exist", op.Path)
	case n == nil:
		n = d.newInode(false)
		d.commit(false, 0, edit{at.dir.id, at.name, n.id})
	case create && exclusive:
		return bad(op, fault.Exists, "%s exists", op.Path)
	case n.dir:
		return bad(op, fault.Invalid, "%s is a directory", op.Path)
	case op.Flags&host.Lock != 0 && n.locked:
		return bad(op, fault.Busy, "%s is locked by another handle: wait until it is closed", op.Path)
	}
	if op.Flags&host.Lock != 0 {
		n.locked = true
	}
	n.opens++
	n.refs++
	d.handleLast++
	op.File = d.handleLast
	d.handles[op.File] = &handle{inode: n, path: op.Path, flags: op.Flags}
	return nil
}

func (d *Disk) rename(op *host.Op) error {
	from, n, err := d.existing(op, op.Path)
	if err != nil {
		return err
	}
	to, err := d.lookup(op, op.To)
	if err != nil {
		return err
	}
	if n.id == root || to.ino == root {
		return bad(op, fault.Invalid, "the root can't be renamed or replaced")
	}
	if n.dir && d.passes(op.To, n.id) && to.ino != n.id {
		return bad(op, fault.Invalid, "%s can't be moved below itself", op.Path)
	}
	var gone ino
	if there := d.inodes[to.ino]; there != nil {
		switch {
		case there == n:
			return nil // two names of one file stay as they are
		case there.dir != n.dir:
			return bad(op, fault.Invalid, "one of %s and %s is a directory", op.Path, op.To)
		case there.dir && len(there.names.list) > 0:
			return bad(op, fault.Exists, "%s is not empty", op.To)
		case there.dir:
			gone = there.id
		}
	}
	// The new name comes first, so that the file is never without one.
	d.commit(n.dir && from.dir != to.dir, gone,
		edit{to.dir.id, to.name, n.id}, edit{from.dir.id, from.name, 0})
	return nil
}

func (d *Disk) link(op *host.Op) error {
	_, n, err := d.existing(op, op.Path)
	if err != nil {
		return err
	}
	to, err := d.lookup(op, op.To)
	switch {
	case err != nil:
		return err
	case to.ino != 0:
		return bad(op, fault.Exists, "%s exists", op.To)
	case n.dir:
		return bad(op, fault.Denied, "%s is a directory: only files can have two names", op.Path)
	}
	d.commit(false, 0, edit{to.dir.id, to.name, n.id})
	return nil
}

func (d *Disk) remove(op *host.Op) error {
	at, n, err := d.existing(op, op.Path)
	switch {
	case err != nil:
		return err
	case n.id == root:
		return bad(op, fault.Invalid, "the root can't be removed")
	case n.dir && len(n.names.list) > 0:
		return bad(op, fault.Exists, "%s is not empty", op.Path)
	}
	var gone ino
	if n.dir {
		gone = n.id
	}
	d.commit(false, gone, edit{at.dir.id, at.name, 0})
	return nil
}

func (d *Disk) mkdir(op *host.Op) error {
	at, err := d.lookup(op, op.Path)
	switch {
	case err != nil:
		return err
	case at.ino != 0:
		return bad(op, fault.Exists, "%s exists", op.Path)
	}
	d.commit(false, 0, edit{at.dir.id, at.name, d.newInode(true).id})
	return nil
}

func (d *Disk) list(op *host.Op) error {
	dir, err := d.directory(op)
	if err != nil {
		return err
	}
	op.Entries = make([]host.Entry, 0, len(dir.names.list))
	for _, e := range dir.names.list {
		op.Entries = append(op.Entries, host.Entry{Name: e.name, Dir: d.inodes[e.ino].dir})
	}
	if !d.inOrder {
		d.rand.Shuffle(len(op.Entries), func(i, j int) {
			op.Entries[i], op.Entries[j] = op.Entries[j], op.Entries[i]
		})
	}
	return nil
}

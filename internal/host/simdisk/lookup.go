package simdisk

import (
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// place is where a path leads: name in the directory dir, which may or may not be
// there. The root has no name.
type place struct {
	dir  *inode
	name string
	ino  ino // what is there, or 0
}

// lookup follows a valid path. It fails when one of its directories is missing.
func (d *Disk) lookup(op *host.Op, path string) (place, error) {
	dir := d.inodes[root]
	if path == "." {
		return place{dir: dir, ino: root}, nil
	}
	for rest := path; ; {
		var name string
		name, rest = split(rest)
		i := dir.names.get(name)
		if rest == "" {
			return place{dir, name, i}, nil
		}
		if i == 0 {
			return place{}, bad(op, fault.NotFound, "%s: there is no directory %s", path, name)
		}
		if dir = d.inodes[i]; !dir.dir {
			return place{}, bad(op, fault.Invalid, "%s: %s is not a directory", path, name)
		}
	}
}

// existing follows a valid path to what must be there.
func (d *Disk) existing(op *host.Op, path string) (place, *inode, error) {
	p, err := d.lookup(op, path)
	if err != nil {
		return p, nil, err
	}
	if p.ino == 0 {
		return p, nil, bad(op, fault.NotFound, "%s does not exist", path)
	}
	return p, d.inodes[p.ino], nil
}

// directory follows a valid path to what must be a directory.
func (d *Disk) directory(op *host.Op) (*inode, error) {
	_, n, err := d.existing(op, op.Path)
	if err == nil && !n.dir {
		err = bad(op, fault.Invalid, "%s is not a directory", op.Path)
	}
	return n, err
}

// passes reports whether a path that lookup has followed goes through directory i.
func (d *Disk) passes(path string, i ino) bool {
	at := root
	for rest := path; rest != "" && at != 0 && at != i; {
		var name string
		name, rest = split(rest)
		at = d.inodes[at].names.get(name)
	}
	return at == i
}

package simdisk

import (
	"slices"
	"strings"
)

// ino identifies a file or directory for as long as the disk exists; root is the
// root directory's.
type ino int

const root ino = 1

// entry is one name in a directory.
type entry struct {
	name string
	ino  ino
}

// names is a directory's table, sorted by name. It is copied by share.
type names struct {
	list   []entry
	shared bool // with another table: to be copied before it is changed
}

func (n *names) find(name string) (int, bool) {
	return slices.BinarySearchFunc(n.list, name, func(e entry, name string) int {
		return strings.Compare(e.name, name)
	})
}

// get returns what name stands for, or 0.
func (n *names) get(name string) ino {
	if at, ok := n.find(name); ok {
		return n.list[at].ino
	}
	return 0
}

// put makes name stand for i, or for nothing when i is 0, and returns what it stood
// for before.
func (n *names) put(name string, i ino) (before ino) {
	if n.shared {
		n.list, n.shared = slices.Clone(n.list), false
	}
	at, ok := n.find(name)
	switch {
	case ok && i == 0:
		before = n.list[at].ino
		n.list = slices.Delete(n.list, at, at+1)
	case ok:
		before, n.list[at].ino = n.list[at].ino, i
	case i != 0:
		n.list = slices.Insert(n.list, at, entry{name, i})
	}
	return before
}

// share returns a second table with the same names.
func (n *names) share() names {
	n.shared = true
	return *n
}

// nameMax is the longest name, in bytes.
const nameMax = 255

// split cuts the first name off a path; rest is empty after the last one.
func split(path string) (name, rest string) {
	name, rest, _ = strings.Cut(path, "/")
	return name, rest
}

// validPath reports whether path is "." or names joined by single slashes, none of
// them "." or "..": a path that stays below the root.
func validPath(path string) bool {
	if path == "." {
		return true
	}
	if path == "" || strings.HasSuffix(path, "/") || strings.IndexByte(path, 0) >= 0 {
		return false
	}
	for rest := path; rest != ""; {
		var name string
		name, rest = split(rest)
		if name == "" || name == "." || name == ".." || len(name) > nameMax {
			return false
		}
	}
	return true
}

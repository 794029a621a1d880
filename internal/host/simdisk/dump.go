package simdisk

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strings"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// Info is one name on the disk, and what it stands for.
type Info struct {
	Path      string
	Dir       bool
	Size      int64 // bytes
	Allocated int64 // bytes
	Links     int
	ino       ino
}

// Files returns every name on the disk, as processes see it, directories before what
// is in them, otherwise sorted.
func (d *Disk) Files() []Info {
	var infos []Info
	d.walk("", root, func(path string, n *inode) {
		infos = append(infos, Info{path, n.dir, n.now.size, n.now.pages.used() * pageSize, n.links, n.id})
	})
	return infos
}

func (d *Disk) walk(prefix string, dir ino, f func(path string, n *inode)) {
	n := d.inodes[dir]
	if n == nil {
		return
	}
	for _, e := range n.names.list {
		f(prefix+e.name, d.inodes[e.ino])
		d.walk(prefix+e.name+"/", e.ino, f)
	}
}

// Dump returns a line for every name on the disk, with a checksum of its bytes: disks
// with the same Dump look the same to every reader.
func (d *Disk) Dump() string {
	var b strings.Builder
	d.walk("", root, func(path string, n *inode) {
		if n.dir {
			fmt.Fprintf(&b, "%s/\n", tracePath(path))
			return
		}
		fmt.Fprintf(&b, "%s size=%d allocated=%d links=%d crc=%08x\n",
			tracePath(path), n.now.size, n.now.pages.used()*pageSize, n.links, n.now.checksum())
	})
	return b.String()
}

// checksum sums the pages that are not zeros, each with its place.
func (m *image) checksum() uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	var sum uint32
	m.pages.each(func(i int64, p *page) {
		if p == reserved || p.data == reserved.data {
			return
		}
		sum = crc32.Update(sum, table, binary.LittleEndian.AppendUint64(nil, uint64(i)))
		sum = crc32.Update(sum, table, p.data[:])
	})
	return sum
}

// ReadFile returns the bytes of a file, as processes see it.
func (d *Disk) ReadFile(path string) ([]byte, error) {
	if !validPath(path) {
		return nil, fault.Errorf("simdisk.ReadFile", fault.Invalid, "path %q is not one below the root", path)
	}
	_, n, err := d.existing(&host.Op{Kind: host.OpRead}, path)
	if err != nil {
		return nil, err
	}
	if n.dir {
		return nil, fault.Errorf("simdisk.ReadFile", fault.Invalid, "%s is a directory", path)
	}
	data := make([]byte, n.now.size)
	n.now.read(0, data)
	return data, nil
}

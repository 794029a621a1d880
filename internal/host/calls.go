package host

import (
	"bytes"
	"encoding/binary"
	"syscall"

	"golang.org/x/sys/unix"
)

// call does the operation in s, or what is left of it, by system calls that block.
func (s *slot) call() error {
	d, op := s.dir, s.op
	switch op.Kind {
	case OpRead, OpWrite:
		return s.transfer()
	case OpSync:
		return again(func() error { return unix.Fdatasync(s.file.fd) })
	case OpPunch, OpAllocate:
		mode := fallocateMode(op.Kind)
		return again(func() error { return unix.Fallocate(s.file.fd, mode, op.Offset, op.Length) })
	case OpTruncate:
		return again(func() error { return unix.Ftruncate(s.file.fd, op.Length) })
	case OpStat:
		return s.stat()
	case OpOpen:
		return s.open()
	case OpClose:
		// Whatever close says, the descriptor is gone: it is not called again.
		if err := unix.Close(s.file.fd); err != syscall.EINTR {
			return err
		}
		return nil
	case OpRename:
		return d.in(op.Path, func(from int, name string) error {
			return d.in(op.To, func(to int, newName string) error {
				return unix.Renameat(from, name, to, newName)
			})
		})
	case OpLink:
		return d.in(op.Path, func(from int, name string) error {
			return d.in(op.To, func(to int, newName string) error {
				return unix.Linkat(from, name, to, newName, 0)
			})
		})
	case OpRemove:
		return d.in(op.Path, remove)
	case OpMkdir:
		return d.in(op.Path, func(dir int, name string) error { return unix.Mkdirat(dir, name, dirMode) })
	case OpList:
		return s.list()
	case OpSyncDir:
		fd, err := openBelow(d.fd, op.Path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		defer closeFD(fd)
		return again(func() error { return unix.Fsync(fd) })
	case OpSyncAll:
		return again(func() error { return unix.Syncfs(d.fd) })
	case OpSpace:
		return s.space()
	}
	return syscall.EINVAL
}

func fallocateMode(k Kind) uint32 {
	if k == OpPunch {
		return unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	}
	return unix.FALLOC_FL_KEEP_SIZE
}

// transfer reads or writes until advance is content.
func (s *slot) transfer() error {
	for {
		rest := s.op.Buf[s.moved:]
		rest = rest[:min(len(rest), transferMax)]
		var n int
		err := again(func() (err error) {
			if s.op.Kind == OpRead {
				n, err = unix.Pread(s.file.fd, rest, s.op.Offset+int64(s.moved))
			} else {
				n, err = unix.Pwrite(s.file.fd, rest, s.op.Offset+int64(s.moved))
			}
			return err
		})
		if err != nil {
			return err
		}
		if !s.advance(n) {
			return s.err
		}
	}
}

func (s *slot) stat() error {
	var st unix.Stat_t
	if err := again(func() error { return unix.Fstat(s.file.fd, &st) }); err != nil {
		return err
	}
	s.op.Stat = Stat{Size: st.Size, Allocated: st.Blocks * 512, Links: int(st.Nlink)}
	return nil
}

func (s *slot) space() error {
	var st unix.Statfs_t
	if err := again(func() error { return unix.Fstatfs(s.dir.fd, &st) }); err != nil {
		return err
	}
	s.op.Space = Space{Size: int64(st.Blocks) * st.Frsize, Free: int64(st.Bavail) * st.Frsize}
	return nil
}

func remove(dir int, name string) error {
	err := unix.Unlinkat(dir, name, 0)
	if err == syscall.EISDIR {
		return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
	}
	return err
}

// list does OpList.
func (s *slot) list() error {
	fd, err := openBelow(s.dir.fd, s.op.Path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer closeFD(fd)
	var entries []Entry
	buf := make([]byte, 64<<10)
	for {
		var n int
		err := again(func() (err error) { n, err = unix.Getdents(fd, buf); return err })
		if err != nil {
			return err
		}
		if n == 0 {
			s.op.Entries = entries
			return nil
		}
		if entries, err = appendEntries(entries, fd, buf[:n]); err != nil {
			return err
		}
	}
}

// appendEntries adds what a system call found in the directory dir. An entry there
// is: inode u64 | offset u64 | length u16 | type u8 | name, ended by a zero byte.
func appendEntries(entries []Entry, dir int, found []byte) ([]Entry, error) {
	const nameAt = 19
	for len(found) > 0 {
		length := binary.NativeEndian.Uint16(found[16:])
		kind, name := found[18], found[nameAt:length]
		found = found[length:]
		e := Entry{Name: string(name[:bytes.IndexByte(name, 0)]), Dir: kind == unix.DT_DIR}
		if e.Name == "." || e.Name == ".." {
			continue
		}
		if kind == unix.DT_UNKNOWN { // some filesystems keep no types in directories
			var st unix.Stat_t
			switch err := unix.Fstatat(dir, e.Name, &st, unix.AT_SYMLINK_NOFOLLOW); err {
			case nil:
				e.Dir = st.Mode&unix.S_IFMT == unix.S_IFDIR
			case syscall.ENOENT:
				continue // removed meanwhile
			default:
				return nil, err
			}
		}
		entries = append(entries, e)
	}
	return entries, nil
}

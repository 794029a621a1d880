package link

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// nowWriter writes to a socket what it takes at once: package net would wait. It makes
// one system call, and allocates nothing.
type nowWriter struct {
	socket  *socket
	raw     syscall.RawConn // nil: nothing is taken
	call    func(fd uintptr) bool
	vectors [vectorsMax]unix.Iovec
	used    int // of vectors
	n       int
	errno   syscall.Errno
}

func (w *nowWriter) init(s *socket) {
	w.socket, w.call = s, w.writev
	if c, ok := s.Conn.(syscall.Conn); ok {
		if raw, err := c.SyscallConn(); err == nil {
			w.raw = raw
		}
	}
}

// write writes list, at most vectorsMax buffers none of which is empty, as far as it
// goes, and returns how many bytes that were.
func (w *nowWriter) write(list [][]byte) (int, error) {
	if w.raw == nil || len(list) == 0 {
		return 0, nil
	}
	for i, b := range list {
		w.vectors[i].Base = unsafe.SliceData(b)
		w.vectors[i].SetLen(len(b))
	}
	w.used = len(list)
	err := w.raw.Write(w.call)
	clear(w.vectors[:w.used])
	if err == nil && w.errno != 0 {
		err = w.errno
	}
	if err != nil {
		return 0, err
	}
	w.socket.count(w.n)
	return w.n, nil
}

// writev makes the system call; true tells package net that there is nothing to wait for.
func (w *nowWriter) writev(fd uintptr) bool {
	w.n, w.errno = 0, 0
	for {
		n, _, errno := syscall.Syscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&w.vectors[0])), uintptr(w.used))
		switch errno {
		case 0:
			w.n = int(n)
		case unix.EINTR:
			continue
		case unix.EAGAIN:
		default:
			w.errno = errno
		}
		return true
	}
}

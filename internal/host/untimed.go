package host

import (
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// XFS's own way to open a file: linux/fs/xfs/libxfs/xfs_fs.h.
const (
	xfsFDToHandle   = 3<<30 | unsafe.Sizeof(xfsHandleRequest{})<<16 | 'X'<<8 | 106
	xfsOpenByHandle = 3<<30 | unsafe.Sizeof(xfsHandleRequest{})<<16 | 'X'<<8 | 107

	xfsHandleSize = 24
)

// xfsHandleRequest is laid out by the kernel.
type xfsHandleRequest struct {
	fd           uint32
	_            unsafe.Pointer // path
	flags        uint32
	handle       unsafe.Pointer
	handleLength uint32
	out          unsafe.Pointer
	outLength    unsafe.Pointer
}

// untimed opens the regular file of fd, in the filesystem of the directory dir, in such
// a way that its times stay as they are whatever is written to it, and closes fd. XFS
// alone has that, and for root alone; elsewhere it returns fd.
//
// A write that changes the file's times is one that io_uring leaves to a kernel thread,
// because it may have to wait for XFS's log. The times change with every tick of the
// kernel's coarse clock, so one file's writes seldom do, and writes that are spread over
// many files nearly always.
func untimed(dir, fd int) int {
	var handle [xfsHandleSize]byte
	length := uint32(len(handle))
	get := xfsHandleRequest{fd: uint32(fd), out: unsafe.Pointer(&handle), outLength: unsafe.Pointer(&length)}
	if _, errno := xfsHandle(fd, xfsFDToHandle, &get); errno != 0 || length > xfsHandleSize {
		return fd
	}
	syscall.ForkLock.RLock() // the kernel does not close this one when a program is started
	defer syscall.ForkLock.RUnlock()
	open := xfsHandleRequest{flags: unix.O_RDWR, handle: unsafe.Pointer(&handle), handleLength: length}
	other, errno := xfsHandle(dir, xfsOpenByHandle, &open)
	if errno != 0 {
		return fd
	}
	unix.CloseOnExec(other)
	if !sameFile(fd, other) { // another filesystem is mounted below dir
		closeFD(other)
		return fd
	}
	closeFD(fd)
	return other
}

func sameFile(a, b int) bool {
	var sa, sb unix.Stat_t
	return unix.Fstat(a, &sa) == nil && unix.Fstat(b, &sb) == nil && sa.Dev == sb.Dev && sa.Ino == sb.Ino
}

func xfsHandle(fd int, request uintptr, arg *xfsHandleRequest) (int, syscall.Errno) {
	n, _, errno := syscall.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(arg)))
	runtime.KeepAlive(arg)
	return int(n), errno
}

package attachtest

import (
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/attach"
)

// Client is a user of a device. Its methods may be called from any goroutine; errors
// are syscall.Errno. Buffers begin at a multiple of host.Align.
type Client interface {
	Size() (int64, error)
	BlockSize() (int, error)
	Read(p []byte, offset int64) error         // past any cache
	Write(p []byte, offset int64) error        // past any cache
	WriteThrough(p []byte, offset int64) error // durable
	Flush() error
	Discard(offset, length int64) error
	Zero(offset, length int64) error // write zeroes
	Close()
}

// ioctls of linux/fs.h.
const (
	blkSectorSize = 0x1268
	blkDiscard    = 0x1277
	blkZeroOut    = 0x127f
	blkSize64     = 0x80081272
)

// device is a client of a block device.
type device int

// openDevice opens the device by its link, past the page cache.
func openDevice(t testing.TB, f attach.Frontend) Client { return OpenDevice(t, f.Device().Link) }

// OpenDevice opens a block device, past the page cache, until the test ends or Close
// is called: for reading only when it allows no more.
func OpenDevice(t testing.TB, path string) Client {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err == unix.EROFS || err == unix.EACCES {
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		t.Fatalf("open %s: %v", path, err)
	}
	d := device(fd)
	t.Cleanup(d.Close)
	return &d
}

func (d *device) Size() (size int64, err error) {
	return size, d.ioctl(blkSize64, unsafe.Pointer(&size))
}

func (d *device) BlockSize() (int, error) {
	var size int32
	err := d.ioctl(blkSectorSize, unsafe.Pointer(&size))
	return int(size), err
}

func (d *device) Read(p []byte, offset int64) error {
	n, err := unix.Pread(int(*d), p, offset)
	return whole(n, len(p), err)
}

func (d *device) Write(p []byte, offset int64) error {
	n, err := unix.Pwrite(int(*d), p, offset)
	return whole(n, len(p), err)
}

func (d *device) WriteThrough(p []byte, offset int64) error {
	n, err := unix.Pwritev2(int(*d), [][]byte{p}, offset, unix.RWF_DSYNC)
	return whole(n, len(p), err)
}

// whole makes an error of a transfer that stopped early, as one beyond the end does.
func whole(n, want int, err error) error {
	if err == nil && n < want {
		return syscall.ENXIO
	}
	return err
}

func (d *device) Flush() error { return unix.Fdatasync(int(*d)) }

func (d *device) Discard(offset, length int64) error {
	return d.ioctl(blkDiscard, unsafe.Pointer(&[2]int64{offset, length}))
}

func (d *device) Zero(offset, length int64) error {
	return d.ioctl(blkZeroOut, unsafe.Pointer(&[2]int64{offset, length}))
}

func (d *device) ioctl(request uintptr, p unsafe.Pointer) error {
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(*d), request, uintptr(p)); e != 0 {
		return e
	}
	return nil
}

func (d *device) Close() {
	if *d >= 0 {
		_ = unix.Close(int(*d)) // all that matters was flushed
		*d = -1
	}
}

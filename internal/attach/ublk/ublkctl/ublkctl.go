// Package ublkctl makes ublk devices, tells about them, and takes them away
// (/dev/ublk-control; linux/ublk_cmd.h). It does not serve them.
//
// Some of its verbs wait for whoever serves the device, so it is called in processes of
// errands only.
package ublkctl

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/attach/ublk/uring"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

const controlPath = "/dev/ublk-control"

// Commands, as ioctl numbers, which is how they are encoded since Linux 6.4.
const (
	cmdGetInfo  = 2<<30 | 32<<16 | 'u'<<8 | 0x02
	cmdAdd      = 3<<30 | 32<<16 | 'u'<<8 | 0x04
	cmdDelete   = 3<<30 | 32<<16 | 'u'<<8 | 0x05
	cmdStart    = 3<<30 | 32<<16 | 'u'<<8 | 0x06
	cmdStop     = 3<<30 | 32<<16 | 'u'<<8 | 0x07
	cmdSet      = 3<<30 | 32<<16 | 'u'<<8 | 0x08
	cmdRecover  = 3<<30 | 32<<16 | 'u'<<8 | 0x10
	cmdComplete = 3<<30 | 32<<16 | 'u'<<8 | 0x11
	cmdDrop     = 2<<30 | 32<<16 | 'u'<<8 | 0x14 // delete without waiting for its users; Linux 6.9
	cmdResize   = 3<<30 | 32<<16 | 'u'<<8 | 0x15 // Linux 6.16
)

// Flags of devices.
const (
	compInTask  = 1 << 1
	userRecover = 1 << 3
	reissue     = 1 << 4
	ioctlEncode = 1 << 6
)

// Parameters of devices.
const (
	paramsBytes    = 128
	paramBasic     = 1 << 0
	paramDiscard   = 1 << 1
	attrReadOnly   = 1 << 0
	attrWriteCache = 1 << 2
	attrFUA        = 1 << 3
)

const infoBytes = 64

// Params say what a new device is to be.
type Params struct {
	Depth     int    `json:"depth"`
	IOBytes   int    `json:"io_bytes"` // longest request
	Size      int64  `json:"size"`
	BlockSize int    `json:"block_size"`
	ReadOnly  bool   `json:"read_only,omitempty"`
	NoDiscard bool   `json:"no_discard,omitempty"`
	Mark      uint64 `json:"mark"` // tells the device from others that have its number later
}

// Info is what there is to know of a device.
type Info struct {
	ID    uint32 `json:"id"`
	Depth int    `json:"depth,omitempty"`
	Mark  uint64 `json:"mark,omitempty"`
	State State  `json:"state,omitempty"`
}

// State says how far a device has come.
type State uint16

// The states.
const (
	Dead     State = 0 // not started, or stopped
	Live     State = 1
	Quiesced State = 2 // who served it is gone; its I/O waits
)

// BlockPath and CharPath return the names of device id: of the block device, and of what
// its server opens.
func BlockPath(id uint32) string { return fmt.Sprintf("/dev/ublkb%d", id) }

// CharPath is explained at BlockPath.
func CharPath(id uint32) string { return fmt.Sprintf("/dev/ublkc%d", id) }

// Open opens what a device's server opens, and makes its node where nobody else does.
func Open(id uint32) (int, error) {
	if err := node(CharPath(id), fmt.Sprintf("/sys/class/ublk-char/ublkc%d/dev", id), unix.S_IFCHR); err != nil {
		return -1, err
	}
	fd, err := unix.Open(CharPath(id), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fault.Errorf("ublkctl.Open", fault.KindOf(err), "open %s: %w", CharPath(id), err)
	}
	return fd, nil
}

// MakeBlockNode makes the block device's node where nobody else does.
func MakeBlockNode(id uint32) error {
	return node(BlockPath(id), fmt.Sprintf("/sys/block/ublkb%d/dev", id), unix.S_IFBLK)
}

func node(path, sysfs string, kind uint32) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	raw, err := os.ReadFile(sysfs)
	if err != nil {
		return err
	}
	major, minor, _ := strings.Cut(strings.TrimSpace(string(raw)), ":")
	a, aErr := strconv.Atoi(major)
	b, bErr := strconv.Atoi(minor)
	if aErr != nil || bErr != nil {
		return fault.Errorf("ublkctl", fault.Internal, "%s says %q", sysfs, raw)
	}
	err = unix.Mknod(path, kind|0o600, int(unix.Mkdev(uint32(a), uint32(b))))
	if err == unix.EEXIST {
		return nil
	}
	return err
}

// Available returns nil, or why this machine has no ublk that is fit for use.
func Available() error {
	if _, err := os.Stat(controlPath); err != nil {
		return fault.WithCure(fault.Errorf("ublk", fault.Unsupported, "no ublk: %w", err), "load the kernel's driver (modprobe ublk_drv), or use another front end")
	}
	major, minor := kernelVersion()
	switch {
	case major < 6 || major == 6 && minor < 4:
		return fault.Errorf("ublk", fault.Unsupported, "the kernel is %d.%d; ublk is used from 6.4 on", major, minor)
	case major == 6 && minor == 17: // known to fail, and worse
		return fault.Errorf("ublk", fault.Unsupported, "the ublk of Linux 6.17 is broken")
	}
	return nil
}

func kernelVersion() (major, minor int) {
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		_, _ = fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor)
	}
	return major, minor
}

// Grows reports whether the kernel can make a device longer that is there.
func Grows() bool {
	major, minor := kernelVersion()
	return major > 6 || major == 6 && minor >= 16
}

// List returns the numbers of all devices, whoever's.
func List() (ids []uint32) {
	names, _ := filepath.Glob("/sys/class/ublk-char/ublkc*") // the pattern is good
	for _, name := range names {
		if id, err := strconv.ParseUint(strings.TrimPrefix(filepath.Base(name), "ublkc"), 10, 32); err == nil {
			ids = append(ids, uint32(id))
		}
	}
	return ids
}

// control is an open control device.
type control struct {
	fd   int
	ring *uring.Ring
}

// with calls work with the control device.
func with(op string, work func(*control) error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fd, err := unix.Open(controlPath, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fault.Errorf(op, fault.Unsupported, "open %s: %w", controlPath, err)
	}
	defer unix.Close(fd)
	ring, err := uring.Open(4, true)
	if err != nil {
		return err
	}
	defer ring.Close()
	if err := work(&control{fd, ring}); err != nil {
		return fault.Wrap(op, err)
	}
	return nil
}

var le = binary.LittleEndian

// command does one, with a buffer that the kernel reads or fills, and a number.
func (c *control) command(op, id uint32, buf []byte, value uint64) error {
	s := c.ring.Add(c.fd, op, 0).Large()
	le.PutUint32(s[0:], id)
	le.PutUint16(s[4:], 0xffff) // of no queue
	le.PutUint16(s[6:], uint16(len(buf)))
	if len(buf) > 0 {
		le.PutUint64(s[8:], uint64(uintptr(unsafe.Pointer(&buf[0]))))
	}
	le.PutUint64(s[16:], value)
	err := c.ring.Enter(true)
	_, res, ok := c.ring.Take()
	runtime.KeepAlive(buf)
	switch {
	case err != nil:
		return err
	case !ok:
		return fault.Errorf("ublkctl", fault.Internal, "command %#x was not answered", op)
	case res < 0:
		return fault.Errorf("ublkctl", fault.FromErrno(syscall.Errno(-res)), "command %#x on device %d: %w", op&0xff, id, syscall.Errno(-res))
	}
	return nil
}

// Add makes a device that nobody serves yet, and returns it.
func Add(p Params) (i Info, err error) {
	err = with("ublkctl.Add", func(c *control) error {
		b := make([]byte, infoBytes)
		le.PutUint16(b[0:], 1) // queues
		le.PutUint16(b[2:], uint16(p.Depth))
		le.PutUint32(b[8:], uint32(p.IOBytes))
		le.PutUint32(b[12:], 0xffffffff) // any number
		le.PutUint64(b[24:], compInTask|userRecover|reissue|ioctlEncode)
		le.PutUint64(b[32:], p.Mark)
		if err := c.command(cmdAdd, 0xffffffff, b, 0); err != nil {
			return err
		}
		i = parseInfo(b)
		if err := c.command(cmdSet, i.ID, encode(p), 0); err != nil {
			_ = c.command(cmdDelete, i.ID, nil, 0) // the other error matters
			return err
		}
		return nil
	})
	return i, err
}

func encode(p Params) []byte {
	b := make([]byte, paramsBytes)
	attrs := uint32(attrWriteCache | attrFUA)
	if p.ReadOnly {
		attrs |= attrReadOnly
	}
	shift := byte(12)
	if p.BlockSize == 512 {
		shift = 9
	}
	le.PutUint32(b[0:], paramsBytes)
	le.PutUint32(b[4:], paramBasic|paramDiscard)
	le.PutUint32(b[8:], attrs)
	b[12], b[13], b[14], b[15] = shift, 12, 12, 12 // of logical, physical, optimal and minimal blocks
	le.PutUint32(b[16:], uint32(p.IOBytes/512))
	le.PutUint64(b[24:], uint64(p.Size/512))
	most := uint32(1 << 30 / 512) // of discards and zeros
	le.PutUint32(b[44:], block.Size)
	if !p.NoDiscard {
		le.PutUint32(b[48:], most)
	}
	le.PutUint32(b[52:], most)
	le.PutUint16(b[56:], 1)
	return b
}

func parseInfo(b []byte) Info {
	return Info{ID: le.Uint32(b[12:]), Depth: int(le.Uint16(b[2:])), State: State(le.Uint16(b[4:])), Mark: le.Uint64(b[32:])}
}

// Get returns a device; fault.NotFound when there is none of the number.
func Get(id uint32) (i Info, err error) {
	err = with("ublkctl.Get", func(c *control) (err error) { i, err = c.get(id); return err })
	return i, err
}

func (c *control) get(id uint32) (Info, error) {
	b := make([]byte, infoBytes)
	err := c.command(cmdGetInfo, id, b, 0)
	if fault.Is(err, fault.Invalid) || fault.Is(err, fault.Media) { // EINVAL, ENODEV
		err = fault.Errorf("ublkctl.Get", fault.NotFound, "no device %d: %w", id, err)
	}
	return parseInfo(b), err
}

// marked is with for a device that must be the one with the mark; otherwise it is
// fault.NotFound.
func marked(op string, id uint32, mark uint64, work func(*control) error) error {
	return with(op, func(c *control) error {
		i, err := c.get(id)
		if err == nil && i.Mark != mark {
			err = fault.Errorf(op, fault.NotFound, "device %d is another one by now", id)
		}
		if err != nil {
			return err
		}
		return work(c)
	})
}

// Start shows the block device, once process pid serves it, which must answer meanwhile:
// the kernel looks for partitions.
func Start(id uint32, mark uint64, pid int) error {
	return marked("ublkctl.Start", id, mark, func(c *control) error { return c.command(cmdStart, id, nil, uint64(pid)) })
}

// Recover makes ready for a successor what a dead server left; fault.Busy while that is
// still on its way out.
func Recover(id uint32, mark uint64) error {
	return marked("ublkctl.Recover", id, mark, func(c *control) error { return c.command(cmdRecover, id, nil, 0) })
}

// Recovered has the kernel send the successor what was unanswered, and what waits.
func Recovered(id uint32, mark uint64, pid int) error {
	return marked("ublkctl.Recovered", id, mark, func(c *control) error { return c.command(cmdComplete, id, nil, uint64(pid)) })
}

// Resize makes a device size bytes long; its server takes requests up to there already.
func Resize(id uint32, mark uint64, size int64) error {
	return marked("ublkctl.Resize", id, mark, func(c *control) error { return c.command(cmdResize, id, nil, uint64(size/512)) })
}

// Delete takes a device away: what was not answered fails, and its number is free when
// its server and its users have closed it. Kernels before 6.9 wait for that here. One that
// is not there is deleted.
func Delete(id uint32, mark uint64) error {
	err := marked("ublkctl.Delete", id, mark, func(c *control) error {
		_ = c.command(cmdStop, id, nil, 0) // it may not have been started
		err := c.command(cmdDrop, id, nil, 0)
		if fault.Is(err, fault.Unsupported) || fault.Is(err, fault.Invalid) {
			err = c.command(cmdDelete, id, nil, 0)
		}
		return err
	})
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

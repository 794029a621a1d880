package attach

import (
	"context"
	"errors"
	"syscall"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// Errno returns what a device answers for a backend's error; 0 for nil.
//
// Block devices can say little, and some of what errno could say means something else
// on the way: EAGAIN and EINTR ask somebody in between to try again, and ENOSYS for a
// flush makes the kernel believe that flushes are never needed. So only what users can
// act on has a number of its own, and everything else is EIO.
func Errno(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	switch fault.KindOf(err) {
	case fault.NoSpace:
		return syscall.ENOSPC
	case fault.Timeout:
		return syscall.ETIMEDOUT
	case fault.Unsupported:
		return syscall.EOPNOTSUPP
	}
	return syscall.EIO
}

// GaveUp returns the error of a verb whose ctx is done: fault.Timeout or fault.Canceled.
func GaveUp(ctx context.Context, verb string) error {
	kind := fault.Canceled
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		kind = fault.Timeout
	}
	return fault.E(verb, kind, block.VolumeID{}, ctx.Err())
}

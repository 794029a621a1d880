package attach

import (
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// BecomeIOFlusher tells the kernel that it may have to wait for this process in order
// to get memory, so that it never makes this process wait for memory in turn. The
// kernel keeps that by thread, and hands it on to threads and programs that are
// started. So a data process calls this first of all; if there is something to do, it
// does not return, but runs the program anew, with the same arguments.
//
// The error is fault.Denied without CAP_SYS_RESOURCE, and fault.Unsupported before Linux
// 5.6. Devices work without it: a data process then relies on what it does anyway, which
// is to allocate nothing for a request, and on a control group without a tight limit.
func BecomeIOFlusher() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	on, err := unix.PrctlRetInt(unix.PR_GET_IO_FLUSHER, 0, 0, 0, 0)
	if err == nil && on == 0 {
		if err = unix.Prctl(unix.PR_SET_IO_FLUSHER, 1, 0, 0, 0); err == nil {
			err = syscall.Exec("/proc/self/exe", os.Args, os.Environ()) // returns only an error
		}
	}
	if err == unix.EINVAL {
		return fault.Errorf("attach.BecomeIOFlusher", fault.Unsupported, "the kernel does not know PR_SET_IO_FLUSHER: %w", err)
	}
	if err != nil {
		return fault.Errorf("attach.BecomeIOFlusher", fault.KindOf(err), "PR_SET_IO_FLUSHER: %w", err)
	}
	return nil
}

// Package attach shows a volume to the kernel and to clients, and brings back reads,
// writes, flushes.
//
// A [Frontend] is the door through which a volume is seen: a FUSE file under a loop
// device (package fuse), a ublk device (ublk), a device of the kernel's NBD client
// (nbdclient), or an export for user-space clients (nbd). Package frontend chooses among
// those that make block devices. Behind it stands a [Backend], which carries out
// [Request]s. Everything between the two happens on the goroutine of one [host.Loop],
// the same that the backend's disks are on, so a request crosses no goroutine and
// takes no lock, and its path does not allocate.
//
// What a front end promises its users:
//
//   - A request is answered once, after the backend called Done, with its result:
//     nothing is acknowledged early, cached, merged with a later one, or tried again.
//   - A flush reaches the backend after every write that was answered before the flush
//     was asked for.
//   - The device outlives this process. While nobody serves it, its I/O waits; a
//     successor takes it over, calls Options.Fence, and only then has requests that
//     were never answered done again. After Options.Wait without one they fail.
//   - Memory is bounded by Options.MemoryBytesMax, and is all in place before the first
//     request: the kernel may be waiting for us in order to get some.
//
// Every front end passes package attachtest.
package attach

import (
	"context"

	"github.com/holdfast-io/holdfast/internal/host"
)

// Loop is the goroutine that front end and backend share.
type Loop = host.Loop

// Backend is the volume as a front end sees it.
type Backend interface {
	// Submit begins a request, on the loop's goroutine, without blocking. The request
	// is the backend's until it calls Done, on the same goroutine, possibly inside
	// Submit. Requests that are in flight together may take effect in any order.
	Submit(*Request)
}

// Frontend shows one volume under one name. It is used once: started, then ended by
// Stop, HandOver or Abort, or by Ended when its device was taken away. The methods may
// be called from any goroutine except the loop's, which they wait for.
type Frontend interface {
	// Start makes the device, or takes over one that a predecessor left, and returns
	// when it can be used. In the second case it waits for Options.Fence first; when
	// that fails, or ctx ends, the device stays as it was, for the next who tries: not
	// with this front end, which has ended.
	Start(ctx context.Context) error
	// Device tells where the device is, once Start has returned.
	Device() Device
	// Resize makes the device size bytes long, once the backend takes requests up to
	// there. Smaller than it is now is fault.Invalid. Users see it at once.
	Resize(ctx context.Context, size int64) error
	// Stop takes the device away after everything that was written through it has
	// reached the backend and was flushed. It is fault.Busy, and the device goes on,
	// while the device is mounted or open.
	Stop(ctx context.Context) error
	// HandOver lets what is in flight finish, reads no more, and leaves the device to
	// the successor. When ctx ends first, the device goes on here.
	HandOver(ctx context.Context) error
	// Abort takes the device away at once. What was not answered fails, and so does
	// everything that its users do from then on.
	Abort() error
	// Stats tells what was done so far.
	Stats() Stats
	// Ended is closed when the front end serves no more, for whatever reason, and the
	// backend has nothing of it any more.
	Ended() <-chan struct{}
	// Err tells, once Ended is closed, why: nil after Stop, HandOver and Abort.
	Err() error
}

// Device is where a volume is to be found.
type Device struct {
	Path string // the kernel's name for it, such as /dev/loop3; may change when it is attached anew
	Link string // our name for it, stable: Options.LinkDir with Options.Name
}

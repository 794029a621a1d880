// Package ublk shows volumes as block devices through the kernel's ublk driver (Linux
// 6.4 and later, where ublk_drv is to be had; not 6.17): requests come over an io_uring,
// with the data in buffers of ours.
//
// A device outlives its process by itself: the driver holds its I/O back (user recovery)
// until a successor has said that it serves, and sends again what was not answered. The
// keeper remembers which device is which volume's, and admits one data process at a time.
//
// What the driver lacks is an end to the waiting. So each device has a guard: a process
// that watches a pipe, whose other end the data process and the keeper hold. When both
// have let go of it (they are dead, or Options.Wait is over, or the device was removed),
// the guard takes the device away, and what waited fails.
//
// Before Linux 6.16 a ublk device can't grow: Resize is fault.Unsupported.
package ublk

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/attach/errand"
	"github.com/holdfast-io/holdfast/internal/attach/keeper"
	"github.com/holdfast-io/holdfast/internal/attach/packet"
	"github.com/holdfast-io/holdfast/internal/attach/ublk/ublkctl"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/obs"
)

// Available returns nil, or why this machine has no ublk that is fit for use.
func Available() error { return ublkctl.Available() }

// Config is what a front end needs besides its options.
type Config struct {
	Keeper *keeper.Client
	Errand errand.Command
}

// Frontend is an attach.Frontend.
type Frontend struct {
	*attach.Life
	o      attach.Options
	keeper atomic.Pointer[keeper.Client]
	errand errand.Command

	gone   chan struct{} // closed when the driver has given all commands back
	server *server       // set by Start
	meta   meta

	mu   sync.Mutex
	pipe int // whose end the guard waits for; -1 is none
}

var _ attach.Frontend = (*Frontend)(nil)

// New returns a front end that is not started. The error is fault.Invalid.
func New(o attach.Options, c Config) (*Frontend, error) {
	o, err := o.WithDefaults()
	if err != nil {
		return nil, err
	}
	if c.Keeper == nil || len(c.Errand) == 0 {
		return nil, fault.Errorf("ublk.New", fault.Invalid, "a keeper and a command for errands are needed")
	}
	f := &Frontend{Life: attach.NewLife("ublk", o), o: o, errand: c.Errand, gone: make(chan struct{}), pipe: -1}
	f.keeper.Store(c.Keeper)
	return f, nil
}

// Start is attach.Frontend.Start.
func (f *Frontend) Start(ctx context.Context) error {
	return f.Begin(ctx, func() error {
		err := f.start(ctx)
		if err != nil {
			f.Finish(err)
		}
		return err
	})
}

func (f *Frontend) start(ctx context.Context) error {
	if err := Available(); err != nil {
		return err
	}
	e, files, err := f.keeper.Load().Get(ctx, f.o.Name)
	if fault.Is(err, fault.NotFound) {
		return f.create(ctx)
	}
	var m meta
	if err == nil {
		m, err = parseMeta(e)
	}
	if err != nil {
		packet.CloseAll(files)
		return err
	}
	if m.Ready && len(files) == 1 {
		there, err := f.errand.Ublk(ctx, errand.Ublk{Do: errand.UblkGet, ID: m.ID})
		if err == nil && there.Mark == m.Mark {
			f.meta, f.pipe = m, files[0]
			return f.takeOver(ctx)
		}
		if err != nil && !fault.Is(err, fault.NotFound) {
			packet.CloseAll(files)
			return err
		}
	}
	// A start was cut short, or the device was aborted while nobody served it.
	packet.CloseAll(files)
	if err := f.keeper.Load().Remove(ctx, f.o.Name); err != nil {
		return err
	}
	if err := f.delete(ctx, m); err != nil {
		return err
	}
	return f.create(ctx)
}

// delete takes the device of m away, if it is there.
func (f *Frontend) delete(ctx context.Context, m meta) error {
	if m.Mark == 0 {
		return nil
	}
	_, err := f.errand.Ublk(ctx, errand.Ublk{Do: errand.UblkDelete, ID: m.ID, Mark: m.Mark})
	return err
}

// create makes a new device.
func (f *Frontend) create(ctx context.Context) error {
	mark, err := f.newMark()
	if err != nil {
		return err
	}
	f.meta = meta{Volume: f.o.Volume, Mark: mark, Depth: f.o.Depth, IOBytes: bufferBytes(f.o), Size: f.o.Size,
		BlockSize: f.o.BlockSize, ReadOnly: f.o.ReadOnly, NoDiscard: f.o.NoDiscard}
	m := &f.meta
	info, err := f.errand.Ublk(ctx, errand.Ublk{Do: errand.UblkAdd, Params: ublkctl.Params{Depth: m.Depth, IOBytes: m.IOBytes, Size: m.Size,
		BlockSize: m.BlockSize, ReadOnly: m.ReadOnly, NoDiscard: m.NoDiscard, Mark: mark}})
	if err != nil {
		return err
	}
	m.ID = info.ID
	err = f.build(ctx)
	if err != nil && f.Claim() {
		f.takeDown()
	}
	return err
}

// newMark returns a number that no other device has: the first half tells whose it is.
func (f *Frontend) newMark() (uint64, error) {
	var b [4]byte
	if _, err := rand.Read(b[:]); err != nil {
		return 0, err
	}
	return markOf(f.o.Node[:]) | uint64(binary.LittleEndian.Uint32(b[:])) | 1, nil
}

func markOf(node []byte) uint64 { return uint64(binary.LittleEndian.Uint32(node)) << 32 }

// build has the device guarded, served and started.
func (f *Frontend) build(ctx context.Context) error {
	if err := f.beginGuard(ctx); err != nil {
		return err
	}
	if err := f.put(ctx); err != nil {
		return err
	}
	if err := f.serve(ctx); err != nil {
		return err
	}
	m := f.meta
	if _, err := f.errand.Ublk(ctx, errand.Ublk{Do: errand.UblkStart, ID: m.ID, Mark: m.Mark, PID: os.Getpid()}); err != nil {
		return err
	}
	if err := f.show(); err != nil {
		return err
	}
	f.meta.Ready = true
	return f.put(ctx)
}

func (f *Frontend) beginGuard(ctx context.Context) error {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return fault.Errorf("ublk.guard", fault.KindOf(err), "%w", err)
	}
	defer unix.Close(ends[0])
	f.mu.Lock()
	f.pipe = ends[1]
	f.mu.Unlock()
	return f.errand.Guard(ctx, ends[0], f.meta.ID, f.meta.Mark)
}

// put has the keeper keep the device.
func (f *Frontend) put(ctx context.Context) error {
	e, err := f.meta.entry(f.o.Name)
	if err != nil {
		return err
	}
	e.Wait = f.o.Wait
	return f.keeper.Load().Put(ctx, e, []int{f.pipe})
}

// Keep puts the device into another keeper, after the one before was lost. Until that is
// done the device ends with this process.
func (f *Frontend) Keep(ctx context.Context, k *keeper.Client) error {
	return f.Running(ctx, "Keep", func() error {
		f.keeper.Store(k)
		return f.put(ctx)
	})
}

// serve opens the device as soon as the driver lets it be.
func (f *Frontend) serve(ctx context.Context) error {
	return f.retry(ctx, func() (err error) {
		onErr := f.On(func() {
			var s *server
			if s, err = openServer(f.o, f.meta.ID); err != nil {
				s.free()
				return
			}
			f.server = s
			s.onGone = func() { close(f.gone); go f.lost() }
		})
		return errors.Join(err, onErr)
	})
}

// retry calls try until it works, while what keeps it from that will pass.
func (f *Frontend) retry(ctx context.Context, try func() error) error {
	for tick := time.NewTicker(2 * time.Millisecond); ; {
		err := try()
		passes := fault.Is(err, fault.Busy) || fault.Is(err, fault.NotFound) // its last server, or its node
		if err == nil || !passes {
			return err
		}
		select {
		case <-tick.C:
		case <-f.Aborted():
			return fault.Errorf("ublk", fault.Canceled, "the device was aborted")
		case <-ctx.Done():
			return errors.Join(attach.GaveUp(ctx, "ublk"), err)
		}
	}
}

// takeOver goes on with a device that a predecessor left.
func (f *Frontend) takeOver(ctx context.Context) error {
	m := f.meta
	err := f.fits(m)
	if err == nil {
		err = f.Fence(ctx)
	}
	if err == nil {
		err = f.put(ctx)
	}
	if err != nil {
		f.letGo()
		return err
	}
	err = f.retry(ctx, func() error {
		_, err := f.errand.Ublk(ctx, errand.Ublk{Do: errand.UblkRecover, ID: m.ID, Mark: m.Mark})
		return err
	})
	if err == nil {
		err = f.serve(ctx)
	}
	if err == nil {
		_, err = f.errand.Ublk(ctx, errand.Ublk{Do: errand.UblkRecovered, ID: m.ID, Mark: m.Mark, PID: os.Getpid()})
	}
	if err == nil && f.meta.Size < f.o.Size { // its volume has grown meanwhile
		if err = f.grow(ctx, f.o.Size); fault.Is(err, fault.Unsupported) {
			err = nil // it stays as it is
		}
	}
	if err == nil {
		err = f.show()
	}
	if err != nil && f.Claim() { // the device stays for the next
		if f.server != nil {
			_ = f.On(f.server.close)
		}
		ctx, cancel := context.WithTimeout(context.Background(), cleanUpWait)
		defer cancel()
		if releaseErr := f.keeper.Load().Release(ctx, f.o.Name, false); releaseErr != nil {
			f.o.Log.Warn("the keeper believes that the device is served", obs.Err(releaseErr))
		}
		f.letGo()
	}
	return err
}

// fits returns why the device can't be what the options say.
func (f *Frontend) fits(m meta) error {
	if err := f.Fits(attach.Options{Volume: m.Volume, BlockSize: m.BlockSize, ReadOnly: m.ReadOnly, NoDiscard: m.NoDiscard}); err != nil {
		return err
	}
	switch {
	case m.Depth != f.o.Depth || m.IOBytes != bufferBytes(f.o):
		return fault.WithCure(fault.Errorf("ublk.fits", fault.Precondition, "the device of %q is attached with another depth", f.o.Name), "detach it first")
	case m.Size > f.o.Size:
		return fault.Errorf("ublk.fits", fault.Precondition, "the device has %d bytes, more than its volume's %d", m.Size, f.o.Size)
	}
	return nil
}

// show makes the device's link.
func (f *Frontend) show() error {
	if err := ublkctl.MakeBlockNode(f.meta.ID); err != nil {
		return fault.Errorf("ublk.show", fault.KindOf(err), "%w", err)
	}
	return f.Show(ublkctl.BlockPath(f.meta.ID))
}

// Stats is attach.Frontend.Stats. What a predecessor left can't be told from what is
// new: Again is 0.
func (f *Frontend) Stats() attach.Stats {
	if !f.Started() {
		return attach.Stats{}
	}
	return f.server.meter.Stats()
}

// Resize is attach.Frontend.Resize: before Linux 6.16 it is fault.Unsupported, unless there
// is nothing to do.
func (f *Frontend) Resize(ctx context.Context, size int64) error {
	return f.Running(ctx, "Resize", func() error {
		if err := f.o.CheckResize(size); err != nil {
			return err
		}
		return f.grow(ctx, size)
	})
}

// grow makes the device size bytes long; it is no longer than that.
func (f *Frontend) grow(ctx context.Context, size int64) error {
	if size == f.meta.Size {
		return nil
	}
	if !ublkctl.Grows() {
		return fault.WithCure(fault.Errorf("ublk.grow", fault.Unsupported, "before Linux 6.16 a ublk device can't grow while it is attached"),
			"detach it and attach it again: then it has the size that its volume has by now")
	}
	if err := f.On(func() { f.server.size = size }); err != nil {
		return err
	}
	if _, err := f.errand.Ublk(ctx, errand.Ublk{Do: errand.UblkResize, ID: f.meta.ID, Mark: f.meta.Mark, Params: ublkctl.Params{Size: size}}); err != nil {
		return err
	}
	f.o.Size, f.meta.Size = size, size
	return f.put(ctx)
}

// HandOver is attach.Frontend.HandOver. The driver lets the successor have the device when
// this process has ended, so that should be soon; what comes until then waits.
func (f *Frontend) HandOver(ctx context.Context) error {
	return f.Running(ctx, "HandOver", func() error {
		if err := f.drain(ctx); err != nil {
			return err
		}
		if !f.Claim() {
			return f.ErrAborted("HandOver")
		}
		if err := f.keeper.Load().Release(ctx, f.o.Name, true); err != nil {
			f.o.Log.Warn("the keeper believes that the device is served", obs.Err(err))
		}
		f.Finish(nil) // what is open stays so until the process ends
		return nil
	})
}

// drain has what comes wait, until the backend has nothing any more.
func (f *Frontend) drain(ctx context.Context) error {
	idle := make(chan struct{})
	if err := f.On(func() { f.server.pause(func() { close(idle) }) }); err != nil {
		return err
	}
	var err error
	select {
	case <-idle:
		return nil
	case <-f.Aborted():
		err = fault.Errorf("ublk.drain", fault.Canceled, "the device is being aborted")
	case <-ctx.Done():
		err = attach.GaveUp(ctx, "ublk.drain")
	}
	resume := func() {
		if !f.server.closed {
			f.server.resume()
		}
	}
	return errors.Join(err, f.On(resume))
}

// letGo lets go of a device that stays, and of the buffers that nobody has any more.
func (f *Frontend) letGo() {
	f.mu.Lock()
	if f.pipe >= 0 {
		packet.CloseAll([]int{f.pipe})
		f.pipe = -1
	}
	f.mu.Unlock()
	if f.server != nil {
		_ = f.On(f.server.free) // a loop that has ended has nothing of them
	}
}

// Stop is attach.Frontend.Stop.
func (f *Frontend) Stop(ctx context.Context) error {
	return f.Running(ctx, "Stop", func() error {
		path := f.Device().Path
		if err := f.errand.Sync(ctx, path); err != nil { // Busy when it is mounted
			return err
		}
		if users := attach.Users(path); len(users) > 0 {
			return fault.WithCure(fault.Errorf("ublk.Stop", fault.Busy, "%s is open", path), "end process "+strings.Join(users, ", "))
		}
		if err := f.flush(); err != nil {
			return err
		}
		f.end(nil)
		<-f.Ended()
		return f.Err()
	})
}

// flush flushes the backend, behind what the kernel wrote at last.
func (f *Frontend) flush() error {
	done := make(chan error, 1)
	r := attach.Request{Op: attach.Flush, Done: func(r *attach.Request) { done <- r.Err }}
	if err := f.drain(context.Background()); err != nil {
		return err
	}
	err := f.On(func() { f.o.Backend.Submit(&r) }) // no slot is used
	if err == nil {
		err = <-done
	}
	return errors.Join(err, f.On(f.server.resume))
}

// Abort is attach.Frontend.Abort.
func (f *Frontend) Abort() error {
	f.Aborting()
	if f.Started() && !f.HasEnded() {
		go f.end(nil)
	}
	return nil
}

// lost is called when the driver has ended the device.
func (f *Frontend) lost() {
	f.end(fault.E("ublk", fault.Canceled, f.o.Volume, fmt.Errorf("the device was taken away: %w", unix.ENODEV)))
}

// end takes the device away because of cause, once.
func (f *Frontend) end(cause error) {
	if !f.Claim() {
		return
	}
	f.takeDown()
	f.Finish(cause)
}

// cleanUpWait bounds calls to others while a device is being taken down.
const cleanUpWait = 10 * time.Second

// takeDown takes away what there is of the device, and returns when the backend has
// nothing of it any more.
func (f *Frontend) takeDown() {
	ctx, cancel := context.WithTimeout(context.Background(), cleanUpWait)
	defer cancel()
	if f.server != nil {
		_ = f.On(f.server.fail) // or the driver would wait for what the backend has
	}
	if err := f.delete(ctx, f.meta); err != nil {
		f.o.Log.Error("the device is left", obs.Err(err))
	} else if f.server != nil {
		<-f.gone
		_ = f.On(f.server.close)
	}
	if path := f.Device().Path; path != "" {
		if err := attach.Unlink(f.o.LinkDir, f.o.Name, path); err != nil {
			f.o.Log.Warn("the device's link stays", obs.Err(err))
		}
	}
	forgotten, cancel := context.WithTimeout(context.Background(), cleanUpWait)
	defer cancel()
	if err := f.keeper.Load().Remove(forgotten, f.o.Name); err != nil {
		f.o.Log.Warn("the keeper may still have the device", obs.Err(err))
	}
	if f.server != nil {
		idle := make(chan struct{})
		if f.On(func() { f.server.pause(func() { close(idle) }) }) == nil {
			<-idle
		}
	}
	f.letGo()
}

package fuse

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/attach/loopdev"
	"github.com/holdfast-io/holdfast/internal/attach/packet"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/obs"
)

// HandOver is attach.Frontend.HandOver.
func (f *Frontend) HandOver(ctx context.Context) error {
	return f.Running(ctx, "HandOver", func() error {
		if err := f.drain(ctx); err != nil {
			return err
		}
		if err := f.keeper.Release(ctx, f.o.Name, true); err != nil {
			_ = f.On(f.server.resume) // the device goes on here
			return err
		}
		f.letGo()
		f.Finish(nil)
		return nil
	})
}

// drain stops reading requests and waits until those that were read are answered. If
// it fails, the server reads on, or the connection is gone.
func (f *Frontend) drain(ctx context.Context) error {
	idle := make(chan struct{})
	err := f.On(func() {
		if !f.server.gone {
			f.server.pause(func() { close(idle) })
		}
	})
	if err != nil {
		return err
	}
	select {
	case <-idle:
		return nil
	case <-f.gone:
		return fault.Errorf("fuse.drain", fault.Canceled, "the device was aborted")
	case <-f.Aborted():
		err = fault.Errorf("fuse.drain", fault.Canceled, "the device is being aborted")
	case <-ctx.Done():
		err = attach.GaveUp(ctx, "fuse.drain")
	}
	resume := func() {
		if !f.server.gone {
			f.server.onIdle = nil
			f.server.resume()
		}
	}
	return errors.Join(err, f.On(resume))
}

// letGo closes what f has open and leaves the device to the keeper. The server is idle.
func (f *Frontend) letGo() {
	if f.server != nil {
		_ = f.On(f.server.close) // a loop that has ended watches nothing
	}
	f.closeFiles()
	if f.slots != nil {
		f.slots.unmap()
	}
}

// closeFiles closes all descriptors, that of the connection first: if they are the last,
// what closing the others waits for then fails.
func (f *Frontend) closeFiles() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, fd := range []*int{&f.fuse, &f.memory, &f.node} {
		if *fd >= 0 {
			packet.CloseAll([]int{*fd})
			*fd = -1
		}
	}
	if f.loop != nil {
		f.loop.Close()
		f.loop = nil
	}
}

// fail takes away a device that could not be finished because of err.
func (f *Frontend) fail(err error) {
	f.mu.Lock()
	f.cause = err
	f.mu.Unlock()
	if abortErr := f.Abort(); abortErr != nil { // else awaitEnd cleans up
		f.o.Log.Error("half a device is left", obs.Err(abortErr))
	}
}

// forget has the keeper close its files of the device.
func (f *Frontend) forget() {
	ctx, cancel := context.WithTimeout(context.Background(), cleanUpWait)
	defer cancel()
	f.mu.Lock()
	k := f.keeper
	f.mu.Unlock()
	if err := k.Remove(ctx, f.o.Name); err != nil {
		f.o.Log.Warn("the keeper may still have the device", obs.Err(err))
	}
}

// Stop is attach.Frontend.Stop.
func (f *Frontend) Stop(ctx context.Context) error {
	err := f.Running(ctx, "Stop", func() error {
		n := f.loop.Number
		held, err := f.errand.Detach(ctx, f.loop.FD(), func() error { return f.letGoOfLoop(ctx) })
		if err != nil {
			if gone, err := f.goOn(n, held, err); !gone {
				return err
			}
		}
		f.stopped()
		return nil
	})
	if err != nil {
		return err
	}
	select {
	case <-f.Ended():
		return f.Err()
	case <-ctx.Done():
		return attach.GaveUp(ctx, "fuse.Stop")
	}
}

// letGoOfLoop closes the loop device, the keeper's descriptor included.
func (f *Frontend) letGoOfLoop(ctx context.Context) error {
	f.mu.Lock()
	m := f.meta
	f.mu.Unlock()
	m.Phase = stopping
	if err := f.put(ctx, m); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.loop.Close() // others have it: the errand's process
	f.loop = nil
	return nil
}

// goOn goes on with device n, which could not be stopped because of err, unless it is
// gone after all. held is a descriptor that came back of it, or -1.
func (f *Frontend) goOn(n, held int, err error) (gone bool, _ error) {
	ctx, cancel := context.WithTimeout(context.Background(), cleanUpWait)
	defer cancel()
	f.mu.Lock()
	m, lost := f.meta, f.loop == nil && held < 0
	f.mu.Unlock()
	name := attach.NewFileName(f.o.Node, m.Connection, f.o.Name).String()
	if lost { // whoever was to close it did not report
		var holdErr error
		if held, holdErr = f.errand.Hold(ctx, n, name); holdErr != nil {
			return false, errors.Join(err, holdErr, f.Abort())
		}
		if held < 0 {
			return true, nil
		}
	}
	if held >= 0 {
		if holdErr := f.hold(held); holdErr != nil {
			return false, errors.Join(err, holdErr, f.Abort())
		}
	}
	m.Phase = ready
	if putErr := f.put(ctx, m); putErr != nil {
		f.o.Log.Warn("the device goes on, but no keeper has it", obs.Err(putErr))
	}
	return false, err
}

// hold makes a descriptor of the loop device that by which it is held.
func (f *Frontend) hold(fd int) error {
	fd, err := above(fd, f.fuse)
	if err != nil {
		return err
	}
	loop, err := loopdev.Held(fd)
	if err != nil {
		packet.CloseAll([]int{fd})
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.loop = loop
	return nil
}

// stopped ends the connection of a loop device that is gone.
func (f *Frontend) stopped() {
	err := f.flush()
	f.mu.Lock()
	f.wanted, f.cause = true, err
	packet.CloseAll([]int{f.node})
	f.node = -1
	f.mu.Unlock()
	f.forget() // its descriptors are the last that hold the file
}

// flush flushes the backend: the kernel wrote what it had before it let go of the
// device, after the flush that Stop waited for.
func (f *Frontend) flush() error {
	done := make(chan error, 1)
	r := attach.Request{Op: attach.Flush, Done: func(r *attach.Request) { done <- r.Err }}
	err := f.On(func() {
		l := f.slots.take() // nothing is in flight, or little
		if l == nil {
			r.End(fault.Errorf("fuse.flush", fault.Busy, "no slot is free"))
			return
		}
		r.Slot = l.request.Slot
		r.Done = func(r *attach.Request) { f.server.free(l); done <- r.Err }
		f.o.Backend.Submit(&r)
	})
	if err != nil {
		return err
	}
	return <-done
}

// Abort is attach.Frontend.Abort.
func (f *Frontend) Abort() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wanted = true
	f.Aborting()
	if f.node < 0 { // not there, or gone, or on its way
		return nil
	}
	if err := f.meta.Connection.Abort(); err != nil {
		return fault.E("fuse.Abort", fault.KindOf(err), f.o.Volume, err)
	}
	return nil
}

// awaitEnd cleans up when the connection is gone.
func (f *Frontend) awaitEnd() {
	select {
	case <-f.Ended(): // handed over
		return
	case <-f.gone:
	}
	_ = f.Take(context.Background(), "") // what is under way uses the descriptors; it fails soon
	defer f.Give()
	if f.HasEnded() {
		return
	}
	f.unlink(f.Device().Path)
	f.forget()
	<-f.drained
	f.letGo()
	f.mu.Lock()
	err := f.cause
	if !f.wanted && err == nil {
		err = fault.E("fuse", fault.Canceled, f.o.Volume, fmt.Errorf("the device was aborted: %w", unix.ENOTCONN))
	}
	f.mu.Unlock()
	f.Finish(err)
}

// unlink removes the link of the device at path.
func (f *Frontend) unlink(path string) {
	if err := attach.Unlink(f.o.LinkDir, f.o.Name, path); err != nil {
		f.o.Log.Warn("the device's link stays", obs.Err(err))
	}
}

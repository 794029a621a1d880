package fuse

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/attach/errand"
	"github.com/holdfast-io/holdfast/internal/attach/fusectl"
	"github.com/holdfast-io/holdfast/internal/attach/packet"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// create makes a new device.
func (f *Frontend) create(ctx context.Context) error {
	g := f.geometry(f.pool != nil && Resends())
	m := meta{Phase: starting, Volume: f.o.Volume, Slots: g, BlockSize: f.o.BlockSize, ReadOnly: f.o.ReadOnly, NoDiscard: f.o.NoDiscard}
	err := f.connect(g)
	if err == nil {
		// From here on a process that dies leaves something that the next one finds.
		err = f.put(ctx, m)
	}
	if err == nil {
		err = f.mount()
	}
	if err != nil {
		f.forget()
		f.letGo()
		f.Finish(err)
		return err
	}
	go f.awaitEnd()
	if err := f.build(ctx, m); err != nil {
		f.fail(err)
		return err
	}
	return nil
}

// geometry is what the options want.
func (f *Frontend) geometry(pooled bool) geometry {
	if pooled {
		return geometry{Depth: f.o.Depth, Pooled: true}
	}
	return geometry{Depth: f.o.Depth, Large: f.o.LargeDepth}
}

// connect opens what a connection needs before it is mounted.
func (f *Frontend) connect(g geometry) (err error) {
	if f.fuse, err = openConnection(); err != nil {
		return err
	}
	if f.memory, err = newMemory(g); err != nil {
		return err
	}
	return f.newServer(g)
}

// newServer makes the server of f.fuse with the slots of f.memory.
func (f *Frontend) newServer(g geometry) (err error) {
	if f.slots, err = mapSlots(f.memory, g, f.pool); err != nil {
		return err
	}
	return f.On(func() {
		f.server = newServer(f.fuse, f.o, f.slots)
		f.server.onGone = func() {
			f.server.onIdle = func() { close(f.drained) }
			close(f.gone)
		}
	})
}

// mount mounts the connection and has the server answer.
func (f *Frontend) mount() error {
	root, err := mount(f.fuse)
	if err != nil {
		return err
	}
	c, err := fusectl.Of(root)
	f.mu.Lock()
	f.node, f.meta.Connection = root, c // which holds the connection, until there is the file's
	f.mu.Unlock()
	if err != nil {
		return err
	}
	return f.On(func() {
		f.server.building = true
		f.server.resume()
	})
}

// build has the loop device set up, while the server answers.
func (f *Frontend) build(ctx context.Context, m meta) error {
	m.Phase, m.Connection = ready, f.meta.Connection
	file, loop, err := f.errand.Attach(ctx, f.node, errand.Attach{File: attach.NewFileName(f.o.Node, m.Connection, f.o.Name).String(),
		BlockSize: f.o.BlockSize, ReadOnly: f.o.ReadOnly, NoDiscard: f.o.NoDiscard})
	if err != nil {
		return err
	}
	f.mu.Lock()
	packet.CloseAll([]int{f.node})
	f.node = file
	f.mu.Unlock()
	if err := f.hold(loop); err != nil {
		return err
	}
	built := func() { f.server.building, m.Resend = false, f.server.hasResend }
	if err := f.On(built); err != nil {
		return err
	}
	if m.Slots.Pooled && !m.Resend {
		return fault.Errorf("fuse.build", fault.Unsupported, "the kernel can't send requests again, unlike others of its version")
	}
	if err := f.show(); err != nil {
		return err
	}
	return f.put(ctx, m)
}

// show makes the device's link.
func (f *Frontend) show() error { return f.Show(f.loop.Path()) }

// warnOfTimeouts warns of machines that end a connection whose requests wait for less
// long than they may.
func (f *Frontend) warnOfTimeouts() {
	for _, name := range []string{"default_request_timeout", "max_request_timeout"} {
		raw, err := os.ReadFile("/proc/sys/fs/fuse/" + name)
		seconds, convErr := strconv.Atoi(strings.TrimSpace(string(raw)))
		if err != nil || convErr != nil || seconds == 0 || float64(seconds) >= f.o.Wait.Seconds() {
			continue
		}
		f.o.Log.Warn(fmt.Sprintf("the kernel ends a device whose I/O waits for %d s, though %v are allowed; sysctl fs.fuse.%s=0 stops that",
			seconds, f.o.Wait, name))
	}
}

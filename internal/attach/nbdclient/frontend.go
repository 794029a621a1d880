// Package nbdclient shows volumes as block devices through the kernel's NBD driver, whose
// server is this process, at the other end of a pair of sockets.
//
// A device outlives its process by itself: the driver holds I/O back until a successor
// gives it another connection, or until Options.Wait is over. What was under way is sent
// again when it has taken longer than a few seconds, which is how the driver finds out,
// so a restart is felt for that long; where there is a choice, other front ends are
// better. The keeper remembers which device is which volume's, and admits one data process
// at a time.
//
// The driver takes a request that a live process is slow about for lost, too, and its
// connection for dead. It gets another one when nothing of the old one is in flight any
// more: what is sent again never overtakes what was sent first.
//
// All errors are EIO to the device's users.
package nbdclient

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/attach/errand"
	"github.com/holdfast-io/holdfast/internal/attach/keeper"
	"github.com/holdfast-io/holdfast/internal/attach/nbd"
	"github.com/holdfast-io/holdfast/internal/attach/nbdclient/nbdctl"
	"github.com/holdfast-io/holdfast/internal/attach/packet"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/obs"
)

// Available returns nil, or why this machine has no NBD driver.
func Available() error { return nbdctl.Available() }

// requestTimeout is when the driver takes a request for lost.
const requestTimeout = 3 * time.Second

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
	export *nbd.Frontend

	served chan struct{} // closed when no connection is attended any more
	meta   meta

	mu      sync.Mutex
	handing chan struct{} // not nil while HandOver may still fail
}

// meta is what a successor must know of a device, kept by the keeper as JSON.
type meta struct {
	Kind      string         `json:"kind"`    // kindName
	Version   int            `json:"version"` // metaVersion
	Volume    block.VolumeID `json:"volume"`
	Index     int            `json:"index"`
	BlockSize int            `json:"block_size"`
	ReadOnly  bool           `json:"read_only,omitempty"`
	NoDiscard bool           `json:"no_discard,omitempty"`
}

const kindName = "nbd"

// Version history. Add a line; a device outlives the build that made it.
//
//	1  first
const metaVersion = 1

var _ attach.Frontend = (*Frontend)(nil)

// New returns a front end that is not started. The error is fault.Invalid.
func New(o attach.Options, c Config) (*Frontend, error) {
	o, err := o.WithDefaults()
	if err != nil {
		return nil, err
	}
	if c.Keeper == nil || len(c.Errand) == 0 {
		return nil, fault.Errorf("nbdclient.New", fault.Invalid, "a keeper and a command for errands are needed")
	}
	export, err := nbd.New(o, nbd.NewServer(nbd.ServerOptions{Log: o.Log})) // which listens nowhere
	if err != nil {
		return nil, err
	}
	f := &Frontend{Life: attach.NewLife("nbdclient", o), o: o, errand: c.Errand, export: export, served: make(chan struct{})}
	f.keeper.Store(c.Keeper)
	return f, nil
}

func parseMeta(e keeper.Entry) (m meta, err error) {
	if err := json.Unmarshal([]byte(e.Meta), &m); err != nil {
		return m, fault.Errorf("nbdclient.parseMeta", fault.Corrupt, "what the keeper has under %q can't be read: %w", e.Name, err)
	}
	if m.Kind != kindName {
		return m, fault.Errorf("nbdclient.parseMeta", fault.Exists, "%q is a device of kind %q", e.Name, m.Kind)
	}
	if m.Version != metaVersion {
		return m, fault.WithCure(fault.Errorf("nbdclient.parseMeta", fault.Unsupported, "%q was made by a newer build: version %d", e.Name, m.Version),
			"start that build again, or abort the device")
	}
	return m, nil
}

// Left returns what the keeper has of devices that are there: what a data process that
// starts is to take over. Of the options those are set that the device has by itself:
// Volume, Name, BlockSize, ReadOnly and NoDiscard.
func Left(entries []keeper.Entry) (left []attach.Options) {
	for _, e := range entries {
		if m, err := parseMeta(e); err == nil {
			left = append(left, attach.Options{Volume: m.Volume, Name: e.Name, BlockSize: m.BlockSize, ReadOnly: m.ReadOnly, NoDiscard: m.NoDiscard})
		}
	}
	return left
}

// identifierOf names a volume's device to the kernel, which tells it to whoever asks.
func identifierOf(node block.NodeID, name string) string {
	return attach.FilePrefix + hex.EncodeToString(node[:4]) + "." + name
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
	e, files, err := f.keeper.Load().Get(ctx, f.o.Name)
	packet.CloseAll(files) // there are none
	if err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	f.meta = meta{Kind: kindName, Version: metaVersion, Volume: f.o.Volume, Index: -1, BlockSize: f.o.BlockSize, ReadOnly: f.o.ReadOnly, NoDiscard: f.o.NoDiscard}
	taken := false
	if err == nil {
		m, err := parseMeta(e)
		if err != nil {
			return err
		}
		if nbdctl.List()[m.Index] == identifierOf(f.o.Node, f.o.Name) {
			if err := f.Fits(attach.Options{Volume: m.Volume, BlockSize: m.BlockSize, ReadOnly: m.ReadOnly, NoDiscard: m.NoDiscard}); err != nil {
				return err
			}
			if err := f.Fence(ctx); err != nil {
				return err
			}
			f.meta, taken = m, true
		}
	}
	if err := f.export.Start(ctx); err != nil {
		return err
	}
	if err := f.connect(ctx, taken); err != nil {
		_ = f.export.Abort() // it always works
		<-f.export.Ended()
		return err
	}
	return nil
}

// connect gives the driver a connection, for a new device unless taken.
func (f *Frontend) connect(ctx context.Context, taken bool) error {
	ours, theirs, err := pair()
	if err != nil {
		return err
	}
	defer unix.Close(theirs)
	if taken {
		err = f.retry(ctx, func() error { return nbdctl.Reconfigure(f.wanted(), theirs) })
	} else if f.meta.Index, err = nbdctl.Connect(f.wanted(), theirs); err == nil {
		// A process that dies before this leaves a device that Sweep finds.
		if err = f.put(ctx); err != nil {
			_ = nbdctl.Disconnect(f.meta.Index) // the other error matters
		}
	}
	if err == nil && taken {
		err = f.put(ctx)
	}
	if err != nil {
		ours.Close()
		return err
	}
	go f.attend(ours)
	return f.Show(nbdctl.Path(f.meta.Index))
}

// wanted is the device as it should be.
func (f *Frontend) wanted() nbdctl.Device {
	return nbdctl.Device{Index: f.meta.Index, Size: f.o.Size, BlockSize: f.o.BlockSize, ServerFlags: f.export.ServerFlags(),
		Timeout: requestTimeout, DeadTimeout: max(time.Second, f.o.Wait.Round(time.Second)), Identifier: identifierOf(f.o.Node, f.o.Name)}
}

// pair returns two connected sockets: a connection, and a descriptor for the kernel.
func pair() (net.Conn, int, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, -1, fault.Errorf("nbdclient", fault.KindOf(err), "%w", err)
	}
	file := os.NewFile(uintptr(fds[1]), "nbd")
	defer file.Close()
	c, err := net.FileConn(file) // a copy
	if err != nil {
		_ = unix.Close(fds[0]) // nothing was said
		return nil, -1, err
	}
	return c, fds[0], nil
}

// retry calls try until it works, while the driver has not noticed yet that the last
// connection is dead.
func (f *Frontend) retry(ctx context.Context, try func() error) error {
	for tick := time.NewTicker(5 * time.Millisecond); ; {
		err := try()
		if err == nil || !fault.Is(err, fault.NoSpace) {
			return err
		}
		select {
		case <-tick.C:
		case <-f.Aborted():
			return fault.Errorf("nbdclient", fault.Canceled, "the device was aborted")
		case <-ctx.Done():
			return errors.Join(attach.GaveUp(ctx, "nbdclient"), err)
		}
	}
}

// attend serves the driver over c, and over others after that, until the end has begun.
func (f *Frontend) attend(c net.Conn) {
	defer close(f.served)
	for {
		if err := f.export.Attend(c); err != nil {
			f.o.Log.Warn("the kernel's connection ended", obs.Err(err))
		}
		// Nothing of it is in flight any more.
		f.mu.Lock()
		handing := f.handing
		f.mu.Unlock()
		if handing != nil {
			<-handing
		}
		ours, theirs, err := pair()
		if err == nil {
			err = f.retry(context.Background(), func() error {
				if f.Over() {
					return fault.Errorf("nbdclient", fault.Canceled, "it ends")
				}
				return nbdctl.Reconfigure(f.wanted(), theirs)
			})
			_ = unix.Close(theirs) // the kernel has its own
		}
		if err == nil {
			c = ours
			continue
		}
		if ours != nil {
			ours.Close()
		}
		if !f.Over() {
			go f.end(fault.E("nbdclient", fault.Canceled, f.o.Volume, fmt.Errorf("the device was taken away: %w", err)))
		}
		return
	}
}

func (f *Frontend) put(ctx context.Context) error {
	raw, err := json.Marshal(f.meta)
	if err != nil {
		return err
	}
	// Without files there is nothing to close after a time: the driver has its own.
	return f.keeper.Load().Put(ctx, keeper.Entry{Name: f.o.Name, Meta: string(raw)}, nil)
}

// Keep puts the device into another keeper, after the one before was lost. Until that is
// done the device is taken for a leftover by the process after this one.
func (f *Frontend) Keep(ctx context.Context, k *keeper.Client) error {
	return f.Running(ctx, "Keep", func() error {
		f.keeper.Store(k)
		return f.put(ctx)
	})
}

// Stats is attach.Frontend.Stats. What a predecessor left can't be told from what is
// new: Again is 0.
func (f *Frontend) Stats() attach.Stats { return f.export.Stats() }

// Resize is attach.Frontend.Resize.
func (f *Frontend) Resize(ctx context.Context, size int64) error {
	return f.Running(ctx, "Resize", func() error {
		if err := f.export.Resize(ctx, size); err != nil {
			return err
		}
		f.o.Size = size
		return nbdctl.Reconfigure(f.wanted(), -1)
	})
}

// HandOver is attach.Frontend.HandOver.
func (f *Frontend) HandOver(ctx context.Context) error {
	return f.Running(ctx, "HandOver", func() error {
		decided := make(chan struct{}) // whether attend goes on
		f.mu.Lock()
		f.handing = decided
		f.mu.Unlock()
		err := f.export.HandOver(ctx)
		aborted := err == nil && !f.Claim()
		f.mu.Lock()
		f.handing = nil
		f.mu.Unlock()
		close(decided)
		if err != nil {
			return err
		}
		if aborted {
			return f.ErrAborted("HandOver")
		}
		<-f.served
		if err := f.keeper.Load().Release(ctx, f.o.Name, true); err != nil {
			f.o.Log.Warn("the keeper believes that the device is served", obs.Err(err))
		}
		f.Finish(nil)
		return nil
	})
}

// Stop is attach.Frontend.Stop.
func (f *Frontend) Stop(ctx context.Context) error {
	return f.Running(ctx, "Stop", func() error {
		path := f.Device().Path
		if err := f.errand.Sync(ctx, path); err != nil { // Busy when it is mounted
			return err
		}
		if users := attach.Users(path); len(users) > 0 {
			return fault.WithCure(fault.Errorf("nbdclient.Stop", fault.Busy, "%s is open", path), "end process "+strings.Join(users, ", "))
		}
		if !f.Claim() {
			return f.ErrAborted("Stop")
		}
		err := nbdctl.Disconnect(f.meta.Index)
		<-f.served
		err = errors.Join(err, f.export.Stop(ctx)) // which flushes
		f.takeDown()
		f.Finish(err)
		return err
	})
}

// Abort is attach.Frontend.Abort.
func (f *Frontend) Abort() error {
	f.Aborting()
	if f.Started() && !f.HasEnded() {
		go f.end(nil)
	}
	return nil
}

// end takes the device away because of cause, once.
func (f *Frontend) end(cause error) {
	if !f.Claim() {
		return
	}
	if err := nbdctl.Disconnect(f.meta.Index); err != nil {
		f.o.Log.Error("the device is left", obs.Err(err))
	}
	f.takeDown()
	_ = f.export.Abort() // it always works
	<-f.export.Ended()
	f.Finish(cause)
}

// cleanUpWait bounds calls to the keeper while a device is being taken down.
const cleanUpWait = 10 * time.Second

// takeDown takes away what belongs to a device that is gone.
func (f *Frontend) takeDown() {
	ctx, cancel := context.WithTimeout(context.Background(), cleanUpWait)
	defer cancel()
	if err := attach.Unlink(f.o.LinkDir, f.o.Name, f.Device().Path); err != nil {
		f.o.Log.Warn("the device's link stays", obs.Err(err))
	}
	if err := f.keeper.Load().Remove(ctx, f.o.Name); err != nil {
		f.o.Log.Warn("the keeper may still have the device", obs.Err(err))
	}
}

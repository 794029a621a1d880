// Package frontend chooses how a volume becomes a block device, by what the kernel
// offers, and says which devices a data process that starts is to go on with. Exports,
// which are for clients of the NBD protocol and no devices, are made only where they are
// asked for by name, and end with their process.
package frontend

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/attach/errand"
	"github.com/holdfast-io/holdfast/internal/attach/fuse"
	"github.com/holdfast-io/holdfast/internal/attach/keeper"
	"github.com/holdfast-io/holdfast/internal/attach/nbd"
	"github.com/holdfast-io/holdfast/internal/attach/nbdclient"
	"github.com/holdfast-io/holdfast/internal/attach/ublk"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// Kind is a kind of front end.
type Kind string

// The kinds, and the empty one, which leaves the choice to us.
const (
	Auto Kind = ""
	FUSE Kind = "fuse" // any kernel since 5.8; restarts are hardly felt, and devices grow
	Ublk Kind = "ublk" // 6.4 and later with the module; before 6.16 devices can't grow while they are attached
	NBD  Kind = "nbd"  // the kernel's client; restarts are felt for seconds, all errors are EIO

	Export Kind = "export" // no device: clients of the NBD protocol connect to this process
)

// order is that in which kinds are tried: the one that can most comes first. What is
// no device is not among them.
var order = []Kind{FUSE, Ublk, NBD}

// Parse reads what a user says: a kind, or "auto".
func Parse(s string) (Kind, error) {
	if s == "auto" || s == "" {
		return Auto, nil
	}
	if k := Kind(s); k == Export || slices.Contains(order, k) {
		return k, nil
	}
	return Auto, fault.Errorf("frontend.Parse", fault.Invalid, "front end %q: use auto, fuse, ublk, nbd or export", s)
}

// Available returns nil, or why this machine has no front end of the kind.
func Available(k Kind) error {
	switch k {
	case FUSE:
		return fuse.Available()
	case Ublk:
		return ublk.Available()
	case NBD:
		return nbdclient.Available()
	case Export:
		return nil
	}
	return fault.Errorf("frontend.Available", fault.Invalid, "front end %q", k)
}

// Choose returns the kind that is wanted, or the best that this machine has. The error
// says what each lacks.
func Choose(wanted Kind) (Kind, error) {
	if wanted != Auto {
		return wanted, fault.Wrap("frontend.Choose", Available(wanted))
	}
	return first(Available)
}

func first(available func(Kind) error) (Kind, error) {
	var errs []error
	for _, k := range order {
		err := available(k)
		if err == nil {
			return k, nil
		}
		errs = append(errs, err)
	}
	return Auto, fault.Errorf("frontend.Choose", fault.Unsupported, "this machine has no way to make a block device: %w", errors.Join(errs...))
}

// Config is what front ends need besides their options.
type Config struct {
	Keeper *keeper.Client
	Errand errand.Command
	Server *nbd.Server // that exports, for an Export
	Pool   *fuse.Pool  // may be nil: see there
}

// New returns a front end of a kind that Choose or Left returned, not started.
func New(k Kind, o attach.Options, c Config) (attach.Frontend, error) {
	switch k {
	case FUSE:
		return fuse.New(o, fuse.Config{Keeper: c.Keeper, Errand: c.Errand, Pool: c.Pool})
	case Ublk:
		return ublk.New(o, ublk.Config{Keeper: c.Keeper, Errand: c.Errand})
	case NBD:
		return nbdclient.New(o, nbdclient.Config{Keeper: c.Keeper, Errand: c.Errand})
	case Export:
		return nbd.New(o, c.Server)
	}
	return nil, fault.Errorf("frontend.New", fault.Invalid, "front end %q", k)
}

// Device is one that a keeper has: its kind, and those of its options that it has by
// itself, which are Volume, Name, BlockSize, ReadOnly and NoDiscard.
type Device struct {
	Kind    Kind
	Options attach.Options
}

// Left returns what a keeper has, as its List returned it, of devices that are there:
// what a data process that starts is to take over. What a newer build has made is left
// out; whoever starts a device of that name is told.
func Left(entries []keeper.Entry) (list []Device) {
	for kind, left := range map[Kind][]attach.Options{FUSE: fuse.Left(entries), Ublk: ublk.Left(entries), NBD: nbdclient.Left(entries)} {
		for _, o := range left {
			list = append(list, Device{kind, o})
		}
	}
	slices.SortFunc(list, func(a, b Device) int { return strings.Compare(a.Options.Name, b.Options.Name) })
	return list
}

// Leftovers says which devices Sweep and Abort look at.
type Leftovers struct {
	Node    block.NodeID
	LinkDir string // "" is attach.DefaultLinkDir
	Unmount bool   // Sweep takes filesystems off dead devices, as of attach.SweepOptions
	Errand  errand.Command
	Kept    []keeper.Entry // what the keeper has, as its List returned it
	Only    string         // the one volume whose device over FUSE Sweep looks at; "" is all, of every kind
}

// Sweep takes away what a crash of data process and keeper has left of devices of every
// kind, and spares what the keeper has. It is called when a data process starts, before it
// attaches anything.
func (l Leftovers) Sweep(ctx context.Context) error {
	_, err := attach.Sweep(ctx, attach.SweepOptions{Node: l.Node, LinkDir: l.LinkDir, Unmount: l.Unmount, Keep: fuse.Connections(l.Kept), Only: l.Only})
	if l.Only != "" {
		return fault.Wrap("frontend.Sweep", err)
	}
	if ublk.Available() == nil {
		_, ublkErr := l.ublk().Sweep(ctx)
		err = errors.Join(err, ublkErr)
	}
	if nbdclient.Available() == nil {
		_, nbdErr := l.nbd().Sweep()
		err = errors.Join(err, nbdErr)
	}
	return fault.Wrap("frontend.Sweep", err)
}

// Abort ends the devices of a volume from outside, whoever serves them, or nobody: what
// waits for them fails, and so does everything that their users do from then on. It is
// fault.NotFound when there is none.
func (l Leftovers) Abort(ctx context.Context, volume string) error {
	aborts := []func() error{func() error { return attach.Abort(l.Node, volume) }}
	if ublk.Available() == nil {
		aborts = append(aborts, func() error { return l.ublk().Abort(ctx, volume) })
	}
	if nbdclient.Available() == nil {
		aborts = append(aborts, func() error { return l.nbd().Abort(volume) })
	}
	var err, none error
	found := false
	for _, abort := range aborts {
		switch e := abort(); {
		case e == nil:
			found = true
		case fault.Is(e, fault.NotFound):
			none = e
		default:
			err = errors.Join(err, e)
		}
	}
	if err == nil && !found {
		err = none
	}
	return fault.Wrap("frontend.Abort", err)
}

func (l Leftovers) ublk() ublk.Leftovers {
	return ublk.Leftovers{Errand: l.Errand, Node: l.Node, LinkDir: l.LinkDir, Kept: l.Kept}
}

func (l Leftovers) nbd() nbdclient.Leftovers {
	n := nbdclient.Leftovers{Node: l.Node, LinkDir: l.LinkDir}
	for _, o := range nbdclient.Left(l.Kept) {
		n.Kept = append(n.Kept, o.Name)
	}
	return n
}

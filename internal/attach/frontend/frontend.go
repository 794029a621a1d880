// Package frontend chooses how a volume becomes a block device, by what the kernel
// offers, and says which devices a data process that starts is to go on with.
package frontend

import (
	"errors"
	"slices"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/attach/errand"
	"github.com/holdfast-io/holdfast/internal/attach/fuse"
	"github.com/holdfast-io/holdfast/internal/attach/keeper"
	"github.com/holdfast-io/holdfast/internal/attach/nbdclient"
	"github.com/holdfast-io/holdfast/internal/attach/ublk"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// Kind is a kind of front end that makes block devices.
type Kind string

// The kinds, and the empty one, which leaves the choice to us.
const (
	Auto Kind = ""
	FUSE Kind = "fuse" // any kernel since 5.8; restarts are hardly felt, and devices grow
	Ublk Kind = "ublk" // 6.4 and later with the module; devices can't grow while they are attached
	NBD  Kind = "nbd"  // the kernel's client; restarts are felt for seconds, all errors are EIO
)

// order is that in which kinds are tried: the one that can most comes first.
var order = []Kind{FUSE, Ublk, NBD}

// Parse reads what a user says: a kind, or "auto".
func Parse(s string) (Kind, error) {
	if s == "auto" || s == "" {
		return Auto, nil
	}
	if k := Kind(s); slices.Contains(order, k) {
		return k, nil
	}
	return Auto, fault.Errorf("frontend.Parse", fault.Invalid, "front end %q: use auto, fuse, ublk or nbd", s)
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
}

// New returns a front end of a kind that Choose or Kept returned, not started.
func New(k Kind, o attach.Options, c Config) (attach.Frontend, error) {
	switch k {
	case FUSE:
		return fuse.New(o, fuse.Config{Keeper: c.Keeper, Errand: c.Errand})
	case Ublk:
		return ublk.New(o, ublk.Config{Keeper: c.Keeper, Errand: c.Errand})
	case NBD:
		return nbdclient.New(o, nbdclient.Config{Keeper: c.Keeper, Errand: c.Errand})
	}
	return nil, fault.Errorf("frontend.New", fault.Invalid, "front end %q", k)
}

// Device is one that a keeper has.
type Device struct {
	Name   string
	Kind   Kind
	Volume block.VolumeID
	// Served says that a live data process has it, Clean that nothing of it is unanswered.
	Served, Clean bool
}

// Kept returns the devices that a keeper has, as its List returned them: those that a data
// process that starts is to take over. What is not a whole device is left out, and so is
// what a newer build has made, which whoever starts the device is told.
func Kept(entries []keeper.Entry) (list []Device) {
	fuses, ublks, nbds := fuse.Volumes(entries), ublk.Volumes(entries), nbdclient.Volumes(entries)
	for _, e := range entries {
		d := Device{Name: e.Name, Served: e.Served, Clean: e.Clean}
		whole := false
		for kind, volumes := range map[Kind]map[string]block.VolumeID{FUSE: fuses, Ublk: ublks, NBD: nbds} {
			if id, ok := volumes[e.Name]; ok {
				d.Kind, d.Volume, whole = kind, id, true
			}
		}
		if whole {
			list = append(list, d)
		}
	}
	return list
}

package ublk

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/attach/errand"
	"github.com/holdfast-io/holdfast/internal/attach/keeper"
	"github.com/holdfast-io/holdfast/internal/attach/ublk/ublkctl"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// Leftovers says which devices are looked at.
type Leftovers struct {
	Errand  errand.Command
	Node    block.NodeID
	LinkDir string // "" is attach.DefaultLinkDir
	Kept    []keeper.Entry
}

// Sweep takes away devices of a node that the keeper does not have, and links to them. It
// returns their paths.
func (l Leftovers) Sweep(ctx context.Context) (gone []string, err error) {
	kept := map[uint32]string{} // names, by number
	for _, e := range l.Kept {
		if m, metaErr := parseMeta(e); metaErr == nil {
			kept[m.ID] = e.Name
		}
	}
	others := map[uint32]bool{} // other nodes'
	for _, id := range ublkctl.List() {
		i, getErr := l.Errand.Ublk(ctx, errand.Ublk{Do: errand.UblkGet, ID: id})
		if getErr != nil || i.Mark>>32 != markOf(l.Node[:])>>32 {
			others[id] = getErr == nil
			continue
		}
		if kept[id] != "" {
			continue
		}
		if e := l.delete(ctx, i); e != nil {
			err = errors.Join(err, e)
			continue
		}
		gone = append(gone, ublkctl.BlockPath(id))
	}
	return gone, errors.Join(err, attach.SweepLinks(l.LinkDir, func(name, target string) bool {
		var id uint32
		if _, err := fmt.Sscanf(target, "/dev/ublkb%d", &id); err != nil {
			return true // no business of ours
		}
		return others[id] || kept[id] == name
	}))
}

func (l Leftovers) delete(ctx context.Context, i ublkctl.Info) error {
	_, err := l.Errand.Ublk(ctx, errand.Ublk{Do: errand.UblkDelete, ID: i.ID, Mark: i.Mark})
	return err
}

// Abort ends the device of a volume from outside, whoever serves it, or nobody. It is
// fault.NotFound when the keeper has none of the name.
func (l Leftovers) Abort(ctx context.Context, volume string) error {
	for _, e := range l.Kept {
		if m, err := parseMeta(e); err == nil && e.Name == volume {
			return l.delete(ctx, ublkctl.Info{ID: m.ID, Mark: m.Mark})
		}
	}
	return fault.Errorf("ublk.Abort", fault.NotFound, "no device of volume %q is attached here", volume)
}

package node

import (
	"context"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/store"
)

// usageEvery is how often it is looked how much space a volume's snapshots take, and
// usageSoon how often whether some have come or gone, so that it is looked at once.
const (
	usageEvery = time.Minute
	usageSoon  = 5 * time.Second
)

// taken is a snapshot that there is.
type taken struct {
	generation block.Generation
	status     state.Entry[*v1.SnapshotStatus]
}

// counted is what was known when the snapshots of a volume were counted last.
type counted struct {
	at time.Time
	of []block.Generation
}

// countSnapshots says what snapshots take of the volumes that have replicas here, attached
// anywhere or nowhere.
func (d *daemon) countSnapshots(ctx context.Context) {
	last := map[string]counted{}
	for tick := time.NewTicker(usageSoon); ; {
		now := map[string]counted{}
		for _, volume := range d.residentVolumes() {
			list := d.taken(volume)
			if len(list) == 0 {
				continue
			}
			var of []block.Generation
			for _, x := range list {
				of = append(of, x.generation)
			}
			if c, ok := last[volume]; ok && time.Since(c.at) < usageEvery && slices.Equal(c.of, of) {
				now[volume] = c
				continue
			}
			if err := d.tellUsage(ctx, volume, list); err != nil && ctx.Err() == nil {
				d.o.Log.Warn("it can't be said what snapshots take", "volume", volume, "err", err)
			}
			now[volume] = counted{time.Now(), of}
		}
		last = now
		select {
		case <-tick.C:
		case <-ctx.Done():
			tick.Stop()
			return
		}
	}
}

func (d *daemon) residentVolumes() (list []string) {
	d.node.do(func() {
		for _, r := range d.node.residents {
			list = append(list, r.volume.String())
		}
	})
	return list
}

// taken returns a volume's snapshots that there are.
func (d *daemon) taken(volume string) (list []taken) {
	for _, e := range d.view.snapshots.ByIndex(byVolume, volume) {
		if s, ok := d.view.snapStatuses.Get(e.ID); ok && s.Value.Ready {
			list = append(list, taken{block.Generation(s.Value.Generation), s})
		}
	}
	return list
}

// tellUsage counts what a volume's snapshots take, if this node's replica is the one to ask,
// and says what is new. Where somebody else says something of a snapshot meanwhile, that
// goes first.
func (d *daemon) tellUsage(ctx context.Context, volume string, list []taken) error {
	if ours, err := d.counts(ctx, volume); !ours || err != nil {
		return err
	}
	usage, err := d.generationUsage(ctx, volume)
	if err != nil {
		return err
	}
	for _, x := range list {
		u, ok := usage[x.generation]
		now := proto.CloneOf(x.status.Value)
		if now.ExclusiveBytes, now.SharedBytes = u.Exclusive, u.Shared(); !ok || proto.Equal(x.status.Value, now) {
			continue
		}
		_, err := d.o.Store.Commit(ctx, state.SnapshotStatuses.Replace(x.status.ID, now, x.status.Revision))
		if err != nil && !fault.Is(err, fault.Busy) {
			return err
		}
	}
	return nil
}

// counts reports whether this node says what a volume's snapshots take: the one where it is
// attached, if its replica there counts, and else the first whose replica does.
func (d *daemon) counts(ctx context.Context, volume string) (bool, error) {
	e, err := state.Records.Get(ctx, d.o.Store, volume)
	if fault.Is(err, fault.NotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	rec, err := state.RecordOf(e.Value)
	if err != nil {
		return false, err
	}
	var first block.NodeID
	for _, m := range rec.Members {
		if m.State == spec.InSync && (first.IsZero() || m.Node == rec.Owner) {
			first = m.Node
		}
	}
	return first == d.o.Node, nil
}

// generationUsage asks the volume's replica on this node what its generations take; nil
// when there is none.
func (d *daemon) generationUsage(ctx context.Context, volume string) (map[block.Generation]store.GenerationUsage, error) {
	var usage map[block.Generation]store.GenerationUsage
	err := d.node.wait(ctx, func(done func(error)) {
		r := d.residentOf(volume)
		if r == nil {
			done(nil)
			return
		}
		r.store.Usage(func(u store.Usage, err error) {
			usage = map[block.Generation]store.GenerationUsage{}
			for _, g := range u.Generations {
				usage[g.Generation] = g
			}
			done(err)
		})
	})
	return usage, err
}

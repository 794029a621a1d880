package node

import (
	"context"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/replica"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/state"
)

// leaveMax is how long a process that ends waits for the owners of the volumes whose
// replicas are here to go on without them.
const leaveMax = 2 * time.Second

// leave tells the owners of the volumes whose replicas are here that this process ends,
// so that no write waits for it, and waits until they have taken note.
func (d *daemon) leave() {
	here := d.node.announce("its data process is about to end")
	ctx, cancel := context.WithTimeout(context.WithoutCancel(d.ctx), leaveMax)
	defer cancel()
	for tick := time.NewTicker(20 * time.Millisecond); d.missed(ctx, here); {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// announce tells the owners that what is here ends, and returns what that is.
func (n *Node) announce(why string) (here []*resident) {
	n.do(func() {
		for _, r := range n.residents {
			here = append(here, r)
			r.step(residentEvent{ev: replica.Leave{Why: why}})
		}
	})
	return here
}

// missed reports whether somebody elsewhere still counts on a replica here.
func (d *daemon) missed(ctx context.Context, here []*resident) bool {
	list, _, err := state.Records.List(ctx, d.o.Store)
	if err != nil {
		return false // nobody can be asked
	}
	ours := map[block.ReplicaID]bool{}
	for _, r := range here {
		ours[r.id] = true
	}
	for _, e := range list {
		rec, err := state.RecordOf(e.Value)
		if err != nil || rec.Owner.IsZero() || rec.Owner == d.o.Node || rec.InSync() < 2 {
			continue
		}
		for _, m := range rec.Members {
			if ours[m.Replica] && m.State == spec.InSync {
				return true
			}
		}
	}
	return false
}

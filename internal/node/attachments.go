package node

import (
	"context"
	"sync"
	"time"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/attach/frontend"
	"github.com/holdfast-io/holdfast/internal/coordinator"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
)

// attachments are the volumes whose heads run on this node, or are to: one attachment
// each, with a goroutine of its own, because attaching and mounting wait.
type attachments struct {
	d    *daemon
	node string

	mu     sync.Mutex
	list   map[string]*attachment // by volume
	ending bool                   // handOver was called: nothing new begins
	ran    sync.WaitGroup
}

func newAttachments(d *daemon) *attachments {
	return &attachments{d: d, node: d.o.Node.String(), list: map[string]*attachment{}}
}

// wish is what the cluster wants of this node for a volume. The zero wish is nothing.
type wish struct {
	volume     *v1.Volume
	attach     *v1.AttachmentSpec  // nil: only its head runs, while it is tended here
	assignment *statepb.Assignment // where its replicas are to be
	revision   state.Revision      // of the attachment
}

func (w wish) nothing() bool { return w.volume == nil }

// run tells attachments what is wished for, until ctx ends.
func (a *attachments) run(ctx context.Context) {
	v := a.d.view
	if v.ready(ctx) != nil {
		return
	}
	if !a.resume(ctx) {
		return
	}
	a.mu.Lock()
	for id, at := range a.list {
		at.wanted = a.wish(id)
		a.start(at)
	}
	a.mu.Unlock()
	attached, assigned, volumes, snapshots := v.attachments.Feed(), v.assignments.Feed(), v.volumes.Feed(), v.snapshots.Feed()
	operations, statuses := v.operations.Feed(), v.snapStatuses.Feed()
	defer snapshots.Close()
	defer statuses.Close()
	defer operations.Close()
	defer attached.Close()
	defer assigned.Close()
	defer volumes.Close()
	for {
		var ids []string
		select {
		case <-attached.Some():
			ids = attached.Take()
		case <-assigned.Some():
			ids = assigned.Take()
		case <-volumes.Some():
			ids = volumes.Take()
		case <-snapshots.Some():
			for _, id := range snapshots.Take() {
				if e, ok := v.snapshots.Get(id); ok {
					ids = append(ids, e.Value.GetSpec().GetVolumeId())
				}
			}
		case <-statuses.Some():
			for _, id := range statuses.Take() {
				ids = append(ids, a.inGroup(id)...)
			}
		case <-operations.Some():
			for _, id := range operations.Take() {
				if e, ok := v.operations.Get(id); ok && e.Value.Kind == kindRestore {
					ids = append(ids, e.Value.TargetId)
				}
			}
		case <-ctx.Done():
			return
		}
		for _, id := range ids {
			a.tell(id, a.wish(id))
		}
	}
}

// inGroup returns the volumes whose snapshots are in a group with one that has come: their
// heads wait for it.
func (a *attachments) inGroup(id string) (volumes []string) {
	v := a.d.view
	snap, ok := v.snapshots.Get(id)
	status, said := v.snapStatuses.Get(id)
	if !ok || !said || snap.Value.GetSpec().GetGroupId() == "" || status.Value.Phase != string(coordinator.GroupHere) {
		return nil
	}
	for _, e := range v.snapshots.ByIndex(byGroup, snap.Value.Spec.GroupId) {
		if e.ID != id {
			volumes = append(volumes, e.Value.GetSpec().GetVolumeId())
		}
	}
	return volumes
}

// resume begins with what the data process before this one left: devices, and what it
// said of volumes that were attached here.
func (a *attachments) resume(ctx context.Context) bool {
	said, _, err := state.AttachStatuses.List(ctx, a.d.o.Store)
	for ; err != nil; said, _, err = state.AttachStatuses.List(ctx, a.d.o.Store) {
		select {
		case <-time.After(retryAttach):
		case <-ctx.Done():
			return false
		}
	}
	for _, e := range said {
		if e.Value.NodeId == a.node {
			a.begin(e.ID, nil)
		}
	}
	for _, o := range a.d.left {
		a.begin(o.Options.Volume.String(), &o)
	}
	return true
}

// begin begins an attachment of what was left.
func (a *attachments) begin(id string, left *frontend.Device) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.list[id] == nil && !a.ending {
		a.list[id] = newAttachment(a.d, id)
	}
	if at := a.list[id]; at != nil {
		at.left = left
	}
}

// wish returns what is wished for a volume.
func (a *attachments) wish(id string) wish {
	v := a.d.view
	volume, ok := v.volumes.Get(id)
	assignment, assigned := v.assignments.Get(id)
	if !ok || !assigned {
		return wish{}
	}
	w := wish{volume: volume.Value, assignment: assignment.Value}
	if at, ok := v.attachments.Get(id); ok {
		if at.Value.Spec.GetNodeId() != a.node {
			return wish{}
		}
		w.revision = at.Revision
		if w.attach = at.Value.Spec; w.attach.Frontend == "none" {
			w.attach = nil
		}
		return w
	}
	if assignment.Value.TendedOn != a.node {
		return wish{}
	}
	return w
}

// tell passes a wish on.
func (a *attachments) tell(id string, w wish) {
	a.mu.Lock()
	defer a.mu.Unlock()
	at := a.list[id]
	if at == nil {
		if w.nothing() || a.ending {
			return
		}
		at = newAttachment(a.d, id)
		a.list[id] = at
	}
	at.wishFor(w)
	a.start(at)
}

// lookAgain has all look at what there is to do.
func (a *attachments) lookAgain() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, at := range a.list {
		at.wake()
	}
}

// start runs the attachment, unless it runs.
func (a *attachments) start(at *attachment) {
	if at.runs {
		return
	}
	at.runs = true
	a.ran.Add(1)
	go func() {
		defer a.ran.Done()
		at.run()
	}()
}

// gone forgets an attachment that has ended, unless something is wished of it again.
func (a *attachments) gone(at *attachment) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !at.wished().nothing() && !a.ending {
		return false
	}
	delete(a.list, at.id)
	return true
}

// handOver ends all, leaving devices to the data process that comes next.
func (a *attachments) handOver() {
	a.mu.Lock()
	a.ending = true
	for _, at := range a.list {
		at.leave()
	}
	a.mu.Unlock()
	a.ran.Wait()
}

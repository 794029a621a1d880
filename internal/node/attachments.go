package node

import (
	"context"
	"sync"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
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
}

func (w wish) nothing() bool { return w.volume == nil }

// run tells attachments what is wished for, until ctx ends.
func (a *attachments) run(ctx context.Context) {
	v := a.d.view
	if v.ready(ctx) != nil {
		return
	}
	attached, assigned, volumes := v.attachments.Feed(), v.assignments.Feed(), v.volumes.Feed()
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
		case <-ctx.Done():
			return
		}
		for _, id := range ids {
			a.tell(id, a.wish(id))
		}
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
		a.ran.Add(1)
		go func() {
			defer a.ran.Done()
			at.run()
		}()
	}
	at.wishFor(w)
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

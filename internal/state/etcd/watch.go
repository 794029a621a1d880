package etcd

import (
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/state"
)

type header = pb.ResponseHeader

// Watch tells what changes below prefix.
func (s *Store) Watch(ctx context.Context, prefix string, after state.Revision) <-chan state.Batch {
	w := &watch{store: s, prefix: prefix, after: after, other: s.others(), out: make(chan state.Batch)}
	go w.run(ctx)
	return w.out
}

// watch is one watch, which goes from member to member.
type watch struct {
	store  *Store
	prefix string
	after  state.Revision
	other  <-chan struct{}
	out    chan state.Batch
}

func (w *watch) run(ctx context.Context) {
	defer close(w.out)
	for ctx.Err() == nil {
		x, err := w.store.use(ctx)
		if err == nil {
			err = w.follow(ctx, x)
		}
		if errors.Is(err, errClosed) {
			err = fault.E("state.Watch", fault.Unavailable, block.VolumeID{}, err)
		}
		if fault.KindOf(err) != fault.Unknown {
			w.send(ctx, state.Batch{Err: err})
			return
		}
	}
}

// follow watches at one member for as long as it is used. An error with a kind ends the
// watch.
func (w *watch) follow(watcher context.Context, x *session) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(watcher))
	defer cancel()
	// Watch does not return before the member has answered.
	created := time.AfterFunc(attemptMax, func() { w.store.leave(x) })
	defer created.Stop()
	go func() {
		select {
		case <-x.over:
			cancel()
		case <-ctx.Done():
		}
	}()
	answers := x.client.Watch(ctx, w.store.key(w.prefix), clientv3.WithPrefix(), clientv3.WithRev(int64(w.after)+1),
		clientv3.WithProgressNotify(), clientv3.WithCreatedNotify())
	for {
		select {
		case r, ok := <-answers:
			if !ok || r.Err() != nil {
				return w.failed(ctx, x, r)
			}
			created.Stop()
			w.store.answered(x)
			w.take(watcher, r)
		case <-w.other:
			return fault.Errorf("state.Watch", fault.Precondition, "another etcd answers than before")
		}
	}
}

// closed returns why a session that is over will have no successor; nil when it will.
func (w *watch) closed() error {
	if w.store.ctx.Err() != nil {
		return errClosed
	}
	return nil
}

// failed returns nil when another member is to be tried.
func (w *watch) failed(ctx context.Context, x *session, r clientv3.WatchResponse) error {
	err := r.Err()
	switch {
	case ctx.Err() != nil: // whoever watches has gone, or the session is over
		return w.closed()
	case errors.Is(err, rpctypes.ErrCompacted):
		return fault.Errorf("state.Watch", fault.Precondition, "what happened after revision %d is forgotten", w.after)
	case codeOf(err) != 0 && !isAbsence(err):
		return w.store.explain(ctx, "state.Watch", err)
	}
	w.store.leave(x)
	return w.closed()
}

// take hands on what changed.
func (w *watch) take(ctx context.Context, r clientv3.WatchResponse) {
	if r.IsProgressNotify() {
		w.after = max(w.after, state.Revision(r.Header.Revision))
	}
	if len(r.Events) == 0 {
		return
	}
	b := state.Batch{}
	for _, e := range r.Events {
		ev := state.Event{Item: w.store.item(e.Kv.Key, e.Kv.Value, e.Kv.ModRevision), Deleted: e.Type == mvccpb.Event_DELETE}
		b.Events = append(b.Events, ev)
		b.Revision = ev.Revision
	}
	if w.send(ctx, b) {
		w.after = b.Revision
	}
}

// send hands a batch to whoever watches; false when they have gone.
func (w *watch) send(ctx context.Context, b state.Batch) bool {
	select {
	case w.out <- b:
		return true
	case <-ctx.Done():
		return false
	}
}

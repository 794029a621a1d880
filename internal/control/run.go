package control

import (
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/obs"
	"github.com/holdfast-io/holdfast/internal/state"
)

// Election is the name under which control's leader is elected.
const Election = "control"

// Options say who runs.
type Options struct {
	Node   string               // id of the node: who the leader is, and who says so in events
	Log    *slog.Logger         // nil: nothing is logged
	Now    func() time.Time     // nil: time.Now
	Random io.Reader            // of ids; nil: crypto/rand
	Traces trace.TracerProvider // nil: nothing is traced
}

// retryEvery is how long is waited before trying again what the store refused.
const retryEvery = time.Second

// Run campaigns, and runs the reconcilers whenever it leads, until ctx ends. That the
// store is away is not the end: it goes on when it is back.
func Run(ctx context.Context, s state.Store, o Options) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	for ctx.Err() == nil {
		lead, err := s.Lead(ctx, Election, o.Node)
		if err == nil {
			o.Log.Info("this node leads the cluster")
			err = term(ctx, s, o, lead)
			o.Log.Info("this node does not lead the cluster any more", obs.Err(err))
		}
		pause(ctx, retryEvery)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// term is one time of leading. It ends when ctx does, or when the leadership is lost.
func term(ctx context.Context, s state.Store, o Options, lead state.Leadership) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	defer func() { _ = lead.Resign() }() // if it can't be told, the lease runs out
	l := &leader{store: s, still: lead.Op(), log: o.Log, now: o.Now, random: o.Random, node: o.Node, traces: newTracer(o.Traces)}
	go func() {
		select {
		case <-lead.Lost():
			end(fault.Errorf("control", fault.Fenced, "the leadership was lost"))
		case <-ctx.Done():
		}
	}()
	for {
		err := l.rule(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		o.Log.Warn("the cluster's state can't be followed now; it is read anew", obs.Err(err))
		pause(ctx, retryEvery)
	}
}

// rule reads everything, and follows it until something is wrong.
func (l *leader) rule(ctx context.Context) error {
	if err := l.load(ctx); err != nil {
		return err
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	changes := l.store.Watch(watching, state.Root, l.revision)
	for {
		next, err := l.turn(ctx)
		if err != nil {
			return err
		}
		timer := time.NewTimer(max(time.Millisecond, next.Sub(l.now())))
		err = l.hear(ctx, changes, timer.C)
		timer.Stop()
		if err != nil {
			return err
		}
	}
}

// hear waits until something changes or is due, and takes over all that has changed.
func (l *leader) hear(ctx context.Context, changes <-chan state.Batch, due <-chan time.Time) error {
	select {
	case <-ctx.Done():
		return state.Ended("control", ctx)
	case <-due:
		return nil
	case b, ok := <-changes:
		for {
			if !ok {
				return state.Ended("control", ctx)
			}
			if b.Err != nil {
				return b.Err
			}
			if err := l.apply(b); err != nil {
				return err
			}
			select {
			case b, ok = <-changes:
			default:
				return nil
			}
		}
	}
}

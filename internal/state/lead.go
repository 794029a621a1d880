package state

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// leaderTTL is how long the cluster waits for a leader that fell silent.
const leaderTTL = 10 * time.Second

// leadersPrefix is where those who want to lead queue, below the name.
const leadersPrefix = Root + "leaders/"

// Campaign is Store.Lead for the implementations: it queues under a lease, and leads when
// nobody who came earlier is left. It fails when the store does; try again.
func Campaign(ctx context.Context, s Store, name, who string) (Leadership, error) {
	lease, err := s.Lease(ctx, leaderTTL)
	if err != nil {
		return nil, fault.Wrap("state.Lead", err)
	}
	c := candidate{store: s, lease: lease, queue: leadersPrefix + name + "/"}
	if err := c.wait(ctx, who); err != nil {
		_ = lease.Close() // if it can't be revoked it runs out
		return nil, fault.Wrap("state.Lead", err)
	}
	return &c, nil
}

// candidate is a Leadership, once wait has returned.
type candidate struct {
	store    Store
	lease    Lease
	queue    string
	key      string
	revision Revision
}

// Op returns the condition that the candidate's key, the oldest, is still there.
func (c *candidate) Op() Op { return Require(c.key, c.revision) }

// Lost is that of the lease.
func (c *candidate) Lost() <-chan struct{} { return c.lease.Lost() }

// Resign deletes the candidate's key.
func (c *candidate) Resign() error { return fault.Wrap("state.Resign", c.lease.Close()) }

// wait queues, and returns when it is the candidate's turn.
func (c *candidate) wait(ctx context.Context, who string) (err error) {
	c.key = c.queue + rand.Text()
	if c.revision, err = c.store.Commit(ctx, c.lease.Put(c.key, []byte(who))); err != nil {
		return err
	}
	for {
		before, at, err := c.before(ctx)
		if err != nil || before == "" {
			return err
		}
		if err := c.gone(ctx, before, at); err != nil {
			return err
		}
	}
}

// before returns the key of who is next before the candidate, "" when it is its turn.
func (c *candidate) before(ctx context.Context) (string, Revision, error) {
	items, at, err := c.store.List(ctx, c.queue)
	if err != nil {
		return "", 0, err
	}
	before, last, mine := "", Revision(0), false
	for _, i := range items {
		if i.Revision < c.revision && i.Revision > last {
			before, last = i.Key, i.Revision
		}
		mine = mine || i.Key == c.key
	}
	if !mine {
		return "", 0, fault.Errorf("state.Lead", fault.Unavailable, "the lease of this candidate has ended")
	}
	return before, at, nil
}

// gone waits until key is deleted after at, or something else is worth a look.
func (c *candidate) gone(ctx context.Context, key string, at Revision) error {
	watching, stop := context.WithCancel(ctx)
	defer stop()
	changes := c.store.Watch(watching, key, at)
	for {
		select {
		case b, ok := <-changes:
			switch {
			case !ok && ctx.Err() != nil:
				return ended(ctx)
			case !ok || b.Err != nil:
				return nil // look again
			}
			for _, e := range b.Events {
				if e.Deleted {
					return nil
				}
			}
		case <-c.lease.Lost():
			return fault.Errorf("state.Lead", fault.Unavailable, "the lease of this candidate was lost")
		}
	}
}

// Leader returns who leads name: what it told Lead. fault.NotFound when nobody does.
func Leader(ctx context.Context, s Store, name string) (who string, err error) {
	items, _, err := s.List(ctx, leadersPrefix+name+"/")
	if err != nil {
		return "", fault.Wrap("state.Leader", err)
	}
	if len(items) == 0 {
		return "", fault.Errorf("state.Leader", fault.NotFound, "nobody leads %s", name)
	}
	first := items[0]
	for _, i := range items {
		if i.Revision < first.Revision {
			first = i
		}
	}
	return string(first.Value), nil
}

// ended returns why ctx has ended, as a kind.
func ended(ctx context.Context) error { return Ended("state", ctx) }

// Ended returns the error of a verb whose ctx has ended: fault.Timeout or fault.Canceled.
func Ended(op string, ctx context.Context) error {
	kind := fault.Canceled
	if ctx.Err() == context.DeadlineExceeded {
		kind = fault.Timeout
	}
	return fault.Errorf(op, kind, "%w", context.Cause(ctx))
}

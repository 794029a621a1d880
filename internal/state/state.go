// Package state is what the cluster has agreed on: typed, revisioned, watchable. Every
// key has one writer.
//
// A [Store] is a keyspace with transactions, watches, leases and elections; packages etcd
// and memory are the two there are, and package statetest holds what both promise. A
// [Table] gives the keys below a prefix a message type, and a [Mirror] keeps a whole table
// in memory, so that who looks often asks nobody, and who loses the store goes on with
// what was so last. keys.go says which keys there are and who writes them.
//
// Messages are those of the API (specs and statuses) and those of package statepb, which
// nobody outside sees as they are.
package state

import (
	"context"
	"time"
)

// Revision counts the commits of a store. It rises with each one that changed something.
type Revision int64

// Item is a key with its value.
type Item struct {
	Key      string
	Value    []byte
	Revision Revision // of the commit that wrote the value
}

// Store is a keyspace. Its methods are for any goroutine. Where nothing else is said,
// errors are fault.Unavailable when the store can't be reached, fault.Timeout or
// fault.Canceled when ctx ended before the answer came.
type Store interface {
	// Get returns an item, as it was at some moment after the call. fault.NotFound when
	// there is none.
	Get(ctx context.Context, key string) (Item, error)
	// List returns all items whose keys begin with prefix, in the order of their keys, all
	// as of the one revision that it returns.
	List(ctx context.Context, prefix string) ([]Item, Revision, error)
	// Commit does all ops, or none. fault.Busy when a condition does not hold: somebody was
	// faster, so look again. fault.Invalid when the ops make no sense together. After
	// fault.Unavailable, Timeout and Canceled nobody knows whether they were done.
	// It returns the revision of the commit; of one that changed nothing, the present one.
	Commit(ctx context.Context, ops ...Op) (Revision, error)
	// Watch tells what changed below prefix after a revision that List or Commit returned,
	// in order and without gaps. The channel is closed after a Batch with an error, or when
	// ctx ends. A store that is away for a while is no error: the watch goes on where it was.
	Watch(ctx context.Context, prefix string, after Revision) <-chan Batch
	// Lease makes a lease that is kept alive until it is closed or lost. A lease that is
	// not kept alive for ttl ends, and what was put under it goes away.
	Lease(ctx context.Context, ttl time.Duration) (Lease, error)
	// Lead waits until who leads name. There is one leader at a time, in the sense that of
	// commits with Leadership.Op only those of one leader succeed.
	Lead(ctx context.Context, name, who string) (Leadership, error)
	// Close ends the store's watches, and its leases without revoking them.
	Close() error
}

// Batch is what changed, up to and including a revision: everything of each commit.
type Batch struct {
	Revision Revision
	Events   []Event // in the order of their revisions
	// Err says why the watch is over: what happened after the last batch was forgotten, or
	// the store is another one (fault.Precondition), or it was closed. List again. The
	// other fields are then empty.
	Err error
}

// Event is one change: an item that was written, or, if Deleted, a key that is gone since
// Item.Revision.
type Event struct {
	Item
	Deleted bool
}

// Lease is a promise to be there, renewed in the background. What is put under it is there
// for as long as it is.
type Lease interface {
	// Put writes the key, which goes away with the lease.
	Put(key string, value []byte) Op
	// Lost is closed when the lease has ended, or when it may have: when the time for which
	// it was renewed last has gone by.
	Lost() <-chan struct{}
	// Close ends the lease, and deletes what was put under it.
	Close() error
}

// Leadership is being the leader of something.
type Leadership interface {
	// Op is the condition that this is still the leader. Add it to every commit.
	Op() Op
	// Lost is closed when this is not the leader any more, or may not be.
	Lost() <-chan struct{}
	// Resign lets the next one lead.
	Resign() error
}

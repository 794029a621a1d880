package server

import (
	"context"
	"time"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/state"
)

// storeMax is how long a call waits for the store. One that has no majority any more
// answers nobody: who asks is to be told, and not to wait for ever.
const storeMax = 8 * time.Second

// bounded is a store that is waited for no longer than max.
type bounded struct {
	state.Store
	max time.Duration
}

// Get is state.Store.Get.
func (b bounded) Get(ctx context.Context, key string) (item state.Item, err error) {
	err = b.within(ctx, func(ctx context.Context) error {
		item, err = b.Store.Get(ctx, key)
		return err
	})
	return item, err
}

// List is state.Store.List.
func (b bounded) List(ctx context.Context, prefix string) (items []state.Item, at state.Revision, err error) {
	err = b.within(ctx, func(ctx context.Context) error {
		items, at, err = b.Store.List(ctx, prefix)
		return err
	})
	return items, at, err
}

// Commit is state.Store.Commit. When it takes too long nobody knows whether it was done.
func (b bounded) Commit(ctx context.Context, ops ...state.Op) (at state.Revision, err error) {
	err = b.within(ctx, func(ctx context.Context) error {
		at, err = b.Store.Commit(ctx, ops...)
		return err
	})
	return at, err
}

func (b bounded) within(ctx context.Context, do func(context.Context) error) error {
	bound, cancel := context.WithTimeout(ctx, b.max)
	defer cancel()
	err := do(bound)
	if err != nil && bound.Err() != nil && ctx.Err() == nil {
		return fault.Errorf("server", fault.Unavailable, "the metadata store has not answered for %v: most of its members are down or can't be reached", b.max)
	}
	return err
}

package server

import (
	"context"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/state"
)

// silent is a store without a majority: it answers when nobody waits any more.
type silent struct{ state.Store }

func (silent) Get(ctx context.Context, _ string) (state.Item, error) {
	<-ctx.Done()
	return state.Item{}, state.Ended("silent", ctx)
}

func (silent) List(ctx context.Context, _ string) ([]state.Item, state.Revision, error) {
	<-ctx.Done()
	return nil, 0, state.Ended("silent", ctx)
}

func (silent) Commit(ctx context.Context, _ ...state.Op) (state.Revision, error) {
	<-ctx.Done()
	return 0, state.Ended("silent", ctx)
}

func TestAStoreWithoutAMajorityIsNotWaitedForForEver(t *testing.T) {
	b := bounded{silent{}, time.Millisecond}
	_, err := b.Get(t.Context(), "k")
	_, _, listErr := b.List(t.Context(), "k")
	_, commitErr := b.Commit(t.Context())
	for _, err := range []error{err, listErr, commitErr} {
		if !fault.Is(err, fault.Unavailable) {
			t.Errorf("it is %v", err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Get(ctx, "k"); !fault.Is(err, fault.Canceled) {
		t.Errorf("for a caller who gave up it is %v", err)
	}
}

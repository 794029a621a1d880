package state

import (
	"context"
	"time"
)

// KeepThere keeps a value under a key for as long as this process can say so, and no
// longer than ttl after: under a lease that is made anew whenever it is lost. It returns
// when ctx has ended and the key is deleted, as far as the store could be told. told is
// called with nil when the key is there, and with the error when it is not.
func KeepThere(ctx context.Context, s Store, item Item, ttl time.Duration, told func(error)) {
	wait := retryLeast
	for ctx.Err() == nil {
		err := keepOnce(ctx, s, item, ttl, func() { told(nil); wait = retryLeast })
		if err == nil {
			continue // the lease was lost: at once
		}
		if ctx.Err() != nil {
			return
		}
		told(err)
		select {
		case <-time.After(wait):
			wait = min(2*wait, retryMost)
		case <-ctx.Done():
		}
	}
}

// keepOnce keeps the value under one lease, until it is lost or ctx ends.
func keepOnce(ctx context.Context, s Store, item Item, ttl time.Duration, there func()) error {
	lease, err := s.Lease(ctx, ttl)
	if err != nil {
		return err
	}
	defer lease.Close()
	if _, err := s.Commit(ctx, lease.Put(item.Key, item.Value)); err != nil {
		return err
	}
	there()
	select {
	case <-lease.Lost():
	case <-ctx.Done():
	}
	return nil
}

package server

import (
	"context"
	"maps"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/state"
)

// waitFor looks at the view whenever it changes, until what is waited for has come true,
// can't, or the time is over; then why says what is missing. With no time it returns at
// once.
func (s *Server) waitFor(ctx context.Context, most time.Duration, what string, look func() (done bool, why string, err error)) error {
	if most <= 0 {
		return nil
	}
	limit := time.NewTimer(most)
	defer limit.Stop()
	again := time.NewTicker(time.Second) // what a look goes by may be the time
	defer again.Stop()
	for {
		changed := s.view.Changed()
		done, why, err := look()
		if done || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-again.C:
		case <-limit.C:
			return fault.WithCure(fault.Errorf("server", fault.Timeout, "%s after %s: %s", what, most, why), "it goes on by itself: look again, or call again to wait longer")
		case <-ctx.Done():
			return ended(ctx, what, why)
		}
	}
}

// watchEvery is the shortest time between two looks of a watch: what changes faster is
// told once.
const watchEvery = 50 * time.Millisecond

// watched is what a watch tells of: objects by key.
type watched[T proto.Message] map[string]T

// watch tells a caller what look returns, and then what is different, until the caller
// goes away.
func watch[T proto.Message](ctx context.Context, s *Server, look func() watched[T], send func(v1.Change, T) error) error {
	told, synced := watched[T]{}, false
	for {
		changed := s.view.Changed()
		now := look()
		if err := tell(told, now, send); err != nil {
			return err
		}
		told = now
		if !synced {
			var none T
			if err := send(v1.Change_CHANGE_SYNCED, none); err != nil {
				return err
			}
			synced = true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
		select {
		case <-time.After(watchEvery):
		case <-ctx.Done():
			return nil
		}
	}
}

// tell sends what is different between two looks, in the order of the keys.
func tell[T proto.Message](was, now watched[T], send func(v1.Change, T) error) error {
	for _, key := range sortedKeys(now) {
		old, known := was[key]
		switch {
		case !known:
			if err := send(v1.Change_CHANGE_ADDED, now[key]); err != nil {
				return err
			}
		case !proto.Equal(old, now[key]):
			if err := send(v1.Change_CHANGE_UPDATED, now[key]); err != nil {
				return err
			}
		}
	}
	for _, key := range sortedKeys(was) {
		if _, still := now[key]; !still {
			if err := send(v1.Change_CHANGE_REMOVED, was[key]); err != nil {
				return err
			}
		}
	}
	return nil
}

// stream sends messages of a watch that are made of a change and an object.
func stream[M, T any](out *connect.ServerStream[M], message func(v1.Change, T) *M) func(v1.Change, T) error {
	return func(c v1.Change, object T) error { return out.Send(message(c, object)) }
}

// ended says what was waited for when a caller gave up, or its deadline came.
func ended(ctx context.Context, what, why string) error {
	kind := fault.KindOf(state.Ended("server", ctx))
	return fault.Errorf("server", kind, "%s: %s", what, why)
}

func sortedKeys[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }

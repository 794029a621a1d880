package link_test

import (
	"testing"

	"github.com/holdfast-io/holdfast/internal/wire"
	"github.com/holdfast-io/holdfast/internal/wire/link"
)

// TestSteadyStateAllocatesNothing sends writes and answers them. What package tls spends
// on a read of its socket, one small object, is its own.
func TestSteadyStateAllocatesNothing(t *testing.T) {
	const depth = 32
	for _, tr := range transports {
		a, b := connect(t, tr, nil)
		var done wire.Done
		run(t, b, func(f *link.Frame) {
			if err := f.Conn().Queue(f.Tag, &done, nil); err != nil {
				t.Error(err)
			}
			f.Release()
		})
		answered := make(chan struct{}, depth)
		run(t, a, func(f *link.Frame) {
			f.Release()
			answered <- struct{}{}
		})
		m, hold := message(1, 1), nobody{}
		perBatch := testing.AllocsPerRun(100, func() {
			for id := range uint64(depth) {
				var err error
				if id%2 == 0 {
					err = a.Queue(wire.Tag{ID: id}, m, hold)
				} else {
					err = a.Send(wire.Tag{ID: id}, m, hold)
				}
				if err != nil {
					t.Error(err)
				}
			}
			a.Flush()
			for range depth {
				<-answered
			}
		})
		// Every read may find a part of a frame; the garbage collector may take what
		// package tls keeps in a sync.Pool.
		limit := 0.5
		if tr.secure {
			limit = 2 * depth
		}
		if tr.secure && raceEnabled {
			continue // the race detector makes a sync.Pool forget on purpose
		}
		if perBatch > limit {
			t.Errorf("%v: %d round trips cost %v allocations, want at most %v", tr, depth, perBatch, limit)
		}
	}
}

type nobody struct{}

// Release does nothing.
func (nobody) Release() {}

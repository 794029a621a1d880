package statetest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/memory"
)

// Death is what becomes of the commit at which a Mortal dies.
type Death uint8

// The deaths.
const (
	Before Death = iota // the commit is not done
	After               // it is done, and nobody hears of it
)

// String names the death.
func (d Death) String() string {
	if d == Before {
		return "before"
	}
	return "after"
}

// Mortal is a store as seen by a process that dies at its nth commit: from then on
// everything fails with fault.Unavailable, watches are silent, and the process's leases are
// lost. Others use the store below as before.
type Mortal struct {
	state.Store
	death Death
	dead  chan struct{}

	mu      sync.Mutex
	left    int // commits to live
	commits int
	leases  []state.Lease
}

// NewMortal returns a store that dies at the nth commit, counted from 1; with 0, only when
// it is told to Die.
func NewMortal(s state.Store, nth int, death Death) *Mortal {
	return &Mortal{Store: s, left: nth, death: death, dead: make(chan struct{})}
}

// Dead is closed when the store has died. A test of a process ends it then.
func (m *Mortal) Dead() <-chan struct{} { return m.dead }

// Commits counts the commits that were tried while it lived.
func (m *Mortal) Commits() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.commits
}

// Die is death between two commits.
func (m *Mortal) Die() {
	m.mu.Lock()
	select {
	case <-m.dead:
	default:
		close(m.dead)
	}
	leases := m.leases
	m.leases = nil
	m.mu.Unlock()
	for _, l := range leases {
		_ = l.Close() // as if it had run out
	}
}

func (m *Mortal) alive() error {
	select {
	case <-m.dead:
		return fault.Errorf("state", fault.Unavailable, "this process is dead")
	default:
		return nil
	}
}

// Get is the store's, while it lives.
func (m *Mortal) Get(ctx context.Context, key string) (state.Item, error) {
	if err := m.alive(); err != nil {
		return state.Item{}, err
	}
	return m.Store.Get(ctx, key)
}

// List is the store's, while it lives.
func (m *Mortal) List(ctx context.Context, prefix string) ([]state.Item, state.Revision, error) {
	if err := m.alive(); err != nil {
		return nil, 0, err
	}
	return m.Store.List(ctx, prefix)
}

// Commit is the store's, until the one at which it dies.
func (m *Mortal) Commit(ctx context.Context, ops ...state.Op) (state.Revision, error) {
	if err := m.alive(); err != nil {
		return 0, err
	}
	m.mu.Lock()
	m.commits++
	m.left--
	last := m.left == 0
	m.mu.Unlock()
	if !last {
		return m.Store.Commit(ctx, ops...)
	}
	if m.death == After {
		_, _ = m.Store.Commit(ctx, ops...) // nobody hears of it
	}
	m.Die()
	return 0, m.alive()
}

// Watch is the store's, while it lives.
func (m *Mortal) Watch(ctx context.Context, prefix string, after state.Revision) <-chan state.Batch {
	living, stop := context.WithCancel(ctx)
	go func() {
		defer stop()
		select {
		case <-m.dead:
		case <-ctx.Done():
		}
	}()
	out := make(chan state.Batch)
	go func() {
		defer close(out)
		for b := range m.Store.Watch(living, prefix, after) {
			select {
			case out <- b:
			case <-living.Done():
			}
		}
		<-ctx.Done() // the dead hear nothing, not even the end
	}()
	return out
}

// Lease is the store's, while it lives.
func (m *Mortal) Lease(ctx context.Context, ttl time.Duration) (state.Lease, error) {
	if err := m.alive(); err != nil {
		return nil, err
	}
	l, err := m.Store.Lease(ctx, ttl)
	if err == nil {
		m.mu.Lock()
		m.leases = append(m.leases, l)
		m.mu.Unlock()
	}
	return l, err
}

// Lead is the store's, under leases that are lost at death.
func (m *Mortal) Lead(ctx context.Context, name, who string) (state.Leadership, error) {
	return state.Campaign(ctx, m, name, who)
}

// Close leaves the store below open: it is others' too.
func (m *Mortal) Close() error { return nil }

// Killed is one life: a process with the mortal store, killed at its nth commit, and then
// another one with the store below.
type Killed struct {
	Store  *memory.Store // with what is there before and after
	Mortal *Mortal
}

// KillAtEveryCommit runs story again and again, each time with an empty store and a process
// that dies one commit later, before it is done or after, until one lives to the end. Story
// lets a process do its work with Killed.Mortal until it is done or Dead, then another with
// Killed.Store, and checks that all is well.
func KillAtEveryCommit(t *testing.T, story func(t *testing.T, k Killed)) {
	t.Helper()
	const most = 1000
	for n := 1; n <= most; n++ {
		lived := 0
		for _, death := range []Death{Before, After} {
			t.Run(fmt.Sprintf("%s commit %d", death, n), func(t *testing.T) {
				s := memory.New()
				defer s.Close()
				m := NewMortal(s, n, death)
				story(t, Killed{Store: s, Mortal: m})
				if m.Commits() < n {
					lived++
				}
			})
		}
		if lived > 0 || t.Failed() {
			return
		}
	}
	t.Errorf("after %d commits it was still not done", most)
}

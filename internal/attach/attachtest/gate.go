package attachtest

import (
	"sync"
	"time"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// Gate stands before a backend: it holds requests back and fails them, when told to.
// All methods but Submit may be called from any goroutine except the loop's.
type Gate struct {
	Behind attach.Backend
	Loop   *attach.Loop

	mu      sync.Mutex
	changed sync.Cond
	closed  bool
	held    []*attach.Request
	fail    map[attach.Op]error
	passed  int
}

// NewGate returns an open gate.
func NewGate(behind attach.Backend, l *attach.Loop) *Gate {
	g := &Gate{Behind: behind, Loop: l, fail: map[attach.Op]error{}}
	g.changed.L = &g.mu
	return g
}

// Submit passes r on, unless the gate is closed or r's operation is to fail.
func (g *Gate) Submit(r *attach.Request) {
	g.mu.Lock()
	err := g.fail[r.Op]
	held := g.closed
	if held {
		g.held = append(g.held, r)
	} else {
		g.passed++
	}
	g.changed.Broadcast()
	g.mu.Unlock()
	switch {
	case held:
	case err != nil:
		r.End(err)
	default:
		g.Behind.Submit(r)
	}
}

// Close holds back what comes from now on.
func (g *Gate) Close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
}

// Await waits until n requests are held back, but not for ever.
func (g *Gate) Await(n int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	late := false
	end := time.AfterFunc(patience, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		late = true
		g.changed.Broadcast()
	})
	defer end.Stop()
	for len(g.held) < n {
		if late {
			return fault.Errorf("attachtest.Await", fault.Timeout, "%d of %d requests came in %s", len(g.held), n, patience)
		}
		g.changed.Wait()
	}
	return nil
}

// Held returns how many requests are held back, and Passed how many were not.
func (g *Gate) Held() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.held)
}

// Passed returns how many requests were not held back.
func (g *Gate) Passed() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.passed
}

// Open passes on what was held back, the last first, and all that comes from now on.
func (g *Gate) Open() {
	opened := make(chan struct{})
	ok := g.Loop.Post(func() {
		defer close(opened)
		g.mu.Lock()
		held := g.held
		g.held, g.closed = nil, false
		g.mu.Unlock()
		for i := len(held) - 1; i >= 0; i-- {
			g.Submit(held[i])
		}
	})
	if ok {
		<-opened
	}
}

// Fail makes requests of the operation fail from now on; nil ends that.
func (g *Gate) Fail(op attach.Op, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fail[op] = err
}

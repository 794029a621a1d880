// Package patiently is how tests wait. What a race or a bug keeps from coming would otherwise
// be waited for until go test's own time limit, with every test behind it unseen; here
// the wait ends after Patience, and says what was there instead.
package patiently

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"
)

// Patience is how long a test waits for one thing. It says that something is stuck, not
// that it is slow: no healthy machine, however busy, takes so long.
const Patience = 2 * time.Minute

// lookAgain is how often a condition is looked at that nobody tells of.
const lookAgain = 5 * time.Millisecond

// From returns what comes from c next, or its zero value once c is closed. When nothing
// comes it ends the test, with what every goroutine is doing.
func From[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	v, _ := Next(t, c)
	return v
}

// Next is From, and reports too whether c is still open.
func Next[T any](t testing.TB, c <-chan T) (v T, open bool) {
	t.Helper()
	end := time.NewTimer(Patience)
	defer end.Stop()
	select {
	case v, open = <-c:
	case <-end.C:
		t.Fatalf("nothing came for %s\n%s", Patience, stacks())
	}
	return v, open
}

// Return waits until f returns. When it does not, the test ends with what every goroutine
// is doing.
func Return(t testing.TB, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	From(t, done)
}

// Until looks until so returns nil. When it never does, the test ends with the last error.
func Until(t testing.TB, so func() error) {
	t.Helper()
	end := time.NewTimer(Patience)
	defer end.Stop()
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		err := so()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-end.C:
			t.Fatalf("after %s: %v", Patience, err)
		}
	}
}

// True looks until so returns true. When it never does, the test ends with what was
// waited for.
func True(t testing.TB, what string, so func() bool) {
	t.Helper()
	Until(t, func() error {
		if so() {
			return nil
		}
		return fmt.Errorf("not so: %s", what)
	})
}

// Context returns a context that ends after Patience, or with the test.
func Context(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	t.Cleanup(cancel)
	return ctx
}

// stacks returns what every goroutine is doing.
func stacks() []byte {
	all := make([]byte, 1<<20)
	return all[:runtime.Stack(all, true)]
}

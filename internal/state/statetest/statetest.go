// Package statetest is what every state.Store promises, as tests ([Conform]), and a store
// that fails when it is told to ([Mortal]), for testing those who use one.
package statetest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
	"github.com/holdfast-io/holdfast/internal/state"
)

// Bench is a store under test.
type Bench struct {
	Store state.Store
	// Compact makes the store forget its history.
	Compact func()
	// Expire ends all leases, as if their holders had been silent.
	Expire func()
	// Again opens the same store a second time, as another process would.
	Again func() state.Store
}

// patience is how long a test waits for what must come.
const patience = time.Minute

// Conform runs the suite; open returns a store that is empty below the prefix /t/.
func Conform(t *testing.T, open func(t *testing.T) *Bench) {
	for name, test := range map[string]func(*rig){
		"WhatWasPutIsThere":                 putAndGet,
		"ConditionsDecide":                  conditions,
		"ACommitIsAllOrNothing":             allOrNothing,
		"NonsenseIsRefused":                 nonsense,
		"AListIsOfOneRevision":              lists,
		"AWatchMissesNothing":               watches,
		"AWatchTellsCommitsWhole":           wholeCommits,
		"AWatchEndsWhenHistoryIsForgotten":  compacted,
		"AWatchEndsWithItsContext":          watchEnds,
		"WhatIsLeasedGoesAwayWithTheLease":  leases,
		"ALostLeaseSaysSo":                  lostLease,
		"LeasesOfTheDeadDoNotHold":          deadLease,
		"OneLeads":                          leads,
		"WhoLostTheLeadCannotCommit":        deposed,
		"AnEndedContextEndsAWaitToLead":     leadEnds,
		"SomebodyWhoKeepsThereIsThereAgain": keepsThere,
		"AMirrorFollows":                    mirrors,
		"AMirrorListsAgain":                 mirrorsAgain,
		"OfManyWhoIncrementNoneIsLost":      contention,
	} {
		t.Run(name, func(t *testing.T) {
			b := open(t)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			t.Cleanup(cancel)
			test(&rig{T: t, Bench: b, s: b.Store, ctx: ctx})
		})
	}
}

// rig is a test with its store.
type rig struct {
	*testing.T
	*Bench
	s   state.Store
	ctx context.Context
}

func (r *rig) commit(ops ...state.Op) state.Revision {
	r.Helper()
	rev, err := r.s.Commit(r.ctx, ops...)
	if err != nil {
		r.Fatal(err)
	}
	return rev
}

func (r *rig) refused(kind fault.Kind, ops ...state.Op) {
	r.Helper()
	if _, err := r.s.Commit(r.ctx, ops...); !fault.Is(err, kind) {
		r.Fatalf("Commit: %v, want kind %v", err, kind)
	}
}

// value returns the key's value, "-" when there is none.
func (r *rig) value(key string) string {
	r.Helper()
	it, err := r.s.Get(r.ctx, key)
	if fault.Is(err, fault.NotFound) {
		return "-"
	}
	if err != nil {
		r.Fatal(err)
	}
	return string(it.Value)
}

func (r *rig) want(key, value string) {
	r.Helper()
	if got := r.value(key); got != value {
		r.Fatalf("%s is %q, want %q", key, got, value)
	}
}

// await fails unless c is closed, or has a value.
func await[T any](r *rig, c <-chan T, what string) (v T) {
	r.Helper()
	select {
	case v = <-c:
	case <-r.ctx.Done():
		r.Fatalf("waited in vain for %s", what)
	}
	return v
}

func b(s string) []byte { return []byte(s) }

func putAndGet(r *rig) {
	r.want("/t/a", "-")
	one := r.commit(state.Put("/t/a", b("1")))
	it, err := r.s.Get(r.ctx, "/t/a")
	if err != nil || string(it.Value) != "1" || it.Revision != one || it.Key != "/t/a" {
		r.Fatalf("Get = %+v, %v", it, err)
	}
	two := r.commit(state.Put("/t/a", nil))
	if two <= one {
		r.Fatalf("revision %d follows %d", two, one)
	}
	r.want("/t/a", "")
	r.commit(state.Delete("/t/a", 0))
	r.commit(state.Delete("/t/a", 0)) // what is not there is deleted
	r.want("/t/a", "-")
}

func conditions(r *rig) {
	one := r.commit(state.Create("/t/a", b("1")))
	r.refused(fault.Busy, state.Create("/t/a", b("2")))
	r.refused(fault.Busy, state.Replace("/t/a", b("2"), one-1))
	r.refused(fault.Busy, state.Replace("/t/b", b("2"), one))
	two := r.commit(state.Replace("/t/a", b("2"), one))
	r.refused(fault.Busy, state.Replace("/t/a", b("3"), one))
	r.refused(fault.Busy, state.Delete("/t/a", one))
	r.refused(fault.Busy, state.Require("/t/a", 0), state.Put("/t/b", nil))
	r.refused(fault.Busy, state.Require("/t/a", one), state.Put("/t/b", nil))
	r.refused(fault.Busy, state.Require("/t/b", one), state.Put("/t/b", nil))
	r.want("/t/b", "-")
	r.commit(state.Require("/t/a", two), state.Require("/t/b", 0), state.Put("/t/b", b("3")))
	r.want("/t/b", "3")
	if got := r.commit(state.Require("/t/a", two)); got < two {
		r.Fatalf("a commit that changes nothing is at revision %d, after %d", got, two)
	}
	r.commit(state.Delete("/t/a", two))
	r.want("/t/a", "-")
}

func allOrNothing(r *rig) {
	r.commit(state.Put("/t/a", b("1")))
	r.refused(fault.Busy, state.Put("/t/b", b("2")), state.Create("/t/a", b("2")), state.Put("/t/c", b("2")))
	r.want("/t/b", "-")
	r.want("/t/c", "-")
	rev := r.commit(state.Put("/t/b", b("3")), state.Delete("/t/a", 0), state.Put("/t/c", b("3")))
	for _, key := range []string{"/t/b", "/t/c"} {
		if it, err := r.s.Get(r.ctx, key); err != nil || it.Revision != rev {
			r.Fatalf("%+v, %v: want revision %d", it, err, rev)
		}
	}
}

func nonsense(r *rig) {
	r.refused(fault.Invalid, state.Put("", nil))
	r.refused(fault.Invalid, state.Put("/t/a", b("1")), state.Delete("/t/a", 0))
	r.refused(fault.Invalid, state.Put("/t/a", make([]byte, state.CommitBytes)))
	r.refused(fault.Invalid, make([]state.Op, state.OpsMax+1)...)
	r.refused(fault.Corrupt, state.Op{Key: "/t/a", Err: fault.Errorf("x", fault.Corrupt, "broken")})
	var most []state.Op
	for i := range state.OpsMax {
		most = append(most, state.Create(fmt.Sprintf("/t/%d", i), b("1")))
	}
	r.commit(most...)
	r.commit(state.Put("/t/a", make([]byte, state.CommitBytes-len("/t/a"))))
}

func lists(r *rig) {
	const many = 2500 // more than a page
	for i := 0; i < many; i += 100 {
		var ops []state.Op
		for j := range 100 {
			ops = append(ops, state.Put(fmt.Sprintf("/t/l/%04d", i+j), b(fmt.Sprint(i+j))))
		}
		r.commit(ops...)
	}
	last := r.commit(state.Put("/t/k", nil), state.Put("/t/l0", nil)) // beside the prefix
	items, rev, err := r.s.List(r.ctx, "/t/l/")
	if err != nil || len(items) != many || rev < last {
		r.Fatalf("%d items at %d, %v", len(items), rev, err)
	}
	for i, it := range items {
		if it.Key != fmt.Sprintf("/t/l/%04d", i) || string(it.Value) != fmt.Sprint(i) || it.Revision == 0 {
			r.Fatalf("item %d is %+v", i, it)
		}
	}
	if items, _, err := r.s.List(r.ctx, "/t/nothing/"); err != nil || len(items) > 0 {
		r.Fatalf("%d items, %v", len(items), err)
	}
}

// next returns the next event of a watch.
func (r *rig) next(w *watch) state.Event {
	r.Helper()
	for len(w.events) == 0 {
		batch := await(r, w.c, "an event")
		if batch.Err != nil {
			r.Fatal(batch.Err)
		}
		w.events = batch.Events
	}
	e := w.events[0]
	w.events = w.events[1:]
	return e
}

type watch struct {
	c      <-chan state.Batch
	events []state.Event
}

func watches(r *rig) {
	start := r.commit(state.Put("/t/w/a", b("0")))
	r.commit(state.Put("/t/w/a", b("1")))
	r.commit(state.Put("/t/x/a", b("no")))
	w := &watch{c: r.s.Watch(r.ctx, "/t/w/", start)}
	expect := func(key, value string, deleted bool) {
		r.Helper()
		if e := r.next(w); e.Key != key || string(e.Value) != value || e.Deleted != deleted || e.Revision <= start {
			r.Fatalf("event %+v, want %s = %q, deleted: %v", e, key, value, deleted)
		}
	}
	expect("/t/w/a", "1", false)
	r.commit(state.Put("/t/w/b", b("2")))
	expect("/t/w/b", "2", false)
	gone := r.commit(state.Delete("/t/w/a", 0))
	if e := r.next(w); e.Key != "/t/w/a" || !e.Deleted || e.Revision != gone {
		r.Fatalf("event %+v, want a deletion at %d", e, gone)
	}
	r.commit(state.Delete("/t/w/a", 0)) // of what is not there: no event
	for i := range 300 {
		r.commit(state.Put("/t/w/c", b(fmt.Sprint(i))))
	}
	for i := range 300 {
		expect("/t/w/c", fmt.Sprint(i), false)
	}
}

func wholeCommits(r *rig) {
	start := r.commit(state.Put("/t/a", nil))
	w := r.s.Watch(r.ctx, "/t/", start)
	for range 50 {
		r.commit(state.Put("/t/a", nil), state.Put("/t/b", nil), state.Put("/t/c", nil))
	}
	for seen, last := 0, start; seen < 150; {
		batch := await(r, w, "a batch")
		if batch.Err != nil || len(batch.Events)%3 != 0 || batch.Revision < last {
			r.Fatalf("batch at %d after %d with %d events: %v", batch.Revision, last, len(batch.Events), batch.Err)
		}
		for _, e := range batch.Events {
			if e.Revision > batch.Revision || e.Revision <= last {
				r.Fatalf("an event at %d in a batch of %d after %d", e.Revision, batch.Revision, last)
			}
		}
		seen, last = seen+len(batch.Events), batch.Revision
	}
}

func compacted(r *rig) {
	start := r.commit(state.Put("/t/a", b("1")))
	r.commit(state.Put("/t/a", b("2")))
	r.commit(state.Put("/t/a", b("2"))) // what the last commit did is never forgotten
	r.Compact()
	w := r.s.Watch(r.ctx, "/t/", start)
	if batch := await(r, w, "the watch to end"); !fault.Is(batch.Err, fault.Precondition) {
		r.Fatalf("%+v, want an error of kind precondition", batch)
	}
	if _, open := patiently.Next(r, w); open {
		r.Fatal("more after the end")
	}
	_, rev, err := r.s.List(r.ctx, "/t/")
	if err != nil {
		r.Fatal(err)
	}
	again := &watch{c: r.s.Watch(r.ctx, "/t/", rev)}
	r.commit(state.Put("/t/a", b("3")))
	if e := r.next(again); string(e.Value) != "3" {
		r.Fatalf("%+v", e)
	}
}

func watchEnds(r *rig) {
	ctx, cancel := context.WithCancel(r.ctx)
	w := r.s.Watch(ctx, "/t/", r.commit(state.Put("/t/a", nil)))
	cancel()
	for batch := range w {
		r.Fatalf("%+v", batch)
	}
	if _, err := r.s.Get(ctx, "/t/a"); !fault.Is(err, fault.Canceled) {
		r.Fatalf("Get after the end: %v", err)
	}
}

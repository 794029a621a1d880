package control

import (
	"context"
	"fmt"
	"testing"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/memory"
)

// changes waits until something was committed after a revision.
func (r *rig) changesAfter(at state.Revision) {
	r.t.Helper()
	ctx, stop := context.WithTimeout(r.ctx, patiently.Patience)
	defer stop()
	for b := range r.store.Watch(ctx, state.Root, at) {
		if b.Err != nil || len(b.Events) > 0 {
			return // forgotten is changed too
		}
	}
	r.t.Fatalf("nothing changed in %s after revision %d: %v", patiently.Patience, at, r.fresh())
}

func TestLeadersFollowEachOtherUnderWork(t *testing.T) {
	s := memory.New()
	defer s.Close()
	r := newRig(t, s, 4)
	ctx, stop := context.WithCancel(t.Context())
	var ends []context.CancelFunc
	ended := make(chan bool, 3)
	for i := range 3 {
		c, end := context.WithCancel(ctx)
		ends = append(ends, end)
		go func() {
			Run(c, s, Options{Node: fmt.Sprint("n", i+1)})
			ended <- true
		}()
	}
	const volumes = 40
	for i := range volumes {
		r.create(fmt.Sprint("v", i), &v1.VolumeSpec{SizeBytes: gib, Replicas: int32(1 + i%3)})
		switch i {
		case 10:
			ends[0]()
		case 20:
			s.Compact()
		case 30:
			ends[1]()
		}
	}
	for i := range volumes {
		r.volume(fmt.Sprint("v", i), func(s *v1.VolumeSpec) { s.Replicas = 2 })
	}
	whole := func() bool {
		v := r.fresh()
		for i := range volumes {
			a, rec := v.assignments.value(fmt.Sprint("v", i)), v.records.value(fmt.Sprint("v", i))
			if len(a.GetReplicas()) != 2 || len(rec.GetMembers()) != 2 || a.TendedOn != "" {
				return false
			}
		}
		return len(v.holdings.entries) == 2*volumes // what is condemned stays so for a while, though it is gone
	}
	for patience := patiently.Context(t); !whole(); {
		if patience.Err() != nil {
			t.Fatalf("the leaders get nowhere: %v", r.fresh())
		}
		at := r.revision()
		if !r.play() && !whole() {
			r.changesAfter(at)
		}
		r.check()
	}
	for i := range volumes {
		r.healthy(fmt.Sprint("v", i))
	}
	stop()
	for range 3 {
		patiently.From(t, ended)
	}
}

func TestACommitOfAFormerLeaderChangesNothing(t *testing.T) {
	s := memory.New()
	defer s.Close()
	r := newRig(t, s, 3)
	first, err := s.Lead(t.Context(), Election, "n1")
	if err != nil {
		t.Fatal(err)
	}
	l, err := r.begin(s)
	if err != nil {
		t.Fatal(err)
	}
	l.still = first.Op()
	if err := first.Resign(); err != nil {
		t.Fatal(err)
	}
	r.create("v", &v1.VolumeSpec{SizeBytes: gib, Replicas: 1})
	before := r.revision()
	if err := r.turn(l); err != nil {
		t.Fatal(err)
	}
	if r.revision() != before {
		t.Error("who does not lead any more has changed something")
	}
}

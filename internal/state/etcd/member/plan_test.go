package member_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/state/etcd/member"
)

const patience = 3 * time.Minute

// world is a cluster of nodes on which steps are performed.
type world struct {
	members []member.Member
	nodes   []member.Place
	down    map[string]bool
}

func newWorld(nodes int) *world {
	w := &world{down: map[string]bool{}}
	for i := range nodes {
		w.nodes = append(w.nodes, member.Place{Node: fmt.Sprint("n", i), Zone: fmt.Sprint("z", i%3)})
	}
	w.members = []member.Member{{ID: 1, Place: w.nodes[0]}}
	return w
}

// situation is what is seen after everything that is down has been for long.
func (w *world) situation() (s member.Situation) {
	s.ReplaceAfter = patience
	for i := range w.members {
		m := &w.members[i]
		place := w.nodes[slices.IndexFunc(w.nodes, func(p member.Place) bool { return p.Node == m.Place.Node })]
		m.Place, m.Healthy, m.CaughtUp, m.Down = place, !w.down[place.Node], !w.down[place.Node], 0
		if !m.Healthy {
			m.Down = patience
		}
	}
	s.Members = slices.Clone(w.members)
	for _, p := range w.nodes {
		has := slices.ContainsFunc(w.members, func(m member.Member) bool { return m.Place.Node == p.Node })
		if !has && !w.down[p.Node] && !p.Leaving {
			s.Free = append(s.Free, p)
		}
	}
	return s
}

// quorate reports whether the voters that are up are a majority.
func (w *world) quorate() bool {
	voters, up := 0, 0
	for _, m := range w.members {
		if !m.Learner {
			voters++
			if !w.down[m.Place.Node] {
				up++
			}
		}
	}
	return up > voters/2
}

// perform does a step as etcd would.
func (w *world) perform(t *testing.T, s member.Step) {
	t.Helper()
	i := slices.IndexFunc(w.members, func(m member.Member) bool { return m.ID == s.Member.ID })
	switch s.Verb {
	case member.Add:
		w.members = append(w.members, member.Member{ID: rand.Uint64(), Place: s.Place, Learner: true})
	case member.Promote:
		if !w.members[i].Learner || w.down[w.members[i].Place.Node] {
			t.Fatalf("promoted %+v", w.members[i])
		}
		w.members[i].Learner = false
	case member.Remove:
		w.members = slices.Delete(w.members, i, i+1)
	}
}

// settle performs steps until there are none, and tells how many voters are up.
func (w *world) settle(t *testing.T) (up int) {
	t.Helper()
	for range 20 {
		before := w.quorate()
		step := member.Plan(w.situation())
		if step.Verb == member.Nothing {
			for _, m := range w.members {
				if !m.Learner && !w.down[m.Place.Node] {
					up++
				}
			}
			return up
		}
		if step.Why == "" {
			t.Fatalf("%v without a reason", step.Verb)
		}
		w.perform(t, step)
		if before && !w.quorate() {
			t.Fatalf("%v %+v: the majority is lost: %+v", step.Verb, step, w.members)
		}
	}
	t.Fatalf("it does not come to rest: %+v", w.members)
	return 0
}

func TestMembershipGrowsWithTheCluster(t *testing.T) {
	for nodes, voters := range map[int]int{1: 1, 2: 1, 3: 3, 10: 3} {
		w := newWorld(nodes)
		if got := w.settle(t); got != voters {
			t.Errorf("%d nodes have %d voters, want %d", nodes, got, voters)
		}
		zones := map[string]bool{}
		for _, m := range w.members {
			zones[m.Place.Zone] = true
		}
		if want := min(nodes, 3); len(w.members) != want || len(zones) != want {
			t.Errorf("%d nodes have members %+v", nodes, w.members)
		}
	}
}

func TestAMemberThatStaysDownIsReplaced(t *testing.T) {
	w := newWorld(4)
	w.settle(t)
	w.down[w.members[1].Place.Node] = true
	s := w.situation()
	for i := range s.Members {
		s.Members[i].Down = min(s.Members[i].Down, patience-1)
	}
	if step := member.Plan(s); step.Verb != member.Nothing {
		t.Errorf("%v before its time", step.Verb)
	}
	if step := member.Plan(w.situation()); step.Verb != member.Add {
		t.Errorf("the first step is to %v, want a learner", step.Verb)
	}
	if got := w.settle(t); got != 3 || len(w.members) != 3 {
		t.Errorf("%d voters are up among %+v", got, w.members)
	}
}

func TestWithoutAnotherNodeNothingIsRemoved(t *testing.T) {
	w := newWorld(3)
	w.settle(t)
	w.down["n2"] = true
	if w.settle(t); len(w.members) != 3 {
		t.Errorf("members %+v", w.members)
	}
}

func TestANodeThatLeavesGivesItsVoteAway(t *testing.T) {
	for nodes := 2; nodes < 6; nodes++ {
		w := newWorld(nodes)
		w.settle(t)
		w.nodes[0].Leaving = true
		if got := w.settle(t); got == 0 {
			t.Errorf("%d nodes: nobody votes", nodes)
		}
		for _, m := range w.members {
			if m.Place.Node == "n0" {
				t.Errorf("%d nodes: it is still a member: %+v", nodes, w.members)
			}
		}
	}
}

// TestNoStepLosesTheMajority has nodes go down, come back and leave at random; settle
// checks each step.
func TestNoStepLosesTheMajority(t *testing.T) {
	for range 2000 {
		w := newWorld(1 + rand.IntN(7))
		for range 10 {
			w.settle(t)
			n := rand.IntN(len(w.nodes))
			switch rand.IntN(4) {
			case 0:
				w.nodes[n].Leaving = len(w.nodes) > 1 && !w.nodes[n].Leaving
			default:
				w.down[w.nodes[n].Node] = !w.down[w.nodes[n].Node]
			}
		}
		clear(w.down)
		for i := range w.nodes {
			w.nodes[i].Leaving = false
		}
		if got, want := w.settle(t), []int{1, 1, 1, 3}[min(len(w.nodes), 3)]; got < want {
			t.Fatalf("%d nodes that are all up have %d voters: %+v", len(w.nodes), got, w.members)
		}
	}
}

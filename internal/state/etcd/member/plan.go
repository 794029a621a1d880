package member

import (
	"cmp"
	"slices"
	"time"
)

// votersWanted is how many members vote in a cluster that has nodes for it. With fewer
// than three nodes one votes, and another may learn: two voters would stand still when
// either is lost.
const votersWanted = 3

// Place is a node that has, or could have, a member.
type Place struct {
	Node    string
	PeerURL string
	Zone    string
	// Leaving says that the node is to have no member: it is being removed.
	Leaving bool
}

// Member is a member as its cluster knows it, and as it is.
type Member struct {
	ID       uint64
	Place    Place
	Learner  bool
	Healthy  bool
	CaughtUp bool          // a learner that knows what the leader does
	Down     time.Duration // how long it has not been healthy
}

// Situation is what Plan decides by.
type Situation struct {
	Members []Member
	// Free are nodes that are up and have no member.
	Free []Place
	// ReplaceAfter is how long a member may be down while there is another node for it.
	ReplaceAfter time.Duration
}

// Verb is what is to be done about a member.
type Verb uint8

// The verbs.
const (
	Nothing Verb = iota
	Add          // Step.Place, as a learner
	Promote      // Step.Member, which learned, to vote
	Remove       // Step.Member
)

// String names the verb.
func (v Verb) String() string { return [...]string{"nothing", "add", "promote", "remove"}[v] }

// Step is the next change of the membership.
type Step struct {
	Verb   Verb
	Place  Place
	Member Member
	Why    string
}

// Plan returns the next step toward enough members that vote and are up. Every step leaves
// a majority of the voters healthy, and a member that is down is only removed when another
// has learned all that there is.
func Plan(s Situation) Step {
	voters, learners := s.split()
	healthy := count(voters, func(m Member) bool { return m.Healthy })
	if healthy < majority(len(voters)) {
		return Step{} // nothing can be changed without one
	}
	for _, m := range learners {
		if m.Place.Leaving || !m.Healthy && m.Down >= s.ReplaceAfter {
			return Step{Verb: Remove, Member: m, Why: "it does not learn: its node is down or is being removed"}
		}
	}
	if step := s.replace(voters, learners, healthy); step.Verb != Nothing {
		return step
	}
	return s.grow(voters, learners)
}

func (s Situation) split() (voters, learners []Member) {
	for _, m := range s.Members {
		if m.Learner {
			learners = append(learners, m)
		} else {
			voters = append(voters, m)
		}
	}
	return voters, learners
}

// replace returns the step toward having no voter that is down for long or is to go.
func (s Situation) replace(voters, learners []Member, healthy int) Step {
	bad := slices.IndexFunc(voters, func(m Member) bool { return m.Place.Leaving || !m.Healthy && m.Down >= s.ReplaceAfter })
	if bad < 0 {
		return Step{}
	}
	m := voters[bad]
	left := healthy
	if m.Healthy {
		left--
	}
	safe := len(voters) > 1 && left >= majority(len(voters)-1)
	ready := slices.IndexFunc(learners, isReady)
	switch {
	case ready >= 0 && safe:
		return Step{Verb: Remove, Member: m, Why: "another node has learned what it knew"}
	case ready >= 0 && len(voters) == 1: // it votes alone, and is to go
		return Step{Verb: Promote, Member: learners[ready], Why: "the only voter is to go"}
	case len(learners) == 0 && len(s.Free) > 0:
		return Step{Verb: Add, Place: s.choose(), Why: "a voter is down or is to go"}
	case m.Place.Leaving && safe && len(learners) == 0:
		return Step{Verb: Remove, Member: m, Why: "its node is being removed, and no other is free"}
	}
	return Step{}
}

// grow returns the step toward as many voters as are wanted.
func (s Situation) grow(voters, learners []Member) Step {
	ready := slices.IndexFunc(learners, isReady)
	usable := len(s.Free) + count(s.Members, func(m Member) bool { return m.Healthy && !m.Place.Leaving })
	switch {
	case len(voters) >= votersWanted:
		return Step{}
	case ready >= 0 && len(voters)+count(learners, isReady) >= votersWanted:
		return Step{Verb: Promote, Member: learners[ready], Why: "there are nodes for more voters"}
	case len(s.Free) > 0 && len(learners) < learnersMax && len(voters)+len(learners) < min(votersWanted, usable):
		return Step{Verb: Add, Place: s.choose(), Why: "there are nodes for more members"}
	}
	return Step{}
}

// choose returns the free node for the next member: in a zone where there is none if that
// can be, and else the one of the lowest id.
func (s Situation) choose() Place {
	taken := map[string]int{}
	for _, m := range s.Members {
		if m.Healthy && !m.Place.Leaving {
			taken[m.Place.Zone]++
		}
	}
	return slices.MinFunc(s.Free, func(a, b Place) int {
		return cmp.Or(cmp.Compare(taken[a.Zone], taken[b.Zone]), cmp.Compare(a.Node, b.Node))
	})
}

func isReady(m Member) bool { return m.Healthy && m.CaughtUp && !m.Place.Leaving }

func majority(voters int) int { return voters/2 + 1 }

func count(list []Member, is func(Member) bool) (n int) {
	for _, m := range list {
		if is(m) {
			n++
		}
	}
	return n
}

package kube

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// story drives a watchman along a clock.
type story struct {
	t     *testing.T
	w     watchman
	now   time.Duration
	nodes []sight
}

func newStory(t *testing.T, nodes int) *story {
	s := &story{t: t, w: watchman{patience: DefaultPatience}}
	for i := range nodes {
		s.nodes = append(s.nodes, sight{name: fmt.Sprint("n", i), exists: true, ready: true})
	}
	return s
}

// pass lets time go by, looking every five seconds; nodes that live renew their leases.
func (s *story) pass(d time.Duration, dead ...int) (gone map[string]string, held string) {
	for end := s.now + d; s.now < end; s.now += 5 * time.Second {
		for i := range s.nodes {
			alive := true
			for _, x := range dead {
				alive = alive && x != i
			}
			if alive {
				s.nodes[i].renewed = s.now.String()
			}
			s.nodes[i].leaseEnded = !alive
		}
		gone, held = s.w.look(s.now, s.nodes)
	}
	return gone, held
}

func TestNodeIsGoneWhenBothLeasesHaveEnded(t *testing.T) {
	s := newStory(t, 3)
	s.pass(time.Minute)
	if gone, _ := s.pass(20*time.Second, 1); len(gone) > 0 {
		t.Errorf("after 20 s it is gone already: %v", gone)
	}
	gone, _ := s.pass(15*time.Second, 1)
	if len(gone) != 1 || !strings.Contains(gone["n1"], "said nothing for 35s") {
		t.Errorf("after 35 s: %v", gone)
	}
	if gone, _ := s.pass(5 * time.Second); len(gone) > 0 {
		t.Errorf("it is back: %v", gone)
	}
}

func TestOneSilentSideIsNotEnough(t *testing.T) {
	for _, c := range []struct {
		name string
		see  func(*sight)
	}{
		{"the kubelet lives", func(n *sight) { n.leaseEnded = true }},
		{"the storage lives", func(n *sight) { n.renewed = "long ago" }},
		{"it is in maintenance", func(n *sight) { n.leaseEnded, n.renewed, n.maintenance = true, "long ago", true }},
	} {
		s := newStory(t, 3)
		for range 60 {
			s.now += 5 * time.Second
			for i := range s.nodes {
				s.nodes[i].renewed = s.now.String()
			}
			c.see(&s.nodes[0])
			if gone, _ := s.w.look(s.now, s.nodes); len(gone) > 0 {
				t.Errorf("%s: %v", c.name, gone)
			}
		}
	}
}

func TestNothingIsReleasedWhenHalfOfTheNodesSeemGone(t *testing.T) {
	s := newStory(t, 4)
	s.pass(time.Minute)
	if gone, held := s.pass(time.Minute, 0, 1); len(gone) > 0 || !strings.Contains(held, "2 of 4") {
		t.Errorf("gone: %v, held: %q", gone, held)
	}
	one := newStory(t, 1)
	one.pass(time.Minute)
	if gone, held := one.pass(time.Minute, 0); len(gone) > 0 || held == "" {
		t.Errorf("the only node: %v, %q", gone, held)
	}
}

func TestSilenceWhileNobodyLookedDoesNotCount(t *testing.T) {
	s := newStory(t, 3)
	s.pass(time.Minute)
	s.pass(15*time.Second, 1)
	s.now += time.Hour // the monitor was away
	if gone, _ := s.pass(20*time.Second, 1); len(gone) > 0 {
		t.Errorf("gone: %v", gone)
	}
}

func TestNodeThatKubernetesHasForgottenNeedsNoKubelet(t *testing.T) {
	s := newStory(t, 3)
	s.pass(time.Minute)
	s.nodes[1].exists = false
	if gone, _ := s.pass(10*time.Second, 1); len(gone) != 1 {
		t.Errorf("gone: %v", gone)
	}
}

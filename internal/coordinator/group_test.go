package coordinator

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// groupPlay takes the steps of a member until it waits, and returns them.
func groupPlay(g *Group, now time.Duration, orders map[ChangeOp]error, others ...GroupStatus) (did []string) {
	for {
		switch s := g.Next(now, others); s.Op {
		case GroupWaits:
			return append(did, fmt.Sprintf("wait %s", s.Phase))
		case GroupEnds:
			return append(did, fmt.Sprintf("end %d%s", s.Generation, because(s.Err)))
		case GroupSays:
			did = append(did, fmt.Sprintf("say %s after %d", s.Phase, s.Revision))
			g.Said(s.Revision + 1)
		case GroupFreezes:
			did = append(did, "freeze")
			g.Done(nil)
		case GroupOrders:
			err := orders[s.Change.Op]
			did = append(did, map[ChangeOp]string{Hold: "hold", Snapshot: "take", Release: "release"}[s.Change.Op]+map[bool]string{true: " and drop"}[s.Change.Drop]+because(err))
			if s.Change.Op == Hold {
				s.Change.Generation = 5
			}
			g.Done(err)
		}
	}
}

func TestAGroupGoesOnTogetherOrNotAtAll(t *testing.T) {
	other := func(p GroupPhase) GroupStatus { return GroupStatus{Name: "other", Phase: p, Revision: 1} }
	failed := GroupStatus{Name: "other", Problem: "the disk is full", Revision: 1}
	late := fault.Errorf("test", fault.Timeout, "too late")
	for _, c := range []struct {
		name   string
		freeze bool
		orders map[ChangeOp]error
		others []GroupStatus // one after the other
		pass   time.Duration // before the last of them
		want   string
	}{
		{name: "taken", others: []GroupStatus{{}, other(GroupHere), other(GroupHeld), other(GroupTaken)},
			want: "say here after 0, wait here; hold, say held after 1, wait held; take, say taken after 2, wait taken; release, end 5"},
		{name: "with filesystems frozen", freeze: true, others: []GroupStatus{{}, other(GroupHere), other(GroupFrozen), other(GroupHeld), {Ready: true}},
			want: "say here after 0, wait here; freeze, say frozen after 1, wait frozen; hold, say held after 2, wait held; take, say taken after 3, wait taken; release, end 5"},
		{name: "another is not there", others: []GroupStatus{{}, {}}, pass: GroupWait,
			want: "say here after 0, wait here; end 0: timeout"},
		{name: "another can't be held in time", others: []GroupStatus{{}, other(GroupHere), other(GroupHere)}, pass: HoldMax,
			want: "say here after 0, wait here; hold, say held after 1, wait held; release and drop, end 5: timeout"},
		{name: "another failed", others: []GroupStatus{{}, other(GroupHere), other(GroupHeld), failed},
			want: "say here after 0, wait here; hold, say held after 1, wait held; take, say taken after 2, wait taken; release and drop, end 5: unavailable"},
		{name: "it was held for too long", orders: map[ChangeOp]error{Release: late}, others: []GroupStatus{{}, other(GroupHere), other(GroupHeld), other(GroupTaken)},
			want: "say here after 0, wait here; hold, say held after 1, wait held; take, say taken after 2, wait taken; release: timeout, end 5: timeout"},
		{name: "it can't be held", orders: map[ChangeOp]error{Hold: late}, others: []GroupStatus{{}, other(GroupHere)},
			want: "say here after 0, wait here; hold: timeout, end 0: timeout"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := NewGroup(GroupStatus{}, GroupOptions{Freeze: c.freeze})
			var got []string
			for i, o := range c.others {
				now := time.Second
				if i == len(c.others)-1 {
					now += c.pass
				}
				got = append(got, strings.Join(groupPlay(g, now, c.orders, o), ", "))
			}
			if s := strings.Join(got, "; "); s != c.want {
				t.Errorf("got  %s\nwant %s", s, c.want)
			}
		})
	}
}

// The others may rely on what the head of before said: that it has taken its snapshot, say,
// and that they may go on. A snapshot that the next head takes is of a later moment.
func TestWhatAnotherHeadBeganOfAGroupFails(t *testing.T) {
	for _, p := range []GroupPhase{GroupFrozen, GroupHeld, GroupTaken} {
		g := NewGroup(GroupStatus{Phase: p, Generation: block.Generation(3), Revision: 7}, GroupOptions{})
		if got := groupPlay(g, 0, nil, GroupStatus{Ready: true}); !slices.Equal(got, []string{"end 3: canceled"}) {
			t.Errorf("%s: %v", p, got)
		}
	}
	g := NewGroup(GroupStatus{Phase: GroupHere, Revision: 7}, GroupOptions{})
	if g.Stale(GroupStatus{Phase: GroupHere, Revision: 7}) || !g.Stale(GroupStatus{Phase: GroupHeld, Revision: 8}) {
		t.Error("it does not know whether somebody else has spoken for it")
	}
	if got := strings.Join(groupPlay(g, 0, nil, GroupStatus{Phase: GroupHere}), ", "); got != "hold, say held after 7, wait held" {
		t.Errorf("%s", got)
	}
}

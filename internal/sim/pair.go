package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/coordinator"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// pair is two volumes, each with nodes and owners of its own, of which snapshots are taken
// at one moment while nodes die and are cut off. What the members of a group say of
// themselves lies in a store that every node has a view of: late, but in order.
//
// Writers that write to both volumes, each time when the write before is complete, show
// whether it was one moment: what is in a snapshot must be all that they wrote up to some
// write.
type pair struct {
	*world
	volumes  [2]*cluster
	statuses map[member]coordinator.GroupStatus
	words    []word // in the order in which they were said
	views    map[*node]*view
	runs     map[*head]*tending
	rounds   int // groups that are wished for
	opts     coordinator.GroupOptions
	late     time.Duration // that words take at most
	strikes  int           // per cent of words after which something happens
	chains   []*chain
	taken    int
	failed   int
}

// member is the part of one volume of a group's snapshot.
type member struct{ round, volume int }

// word is what was said of a member.
type word struct {
	of     member
	status coordinator.GroupStatus
}

// view is what a node knows of the store.
type view struct {
	statuses map[member]coordinator.GroupStatus
	seen     int           // words
	due      time.Duration // when the last word comes
	stalled  time.Duration // until when it sees nothing
	rounds   int
}

// tending is what a head does for groups.
type tending struct {
	busy   bool
	groups map[int]*coordinator.Group
	model  map[int]*snapshot
}

const (
	chainsMax = 3
	roundsMax = 12
	anything  = -1 // in place of whatever was said
)

func newPair(w *world) *pair {
	p := &pair{world: w, statuses: make(map[member]coordinator.GroupStatus), views: make(map[*node]*view), runs: make(map[*head]*tending)}
	p.opts = coordinator.GroupOptions{Wait: time.Second, Hold: time.Duration(1+w.rand.IntN(4)) * 300 * time.Millisecond}
	p.late, p.strikes = []time.Duration{20 * time.Millisecond, 100 * time.Millisecond}[w.rand.IntN(2)], w.rand.IntN(60)
	for i := range p.volumes {
		c := w.cluster()
		c.name = fmt.Sprintf("volume %d: ", i)
		c.draw()
		c.power, c.drift, c.bad, c.favourite, c.restores, c.clones = false, false, badness{}, -1, false, false
		c.reserved, c.requests = chainsMax, 200
		c.contents = make(map[block.Generation][]byte)
		c.build(shape{count: 1 + w.rand.IntN(3), spare: w.rand.IntN(3), blocks: 64})
		c.onTick = func(h *head) { p.tend(i, h) }
		p.volumes[i] = c
		for _, n := range c.nodes {
			p.views[n] = &view{statuses: make(map[member]coordinator.GroupStatus)}
		}
	}
	for k := range 1 + w.rand.IntN(chainsMax) {
		p.chains = append(p.chains, &chain{p: p, block: k, wrote: [2]map[uint64]int{{}, {}}})
	}
	return p
}

// live is the whole run.
func (p *pair) live() {
	for _, c := range p.volumes {
		c.chaos()
	}
	for _, ch := range p.chains {
		ch.next()
	}
	p.wish()
	p.run(30*time.Second, func() bool { return p.rounds == roundsMax && p.settled() })
	for _, c := range p.volumes {
		c.heal()
	}
	var goals []int
	for _, ch := range p.chains {
		goals = append(goals, len(ch.places)+5)
	}
	wrote := func(i int) bool { return len(p.chains[i].places) > goals[i] }
	p.run(p.now+time.Minute, func() bool {
		return p.settled() && !slices.ContainsFunc([]int{0, 1, 2}[:len(p.chains)], func(i int) bool { return !wrote(i) })
	})
	for i := range p.chains {
		if p.err == nil && !wrote(i) {
			p.found("a writer did not go on within a minute: it has written %d, and had %d", len(p.chains[i].places), goals[i])
		}
		p.chains[i].over = true
	}
	if p.err == nil && !p.settled() {
		p.found("a group's snapshot was neither taken nor failed within a minute: %+v", p.statuses)
	}
	for _, c := range p.volumes {
		if p.err == nil {
			c.becomeWell()
		}
	}
	for r := range p.rounds {
		if p.err == nil {
			p.check(r)
		}
	}
}

// wish has a snapshot taken of both volumes, now and then.
func (p *pair) wish() {
	if p.volumes[0].healed || p.rounds == roundsMax {
		return
	}
	if p.settled() {
		p.rounds++
		p.log("group %d is wished for", p.rounds-1)
		for _, c := range p.volumes {
			for _, n := range c.nodes {
				p.after(p.between(time.Millisecond, 30*time.Millisecond), func() { p.views[n].rounds = p.rounds })
			}
		}
	}
	p.after(p.between(10*time.Millisecond, time.Second), p.wish)
}

// settled reports whether of every member of every group it was said how it ended.
func (p *pair) settled() bool {
	for r := range p.rounds {
		for v := range p.volumes {
			if s := p.statuses[member{r, v}]; !s.Ready && s.Problem == "" {
				return false
			}
		}
	}
	return true
}

// tend does for groups what an attachment does, one thing after the other.
func (p *pair) tend(volume int, h *head) {
	t := p.runs[h]
	if t == nil {
		t = &tending{groups: make(map[int]*coordinator.Group), model: make(map[int]*snapshot)}
		p.runs[h] = t
	}
	w := p.views[h.node]
	if t.busy || !h.coord.Serving(h.node.now()) {
		return
	}
	for r := range w.rounds {
		own := w.statuses[member{r, volume}]
		switch {
		case own.Ready, own.Problem != "":
			continue
		case own.Generation != 0 && slices.Contains(h.coord.Record().Snapshots, own.Generation): // it was taken after all
			t.busy = true
			own.Ready = true
			p.say(h, word{member{r, volume}, own}, anything, func(int64, error) { t.busy = false })
			return
		}
		g := t.groups[r]
		if g == nil || g.Stale(own) {
			g = coordinator.NewGroup(own, p.opts)
			t.groups[r] = g
		}
		t.busy = true
		p.inStep(h, t, member{r, volume})
		if t.busy {
			return
		}
	}
}

// inStep does the next step of a member, and what follows.
func (p *pair) inStep(h *head, t *tending, m member) {
	if !h.alive() {
		return
	}
	g, w := t.groups[m.round], p.views[h.node]
	again := func() { p.inStep(h, t, m) }
	other := w.statuses[member{m.round, 1 - m.volume}]
	other.Name = fmt.Sprintf("of volume %d", 1-m.volume)
	step := g.Next(h.node.now(), []coordinator.GroupStatus{other})
	switch step.Op {
	case coordinator.GroupWaits:
		if t.busy = step.Phase != coordinator.GroupHere; t.busy {
			p.after(p.between(100*time.Microsecond, 5*time.Millisecond), again)
		}
	case coordinator.GroupSays:
		p.say(h, word{m, coordinator.GroupStatus{Phase: step.Phase, Generation: step.Generation}}, step.Revision, func(revision int64, err error) {
			switch {
			case err != nil && step.Phase == coordinator.GroupHere:
				delete(t.groups, m.round)
				t.busy = false
				return
			case err != nil:
				g.Done(err)
			default:
				g.Said(revision)
			}
			again()
		})
	case coordinator.GroupOrders:
		ch := step.Change
		h.order(ch, func(err error) {
			h.c.log("%s, group %d: change %d of generation %d: %v", h.name, m.round, ch.Op, ch.Generation, err)
			switch {
			case ch.Op == coordinator.Hold && err == nil:
				t.model[m.round] = h.c.model.beginSnapshot(h.c.losses)
			case ch.Op == coordinator.Release:
				h.c.model.endSnapshot(t.model[m.round], ch.Generation, err == nil && !ch.Drop, h.c.losses)
			}
			g.Done(err)
			again()
		})
	case coordinator.GroupEnds:
		delete(t.groups, m.round)
		s := coordinator.GroupStatus{Generation: step.Generation, Ready: step.Err == nil}
		if step.Err != nil {
			s.Problem, _ = fault.Describe(step.Err)
		}
		p.say(h, word{m, s}, step.Revision, func(int64, error) { t.busy = false })
	}
}

var errFaster = fault.Errorf("sim", fault.Busy, "somebody was faster")

// say puts a word into the store in place of the one of a revision, and calls done, unless
// the head dies, when it is seen on its node.
func (p *pair) say(h *head, x word, at int64, done func(revision int64, err error)) {
	c, n := h.c, h.node
	late := func() time.Duration { return p.between(100*time.Microsecond, p.late) }
	answer := func(d time.Duration, revision int64, err error) {
		p.after(d, func() {
			if h.alive() {
				done(revision, err)
			}
		})
	}
	p.after(late(), func() {
		switch {
		case c.recordDown || c.cutRecord[n.i]:
			answer(c.lease/4, 0, errUnavailable)
			return
		case at != anything && p.statuses[x.of].Revision != at:
			answer(late(), 0, errFaster)
			return
		}
		p.words = append(p.words, x)
		revision := int64(len(p.words))
		p.words[revision-1].status.Revision = revision
		x = p.words[revision-1]
		p.statuses[x.of] = x.status
		c.log("%s says of group %d: %+v", h.name, x.of.round, x.status)
		for _, c := range p.volumes {
			for _, n := range c.nodes {
				w := p.views[n]
				w.due = max(w.due+1, p.now+late())
				p.after(w.due-p.now, func() { p.show(c, n) })
			}
		}
		p.strike(h, x.status.Phase)
		if !c.healed && p.chance(5) {
			answer(late(), 0, errUnavailable)
			return
		}
		limit := p.now + time.Second
		var reach func()
		reach = func() {
			switch {
			case p.views[n].seen >= int(revision):
				answer(0, revision, nil)
			case p.now > limit:
				answer(0, 0, errUnavailable)
			default:
				p.after(time.Millisecond, reach)
			}
		}
		reach()
	})
}

// strike has something happen when a word was said: a head that has begun is lost when it
// has said more, and who comes after it has not heard of that.
func (p *pair) strike(h *head, said coordinator.GroupPhase) {
	c := h.c
	if c.healed || !p.chance(p.strikes) {
		return
	}
	switch said {
	case coordinator.GroupHere:
		for _, n := range c.nodes {
			if n != h.node || p.chance(20) {
				p.views[n].stalled = p.now + p.between(c.lease/2, 6*c.lease)
			}
		}
	case coordinator.GroupHeld, coordinator.GroupTaken:
		p.after(p.between(time.Microsecond, p.late), func() {
			if h.alive() && !c.healed {
				h.node.kill(false)
				p.after(p.between(time.Millisecond, 4*c.lease), h.node.start)
			}
		})
	}
}

// show has a node see the next word.
func (p *pair) show(c *cluster, n *node) {
	w := p.views[n]
	if c.recordDown || c.cutRecord[n.i] || p.now < w.stalled && !c.healed {
		p.after(10*time.Millisecond, func() { p.show(c, n) })
		return
	}
	x := p.words[w.seen]
	w.seen++
	w.statuses[x.of] = x.status
}

// chain is a writer that writes to either volume, each time when the write before is
// complete.
type chain struct {
	p      *pair
	block  int
	places []int             // which volume each write went to
	wrote  [2]map[uint64]int // which write a tag is of, in each volume; write 0 is nothing
	over   bool
	tries  int
}

func (ch *chain) next() {
	if !ch.over {
		ch.places = append(ch.places, ch.p.rand.IntN(2))
		ch.try()
	}
}

// try writes the last write until that is complete.
func (ch *chain) try() {
	v := ch.places[len(ch.places)-1]
	c := ch.p.volumes[v]
	again := func() { c.after(c.between(time.Millisecond, c.lease/4), ch.try) }
	h := c.owner()
	if h == nil || h.coord.Room() == 0 {
		again()
		return
	}
	ch.tries++
	try, over := ch.tries, false
	h.using++
	var look func()
	look = func() {
		if !over && ch.tries == try {
			if h.alive() && h.coord.Stopped() == nil {
				c.after(c.lease/4, look)
				return
			}
			over = true
			again()
		}
	}
	c.after(c.lease/4, look)
	tag := h.write(ch.block, 1, func(err error) {
		if over {
			return
		}
		if over = true; err != nil {
			again()
			return
		}
		c.after(c.between(10*time.Microsecond, c.lease/10), ch.next)
	})
	ch.wrote[v][tag] = len(ch.places)
}

// check holds that a group's snapshot that was taken is of one moment.
func (p *pair) check(round int) {
	var data [2][]byte
	for v, c := range p.volumes {
		s := p.statuses[member{round, v}]
		if !s.Ready {
			p.failed++
			return
		}
		if data[v] = c.contents[s.Generation]; data[v] == nil {
			return // deleted since
		}
	}
	p.taken++
	for _, ch := range p.chains {
		var last [2]int
		var torn [2]bool
		for v, c := range p.volumes {
			tag, err := tagOf(data[v][ch.block*block.Size : (ch.block+1)*block.Size])
			if err != nil && c.deaths == 0 {
				p.found("group %d: %v", round, err)
				return
			}
			last[v], torn[v] = ch.wrote[v][tag], err != nil // the write after all that were complete
		}
		for n := 1; n <= max(last[0], last[1]); n++ {
			if v := ch.places[n-1]; n > last[v] && !torn[v] {
				p.found("group %d is not of one moment: it has write %d of block %d, and not write %d, which was complete before, of volume %d",
					round, max(last[0], last[1]), ch.block, n, v)
				return
			}
		}
	}
}

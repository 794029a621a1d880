package turns

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// rig is volumes at a disk that serves what it was given in the order in which it came.
type rig struct {
	t     *testing.T
	desk  Desk[*request]
	users []*user
	disk  []*request
	done  int // cost of all that was done
}

// user has so many requests with its volume all the time.
type user struct {
	line   Line[*request]
	depth  int
	blocks func() int
	open   int
	last   int // number of its last request that was begun
	made   int
	served int // as a sum of costs
}

type request struct {
	of     *user
	number int
	ticket Ticket[*request]
	came   int // rig.done then
	before int // cost of what others had done between that and its end
}

func always(blocks int) func() int { return func() int { return blocks } }

func newRig(t *testing.T, users ...*user) *rig { return &rig{t: t, users: users} }

// ask makes a request.
func (g *rig) ask(u *user) *request {
	q := &request{of: u, number: u.made + 1, came: g.done}
	u.made++
	u.open++
	q.ticket.Of = q
	if g.desk.Enter(&u.line, &q.ticket, Cost(u.blocks(), 0)) {
		g.begin(q)
	}
	return q
}

func (g *rig) begin(q *request) {
	if q.number != q.of.last+1 {
		g.t.Fatalf("request %d begins after %d", q.number, q.of.last)
	}
	q.of.last = q.number
	g.disk = append(g.disk, q)
}

// end has the disk do one thing, and whoever asked for it ask for the next.
func (g *rig) end(i int) *request {
	q := g.disk[i]
	g.disk = append(g.disk[:i], g.disk[i+1:]...)
	g.done += q.ticket.cost
	q.before = g.done - q.came - q.ticket.cost
	q.of.served += q.ticket.cost
	q.of.open--
	g.desk.Leave(&q.ticket)
	for t := g.desk.Next(); t != nil; t = g.desk.Next() {
		g.begin(t.Of)
	}
	return q
}

// busy has every user ask for as much as it wants, until the disk has done so much more.
func (g *rig) busy(cost int, each func(*request)) {
	for until := g.done + cost; g.done < until; {
		for _, u := range g.users {
			for u.open < u.depth {
				g.ask(u)
			}
		}
		each(g.end(0))
	}
}

func TestADeepQueueDoesNotKeepAShallowOneWaiting(t *testing.T) {
	for _, c := range []struct {
		greedy, depth int
		blocks        int // of each of their requests
	}{{1, 256, 1}, {3, 256, 1}, {1, 1024, 256}, {3, 256, 256}, {100, 256, 1}, {100, 64, 32}} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			modest := &user{depth: 1, blocks: always(1)}
			g := newRig(t, modest)
			for range c.greedy {
				g.users = append(g.users, &user{depth: c.depth, blocks: always(c.blocks)})
			}
			g.busy(c.depth*Cost(c.blocks, 0)+10*Window, func(*request) {}) // what the first had in flight while it was alone
			n, longest := 0, 0
			// A request of each line may be more than its share is.
			bound := max(Window, c.greedy*Cost(c.blocks, 0)) + Cost(c.blocks, 0)
			g.busy(20*bound, func(q *request) {
				if q.of == modest {
					n++
					longest = max(longest, q.before)
				}
			})
			if n < 10 || longest > bound {
				t.Errorf("%d requests, of which one waited for %d others; want at most %d", n, longest, bound)
			}
		})
	}
}

func TestDeepQueuesGetAsMuchAsEachOther(t *testing.T) {
	a, b, c := &user{depth: 64, blocks: always(1)}, &user{depth: 1024, blocks: always(1)}, &user{depth: 200, blocks: always(64)}
	g := newRig(t, a, b, c)
	g.busy(100*Window, func(*request) {})
	for _, u := range g.users {
		u.served = 0
	}
	g.busy(3000*Window, func(*request) {})
	for i, u := range g.users {
		if share := float64(u.served) / (1000 * Window); share < 0.8 || share > 1.2 {
			t.Errorf("user %d got %.2f of a third", i, share)
		}
	}
}

func TestOneThatIsAloneIsNotHeldBack(t *testing.T) {
	u, guest := &user{depth: 500, blocks: always(1)}, &user{depth: 1, blocks: always(1)}
	g := newRig(t, u)
	g.busy(1000, func(*request) {
		if len(g.disk) < 499 {
			t.Fatalf("%d of 500 are with the disk", len(g.disk))
		}
	})
	g.users = append(g.users, guest)
	g.busy(10*Window, func(*request) {})
	if len(g.disk) > Window {
		t.Errorf("%d are with the disk while two use it", len(g.disk))
	}
	g.users = g.users[:1]
	g.busy(2*Memory, func(*request) {})
	if len(g.disk) < 499 {
		t.Errorf("%d of 500 are with the disk, long after another one used it", len(g.disk))
	}
}

func TestWhatIsNotUsedIsNotLost(t *testing.T) {
	g := newRig(t, &user{depth: 256, blocks: always(1)}, &user{depth: 1, blocks: always(1)}, &user{depth: 2, blocks: always(1)})
	g.busy(1000, func(*request) {})
	g.busy(1000, func(*request) {
		if len(g.disk) < Window-1 {
			t.Fatalf("%d are with the disk, and more wait", len(g.disk))
		}
	})
}

// Whatever is asked for, and in whatever order a disk does it: nothing is forgotten, who
// has nothing in flight is not kept waiting, and no more is in flight than may be.
func TestEverythingIsServed(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 0))
		g := newRig(t)
		for range 1 + r.IntN(20) {
			u := &user{depth: 1 + r.IntN(100)}
			u.blocks = func() int { return 1 + r.IntN(256) }
			if r.IntN(2) == 0 {
				u.blocks = always(1)
			}
			g.users = append(g.users, u)
		}
		for range 3000 {
			if u := g.users[r.IntN(len(g.users))]; u.open < u.depth && r.IntN(3) > 0 {
				g.ask(u)
			} else if len(g.disk) > 0 {
				g.end(r.IntN(len(g.disk)))
			}
			g.check(seed)
		}
		for len(g.disk) > 0 {
			g.end(r.IntN(len(g.disk)))
			g.check(seed)
		}
		if !g.desk.Idle() {
			t.Fatalf("seed %d: something is left: %+v", seed, g.desk)
		}
		for i, u := range g.users {
			if u.last != u.made || u.open != 0 {
				t.Fatalf("seed %d: user %d has asked %d times, and %d were begun", seed, i, u.made, u.last)
			}
		}
	}
}

func (g *rig) check(seed uint64) {
	inFlight := map[*user]int{}
	for _, q := range g.disk {
		inFlight[q.of] += q.ticket.cost
	}
	sum := 0
	for i, u := range g.users {
		if u.line.used != inFlight[u] {
			g.t.Fatalf("seed %d: user %d has %d in flight, by the desk %d", seed, i, inFlight[u], u.line.used)
		}
		if u.line.used == 0 && u.open > 0 {
			g.t.Fatalf("seed %d: user %d has nothing in flight, and waits", seed, i)
		}
		sum += u.line.used
	}
	if g.desk.used != sum {
		g.t.Fatalf("seed %d: %d are in flight, by the desk %d", seed, sum, g.desk.used)
	}
	if most := Window + Window*len(g.users); len(g.desk.lines) > 1 && g.desk.ring == nil && sum > most {
		g.t.Fatalf("seed %d: %d are in flight of %d users", seed, sum, len(g.users))
	}
}

func TestTurnsDoNotAllocate(t *testing.T) {
	var d Desk[int]
	var a, b Line[int]
	tickets := make([]Ticket[int], 100)
	got := testing.AllocsPerRun(100, func() {
		for i := range tickets {
			l := &a
			if i%10 == 0 {
				l = &b
			}
			d.Enter(l, &tickets[i], 1)
		}
		for i := range tickets {
			d.Leave(&tickets[i])
			for d.Next() != nil {
			}
		}
	})
	if got != 0 || !d.Idle() {
		t.Errorf("%v allocations", got)
	}
}

func BenchmarkAlone(b *testing.B) {
	var d Desk[int]
	var l Line[int]
	var t Ticket[int]
	for b.Loop() {
		d.Enter(&l, &t, 1)
		d.Leave(&t)
		d.Next()
	}
}

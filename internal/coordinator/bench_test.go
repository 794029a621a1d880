package coordinator

import (
	"testing"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/wire"
)

// load is a coordinator of three replicas with so many requests under way, each of which
// is answered by one step of the test, and submitted again.
type load struct {
	s     *stage
	asked [][3]Send // by request
	next  int
	done  wire.Done
	read  wire.ReadDone
}

func newLoad(t testing.TB, depth int, op Op) *load {
	l := &load{s: attached(t, 3), asked: make([][3]Send, depth), done: wire.Done{Incarnation: 1}}
	l.read.Data, l.read.Sums = host.Buffer(block.Size), []block.Sum{block.ZeroSum}
	for i := range depth {
		q := &Request{Op: op, Extent: block.Extent{Start: block.Index(i * 10), Count: 1},
			Data: host.Buffer(block.Size), Sums: []block.Sum{block.ZeroSum}, User: i}
		l.perform(l.s.c.Step(l.s.now, Submit{q}))
	}
	return l
}

func (l *load) perform(fx Effects) {
	for _, s := range fx.Send {
		if s.Request == nil {
			continue
		}
		place := &l.asked[s.Request.User.(int)]
		if _, ok := s.Msg.(*wire.Read); ok {
			place[0] = s
		} else {
			place[s.Member] = s
		}
	}
}

// turn answers one request as all its members would, and submits it again. It returns how
// many events that were.
func (l *load) turn() int {
	asked := l.asked[l.next]
	l.next = (l.next + 1) % len(l.asked)
	if _, ok := asked[0].Msg.(*wire.Read); ok {
		l.perform(l.s.c.Receive(l.s.now, Received{Member: asked[0].Member, ID: asked[0].ID, Msg: &l.read}))
		l.perform(l.s.c.Step(l.s.now, Submit{asked[0].Request}))
		return 2
	}
	for m := range asked {
		l.perform(l.s.c.Receive(l.s.now, Received{Member: m, ID: asked[m].ID, Msg: &l.done}))
	}
	l.perform(l.s.c.Step(l.s.now, Submit{asked[0].Request}))
	return 4
}

func bench(b *testing.B, depth int, op Op) {
	l := newLoad(b, depth, op)
	b.ReportAllocs()
	b.ResetTimer()
	for events := 0; events < b.N; {
		events += l.turn()
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

func BenchmarkStepWriteDepth1(b *testing.B)  { bench(b, 1, Write) }
func BenchmarkStepWriteDepth32(b *testing.B) { bench(b, 32, Write) }
func BenchmarkStepReadDepth32(b *testing.B)  { bench(b, 32, Read) }

func TestSteadyStateDoesNotAllocate(t *testing.T) {
	for _, op := range []Op{Read, Write} {
		l := newLoad(t, 8, op)
		if n := testing.AllocsPerRun(1000, func() { l.turn() }); n != 0 {
			t.Errorf("op %d: %v allocations a request", op, n)
		}
	}
}

package replica

import (
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/wire"
)

const lease = 3 * time.Second

// promised returns a replica that has promised epoch 5 to session 1, of node 1.
func promised(t *testing.T) *Replica {
	r := New(Self{Size: 1 << 30, Generation: 1, Promised: 4, Incarnation: 1, Boot: 1})
	fx := r.Step(0, Received{Session: 1, ID: 1, Msg: &wire.Promise{Epoch: 5, Owner: block.NodeID{1}, Incarnation: 9, Lease: lease}})
	if fx.Promise != 5 || len(fx.Send) != 0 {
		t.Fatalf("%+v: want the promise made durable first", fx)
	}
	if fx = r.Step(0, PromiseStored{}); len(fx.Send) != 1 || fx.Send[0].Msg.Kind() != wire.KindPromised {
		t.Fatalf("%+v: want Promised", fx)
	}
	return r
}

func failed(t *testing.T, fx Effects) *wire.Fail {
	t.Helper()
	if len(fx.Send) == 1 {
		if f, ok := fx.Send[0].Msg.(*wire.Fail); ok {
			return f
		}
	}
	t.Fatalf("%+v: want a Fail", fx)
	return nil
}

func TestAnotherNodeWaitsForTheLease(t *testing.T) {
	r := promised(t)
	next := Received{Session: 2, ID: 1, Msg: &wire.Promise{Epoch: 6, Owner: block.NodeID{2}, Incarnation: 3, Lease: lease}}
	if f := failed(t, r.Step(time.Second, next)); f.Status != fault.Busy || f.Wait != 2*time.Second {
		t.Fatalf("%+v", f)
	}
	if fx := r.Step(lease, next); fx.Promise != 6 {
		t.Fatalf("%+v: the lease has run out", fx)
	}
}

func TestReleasedLeaseIsNotWaitedFor(t *testing.T) {
	r := promised(t)
	r.Step(time.Second, Received{Session: 1, ID: 2, Msg: &wire.Release{Epoch: 5}})
	fx := r.Step(time.Second, Received{Session: 2, ID: 1, Msg: &wire.Promise{Epoch: 6, Owner: block.NodeID{2}, Incarnation: 3, Lease: lease}})
	if fx.Promise != 6 {
		t.Fatalf("%+v", fx)
	}
}

func TestNothingOfALowerEpochAfterAPromise(t *testing.T) {
	r := promised(t)
	write := &wire.Write{Epoch: 5, Extent: block.Extent{Count: 1}}
	if fx := r.Step(0, Received{Session: 1, ID: 2, Msg: write}); len(fx.Store) != 1 {
		t.Fatalf("%+v", fx)
	}
	next := Received{Session: 3, ID: 1, Msg: &wire.Promise{Epoch: 6, Owner: block.NodeID{1}, Incarnation: 10, Lease: lease}}
	if fx := r.Step(0, next); fx.Promise != 0 || len(fx.Send) != 0 {
		t.Fatalf("%+v: promised with a write of the epoch before in flight", fx)
	}
	if f := failed(t, r.Step(0, Received{Session: 1, ID: 3, Msg: write})); f.Status != fault.Fenced {
		t.Fatalf("%+v", f)
	}
	if fx := r.Step(0, Stored{Session: 1, ID: 2, Answer: &wire.Done{Incarnation: 1}}); fx.Promise != 6 {
		t.Fatalf("%+v: drained", fx)
	}
}

func TestAReplicaThatLeavesSaysSo(t *testing.T) {
	r := promised(t)
	fx := r.Step(0, Leave{Why: "upgrade"})
	if len(fx.Send) != 1 || fx.Send[0].Msg.Kind() != wire.KindLeave || !r.Relied() {
		t.Fatalf("%+v", fx)
	}
	fx = r.Step(0, Received{Session: 4, ID: 1, Msg: &wire.Open{}})
	if o, ok := fx.Send[0].Msg.(*wire.Opened); !ok || o.State != wire.Leaving {
		t.Fatalf("%+v", fx)
	}
	r.Step(0, Closed{Session: 1})
	if r.Relied() {
		t.Fatal("nobody relies on it any more")
	}
}

func TestManyExtentsAreAnsweredInParts(t *testing.T) {
	var list []block.Extent
	for i := range wire.ExtentsMax + 500 {
		list = append(list, block.Extent{Start: block.Index(2 * i), Count: 1})
	}
	a := Changes(list, 100, 200)
	if len(a.List) > wire.ExtentsMax || a.Last || a.Next == 0 || a.Next >= 100 {
		t.Fatalf("%d extents, next %d", len(a.List), a.Next)
	}
	if end := a.List[len(a.List)-1].End(); end > a.Next.Start() {
		t.Fatalf("the list goes to %d, and on from %d", end, a.Next.Start())
	}
	if b := Changes(list[:5], 200, 200); !b.Last || len(b.List) != 5 {
		t.Fatalf("%+v", b)
	}
}

func TestSteadyStateDoesNotAllocate(t *testing.T) {
	r := promised(t)
	write, done := &wire.Write{Epoch: 5, Extent: block.Extent{Count: 1}}, &wire.Done{Incarnation: 1}
	if n := testing.AllocsPerRun(100, func() {
		r.Receive(0, Received{Session: 1, ID: 2, Msg: write})
		r.Finish(0, Stored{Session: 1, ID: 2, Answer: done})
	}); n != 0 {
		t.Errorf("%v allocations a request", n)
	}
}

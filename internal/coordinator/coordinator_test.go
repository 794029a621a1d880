package coordinator

import (
	"slices"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/wire"
)

// stage is a coordinator whose members say what the test tells them to.
type stage struct {
	t    testing.TB
	c    *Coordinator
	now  time.Duration
	sent []Send
	all  []Send // sent, answered or not
	done []*Request
	want *spec.Record // proposed

	changed  []*Change
	unlinked []int
	alarm    time.Duration
	refuse   map[int]bool        // members that can't be linked
	promised map[int]block.Epoch // what members say that they promised
}

func newStage(t testing.TB, members int) *stage {
	rec := spec.Record{Version: 1, Volume: block.VolumeID{1}, Size: 1 << 30, Epoch: 1}
	for i := range members {
		rec.Members = append(rec.Members, spec.Member{Replica: block.ReplicaID{byte(i + 1)}, Node: block.NodeID{byte(i + 1)}, State: spec.InSync})
	}
	return &stage{t: t, c: New(rec, Options{Node: block.NodeID{1}, Incarnation: 7})}
}

func (s *stage) step(ev Event) {
	fx := s.c.Step(s.now, ev)
	s.sent = append(s.sent, fx.Send...)
	s.all = append(s.all, fx.Send...)
	s.done = append(s.done, fx.Complete...)
	s.changed = append(s.changed, fx.Changed...)
	s.unlinked = append(s.unlinked, fx.Unlink...)
	if fx.Propose != nil {
		s.want = fx.Propose
	}
	if fx.Alarm != 0 {
		s.alarm = fx.Alarm
	}
	link, unlink := slices.Clone(fx.Link), slices.Clone(fx.Unlink)
	for _, m := range unlink {
		s.step(Unlinked{Member: m})
	}
	for _, m := range link {
		if s.refuse[m] {
			s.step(Unlinked{Member: m})
		} else {
			s.step(Linked{Member: m})
		}
	}
}

// record says that the proposal was recorded.
func (s *stage) record() {
	s.t.Helper()
	if s.want == nil {
		s.t.Fatal("nothing was proposed")
	}
	next := s.want.Clone()
	s.want = nil
	s.step(Recorded{OK: true, Record: next})
}

// answer answers every message of member m so far, as a healthy replica would.
func (s *stage) answer(m int) {
	for i := 0; i < len(s.sent); i++ {
		if x := s.sent[i]; x.Member == m && x.Msg != nil {
			s.sent[i].Msg = nil
			msg := healthy(x.Msg)
			if o, ok := msg.(*wire.Opened); ok {
				o.Promised = s.promised[m]
			}
			s.step(Received{Member: m, ID: x.ID, Msg: msg})
		}
	}
}

func healthy(msg wire.Message) wire.Message {
	switch msg := msg.(type) {
	case *wire.Open:
		return &wire.Opened{Size: 1 << 30, Generation: 1, Incarnation: 1, Boot: 1, State: wire.Serving}
	case *wire.Promise:
		return &wire.Promised{Epoch: msg.Epoch, Generation: 1, Lease: msg.Lease}
	case *wire.Renew:
		return &wire.Renewed{Sequence: msg.Sequence}
	case *wire.Verify:
		sums := make([]block.Sum, msg.Extent.Count)
		for i := range sums {
			sums[i] = block.ZeroSum
		}
		return &wire.Verified{Sums: sums}
	case *wire.Changed:
		return &wire.ExtentList{Last: true}
	case *wire.Regions:
		return &wire.RegionList{Last: true}
	case *wire.Flush:
		return &wire.Flushed{Incarnation: 1, Mark: 1}
	case *wire.ReadBlocks:
		data := host.Buffer(msg.Blocks.Count() * block.Size)
		sums := make([]block.Sum, msg.Blocks.Count())
		block.Checksums(sums, data)
		return &wire.ReadDone{Data: data, Sums: sums}
	case *wire.Read:
		data := host.Buffer(int(msg.Extent.Bytes()))
		sums := make([]block.Sum, msg.Extent.Count)
		block.Checksums(sums, data)
		return &wire.ReadDone{Data: data, Sums: sums}
	}
	return &wire.Done{Incarnation: 1}
}

// attached brings the stage to where requests are served.
func attached(t testing.TB, members int) *stage {
	s := newStage(t, members)
	s.step(Tick{})
	s.record()
	for range 3 { // open, promise, regions
		for m := range members {
			s.answer(m)
		}
	}
	if !s.c.Serving(s.now) {
		t.Fatalf("not serving:\n%s", s.c.Debug(s.now))
	}
	return s
}

func writeAt(b block.Index, count int) *Request {
	data := host.Buffer(count * block.Size)
	sums := make([]block.Sum, count)
	block.Checksums(sums, data)
	return &Request{Op: Write, Extent: block.Extent{Start: b, Count: uint64(count)}, Data: data, Sums: sums}
}

func (s *stage) writesTo(m int) (n int) {
	for _, x := range s.sent {
		if _, ok := x.Msg.(*wire.Write); ok && x.Member == m {
			n++
		}
	}
	return n
}

func TestWriteIsCompleteWhenAllInSyncReplicasHaveIt(t *testing.T) {
	s := attached(t, 3)
	q := writeAt(5, 2)
	s.step(Submit{q})
	s.answer(0)
	s.answer(2)
	if len(s.done) != 0 {
		t.Fatal("complete without the second replica")
	}
	s.answer(1)
	if len(s.done) != 1 || q.Err != nil {
		t.Fatalf("done %d, %v", len(s.done), q.Err)
	}
}

func TestNothingCompletesWithoutALostReplicaBeforeTheRecordSaysSo(t *testing.T) {
	s := attached(t, 3)
	q := writeAt(5, 1)
	s.step(Submit{q})
	s.answer(0)
	s.answer(1)
	s.step(Unlinked{Member: 2})
	if len(s.done) != 0 {
		t.Fatal("complete before the ejection is recorded")
	}
	if s.want == nil || s.want.Members[2].State != spec.Outdated || s.want.Members[2].Since != s.want.Epoch {
		t.Fatalf("proposed: %+v", s.want)
	}
	s.record()
	if len(s.done) != 0 {
		t.Fatal("complete before the others promised the new epoch")
	}
	s.answer(0)
	s.answer(1)
	if len(s.done) != 1 || q.Err != nil {
		t.Fatalf("done %d, %v", len(s.done), q.Err)
	}
}

func TestTheLastReplicaIsWaitedForNotGivenUp(t *testing.T) {
	s := attached(t, 1)
	q := writeAt(5, 1)
	s.step(Submit{q})
	s.step(Unlinked{Member: 0})
	s.now += time.Hour
	s.step(Tick{})
	if s.want != nil || len(s.done) != 0 {
		t.Fatal("the only copy was given up, or its write completed")
	}
	for range 3 {
		s.answer(0)
		s.step(Tick{})
	}
	if len(s.done) != 1 || q.Err != nil {
		t.Fatalf("the write did not go on when the replica was back:\n%s", s.c.Debug(s.now))
	}
}

func TestNothingStartsWithoutLeases(t *testing.T) {
	s := attached(t, 2)
	s.now += 4 * time.Second // beyond the lease, and nobody renewed it
	s.step(Submit{writeAt(5, 1)})
	if s.writesTo(0)+s.writesTo(1) != 0 {
		t.Fatal("a write was sent without leases")
	}
}

func TestReadIsNotAnsweredAfterTheLeaseRanOut(t *testing.T) {
	s := attached(t, 2)
	q := &Request{Op: Read, Extent: block.Extent{Start: 1, Count: 1}, Data: host.Buffer(block.Size), Sums: make([]block.Sum, 1)}
	s.step(Submit{q})
	s.now += 4 * time.Second
	s.answer(0)
	s.answer(1)
	if len(s.done) != 0 {
		t.Fatal("a read was answered although another owner may have written")
	}
}

func TestOverlappingWritesAreSentInOrder(t *testing.T) {
	s := attached(t, 2)
	s.step(Submit{writeAt(5, 2)})
	s.step(Submit{writeAt(6, 2)})
	s.step(Submit{writeAt(20, 1)})
	if got := s.writesTo(0); got != 2 {
		t.Fatalf("%d writes are under way, want the first and the one elsewhere", got)
	}
	s.answer(0)
	s.answer(1)
	s.answer(0)
	s.answer(1)
	if len(s.done) != 3 {
		t.Fatalf("%d of 3 complete", len(s.done))
	}
}

func TestHigherEpochStopsTheOwner(t *testing.T) {
	s := attached(t, 2)
	q := writeAt(5, 1)
	s.step(Submit{q})
	for _, x := range s.sent {
		if _, ok := x.Msg.(*wire.Write); ok && x.Member == 0 {
			s.step(Received{Member: 0, ID: x.ID, Msg: &wire.Fail{Status: fault.Fenced, Epoch: 99}})
		}
	}
	if !fault.Is(q.Err, fault.Fenced) || !fault.Is(s.c.Stopped(), fault.Fenced) {
		t.Fatalf("request: %v, coordinator: %v", q.Err, s.c.Stopped())
	}
	late := writeAt(9, 1)
	s.step(Submit{late})
	if !fault.Is(late.Err, fault.Fenced) {
		t.Fatalf("after the stop: %v", late.Err)
	}
}

func TestBadCopyIsRepairedDuringTheRead(t *testing.T) {
	s := attached(t, 2)
	q := &Request{Op: Read, Extent: block.Extent{Start: 1, Count: 1}, Data: host.Buffer(block.Size), Sums: make([]block.Sum, 1)}
	s.step(Submit{q})
	for _, x := range s.sent {
		if _, ok := x.Msg.(*wire.Read); ok && x.Member == 0 { // the local one is asked first
			s.step(Received{Member: 0, ID: x.ID, Msg: &wire.Fail{Status: fault.Corrupt, Block: 1}})
		}
	}
	s.answer(1)
	if s.writesTo(0) != 1 || len(s.done) != 0 {
		t.Fatalf("%d repairs, %d done", s.writesTo(0), len(s.done))
	}
	s.answer(0)
	if len(s.done) != 1 || q.Err != nil || s.c.Stats().Repaired != 1 {
		t.Fatalf("done %d, %v, %+v", len(s.done), q.Err, s.c.Stats())
	}
}

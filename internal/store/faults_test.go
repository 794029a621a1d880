package store

import (
	"testing"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/host/simdisk"
)

// budget is a pool's space.
type budget struct{ left int64 }

func (b *budget) Admit(bytes int64) error {
	if bytes > b.left {
		return fault.Errorf("pool.Admit", fault.NoSpace, "%d bytes are left", b.left)
	}
	b.left -= bytes
	return nil
}

func isKind(kind fault.Kind) func(error) bool {
	return func(err error) bool { return fault.Is(err, kind) }
}

// TestRandomWorkloadOnAFullDisk has the pool refuse what would grow, and the disk itself
// be full, now and then. Requests fail with NoSpace, and nothing else happens: the replica
// goes on, overwrites and reads included, and no restart is needed when there is space.
func TestRandomWorkloadOnAFullDisk(t *testing.T) {
	seeds(t, 40, 1000, func(t *testing.T, seed uint64) {
		l := newLife(t, seed)
		b := &budget{1 << 40}
		l.opts.Space = b
		l.must(l.close())
		l.must(l.open())
		for range 3 {
			p := l.player()
			for range 4 {
				l.excused = isKind(fault.NoSpace)
				b.left = int64(l.rand.IntN(1 << 20))
				if l.rand.IntN(2) == 0 {
					free := int64(0)
					if l.rand.IntN(2) == 0 {
						free = int64(l.rand.IntN(100)) * block.Size
					}
					l.disk.SetCapacity(used(l.disk) + free)
				}
				for range 60 {
					p.step()
				}
				l.calm(p)
				l.disk.SetCapacity(simdisk.CapacityDefault)
				b.left = 1 << 40
				l.excused = nil // now everything works again
				for range 20 {
					p.step()
				}
				l.calm(p)
			}
			how := death(l.rand.IntN(3))
			l.die(how)
			if err := l.reopen(how); err != nil {
				l.fatal("after a %v: %w", how, err)
			}
			if err := l.decide(l.m); err != nil {
				l.fatal("after a %v: %w", how, err)
			}
		}
	})
}

// used returns how many bytes files take.
func used(d *simdisk.Disk) int64 {
	op := host.Op{Kind: host.OpSpace}
	if err := host.Do(d, &op); err != nil {
		panic(err)
	}
	return op.Space.Size - op.Space.Free
}

// calm waits until nothing is in flight, and fails if something went wrong.
func (l *life) calm(p *player) {
	l.t.Helper()
	if err := p.rest(); err != nil {
		l.fatal("%w", err)
	}
	if err := l.r.Err(); err != nil {
		l.fatal("the replica failed: %w", err)
	}
}

// TestRandomWorkloadWithReadErrors has reads fail. Requests fail with Media or succeed;
// when the disk is well again, and the replica was opened again, nothing is missing.
func TestRandomWorkloadWithReadErrors(t *testing.T) {
	seeds(t, 40, 1000, func(t *testing.T, seed uint64) {
		l := newLife(t, seed)
		l.excused = isKind(fault.Media)
		for range 4 {
			p := l.player()
			for range 50 {
				p.step()
			}
			l.disk.SetOdds(simdisk.Odds{ReadError: 0.1})
			for range 150 {
				p.step()
			}
			l.calm(p)
			l.disk.Heal()
			how := killed + death(l.rand.IntN(2))
			l.die(how)
			if err := l.reopen(how); err != nil {
				l.fatal("after a %v: %w", how, err)
			}
			if err := l.decide(l.m); err != nil {
				l.fatal("after a %v: %w", how, err)
			}
		}
	})
}

// TestFailedWriteOrSyncIsNeverForgiven has one write or sync of some file fail. From then
// on the replica says so and does nothing any more. The next process is told, shows what
// was flushed, and forgets the loss only when it is asked to.
func TestFailedWriteOrSyncIsNeverForgiven(t *testing.T) {
	seeds(t, 80, 2000, func(t *testing.T, seed uint64) {
		l := newLife(t, seed)
		p := l.player()
		for range l.rand.IntN(200) {
			p.step()
		}
		failures := []simdisk.Rule{
			{Kind: host.OpWrite, Path: "v/*"}, {Kind: host.OpSync, Path: "v/*"}, {Kind: host.OpSyncDir, Path: "v"},
			{Kind: host.OpWrite, Path: "v/chunks/*"}, {Kind: host.OpSync, Path: "v/chunks/*"}, {Kind: host.OpSyncDir, Path: "v/chunks"},
			{Kind: host.OpSyncAll},
		}
		rule := failures[l.rand.IntN(len(failures))]
		rule.Skip, rule.Effect = l.rand.IntN(8), simdisk.Fail
		l.disk.Inject(rule)
		excused := false // what fails before the replica knows why: what a sync loses is gone at once
		p.story.excused = func(err error) bool {
			excused = excused || !fault.Is(err, fault.NotFound)
			return !fault.Is(err, fault.NotFound)
		}
		for i := 0; i < 300 && l.r.Err() == nil && p.failed == nil; i++ {
			p.step()
		}
		if err := p.rest(); err != nil {
			l.fatal("%w", err)
		}
		failed := l.r.Err() != nil
		if excused && !failed {
			l.fatal("something failed, and the replica goes on: %w", error(nil))
		}
		if failed {
			l.disk.Heal()
			refusesEverything(l)
			for l.disk.InFlight() > 0 {
				l.disk.Poll(-1)
			}
		}
		how := killed + death(l.rand.IntN(2))
		l.die(how)
		l.disk.Heal()
		l.story.excused = nil
		if failed {
			how = power // what was not flushed may be lost
		}
		if failed && l.rand.IntN(2) == 0 {
			acceptsAtOnce(l)
			return
		}
		if err := l.reopen(how); err != nil {
			l.fatal("opened again: %w", err)
		}
		if failed {
			remembers(l)
			l.staysAsItIs()
		}
	})
}

// acceptsAtOnce has the loss accepted before or after somebody has read anything: what is
// shown then is on the disk, whatever the kernel showed.
func acceptsAtOnce(l *life) {
	l.must(l.open())
	if !l.m.settleControl(l.r.Manifest()) {
		l.fatal("the manifest is %v: %w", l.r.Manifest(), error(nil))
	}
	accept := func() { l.must(l.await(l.r.Accept)) }
	look := func() { l.must(l.verifyLive(l.m, power)) }
	if l.rand.IntN(2) == 0 {
		accept, look = look, accept
	}
	accept()
	look()
	l.staysAsItIs()
}

// staysAsItIs checks that what the model knows as shown is there after a power loss.
func (l *life) staysAsItIs() {
	if l.rand.IntN(2) == 0 { // with the tables saved, and the journal's tail advanced
		l.r.Clean(l.r.Mark())
		l.m.mayClean(l.m.acks)
		l.must(l.do(&Request{Verb: Flush}))
	}
	l.die(power)
	if err := l.reopen(power); err != nil {
		l.fatal("after the loss was accepted, and power was lost: %w", err)
	}
}

// remembers checks that a replica which was lost says so until that is accepted.
func remembers(l *life) {
	l.must(l.close())
	l.must(l.open())
	if l.r.Lost() == nil {
		l.fatal("the loss is forgotten: %w", error(nil))
	}
	l.must(l.await(l.r.Accept))
	l.must(l.close())
	l.must(l.open())
	if err := l.r.Lost(); err != nil {
		l.fatal("the loss is accepted, and still there: %w", err)
	}
}

// refusesEverything checks that a replica that failed does nothing any more.
func refusesEverything(l *life) {
	for _, q := range []*Request{writeOf(0, 1, 1), readOf(0, 0, 1), {Verb: Flush}, {Verb: Zero, Extent: block.Extent{Count: 1}},
		{Verb: Verify, Extent: block.Extent{Count: 1}, Sums: make([]block.Sum, 1)}} {
		if err := l.do(q); err == nil {
			l.fatal("a %v succeeds although the replica failed: %w", q.Verb, l.r.Err())
		}
	}
	man := l.r.Manifest()
	for name, call := range map[string]func(done func(error)){
		"snapshot": func(done func(error)) { l.r.Snapshot(man.Generation, done) },
		"promise":  func(done func(error)) { l.r.Promise(man.Promised+1, done) },
		"grow":     func(done func(error)) { l.r.Grow(man.Size+block.RegionSize, done) },
		"usage":    func(done func(error)) { l.r.Usage(func(_ Usage, err error) { done(err) }) },
	} {
		if err := l.await(call); err == nil && name != "usage" {
			l.fatal("%s succeeds although the replica failed: %w", name, l.r.Err())
		}
	}
	if ops := l.disk.Ops(); l.await(l.r.Close) == nil {
		l.fatal("close succeeds although the replica failed: %w", l.r.Err())
	} else if l.disk.Ops() != ops {
		l.fatal("a replica that failed goes on writing")
	}
}

// killed has the process killed, and another one open the replica on what is its disk then.
func (g *rig) killed(disk *simdisk.Disk) *simdisk.Disk {
	g.t.Helper()
	g.r.Abandon()
	disk = disk.Kill()
	g.disk = disk
	g.must(g.open())
	return disk
}

// TestWhatWasLostDoesNotComeBack has a replica fail while its journal says, not durably,
// that a block is a hole. The process that comes next forgets that, writes the block where
// it was, and accepts the loss. The one after it must not find the hole again: found by
// seed 700080 of the simulator.
func TestWhatWasLostDoesNotComeBack(t *testing.T) {
	disk := simdisk.New(simdisk.Options{Seed: 1})
	g := newRig(t, disk, 1<<30, Options{Boot: 1})
	again := func() { disk = g.killed(disk) }
	g.write(6, 1, 1)
	g.flush()
	g.zero(6, 1)
	disk.Inject(simdisk.Rule{Kind: host.OpWrite, Path: g.dir + "/chunks/*", Effect: simdisk.Fail})
	if g.do(writeOf(3, 1, 2)) == nil {
		t.Fatal("the write that the disk refuses succeeds")
	}
	for disk.InFlight() > 0 { // the note of it
		disk.Poll(-1)
	}
	again()
	if g.r.Lost() == nil {
		t.Fatal("the loss is forgotten")
	}
	g.write(6, 1, 3)
	g.must(g.await(g.r.Accept))
	again()
	g.expect(g.r.Manifest().Generation, 6, 1, 3)
}

// TestWhatWasWrittenSinceACrashIsNotInDoubt changes blocks on the disk, in a region that a
// crash left dirty, as a sync that fails and drops what it was to keep does. Of what was
// written before the crash the checksum may be behind; what was written since must be
// what is read: found by seed 123000751 of the simulator.
func TestWhatWasWrittenSinceACrashIsNotInDoubt(t *testing.T) {
	for _, look := range []string{"read", "verify first"} {
		disk := simdisk.New(simdisk.Options{Seed: 1})
		g := newRig(t, disk, 1<<30, Options{Boot: 1})
		g.write(6, 3, 1)
		g.flush()
		places := []Place{}
		g.r.Abandon()
		g.disk = disk.Kill()
		for b := range block.Index(3) {
			places = append(places, g.locate(6+b, 0))
		}
		g.must(g.open())
		g.write(7, 1, 2)
		g.snapshot()
		g.write(8, 1, 3)
		for _, p := range places[1:] {
			g.flip(p.File, p.Offset, 0)
		}
		if look == "verify first" {
			g.must(g.do(&Request{Verb: Verify, Extent: block.Extent{Start: 6, Count: 3}, Sums: make([]block.Sum, 3)}))
		}
		if err := g.do(readOf(0, 7, 1)); !fault.Is(err, fault.Corrupt) {
			t.Errorf("%s: a block that was written since, and changed on the disk: %v", look, err)
		}
		g.expect(0, 6, 1, 1)
		g.expect(0, 8, 1, 3)
		if err := g.do(readOf(1, 8, 1)); err != nil {
			t.Errorf("%s: a block of which the checksum may be behind: %v", look, err)
		}
	}
}

// TestWhoWaitsForARegionThatCanNotBeSettledFindsOut has the acceptance of a loss fail while
// it looks at what was written last, and a request that came meanwhile goes on by itself: an
// owner's promise would have waited for it for ever. Found by the simulator, on a full disk.
func TestWhoWaitsForARegionThatCanNotBeSettledFindsOut(t *testing.T) {
	for i := range 40 {
		later, skip := i/4, i%4 // operations of the disk before the request, and before the one that fails
		disk := simdisk.New(simdisk.Options{Seed: 1})
		g := newRig(t, disk, 1<<30, Options{Boot: 1})
		g.write(6, 3, 1)
		disk.Inject(simdisk.Rule{Kind: host.OpSync, Path: g.dir + "/chunks/*", Effect: simdisk.Fail})
		if err := g.do(&Request{Verb: Flush}); err == nil {
			t.Fatal("the sync did not fail")
		}
		_ = g.close() // fails, and waits for the note that is left
		g.must(g.open())
		if g.r.Lost() == nil {
			t.Fatal("nothing is lost")
		}
		disk.Inject(simdisk.Rule{Kind: host.OpRead, Path: g.dir + "/chunks/*", Effect: simdisk.Fail, Skip: skip})
		failed := func(err error) {
			if err != nil && !fault.Is(err, fault.Media) {
				t.Error(err)
			}
		}
		g.r.Accept(failed)
		for range later {
			disk.Poll(1)
		}
		failed(g.await(func(done func(error)) {
			g.submit(&Request{Verb: Verify, Extent: block.Extent{Start: 6, Count: 3}, Sums: make([]block.Sum, 3)}, done)
		}))
		g.must(g.await(g.r.Accept))
	}
}

// TestAWriteInPlaceSurvivesASecondKill has two processes killed in a row: the first made a
// first write, and the second wrote the same blocks, in place. The third must not take the
// blocks, which are not what the journal says of the first write, for one that never
// arrived: found by seed 930002514 of the simulator.
func TestAWriteInPlaceSurvivesASecondKill(t *testing.T) {
	disk := simdisk.New(simdisk.Options{Seed: 1})
	g := newRig(t, disk, 1<<30, Options{Boot: 1})
	again := func() { disk = g.killed(disk) }
	g.write(2, 4, 1)
	again()
	g.write(2, 2, 2)
	again()
	g.expect(0, 2, 2, 2)
	g.expect(0, 4, 2, 1)
}

// TestAnIntentIsDurableWhoeverNotedIt has a process die while it notes that a region will be
// written. The next one finds the note, which is not on the disk yet, and writes; then power
// is lost. The region must say that it may differ from its copies.
func TestAnIntentIsDurableWhoeverNotedIt(t *testing.T) {
	disk := simdisk.New(simdisk.Options{Seed: 1})
	g := newRig(t, disk, 1<<30, Options{Boot: 1})
	disk.Inject(simdisk.Rule{Kind: host.OpSync, Path: g.dir + "/regions", Effect: simdisk.Stall})
	g.submit(writeOf(6, 1, 1), func(error) {})
	for range 100 {
		disk.Poll(0)
	}
	g.r.Abandon()
	disk = disk.Kill()
	disk.Heal()
	g.disk = disk
	g.must(g.open())
	g.write(6, 1, 2)
	g.r.Abandon()
	disk = disk.Crash(simdisk.KeepNone)
	g.opts.Boot++
	g.disk = disk
	g.must(g.open())
	if list := g.r.Regions(0, 10); len(list) != 1 || !list[0].Dirty {
		t.Errorf("the regions are %+v", list)
	}
}

// TestAWriteThatFoundNoSpaceStaysAway has a block come, go, and fail to come again to the
// same slot: what is taken back is the last of the two. Otherwise the first was, and the one
// that failed was there after the death of the process.
func TestAWriteThatFoundNoSpaceStaysAway(t *testing.T) {
	disk := simdisk.New(simdisk.Options{Seed: 1})
	g := newRig(t, disk, 1<<30, Options{Boot: 1})
	g.write(6, 1, 1)
	g.flush()
	g.zero(6, 1)
	disk.SetCapacity(used(disk))
	if err := g.do(writeOf(6, 1, 2)); !fault.Is(err, fault.NoSpace) {
		t.Fatalf("the write of a hole on a full disk: %v", err)
	}
	g.flush()
	g.expect(0, 6, 1, 0)
	g.r.Abandon()
	disk = disk.Kill()
	g.disk = disk
	g.must(g.open())
	g.expect(0, 6, 1, 0)
	if u, err := g.usage(); err != nil || u.Stored != 0 {
		t.Errorf("%d bytes are stored, %v", u.Stored, err)
	}
}

package main

import (
	"crypto/rand"
	"time"

	"github.com/holdfast-io/holdfast/internal/bench"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/store"
)

const (
	smallVolume = 1 << 30
	largeVolume = 1 << 40
)

// milliseconds is a duration as figures print it.
func milliseconds(d time.Duration) float64 { return d.Seconds() * 1e3 }

// hot goes to random blocks of smallVolume's number of chunks, spread over a volume.
func (v *volume) hot() order {
	const chunks = smallVolume / block.ChunkSize
	stride := block.Chunk(v.blocks / block.PerChunk / chunks)
	places := randomly(chunks * block.PerChunk)
	return func() (block.Index, bool) {
		at, _ := places()
		return (at.Chunk() * stride).Start() + block.Index(at.InChunk()), true
	}
}

// hotVolume makes a volume whose hot part, 1 GiB, is full, and the rest empty.
func (g *ground) hotVolume(bytes int64) (*volume, error) {
	v, err := g.volume(bytes)
	if err != nil {
		return nil, err
	}
	const chunks = smallVolume / block.ChunkSize
	stride := v.blocks / block.PerChunk / chunks
	for i := range chunks {
		places := once(block.PerChunk, fillStep)
		fill := order(func() (block.Index, bool) {
			at, more := places()
			return block.Chunk(i*stride).Start() + at, more
		})
		if _, err := v.write(fill.all(8, fillStep)); err != nil {
			return nil, err
		}
	}
	return v, v.clean()
}

// pause is what a snapshot under load cost.
type pause struct {
	snapshot time.Duration // from the call to its end
	longest  time.Duration // that a write took which the snapshot held up
	steady   time.Duration // that a write took before
}

// pauseOf takes a snapshot in the middle of a load of random writes.
func (v *volume) pauseOf() (pause, error) {
	var p pause
	var asked, done, start time.Time
	var failed error
	gen := v.Manifest().Generation
	places := v.hot()
	l := load{depth: 32, blocks: 1}
	l.next = func(now time.Time) (block.Index, bool) {
		if start.IsZero() {
			start = now
		}
		if asked.IsZero() && now.Sub(start) > 300*time.Millisecond {
			asked = now
			v.Snapshot(gen, func(err error) { done, failed = time.Now(), err })
		}
		at, more := places()
		return at, more && (done.IsZero() || now.Sub(done) < 50*time.Millisecond)
	}
	l.ended = func(began, now time.Time) {
		switch {
		case asked.IsZero() || now.Before(asked):
			p.steady = max(p.steady, now.Sub(began))
		case done.IsZero() || began.Before(done):
			p.longest = max(p.longest, now.Sub(began))
		}
	}
	if _, err := v.write(l); err != nil {
		return p, err
	}
	p.snapshot = done.Sub(asked)
	if failed != nil {
		return p, failed
	}
	_, err := v.unsnap(gen)
	return p, err
}

// benchSnapshot shows that a snapshot costs the same whatever the volume's size, and
// what it holds up.
func benchSnapshot(r *bench.Run) error {
	return newGround(r, 5<<30, func(g *ground) error {
		small, err := g.hotVolume(smallVolume)
		if err != nil {
			return err
		}
		large, err := g.hotVolume(largeVolume)
		if err != nil {
			return err
		}
		r.Logf("snapshots under load")
		rounds, err := bench.Alternate(r.Context, 2*r.Rounds, large.pauseOf, small.pauseOf)
		if err != nil {
			return err
		}
		limit := bench.ValueAtMost(10)
		took := func(p pause) float64 { return milliseconds(p.snapshot) }
		longest := func(p pause) float64 { return milliseconds(p.longest) }
		r.Report(rounds.Compare(took).Figure("store/snapshot/1tib-against-1gib/time", "ms", limit))
		r.Report(rounds.Compare(longest).Figure("store/snapshot/1tib-against-1gib/longest", "ms", limit))
		r.Report(bench.Single("store/snapshot/1tib/longest-before", "ms", rounds.Value(func(p pause) float64 { return milliseconds(p.steady) }), bench.None))
		if err := benchOpen(r, g, large, small); err != nil {
			return err
		}
		if err := small.close(); err != nil {
			return err
		}
		return large.close()
	})
}

// benchOpen opens volumes that were closed, and that a crash left behind.
func benchOpen(r *bench.Run, g *ground, large, small *volume) error {
	opening := func(v *volume) func() (time.Duration, error) {
		return func() (time.Duration, error) {
			if err := g.await(v.Replica.Close); err != nil {
				return 0, err
			}
			began := time.Now()
			err := v.open()
			return time.Since(began), err
		}
	}
	r.Logf("open")
	rounds, err := bench.Alternate(r.Context, 2*r.Rounds, opening(large), opening(small))
	if err != nil {
		return err
	}
	r.Report(rounds.Compare(milliseconds).Figure("store/snapshot/open-1tib-against-1gib/closed", "ms", bench.None))
	for _, v := range []*volume{large, small} {
		if err := g.await(v.Replica.Close); err != nil {
			return err
		}
	}
	crashed := func(v *volume) func() (time.Duration, error) {
		return func() (time.Duration, error) {
			if err := g.crash(v); err != nil {
				return 0, err
			}
			began := time.Now()
			if err := v.open(); err != nil {
				return 0, err
			}
			took := time.Since(began)
			return took, g.await(v.Replica.Close)
		}
	}
	r.Logf("open after a crash")
	rounds, err = bench.Alternate(r.Context, r.Rounds, crashed(large), crashed(small))
	if err != nil {
		return err
	}
	r.Report(rounds.Compare(milliseconds).Figure("store/snapshot/open-1tib-against-1gib/crashed", "ms", bench.None))
	for _, v := range []*volume{large, small} {
		if err := v.open(); err != nil {
			return err
		}
	}
	return nil
}

// crash leaves a closed volume as a process does that dies under load: opened, written
// to at random, and dropped.
func (g *ground) crash(v *volume) error {
	disk, err := host.Open(g.root, host.Options{})
	if err != nil {
		return err
	}
	defer disk.Close() // gives back the handles that the replica held
	dying := &volume{on: &ground{run: g.run, disk: disk, root: g.root}, dir: v.dir, blocks: v.blocks}
	if err := dying.open(); err != nil {
		return err
	}
	if _, err := dying.write(v.hot().lasting(100*time.Millisecond, 32, 1)); err != nil {
		return err
	}
	dying.Abandon()
	return nil
}

// benchClone clones 100 GiB that are allocated in 1600 chunks. A clone links files and
// reads none, so their size is of no account, and a chunk needs only one block here;
// what counts besides are the tables that are not saved yet, of which there are as many
// as memory holds.
func benchClone(r *bench.Run) error {
	return newGround(r, 2<<30, func(g *ground) error {
		const chunks = 1600
		v, err := g.volume(chunks * block.ChunkSize)
		if err != nil {
			return err
		}
		r.Logf("a block in each of %d chunks", chunks)
		n := -1
		_, err = v.write(order(func() (block.Index, bool) {
			n++
			return block.Chunk(n).Start(), n < chunks
		}).all(32, 1))
		if err != nil {
			return err
		}
		gen, _, err := v.snapshot()
		if err != nil {
			return err
		}
		id, err := block.NewVolumeID(rand.Reader)
		if err != nil {
			return err
		}
		var first, again []float64
		for i := range r.Rounds + 1 {
			r.Logf("clone %d", i)
			dir := g.name("clone")
			took, err := g.took(func(done func(error)) { v.Clone(gen, dir, store.Spec{Volume: id}, done) })
			if err != nil {
				return err
			}
			if again = append(again, milliseconds(took)); i == 0 {
				first, again = again, nil
			}
			if err := g.await(func(done func(error)) { store.Delete(g.disk, dir, done) }); err != nil {
				return err
			}
		}
		r.Report(bench.Single("store/clone/100gib/tables-unsaved", "ms", first[0], bench.None))
		r.Report(bench.Single("store/clone/100gib/tables-saved", "ms", bench.Median(again), bench.None))
		return v.close()
	})
}

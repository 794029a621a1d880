package store

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/holdfast-io/holdfast/internal/block"
)

func TestExploreMergePunched(t *testing.T) {
	for seed := range uint64(200) {
		g := newRig(t, sim(seed), 4*mib, Options{Boot: 1})
		rnd := rand.New(rand.NewPCG(seed, 8))
		shots := map[block.Generation][]byte{}
		now := make([]byte, 100*block.Size)
		for tag := range uint64(2*obsoleteMax + 14) {
			q := writeOf(block.Index(rnd.IntN(90)), 1+rnd.IntN(10), tag+1)
			copy(now[q.Extent.Start.Offset():], q.Data)
			g.must(g.do(q))
			if rnd.IntN(4) == 0 {
				b := rnd.IntN(100)
				g.zero(block.Index(b), 1)
				clear(now[b*block.Size : (b+1)*block.Size])
			}
			shots[g.snapshot()] = bytes.Clone(now)
		}
		g.r.Clean(g.r.Mark())
		gens := g.r.Manifest().Snapshots
		rnd.Shuffle(len(gens), func(i, j int) { gens[i], gens[j] = gens[j], gens[i] })
		for n, gen := range gens {
			g.must(g.await(func(done func(error)) { g.r.DeleteSnapshot(gen, done) }))
			g.must(g.await(g.r.Reclaimed))
			delete(shots, gen)
			if n%5 == 0 {
				shots[0] = now
				for gen, want := range shots {
					q := readOf(gen, 0, 100)
					g.must(g.do(q))
					if !bytes.Equal(q.Data, want) {
						t.Fatalf("seed %d generation %d", seed, gen)
					}
				}
			}
			if n%7 == 0 {
				g.must(g.close())
				for _, f := range g.check().Findings {
					if f.Damage {
						t.Errorf("%v", f)
					}
				}
				g.must(g.open())
			}
		}
	}
}

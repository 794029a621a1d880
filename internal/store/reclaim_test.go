package store

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/holdfast-io/holdfast/internal/block"
)

// TestDeletionsInAnyOrderLeaveNoFileBehind takes snapshots, deletes all in some order,
// with more in between, and finds only files that somebody needs.
func TestDeletionsInAnyOrderLeaveNoFileBehind(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(seed, 3))
			g := newRig(t, sim(seed), 2*block.RegionSize, Options{TablesMax: 8})
			shown := make(map[block.Generation][]uint64)
			const blocks = 40
			live, tag := make([]uint64, blocks), uint64(0)
			var snapshots []block.Generation
			for range 60 {
				switch rnd.IntN(3) {
				case 0, 1:
					tag++
					b := rnd.IntN(blocks / 4)
					n := 1 + rnd.IntN(blocks/4)
					g.write(block.PerRegion-20+block.Index(b), n, tag)
					for i := range n {
						live[b+i] = tag
					}
					if rnd.IntN(3) == 0 {
						gen := g.snapshot()
						snapshots = append(snapshots, gen)
						shown[gen] = append([]uint64(nil), live...)
					}
				case 2:
					if len(snapshots) > 0 {
						i := rnd.IntN(len(snapshots))
						g.deleteSnapshot(snapshots[i])
						snapshots = append(snapshots[:i], snapshots[i+1:]...)
					}
				}
				g.expectShown(0, live)
				for _, gen := range snapshots {
					g.expectShown(gen, shown[gen])
				}
			}
			g.write(block.PerRegion, 1, live[20])
			gen := g.snapshot()
			g.write(block.PerRegion, 1, live[20])
			g.deleteSnapshot(gen) // looks at what was overwritten since the last deletion
			g.must(g.close())
			for _, f := range g.check().Findings {
				if f.Damage || strings.Contains(f.Detail, "no generation needs it") {
					t.Errorf("with snapshots %v: %v", snapshots, f)
				}
			}
			g.must(g.open())
			for _, gen := range snapshots {
				g.expectShown(gen, shown[gen])
				g.deleteSnapshot(gen)
			}
			g.expectShown(0, live)
			g.must(g.verifyScrub())
			if got := len(g.r.chunk(0).gens); got > obsoleteMax+1 {
				t.Errorf("%d files are left", got)
			}
		})
	}
}

func (g *rig) deleteSnapshot(gen block.Generation) {
	g.t.Helper()
	g.must(g.await(func(done func(error)) { g.r.DeleteSnapshot(gen, done) }))
	g.must(g.await(g.r.Reclaimed))
}

// expectShown reads the blocks around the end of the first region.
func (g *rig) expectShown(gen block.Generation, want []uint64) {
	g.t.Helper()
	for i, got := range g.tags(gen, block.PerRegion-20, len(want)) {
		if got != want[i] {
			g.t.Fatalf("generation %d block %d: tag %d, want %d", gen, i, got, want[i])
		}
	}
}

// TestOverwritingFreesWhatSnapshotsLeft overwrites, without another deletion, what only
// the live generation saw of a snapshot that is gone.
func TestOverwritingFreesWhatSnapshotsLeft(t *testing.T) {
	g := newRig(t, sim(1), 2*block.RegionSize, Options{})
	const step = 256
	for b := block.Index(0); b < deadMax; b += step {
		g.write(b, step, 1)
	}
	gen := g.snapshot()
	g.write(deadMax, 1, 2)
	g.deleteSnapshot(gen)
	if n := len(g.r.chunk(0).gens); n != 2 {
		t.Fatalf("%d files while the live generation needs both", n)
	}
	g.zero(0, step)
	for b := block.Index(step); b < deadMax; b += step {
		g.write(b, step, 3)
	}
	g.must(g.await(g.r.Reclaimed))
	if n := len(g.r.chunk(0).gens); n != 1 {
		t.Errorf("%d files are left", n)
	}
	g.expect(0, 0, step, 0)
	g.expect(0, step, step, 3)
	g.expect(0, deadMax, 1, 2)
}

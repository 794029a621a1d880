package main

import (
	"fmt"

	"github.com/holdfast-io/holdfast/internal/bench"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/host"
)

const (
	wideChunks  = 1600 // 100 GiB
	wideBlocks  = 16   // with data in a region
	wideRegions = 4    // with data in a chunk, when there are more than memory has tables for
)

// benchWide shows what it costs when reads go everywhere in a volume that has more
// chunk files than are kept open, and more tables than are kept in memory. The baseline
// is a file that has as many blocks as the volume has data.
func benchWide(r *bench.Run) error {
	return newGround(r, 3<<30, func(g *ground) error {
		for _, c := range []struct {
			name    string
			regions int
		}{{"more-files", 1}, {"more-tables", wideRegions}} {
			r.Logf("%s", c.name)
			v, err := g.volume(wideChunks * block.ChunkSize)
			if err != nil {
				return err
			}
			blocks := wideChunks * c.regions * wideBlocks
			i := -1
			_, err = v.write(order(func() (block.Index, bool) {
				i++
				return wide(i*wideBlocks, c.regions), i < blocks/wideBlocks
			}).all(32, wideBlocks))
			if err != nil {
				return err
			}
			if err := v.clean(); err != nil {
				return err
			}
			name, file, err := g.fullFile(int64(blocks) * block.Size)
			if err != nil {
				return err
			}
			for _, depth := range []int{1, 32} {
				rounds, err := bench.Alternate(r.Context, r.Rounds,
					func() (bench.Cost, error) {
						places := randomly(blocks)
						return v.read(0, order(func() (block.Index, bool) {
							at, more := places()
							return wide(int(at), c.regions), more
						}).lasting(sampleTime, depth, 1))
					},
					func() (bench.Cost, error) {
						return randomly(blocks).lasting(sampleTime, depth, 1).run(g.ctx(), g.disk, rawLane(g.disk, file, host.OpRead))
					})
				if err != nil {
					return err
				}
				r.Report(rounds.Compare(bench.Cost.PerSecond).Figure(fmt.Sprintf("store/wide/%s/read-4k-qd%d", c.name, depth), "1/s", bench.None))
			}
			if err := g.drop(name, file); err != nil {
				return err
			}
			if err := v.close(); err != nil {
				return err
			}
		}
		return nil
	})
}

// wide returns the i-th block with data of a volume that has some in each of so many
// regions of every chunk.
func wide(i, regions int) block.Index {
	region := i / wideBlocks
	return (block.Chunk(region/regions).Start().Region() + block.Region(region%regions)).Start() + block.Index(i%wideBlocks)
}

package store

import (
	"fmt"
	"slices"
	"testing"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// TestManyReplicasShareTheirLimits has replicas, of which any one could use up what all
// have, work in turn.
func TestManyReplicasShareTheirLimits(t *testing.T) {
	const replicas, chunks = 12, 8
	d := sim(1)
	shared := &Shared{FilesMax: 10, TablesMax: 20}
	var rigs []*rig
	for i := range replicas {
		g := &rig{t: t, disk: d, dir: fmt.Sprint("v", i), opts: Options{Shared: shared}}
		g.must(g.await(func(done func(error)) {
			Create(d, g.dir, Spec{Volume: block.VolumeID{byte(i)}, Size: chunks * block.ChunkSize}, g.opts, done)
		}))
		g.must(g.open())
		t.Cleanup(g.drop)
		rigs = append(rigs, g)
	}
	count := func() (files, tables int) {
		for _, g := range rigs {
			files += len(g.r.files.list)
			tables += len(g.r.tables.list)
		}
		return files, tables
	}
	for round := range uint64(3) {
		for c := range block.Index(chunks) {
			for i, g := range rigs {
				if round > 0 {
					g.expect(0, c*block.PerChunk, 2, round*100+uint64(i))
				}
				g.write(c*block.PerChunk, 2, round*100+100+uint64(i))
				g.flush()
				g.r.Clean(g.r.Mark())
				for d.InFlight() > 0 {
					d.Poll(-1)
				}
				if files, tables := count(); files > shared.FilesMax+1 || tables > shared.TablesMax+1 {
					t.Fatalf("%d files and %d tables", files, tables)
				}
			}
		}
	}
	for i, g := range rigs {
		g.expect(0, 0, 2, 300+uint64(i))
		g.must(g.close())
	}
	if len(shared.replicas) != 0 {
		t.Errorf("%d replicas still share", len(shared.replicas))
	}
}

func TestListNamesWhatIsOnADisk(t *testing.T) {
	g := newRig(t, sim(1), mib, Options{})
	g.must(host.Do(g.disk, &host.Op{Kind: host.OpMkdir, Path: "other"}))
	g.must(host.Do(g.disk, &host.Op{Kind: host.OpMkdir, Path: "half" + UnfinishedSuffix}))
	var list []Listed
	g.must(g.await(func(done func(error)) { List(g.disk, func(got []Listed, err error) { list = got; done(err) }) }))
	find := func(dir string) Listed {
		i := slices.IndexFunc(list, func(x Listed) bool { return x.Dir == dir })
		if i < 0 {
			t.Fatalf("%s is not in %+v", dir, list)
		}
		return list[i]
	}
	if x := find("v"); x.Err != nil || x.Unfinished || x.Manifest.Volume != testVolume || x.Manifest.Size != mib {
		t.Errorf("%+v", x)
	}
	if x := find("other"); !fault.Is(x.Err, fault.NotFound) {
		t.Errorf("%+v", x)
	}
	if x := find("half" + UnfinishedSuffix); !x.Unfinished {
		t.Errorf("%+v", x)
	}
}

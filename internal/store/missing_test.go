package store

import (
	"testing"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

func TestMissingChunkFileIsNotReadAsZeros(t *testing.T) {
	g := newRig(t, sim(1), 130*mib, Options{})
	g.write(0, 4, 7)
	g.must(g.close())
	for range 3 { // until the journal has forgotten the first write
		g.must(g.open())
		g.write(block.PerChunk, 4, 7)
		g.r.Clean(g.r.Mark())
		g.must(g.close())
	}
	g.must(host.Do(g.disk, &host.Op{Kind: host.OpRemove, Path: "v/chunks/00000000.000001"}))
	g.must(g.open())
	if err := g.do(readOf(0, 0, 1)); !fault.Is(err, fault.Corrupt) {
		t.Errorf("the read gives %v", err)
	}
	g.expect(0, block.PerChunk, 4, 7)
}

func TestCutOffRegionTableIsNotReadAsNeverWritten(t *testing.T) {
	g := newRig(t, sim(2), 130*mib, Options{})
	g.write(0, 4, 7)
	g.must(g.close())
	op := host.Op{Kind: host.OpOpen, Path: "v/regions"}
	g.must(host.Do(g.disk, &op))
	g.must(host.Do(g.disk, &host.Op{Kind: host.OpTruncate, File: op.File}))
	if err := g.open(); !fault.Is(err, fault.Corrupt) {
		t.Errorf("open gives %v", err)
	}
}

func TestReplicaOfNewerReleaseIsUnsupported(t *testing.T) {
	g := newRig(t, sim(3), mib, Options{})
	m := g.r.Manifest()
	g.must(g.close())
	m.Version = formatVersion + 1
	op := host.Op{Kind: host.OpOpen, Path: "v/replica.json"}
	g.must(host.Do(g.disk, &op))
	g.must(host.Do(g.disk, &host.Op{Kind: host.OpTruncate, File: op.File}))
	g.must(host.Do(g.disk, &host.Op{Kind: host.OpWrite, File: op.File, Buf: m.encode()}))
	if err := g.open(); !fault.Is(err, fault.Unsupported) {
		t.Errorf("open gives %v", err)
	}
}

package link_test

import (
	"testing"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/wire"
	"github.com/holdfast-io/holdfast/internal/wire/link"
)

func TestPoolGivesAlignedBuffersOfEverySize(t *testing.T) {
	p := link.NewPool(link.PoolLimits{})
	for size := 1; size <= wire.DataMax; size += 1000 {
		b := p.TryGet(size)
		if len(b.Data) != size || !host.Aligned(b.Data) {
			t.Fatalf("asked for %d bytes, got %d, aligned: %v", size, len(b.Data), host.Aligned(b.Data))
		}
		if _, used := p.InUse(); used < size || used >= 2*max(size, block.Size) {
			t.Fatalf("%d bytes take %d", size, used)
		}
		b.Release()
	}
	if _, used := p.InUse(); used != 0 {
		t.Errorf("all was released, but %d bytes are out", used)
	}
}

func TestPoolGivesNoMoreThanItMay(t *testing.T) {
	p := link.NewPool(link.PoolLimits{BytesMax: 2 << 20})
	var out []*link.Buffer
	for {
		b := p.TryGet(block.Size)
		if b == nil {
			break
		}
		out = append(out, b)
	}
	if len(out) != 512 {
		t.Errorf("2 MiB are %d blocks", len(out))
	}
	// What one size gave back is there for another.
	for _, b := range out {
		b.Release()
	}
	large := []*link.Buffer{p.TryGet(wire.DataMax), p.TryGet(wire.DataMax), p.TryGet(wire.DataMax)}
	if large[0] == nil || large[1] == nil || large[2] != nil {
		t.Errorf("2 MiB are %v", large)
	}
	if p.TryGet(block.Size) != nil {
		t.Error("a full pool had a block")
	}
	large[0].Release()
	halves := []*link.Buffer{p.TryGet(512 << 10), p.TryGet(512 << 10), p.TryGet(block.Size)}
	if halves[0] == nil || halves[1] == nil || halves[2] != nil {
		t.Errorf("1 MiB is %v", halves)
	}
}

func TestWhatIsReleasedTwiceIsABug(t *testing.T) {
	p := link.NewPool(link.PoolLimits{})
	b := p.TryGet(1)
	b.Release()
	panics(t, "a second Release", b.Release)
	panics(t, "a buffer of nothing", func() { p.TryGet(0) })
	panics(t, "a buffer too large", func() { p.TryGet(wire.DataMax + 1) })
}

func panics(t *testing.T, what string, f func()) {
	t.Helper()
	defer func() {
		if recover() == nil {
			t.Errorf("%s was taken", what)
		}
	}()
	f()
}

func TestPoolSizesThatWereUsedBeforeCostNothing(t *testing.T) {
	p := link.NewPool(link.PoolLimits{})
	sizes := []int{1, block.Size, 5 * block.Size, wire.DataMax}
	cycle := func() {
		for _, size := range sizes {
			p.TryGet(size).Release()
		}
	}
	cycle()
	if cost := testing.AllocsPerRun(100, cycle); cost != 0 {
		t.Errorf("%v allocations", cost)
	}
}

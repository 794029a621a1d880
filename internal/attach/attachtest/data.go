package attachtest

import (
	"runtime"
	"syscall"
	"testing"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/host"
)

func sizes(t *testing.T, s Suite) {
	for _, want := range []struct {
		size  int64
		block int
	}{{volumeSize, 4096}, {block.Size, 4096}, {5<<40 + 12288, 4096}, {volumeSize + 512, 512}} {
		r := newRig(t, s, func(o *attach.Options) { o.Size, o.BlockSize = want.size, want.block })
		c := r.client()
		if got, err := c.Size(); err != nil || got != want.size {
			t.Errorf("size is %d (%v), want %d", got, err, want.size)
		}
		if got, err := c.BlockSize(); err != nil || got != want.block {
			t.Errorf("block size is %d (%v), want %d", got, err, want.block)
		}
		c.Close()
		r.stop()
	}
}

// Transfers of all lengths, longer than any front end moves in one piece too, land
// where they belong, for both block sizes; the small one on a backend that has the
// large one only.
func readReturnsWritten(t *testing.T, s Suite) {
	for _, blockSize := range []int{4096, 512} {
		const size = 16 << 20
		memory := NewMemory()
		r := newRig(t, s, func(o *attach.Options) {
			o.BlockSize, o.Size, o.Backend = blockSize, size, memory
			if blockSize < block.Size {
				whole := &Strict{Behind: memory, T: t, BlockSize: block.Size, Depth: o.Depth}
				whole.Size.Store(size)
				o.Backend = attach.NewSectors(whole, o.Depth)
			}
		})
		c := r.client()
		model := make([]byte, size)
		for range 100 {
			most := 64 << 10
			if r.rand.IntN(4) == 0 {
				most = 5 << 20
			}
			n := (1 + r.rand.IntN(most/blockSize)) * blockSize
			at := r.rand.IntN((size-n)/blockSize+1) * blockSize
			data := r.noise(n)
			r.must(c.Write(data, int64(at)))
			copy(model[at:], data)
			at, n = max(0, at-blockSize), min(n+2*blockSize, size-at)
			r.expect(c, int64(at), model[at:at+n])
		}
		r.expect(c, 0, model)
		if got := memory.Bytes(0, size); firstDifference(got, model) >= 0 {
			t.Errorf("the backend has something else at %d", firstDifference(got, model))
		}
		c.Close()
		r.stop()
	}
}

func lastBlock(t *testing.T, s Suite) {
	const size = 3<<20 + 4096
	r := newRig(t, s, func(o *attach.Options) { o.Size = size })
	c := r.client()
	data := r.noise(4096)
	r.must(c.Write(data, size-4096))
	r.expect(c, size-4096, data)
	if err := c.Read(data, size); err == nil {
		t.Error("a read behind the end succeeded")
	}
	if err := c.Write(data, size); err == nil {
		t.Error("a write behind the end succeeded")
	}
}

func flush(t *testing.T, s Suite) {
	r := newRig(t, s, nil)
	c := r.client()
	for i := range 3 {
		r.must(c.Write(r.noise(8192), int64(i)<<20))
		before := r.memory.Seen()
		if before.Unflushed == 0 {
			t.Error("a write was durable before the flush")
		}
		r.must(c.Flush())
		if seen := r.memory.Seen(); seen.Unflushed != 0 || seen.Flushes == before.Flushes {
			t.Errorf("after a flush the backend has seen %+v, before it %+v", seen, before)
		}
	}
}

func writeThrough(t *testing.T, s Suite) {
	r := newRig(t, s, nil)
	c := r.client()
	data := r.noise(64 << 10)
	r.must(c.WriteThrough(data, 1<<20))
	if seen := r.memory.Seen(); seen.Unflushed != 0 {
		t.Errorf("after a write-through the backend has seen %+v", seen)
	}
	r.expect(c, 1<<20, data)
}

func discard(t *testing.T, s Suite) {
	r := newRig(t, s, nil)
	c := r.client()
	data := r.noise(8 << 20)
	r.must(c.Write(data, 0))
	r.must(c.Discard(1<<20, 2<<20))
	clear(data[1<<20 : 3<<20])
	r.expect(c, 0, data)
	if seen, mapped := r.memory.Seen(), r.memory.Mapped(); seen.Unmaps == 0 || mapped != 6<<20 {
		t.Errorf("%d bytes are mapped, the backend has seen %+v", mapped, seen)
	}
	r.must(c.Discard(0, volumeSize))
	if mapped := r.memory.Mapped(); mapped != 0 {
		t.Errorf("%d bytes are mapped after all was discarded", mapped)
	}
}

func writeZeroes(t *testing.T, s Suite) {
	r := newRig(t, s, nil)
	c := r.client()
	data := r.noise(8 << 20)
	r.must(c.Write(data, 0))
	before := r.memory.Seen()
	r.must(c.Zero(1<<20, 4<<20))
	clear(data[1<<20 : 5<<20])
	r.expect(c, 0, data)
	if seen := r.memory.Seen(); seen.Zeros == before.Zeros || seen.Writes != before.Writes {
		t.Errorf("zeros came as data: the backend has seen %+v, before %+v", seen, before)
	}
}

func noDiscard(t *testing.T, s Suite) {
	r := newRig(t, s, func(o *attach.Options) { o.NoDiscard = true })
	c := r.client()
	data := r.noise(1 << 20)
	r.must(c.Write(data, 0))
	if err := c.Discard(0, 1<<20); err != syscall.EOPNOTSUPP {
		t.Errorf("discard: %v, want %v", err, syscall.EOPNOTSUPP)
	}
	r.expect(c, 0, data)
	r.must(c.Zero(0, 1<<20))
	clear(data)
	r.expect(c, 0, data)
	if seen := r.memory.Seen(); seen.Unmaps != 0 {
		t.Errorf("the backend has seen %+v", seen)
	}
	c.Close()
	r.stop()
	// What was set for one device must not stay with what the next is made of.
	r.start(r.options(nil))
	r.must(r.client().Discard(0, 1<<20))
}

func readOnly(t *testing.T, s Suite) {
	r := newRig(t, s, func(o *attach.Options) { o.ReadOnly = true })
	c := r.client()
	r.expect(c, 0, make([]byte, 8192))
	data := r.noise(4096)
	if err := c.Write(data, 0); err == nil {
		t.Error("a write succeeded")
	}
	if err := c.Discard(0, 4096); err == nil {
		t.Error("a discard succeeded")
	}
	if err := c.Zero(0, 4096); err == nil {
		t.Error("a write of zeroes succeeded")
	}
	r.expect(c, 0, make([]byte, 8192))
}

func stats(t *testing.T, s Suite) {
	r := newRig(t, s, nil)
	c := r.client()
	before := r.front.Stats()
	data := host.Buffer(8192)
	for range 10 {
		r.must(c.Write(data, 0))
		r.must(c.Read(data, 0))
	}
	r.must(c.Flush())
	r.must(c.Zero(0, 1<<20))
	r.gate.Fail(attach.Read, errMedia)
	_ = c.Read(data, 0) // fails, and is counted
	after := r.front.Stats()
	check := func(what string, was, is attach.OpStats, count, bytes, errors uint64) {
		if n := is.Latency.Count() - was.Latency.Count(); n != count || is.Bytes-was.Bytes != bytes || is.Errors-was.Errors != errors {
			t.Errorf("%s: %d requests, %d bytes, %d errors; want %d, %d, %d", what, n, is.Bytes-was.Bytes, is.Errors-was.Errors,
				count, bytes, errors)
		}
	}
	check("read", before.Read, after.Read, 11, 11*8192, 1)
	check("write", before.Write, after.Write, 10, 10*8192, 0)
	check("zero", before.Zero, after.Zero, 1, 1<<20, 0)
	if n := after.Flush.Latency.Count() - before.Flush.Latency.Count(); n == 0 {
		t.Error("no flush was counted")
	}
	if after.InFlight != 0 || after.Again != 0 || after.Malformed != 0 {
		t.Errorf("%d in flight, %d done again, %d malformed", after.InFlight, after.Again, after.Malformed)
	}
	if after.Read.Latency.Quantile(0.5) <= 0 || after.Read.Latency.Quantile(1) < after.Read.Latency.Quantile(0.5) {
		t.Errorf("half of the reads took %v, all of them %v", after.Read.Latency.Quantile(0.5), after.Read.Latency.Quantile(1))
	}
}

func noAllocation(t *testing.T, s Suite) {
	r := newRig(t, s, func(o *attach.Options) { o.Backend = Null{} })
	r.stop()
	o := r.options(func(o *attach.Options) { o.Backend = Null{} })
	o.Backend = Null{} // without Strict
	r.start(o)
	c := r.client()
	data := host.Buffer(4096)
	work := func(n int) {
		for i := range n {
			r.must(c.Write(data, int64(i)*4096))
			r.must(c.Read(data, int64(i)*4096))
		}
	}
	work(100)
	const count = 2000
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	work(count)
	runtime.ReadMemStats(&after)
	if n := after.Mallocs - before.Mallocs; n > count/10 {
		t.Errorf("%d requests made %d allocations", 2*count, n)
	}
}

package hosttest

import (
	"bytes"
	"math"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

func readReturnsWritten(r *rig) {
	f := r.create("t-file")
	a, b := r.noise(10000), r.noise(777)
	r.write(f, 0, a)
	r.expect(f, 0, a)
	r.write(f, 4090, b) // across a block boundary
	copy(a[4090:], b)
	r.expect(f, 0, a)
	r.expect(f, 4091, a[4091:4096])
	r.sync(f)
	r.expect(f, 0, a)
	r.close(f)

	f = r.open("t-file", 0)
	r.expect(f, 0, a)
	r.close(f)
}

func readStopsAtEnd(r *rig) {
	f := r.create("t-file")
	if got := r.read(f, 0, 4096); len(got) != 0 {
		r.t.Errorf("read of an empty file returned %d bytes", len(got))
	}
	data := r.noise(5000)
	r.write(f, 0, data)
	if got := r.read(f, 4096, 4096); !bytes.Equal(got, data[4096:]) {
		r.t.Errorf("read across the end returned %d bytes, want %d", len(got), 5000-4096)
	}
	for _, offset := range []int64{5000, 5001, 1 << 40} {
		if got := r.read(f, offset, 512); len(got) != 0 {
			r.t.Errorf("read at %d of 5000 returned %d bytes", offset, len(got))
		}
	}
}

func holeReadsZeros(r *rig) {
	f := r.create("t-file")
	const far = 1 << 30
	data := r.noise(70000)
	r.write(f, far, data)
	r.sync(f)
	r.expect(f, 0, make([]byte, 9000))
	r.expect(f, far-100, append(make([]byte, 100), data[:50]...))
	if s := r.stat(f); s.Size != far+70000 || s.Allocated > far/2 {
		r.t.Errorf("size %d, allocated %d of a file with 70000 bytes at %d", s.Size, s.Allocated, far)
	}
}

func largeTransfer(r *rig) {
	f := r.create("t-file")
	data := r.noise(9<<20 + 4096)
	r.write(f, 0, data)
	r.expect(f, 0, data)
	g := r.open("t-file", host.Direct)
	r.sync(f)
	r.expect(g, 0, data)
	r.write(g, 4096, data[:9<<20])
	r.expect(f, 4096, data[:9<<20])
}

func emptyBuffer(r *rig) {
	f := r.create("t-file")
	r.write(f, 0, []byte("x"))
	r.write(f, 100, nil)
	if s := r.stat(f); s.Size != 1 {
		r.t.Errorf("an empty write changed the size to %d", s.Size)
	}
	if got := r.read(f, 0, 0); len(got) != 0 {
		r.t.Errorf("an empty read returned %d bytes", len(got))
	}
}

func punch(r *rig) {
	f := r.create("t-file")
	data := r.noise(1 << 20)
	r.write(f, 0, data)
	r.sync(f)
	before := r.stat(f)

	r.must(&host.Op{Kind: host.OpPunch, File: f, Offset: 128 << 10, Length: 512 << 10})
	clear(data[128<<10 : 640<<10])
	r.expect(f, 0, data)
	r.sync(f)
	r.expect(f, 0, data)
	after := r.stat(f)
	if after.Size != before.Size || before.Allocated-after.Allocated < 512<<10 {
		r.t.Errorf("punching 512 KiB went from %+v to %+v", before, after)
	}

	// A punch that does not fill blocks zeroes their parts.
	r.must(&host.Op{Kind: host.OpPunch, File: f, Offset: 700_001, Length: 12_345})
	clear(data[700_001 : 700_001+12_345])
	r.expect(f, 0, data)
	r.must(&host.Op{Kind: host.OpPunch, File: f, Offset: 5, Length: 1})
	data[5] = 0
	r.expect(f, 0, data)

	fresh := r.noise(8192) // a hole can be written again
	r.write(f, 256<<10, fresh)
	copy(data[256<<10:], fresh)
	r.expect(f, 0, data)
}

func punchBeyondEnd(r *rig) {
	f := r.create("t-file")
	data := r.noise(6000)
	r.write(f, 0, data)
	r.must(&host.Op{Kind: host.OpPunch, File: f, Offset: 4096, Length: 1 << 20})
	r.must(&host.Op{Kind: host.OpPunch, File: f, Offset: 1 << 20, Length: 4096})
	if s := r.stat(f); s.Size != 6000 {
		r.t.Errorf("size is %d, want 6000", s.Size)
	}
	clear(data[4096:])
	r.expect(f, 0, data)
}

func allocate(r *rig) {
	f := r.create("t-file")
	data := r.noise(10000)
	r.write(f, 0, data)
	op := &host.Op{Kind: host.OpAllocate, File: f, Offset: 4096, Length: 1 << 20}
	if r.run(op); op.Err != nil {
		r.failed(op, fault.Unsupported)
		return
	}
	r.sync(f)
	if s := r.stat(f); s.Size != 10000 || s.Allocated < 1<<20+4096 {
		r.t.Errorf("after allocating 1 MiB at 4096 of 10000 bytes: %+v", s)
	}
	r.expect(f, 0, data)

	r.must(&host.Op{Kind: host.OpTruncate, File: f, Length: 1 << 20}) // reserved bytes are zeros
	r.expect(f, 0, append(data, make([]byte, 1<<20-10000)...))
}

func truncate(r *rig) {
	f := r.create("t-file")
	data := r.noise(20000)
	r.write(f, 0, data)
	for _, size := range []int{13000, 16384, 4096, 30000, 1, 0, 5} {
		r.must(&host.Op{Kind: host.OpTruncate, File: f, Length: int64(size)})
		if s := r.stat(f); s.Size != int64(size) {
			r.t.Fatalf("size is %d after truncating to %d", s.Size, size)
		}
		data = append(data[:min(size, len(data))], make([]byte, max(0, size-len(data)))...)
		if got := r.read(f, 0, size+4096); !bytes.Equal(got, data) {
			r.t.Fatalf("wrong bytes after truncating to %d", size)
		}
	}
	r.must(&host.Op{Kind: host.OpTruncate, File: f, Length: 1 << 40})
	r.expect(f, 1<<40-10, make([]byte, 10))
}

func stat(r *rig) {
	f := r.create("t-file")
	if s := r.stat(f); s.Size != 0 || s.Links != 1 {
		r.t.Errorf("a new file is %+v", s)
	}
	r.write(f, 0, r.noise(256<<10))
	r.sync(f)
	if s := r.stat(f); s.Size != 256<<10 || s.Links != 1 || s.Allocated < 256<<10 {
		r.t.Errorf("a file of 256 KiB is %+v", s)
	}
	r.must(&host.Op{Kind: host.OpTruncate, File: f})
	r.sync(f)
	if s := r.stat(f); s.Allocated >= 256<<10 {
		r.t.Errorf("a file that was emptied is %+v", s)
	}
}

func syncs(r *rig) {
	f := r.create("t-file")
	r.sync(f) // nothing to do
	r.write(f, 0, r.noise(4096))
	r.sync(f)
	r.must(&host.Op{Kind: host.OpSyncDir, Path: "."})
	r.write(f, 4096, r.noise(4096))
	r.must(&host.Op{Kind: host.OpSyncAll})
	g := r.open("t-file", host.ReadOnly)
	r.sync(g)
}

func space(r *rig) {
	s := r.must(&host.Op{Kind: host.OpSpace}).Space
	if s.Size <= 0 || s.Free <= 0 || s.Free > s.Size {
		r.t.Errorf("space is %+v", s)
	}
}

func badFileRequests(r *rig) {
	f := r.create("t-file")
	r.write(f, 0, r.noise(100))
	bad := []*host.Op{
		{Kind: 0},
		{Kind: 255},
		{Kind: host.OpRead, Offset: -1, Buf: make([]byte, 10)},
		{Kind: host.OpWrite, Offset: -1, Buf: make([]byte, 10)},
		{Kind: host.OpWrite, Offset: math.MaxInt64 - 5, Buf: make([]byte, 10)},
		{Kind: host.OpPunch, Offset: -1, Length: 10},
		{Kind: host.OpPunch, Length: -10},
		{Kind: host.OpPunch, Length: 0},
		{Kind: host.OpAllocate, Offset: -1, Length: 10},
		{Kind: host.OpAllocate, Length: -10},
		{Kind: host.OpAllocate, Length: 0},
		{Kind: host.OpTruncate, Length: -1},
	}
	for _, op := range bad {
		op.File = f
		r.fails(op, fault.Invalid)
	}
	if s := r.stat(f); s.Size != 100 {
		r.t.Errorf("refused requests left size %d, want 100", s.Size)
	}
}

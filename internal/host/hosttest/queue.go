package hosttest

import (
	"bytes"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// manyInFlight keeps 200 ops in flight over four files, at most one of them on a
// block at a time, and checks every read against a model.
func manyInFlight(r *rig) {
	const files, blocks, depth, total = 4, 256, 200, 6000
	type slot struct {
		op   host.Op
		file int
		at   int
	}
	var (
		handles [files]host.File
		model   [files][blocks][]byte
		busy    [files][blocks]bool
		names   = []string{"t-0", "t-1", "t-2", "t-3"}
		zeros   = make([]byte, host.Align)
		started int
	)
	for i := range handles {
		handles[i] = r.open(names[i], host.Create|host.Direct*host.Flags(i%2))
		r.must(&host.Op{Kind: host.OpTruncate, File: handles[i], Length: blocks * host.Align})
	}

	var start func(s *slot)
	finish := func(s *slot) {
		op := &s.op
		if busy[s.file][s.at] = false; op.Err != nil {
			r.t.Fatalf("%s: %v", describe(op), op.Err)
		}
		switch op.Kind {
		case host.OpRead:
			want := model[s.file][s.at]
			if want == nil {
				want = zeros
			}
			if op.N != host.Align || !bytes.Equal(op.Buf, want) {
				r.t.Fatalf("%s in file %d: wrong bytes, or %d of them", describe(op), s.file, op.N)
			}
		case host.OpWrite:
			model[s.file][s.at] = bytes.Clone(op.Buf)
		case host.OpPunch:
			model[s.file][s.at] = nil
		}
		start(s)
	}
	start = func(s *slot) {
		if started == total {
			return
		}
		started++
		for {
			if s.file, s.at = r.rand.IntN(files), r.rand.IntN(blocks); !busy[s.file][s.at] {
				break
			}
		}
		busy[s.file][s.at] = true
		buf := s.op.Buf
		s.op = host.Op{File: handles[s.file], Offset: int64(s.at) * host.Align, Buf: buf}
		switch k := r.rand.IntN(20); {
		case k < 9:
			s.op.Kind = host.OpRead
		case k < 18:
			s.op.Kind = host.OpWrite
			for i := 0; i < len(buf); i += 16 {
				buf[i] = byte(r.rand.Uint32())
			}
		case k == 18:
			s.op.Kind, s.op.Length = host.OpPunch, host.Align
		default:
			s.op.Kind = host.OpSync
		}
		r.submit(func(*host.Op) { finish(s) }, &s.op)
	}
	for range depth {
		start(&slot{op: host.Op{Buf: host.Buffer(host.Align)}})
	}
	r.drain()
	for i, f := range handles {
		for at, want := range model[i] {
			if want == nil {
				want = zeros
			}
			r.expect(f, int64(at)*host.Align, want)
		}
	}
}

func largeBatch(r *rig) {
	const n = 5000
	f := r.create("t-file")
	r.must(&host.Op{Kind: host.OpTruncate, File: f, Length: n * 16})
	data := r.noise(n * 16)
	ops := make([]*host.Op, n)
	for i := range ops {
		at := int64(i) * 16
		ops[i] = &host.Op{Kind: host.OpWrite, File: f, Offset: at, Buf: data[at : at+16]}
	}
	r.run(ops...)
	for i, op := range ops {
		if op.Err != nil || op.N != 16 {
			r.t.Fatalf("write %d: N is %d, %v", i, op.N, op.Err)
		}
	}
	r.expect(f, 0, data)
}

func doneSubmits(r *rig) {
	const rounds = 3000
	f := r.create("t-file")
	op := &host.Op{Kind: host.OpWrite, File: f, Buf: make([]byte, 1)}
	n := 0
	var next func(*host.Op)
	next = func(*host.Op) {
		if op.Err != nil {
			r.t.Fatal(op.Err)
		}
		if n++; n < rounds {
			op.Offset = int64(n)
			op.Buf[0] = byte(n)
			r.submit(next, op)
		}
	}
	r.submit(next, op)
	r.drain()
	if n != rounds {
		r.t.Fatalf("Done was called %d times, want %d", n, rounds)
	}
	want := make([]byte, rounds)
	for i := range want {
		want[i] = byte(i)
	}
	r.expect(f, 0, want)
}

func opReused(r *rig) {
	f := r.create("t-file")
	op := &host.Op{Kind: host.OpOpen, Path: "t-no"}
	r.fails(op, fault.NotFound)
	op.Kind, op.File, op.Buf = host.OpWrite, f, r.noise(100)
	r.must(op)
	op.Kind, op.Offset = host.OpRead, 50
	if r.must(op); op.N != 50 {
		r.t.Errorf("N is %d, want 50", op.N)
	}
	r.mkdir("t-d")
	r.close(r.create("t-d/x"))
	op.Kind, op.Path = host.OpList, "t-d"
	for range 2 {
		if r.must(op); len(op.Entries) != 1 {
			r.t.Errorf("listing gave %v", op.Entries)
		}
	}
	op.Offset = -1
	op.Kind = host.OpRead
	r.fails(op, fault.Invalid)
	op.Kind = host.OpStat
	if r.must(op); op.Stat.Size != 100 {
		r.t.Errorf("stat gave %+v", op.Stat)
	}
}

func pollWaits(r *rig) {
	for _, wait := range []time.Duration{0, -1, time.Millisecond, -1, 0} {
		if n := r.d.Poll(wait); n != 0 {
			r.t.Fatalf("Poll(%v) with nothing in flight returned %d", wait, n)
		}
	}
	f := r.create("t-file")
	for _, wait := range []time.Duration{0, time.Millisecond, time.Hour, -1} {
		done := 0
		op := &host.Op{Kind: host.OpWrite, File: f, Buf: []byte("x")}
		r.submit(func(*host.Op) { done++ }, op)
		for done == 0 {
			if n := r.d.Poll(wait); n != done {
				r.t.Fatalf("Poll(%v) returned %d after %d calls of Done", wait, n, done)
			} else if n == 0 && (wait < 0 || wait == time.Hour) {
				r.t.Fatalf("Poll(%v) returned without a completion", wait)
			}
		}
	}
}

func inFlight(r *rig) {
	if n := r.d.InFlight(); n != 0 {
		r.t.Fatalf("a new disk has %d ops in flight", n)
	}
	f := r.create("t-file")
	const count = 40
	done := 0
	for i := range count {
		r.submit(func(*host.Op) { done++ },
			&host.Op{Kind: host.OpWrite, File: f, Offset: int64(i), Buf: []byte("x")})
		if n := r.d.InFlight(); n != i+1 {
			r.t.Fatalf("%d ops in flight after %d submits", n, i+1)
		}
	}
	for done < count {
		r.d.Poll(-1)
		if n := r.d.InFlight(); n != count-done {
			r.t.Fatalf("%d ops in flight, %d of %d done", n, done, count)
		}
	}
}

// noAllocation allows what a run of the garbage collector or a timer may cost, not
// one allocation an op.
func noAllocation(r *rig) {
	const depth = 64
	f := r.create("t-file")
	r.write(f, 0, r.noise(depth*4096))
	ops := make([]*host.Op, depth)
	left := 0
	for i := range ops {
		ops[i] = &host.Op{Kind: host.OpRead, File: f, Offset: int64(i) * 4096, Buf: make([]byte, 4096),
			Done: func(*host.Op) { left-- }}
	}
	perBatch := testing.AllocsPerRun(50, func() {
		left = depth
		r.d.Submit(ops...)
		for left > 0 {
			r.d.Poll(-1)
		}
	})
	if perBatch >= depth {
		r.t.Errorf("%d reads cost %v allocations", depth, perBatch)
	}
}

package hosttest

import (
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

func openCreates(r *rig) {
	r.fails(&host.Op{Kind: host.OpOpen, Path: "t-file"}, fault.NotFound)
	r.fails(&host.Op{Kind: host.OpOpen, Path: "t-file", Flags: host.ReadOnly}, fault.NotFound)
	r.fails(&host.Op{Kind: host.OpOpen, Path: "t-no/file", Flags: host.Create}, fault.NotFound)
	f := r.open("t-file", host.Create)
	r.write(f, 0, []byte("kept"))
	g := r.open("t-file", host.Create)
	r.expect(g, 0, []byte("kept"))

	r.mkdir("t-dir")
	r.fails(&host.Op{Kind: host.OpOpen, Path: "t-dir"}, fault.Invalid)
	r.fails(&host.Op{Kind: host.OpOpen, Path: "t-dir", Flags: host.Create}, fault.Invalid)
	r.fails(&host.Op{Kind: host.OpOpen, Path: "t-file/below"}, fault.Invalid)
}

func openExclusive(r *rig) {
	f := r.open("t-file", host.Create|host.Exclusive)
	r.close(f)
	r.fails(&host.Op{Kind: host.OpOpen, Path: "t-file", Flags: host.Create | host.Exclusive}, fault.Exists)
	r.mkdir("t-dir")
	r.fails(&host.Op{Kind: host.OpOpen, Path: "t-dir", Flags: host.Create | host.Exclusive}, fault.Exists)
}

func handlesShare(r *rig) {
	f, data := r.create("t-file"), r.noise(16384)
	g, direct := r.open("t-file", 0), r.open("t-file", host.Direct)
	r.write(f, 0, data)
	r.expect(g, 0, data)
	r.sync(f)
	r.expect(direct, 0, data)
	copy(data[4096:], r.noise(4096))
	r.write(direct, 4096, data[4096:8192])
	r.expect(f, 0, data)
	r.close(f)
	r.expect(g, 0, data) // a handle does not end with another one
}

func readOnly(r *rig) {
	f := r.create("t-file")
	data := r.noise(4096)
	r.write(f, 0, data)
	g := r.open("t-file", host.ReadOnly)
	refused := []*host.Op{
		{Kind: host.OpWrite, Buf: r.noise(4096)},
		{Kind: host.OpPunch, Length: 4096},
		{Kind: host.OpAllocate, Length: 1 << 20},
		{Kind: host.OpTruncate, Length: 1},
	}
	for _, op := range refused {
		op.File = g
		r.fails(op, fault.Denied)
	}
	r.expect(g, 0, data)
	if s := r.stat(g); s.Size != 4096 {
		r.t.Errorf("size is %d, want 4096", s.Size)
	}
}

func directAlignment(r *rig) {
	f := r.open("t-file", host.Create|host.Direct)
	data := r.noise(3 * host.Align)
	r.write(f, 0, data)
	r.expect(f, 0, data)
	r.expect(f, host.Align, data[host.Align:])
	for _, kind := range []host.Kind{host.OpRead, host.OpWrite} {
		buf := host.Buffer(2 * host.Align)
		r.fails(&host.Op{Kind: kind, File: f, Buf: buf[512 : 512+host.Align]}, fault.Invalid)
		r.fails(&host.Op{Kind: kind, File: f, Buf: buf[:512]}, fault.Invalid)
		r.fails(&host.Op{Kind: kind, File: f, Buf: buf[:host.Align], Offset: 512}, fault.Invalid)
		r.fails(&host.Op{Kind: kind, File: f, Buf: buf[1 : 1+host.Align], Offset: 1}, fault.Invalid)
	}
	r.expect(f, 0, data)
}

func directTail(r *rig) {
	f := r.create("t-file")
	data := r.noise(5000)
	r.write(f, 0, data)
	r.sync(f)
	g := r.open("t-file", host.Direct)
	if got := r.read(g, 0, 8192); len(got) != 5000 || firstDifference(got, data) >= 0 {
		r.t.Errorf("direct read of 8192 in a file of 5000 bytes returned %d, or wrong ones", len(got))
	}
	if got := r.read(g, 8192, 4096); len(got) != 0 {
		r.t.Errorf("direct read beyond the end returned %d bytes", len(got))
	}
}

func lock(r *rig) {
	first := r.open("t-file", host.Create|host.Lock)
	r.fails(&host.Op{Kind: host.OpOpen, Path: "t-file", Flags: host.Lock}, fault.Busy)
	r.fails(&host.Op{Kind: host.OpOpen, Path: "t-file", Flags: host.Lock | host.ReadOnly}, fault.Busy)
	r.fails(&host.Op{Kind: host.OpOpen, Path: "t-file", Flags: host.Lock | host.Create}, fault.Busy)
	plain := r.open("t-file", 0) // who does not ask for the lock is not kept out
	r.write(plain, 0, []byte("x"))
	r.close(plain)
	r.fails(&host.Op{Kind: host.OpOpen, Path: "t-file", Flags: host.Lock}, fault.Busy)

	r.close(first)
	second := r.open("t-file", host.Lock|host.Direct)
	r.fails(&host.Op{Kind: host.OpOpen, Path: "t-file", Flags: host.Lock}, fault.Busy)
	r.close(second)
	r.close(r.open("t-file", host.Lock))
}

func lockWait(r *rig) {
	const wait = host.Lock | host.LockWait
	first := r.open("t-file", host.Create|wait) // what is free is not waited for
	r.fails(&host.Op{Kind: host.OpOpen, Path: "t-file", Flags: host.Lock}, fault.Busy)
	var got []*host.Op
	ops := []*host.Op{
		{Kind: host.OpOpen, Path: "t-file", Flags: wait | host.Direct},
		{Kind: host.OpOpen, Path: "t-file", Flags: wait | host.Create},
	}
	r.submit(func(op *host.Op) { got = append(got, op) }, ops...)
	// Others are not held up, and whoever can end the wait is among them.
	close := &host.Op{Kind: host.OpClose, File: first}
	await := func(op *host.Op) {
		done := false
		for r.submit(func(*host.Op) { done = true }, op); !done; {
			r.d.Poll(-1)
		}
		if op.Err != nil {
			r.t.Fatalf("%s: %v", describe(op), op.Err)
		}
	}
	for range 100 {
		await(&host.Op{Kind: host.OpStat, File: first})
	}
	if len(got) > 0 {
		r.t.Fatalf("%s: done while another handle has the lock: %v", describe(got[0]), got[0].Err)
	}
	await(close)
	for len(got) < 1 {
		r.d.Poll(-1)
	}
	if len(got) > 1 {
		r.t.Fatal("both that waited got the lock")
	}
	await(&host.Op{Kind: host.OpClose, File: got[0].File})
	r.drain()
	if len(got) != 2 || got[0].Err != nil || got[1].Err != nil {
		r.t.Fatalf("of two that waited %d are done: %v, %v", len(got), ops[0].Err, ops[1].Err)
	}
	r.close(got[1].File)
	r.fails(&host.Op{Kind: host.OpOpen, Path: "t-none", Flags: wait}, fault.NotFound)
}

func lockOfFile(r *rig) {
	held := r.open("t-file", host.Create|host.Lock)
	r.must(&host.Op{Kind: host.OpLink, Path: "t-file", To: "t-link"})
	r.fails(&host.Op{Kind: host.OpOpen, Path: "t-link", Flags: host.Lock}, fault.Busy)
	r.rename("t-file", "t-moved")
	r.fails(&host.Op{Kind: host.OpOpen, Path: "t-moved", Flags: host.Lock}, fault.Busy)
	other := r.open("t-file", host.Create|host.Lock) // another file of the old name
	r.close(other)
	r.close(held)
	r.close(r.open("t-link", host.Lock))
}

func closedHandle(r *rig) {
	f := r.create("t-file")
	r.close(f)
	ops := []*host.Op{
		{Kind: host.OpRead, Buf: make([]byte, 10)},
		{Kind: host.OpWrite, Buf: make([]byte, 10)},
		{Kind: host.OpSync},
		{Kind: host.OpPunch, Length: 10},
		{Kind: host.OpAllocate, Length: 10},
		{Kind: host.OpTruncate},
		{Kind: host.OpStat},
		{Kind: host.OpClose},
	}
	for _, op := range ops {
		for _, bad := range []host.File{f, -1, 1 << 30} {
			op.File = bad
			r.fails(op, fault.Invalid)
		}
	}
}

func removedFile(r *rig) {
	f := r.create("t-file")
	data := r.noise(8192)
	r.write(f, 0, data)
	r.must(&host.Op{Kind: host.OpRemove, Path: "t-file"})
	r.fails(&host.Op{Kind: host.OpOpen, Path: "t-file"}, fault.NotFound)
	r.expect(f, 0, data)
	r.write(f, 4096, data[:4096])
	r.expect(f, 4096, data[:4096])
	r.sync(f)
	if s := r.stat(f); s.Links != 0 || s.Size != 8192 {
		r.t.Errorf("a removed file is %+v", s)
	}
	g := r.create("t-file") // the name is free
	if s := r.stat(g); s.Size != 0 || s.Links != 1 {
		r.t.Errorf("a new file of the removed one's name is %+v", s)
	}
	r.close(f)
	r.close(g)
}

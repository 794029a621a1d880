package hosttest

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// rig drives one disk and checks, for every op that goes through it, that Done is
// called once, with the op itself, and never inside Submit.
type rig struct {
	t          *testing.T
	d          host.Disk
	rand       *rand.Rand
	submitting bool
}

func newRig(t *testing.T, d host.Disk) *rig {
	return &rig{t: t, d: d, rand: rand.New(rand.NewPCG(1, 2))}
}

// submit hands ops over, and calls done, if there is one, when each is done.
func (r *rig) submit(done func(*host.Op), ops ...*host.Op) {
	r.t.Helper()
	for _, op := range ops {
		calls := 0
		op.Done = func(got *host.Op) {
			if calls++; calls > 1 {
				r.t.Errorf("%s: Done called %d times", describe(op), calls)
			}
			if got != op {
				r.t.Errorf("%s: Done called with another op", describe(op))
			}
			if r.submitting {
				r.t.Errorf("%s: Done called inside Submit", describe(op))
			}
			if done != nil {
				done(op)
			}
		}
	}
	outer := r.submitting
	r.submitting = true
	r.d.Submit(ops...)
	r.submitting = outer
}

// drain polls until nothing is in flight and returns what Poll counted.
func (r *rig) drain() int {
	r.t.Helper()
	total, idle := 0, 0
	for r.d.InFlight() > 0 {
		n := r.d.Poll(-1)
		total += n
		if idle++; n > 0 {
			idle = 0
		}
		if idle > 1000 {
			r.t.Fatalf("Poll(-1) returned 0 a thousand times with %d ops in flight", r.d.InFlight())
		}
	}
	return total
}

// run submits ops in one batch and waits for all of them.
func (r *rig) run(ops ...*host.Op) {
	r.t.Helper()
	done := 0
	r.submit(func(*host.Op) { done++ }, ops...)
	if counted := r.drain(); done != len(ops) || counted != len(ops) {
		r.t.Fatalf("%d ops submitted, Done called for %d, Poll counted %d", len(ops), done, counted)
	}
}

// must runs op, which must succeed.
func (r *rig) must(op *host.Op) *host.Op {
	r.t.Helper()
	if r.run(op); op.Err != nil {
		r.t.Fatalf("%s: %v", describe(op), op.Err)
	}
	return op
}

// fails runs op, which must fail with one of kinds.
func (r *rig) fails(op *host.Op, kinds ...fault.Kind) {
	r.t.Helper()
	r.run(op)
	r.failed(op, kinds...)
}

// failed checks how op, which has been done, failed.
func (r *rig) failed(op *host.Op, kinds ...fault.Kind) {
	r.t.Helper()
	if op.Err == nil {
		r.t.Errorf("%s: succeeded, want %v", describe(op), kinds)
		return
	}
	if _, ok := op.Err.(*fault.Error); !ok {
		r.t.Errorf("%s: error is a %T, want a *fault.Error", describe(op), op.Err)
	}
	if !slices.Contains(kinds, fault.KindOf(op.Err)) {
		r.t.Errorf("%s: error %q is of kind %q, want %v", describe(op), op.Err, fault.KindOf(op.Err), kinds)
	}
}

func (r *rig) open(path string, flags host.Flags) host.File {
	r.t.Helper()
	return r.must(&host.Op{Kind: host.OpOpen, Path: path, Flags: flags}).File
}

func (r *rig) create(path string) host.File {
	r.t.Helper()
	return r.open(path, host.Create|host.Exclusive)
}

func (r *rig) close(f host.File) {
	r.t.Helper()
	r.must(&host.Op{Kind: host.OpClose, File: f})
}

func (r *rig) write(f host.File, offset int64, data []byte) {
	r.t.Helper()
	op := r.must(&host.Op{Kind: host.OpWrite, File: f, Offset: offset, Buf: data})
	if op.N != len(data) {
		r.t.Fatalf("%s: N is %d", describe(op), op.N)
	}
}

// read returns what a read of n bytes gives, cut to N.
func (r *rig) read(f host.File, offset int64, n int) []byte {
	r.t.Helper()
	buf := host.Buffer(n)
	for i := range buf {
		buf[i] = 0xEE // what the disk must overwrite
	}
	return buf[:r.must(&host.Op{Kind: host.OpRead, File: f, Offset: offset, Buf: buf}).N]
}

// expect reads len(want) bytes, which must all be there, and compares.
func (r *rig) expect(f host.File, offset int64, want []byte) {
	r.t.Helper()
	got := r.read(f, offset, len(want))
	if len(got) != len(want) {
		r.t.Fatalf("read of %d bytes at %d returned %d", len(want), offset, len(got))
	}
	if i := firstDifference(got, want); i >= 0 {
		r.t.Fatalf("byte %d is %#x, want %#x", offset+int64(i), got[i], want[i])
	}
}

func (r *rig) stat(f host.File) host.Stat {
	r.t.Helper()
	return r.must(&host.Op{Kind: host.OpStat, File: f}).Stat
}

func (r *rig) sync(f host.File) {
	r.t.Helper()
	r.must(&host.Op{Kind: host.OpSync, File: f})
}

func (r *rig) mkdir(path string) {
	r.t.Helper()
	r.must(&host.Op{Kind: host.OpMkdir, Path: path})
}

func (r *rig) rename(path, to string) {
	r.t.Helper()
	r.must(&host.Op{Kind: host.OpRename, Path: path, To: to})
}

// list returns the names in a directory, sorted, those of directories with a slash.
func (r *rig) list(path string) []string {
	r.t.Helper()
	names := []string{}
	for _, e := range r.must(&host.Op{Kind: host.OpList, Path: path}).Entries {
		if e.Dir {
			e.Name += "/"
		}
		names = append(names, e.Name)
	}
	slices.Sort(names)
	return names
}

func (r *rig) expectList(path string, want ...string) {
	r.t.Helper()
	if got := r.list(path); !slices.Equal(got, want) {
		r.t.Errorf("%s holds %q, want %q", path, got, want)
	}
}

// noise returns n random bytes in an aligned buffer.
func (r *rig) noise(n int) []byte {
	b := host.Buffer(n)
	for i := range b {
		b[i] = byte(r.rand.Uint32())
	}
	return b
}

func firstDifference(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return len(a)
}

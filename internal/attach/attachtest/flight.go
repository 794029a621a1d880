package attachtest

import (
	"errors"
	"sync"
	"syscall"
	"testing"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
)

var errMedia = fault.E("test", fault.Media, [16]byte{}, errors.New("broken on purpose"))

func manyInFlight(t *testing.T, s Suite) {
	r := newRig(t, s, nil)
	c := r.client()
	const count = 32
	data := make([][]byte, count)
	for i := range data {
		data[i] = r.noise(4096 * (1 + i%4))
	}
	each := func(f func(i int) error) *sync.WaitGroup {
		var wg sync.WaitGroup
		for i := range data {
			wg.Go(func() {
				if err := f(i); err != nil {
					t.Error(err)
				}
			})
		}
		return &wg
	}
	r.gate.Close()
	wg := each(func(i int) error { return c.Write(data[i], int64(i)<<16) })
	r.must(r.gate.Await(count))
	r.gate.Open()
	wg.Wait()
	r.gate.Close()
	got := make([][]byte, count)
	wg = each(func(i int) error { got[i] = host.Buffer(len(data[i])); return c.Read(got[i], int64(i)<<16) })
	r.must(r.gate.Await(count))
	r.gate.Open()
	wg.Wait()
	for i := range data {
		if firstDifference(got[i], data[i]) >= 0 {
			t.Errorf("read %d returned what was not written", i)
		}
	}
}

// With more users than requests may be in flight, and half of them long, some wait
// and all are answered.
func deeperThanDepth(t *testing.T, s Suite) {
	r := newRig(t, s, func(o *attach.Options) { o.Depth, o.LargeDepth = 4, 2 })
	c := r.client()
	data := make([][]byte, 24)
	for i := range data {
		data[i] = r.noise([]int{4096, 2 << 20}[i%2])
	}
	var wg sync.WaitGroup
	for i := range data {
		wg.Go(func() {
			for range 5 {
				got := host.Buffer(len(data[i]))
				if err := errors.Join(c.Write(data[i], int64(i)<<21), c.Read(got, int64(i)<<21)); err != nil {
					t.Error(err)
				} else if firstDifference(got, data[i]) >= 0 {
					t.Errorf("user %d read what it did not write", i)
				}
			}
		})
	}
	wg.Wait()
}

func notEarly(t *testing.T, s Suite) {
	r := newRig(t, s, nil)
	c := r.client()
	data := host.Buffer(4096)
	r.must(c.Write(data, 4096)) // so that there is something to flush
	for _, f := range []func() error{
		c.Flush,
		func() error { return c.Write(data, 0) },
		func() error { return c.Read(data, 0) },
		func() error { return c.Zero(0, 1<<20) },
		func() error { return c.Discard(0, 1<<20) },
	} {
		r.gate.Close()
		done := background(f)
		r.must(r.gate.Await(1))
		select {
		case err := <-done:
			t.Errorf("answered (%v) while the backend holds it", err)
		default:
		}
		r.gate.Open()
		r.must(patiently.From(t, done))
	}
}

func errorsVisible(t *testing.T, s Suite) {
	r := newRig(t, s, nil)
	c := r.client()
	data := r.noise(4096)
	r.must(c.Write(data, 0))
	for _, e := range []struct {
		kind fault.Kind
		want syscall.Errno
	}{
		{fault.Media, syscall.EIO}, {fault.Corrupt, syscall.EIO}, {fault.NoSpace, syscall.ENOSPC}, {fault.Timeout, syscall.ETIMEDOUT},
		{fault.Fenced, syscall.EIO}, {fault.Unavailable, syscall.EIO}, {fault.Canceled, syscall.EIO}, {fault.Busy, syscall.EIO},
	} {
		err := fault.E("test", e.kind, [16]byte{}, nil)
		if s.Coarse && e.want == syscall.ETIMEDOUT || s.OnlyEIO {
			e.want = syscall.EIO
		}
		fail := func(op attach.Op, f func() error) {
			r.gate.Fail(op, err)
			got := f()
			r.gate.Fail(op, nil)
			if got != e.want && (got != syscall.EIO || op == attach.Read || op == attach.Write) {
				t.Errorf("%v for a %v: %v, want %v", e.kind, op, got, e.want)
			}
		}
		fail(attach.Read, func() error { return c.Read(host.Buffer(4096), 0) })
		fail(attach.Write, func() error { return c.Write(data, 4096) })
		fail(attach.Zero, func() error { return c.Discard(0, 4096) })
		r.must(c.Write(data, 8192)) // so that there is something to flush
		fail(attach.Flush, c.Flush)
	}
	r.expect(c, 0, data)
	r.must(c.Flush())
}

// An error ends its own request only.
func errorsPass(t *testing.T, s Suite) {
	r := newRig(t, s, nil)
	c := r.client()
	data := r.noise(4096)
	r.must(c.Write(data, 0))
	r.gate.Fail(attach.Write, errMedia)
	for i := range 50 {
		if err := c.Write(data, int64(i)*4096); err != syscall.EIO {
			t.Errorf("write: %v, want %v", err, syscall.EIO)
		}
		r.expect(c, 0, data)
	}
	r.gate.Fail(attach.Write, nil)
	r.must(c.Write(data, 4096))
}

func twoVolumes(t *testing.T, s Suite) {
	r := newRig(t, s, nil)
	first := r.client()
	other := NewMemory()
	r.start(r.options(func(o *attach.Options) { o.Name, o.Backend, o.Size = "vol.2", other, 1<<20 }))
	second := r.client()
	a, b := r.noise(64<<10), r.noise(64<<10)
	r.must(first.Write(a, 0))
	r.must(second.Write(b, 0))
	r.expect(first, 0, a)
	r.expect(second, 0, b)
	if size, err := second.Size(); err != nil || size != 1<<20 {
		t.Errorf("the second volume has %d bytes (%v)", size, err)
	}
}

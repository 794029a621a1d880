package attachtest

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
)

func resize(t *testing.T, s Suite) {
	for _, blockSize := range []int{4096, 512} {
		r := newRig(t, s, func(o *attach.Options) { o.BlockSize = blockSize })
		c := r.client()
		for _, size := range []int64{volumeSize, volumeSize + 4096, 3 * volumeSize, 1 << 40} {
			r.strict.Size.Store(size)
			r.must(r.front.Resize(r.patient(), size))
			if got, err := c.Size(); err != nil || got != size {
				t.Fatalf("size is %d (%v), want %d", got, err, size)
			}
			data := r.noise(4096)
			r.must(c.Write(data, size-4096))
			r.expect(c, size-4096, data)
			if err := c.Read(host.Buffer(4096), size); err == nil {
				t.Error("a read behind the end succeeded")
			}
		}
		for _, bad := range []int64{0, -4096, volumeSize, 1<<40 + 1, 1<<60 + 4096} {
			if err := r.front.Resize(r.patient(), bad); !fault.Is(err, fault.Invalid) {
				t.Errorf("resize to %d: %v, want it invalid", bad, err)
			}
		}
		if got, err := c.Size(); err != nil || got != 1<<40 {
			t.Errorf("size is %d (%v) after refused resizes", got, err)
		}
		c.Close()
		r.stop()
	}
}

func resizeUnderLoad(t *testing.T, s Suite) {
	r := newRig(t, s, nil)
	c := r.client()
	var size atomic.Int64
	size.Store(volumeSize)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var done atomic.Int64
	for i := range 4 {
		data := r.noise(64 << 10)
		wg.Go(func() {
			got := host.Buffer(len(data))
			for {
				select {
				case <-stop:
					return
				default:
				}
				at := size.Load() - int64(i+1)*int64(len(data))
				if err := errors.Join(c.Write(data, at), c.Read(got, at)); err != nil || firstDifference(got, data) >= 0 {
					t.Errorf("at %d: %v", at, err)
					return
				}
				done.Add(1)
			}
		})
	}
	for i := range int64(20) {
		before := done.Load()
		patiently.True(t, "requests are done", func() bool { r.must(c.Flush()); return done.Load() >= before+8 || t.Failed() })
		next := volumeSize + (i+1)<<20
		r.strict.Size.Store(next)
		r.must(r.front.Resize(r.patient(), next))
		size.Store(next)
	}
	close(stop)
	wg.Wait()
}

func badOptions(t *testing.T, s Suite) {
	dir := prepare(t, s)
	loop := runLoop(t)
	for _, change := range []func(o *attach.Options){
		func(o *attach.Options) { o.Name = "" },
		func(o *attach.Options) { o.Name = "../vol" },
		func(o *attach.Options) { o.Name = ".vol" },
		func(o *attach.Options) { o.Name = "a/b" },
		func(o *attach.Options) { o.Name = string(make([]byte, attach.NameLengthMax+1)) },
		func(o *attach.Options) { o.Size = 0 },
		func(o *attach.Options) { o.Size = -4096 },
		func(o *attach.Options) { o.Size = 4097 },
		func(o *attach.Options) { o.Size = 1 << 60 },
		func(o *attach.Options) { o.BlockSize = 1024 },
		func(o *attach.Options) { o.Depth = -1 },
		func(o *attach.Options) { o.Depth = attach.DepthMax + 1 },
		func(o *attach.Options) { o.Depth, o.LargeDepth = 2, 3 },
		func(o *attach.Options) { o.Wait = -1 },
		func(o *attach.Options) { o.Backend = nil },
		func(o *attach.Options) { o.Loop = nil },
	} {
		o := commonOptions(dir, "vol")
		o.Loop, o.Backend = loop, Null{}
		change(&o)
		if _, _, err := s.New(dir, o); !fault.Is(err, fault.Invalid) {
			t.Errorf("%+v: %v, want it invalid", o, err)
		}
	}
}

func stopInUse(t *testing.T, s Suite) {
	r := newRig(t, s, nil)
	c := r.client()
	for range 2 {
		if err := r.front.Stop(r.patient()); !fault.Is(err, fault.Busy) {
			t.Fatalf("stop of an open device: %v, want it busy", err)
		}
		data := r.noise(4096)
		r.must(c.Write(data, 0)) // it goes on
		r.expect(c, 0, data)
	}
	c.Close()
	r.stop()
}

func stopFlushes(t *testing.T, s Suite) {
	r := newRig(t, s, nil)
	path := r.front.Device().Link
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return // a front end without a device has no cache of the kernel before it
	}
	r.must(err)
	data := r.noise(1 << 20)
	_, err = f.WriteAt(data, 4<<20)
	r.must(err)
	r.must(f.Close())
	r.stop()
	if seen := r.memory.Seen(); seen.Unflushed != 0 || firstDifference(r.memory.Bytes(4<<20, 1<<20), data) >= 0 {
		t.Errorf("what was written before the stop is not in the backend, or not flushed: %+v", seen)
	}
}

func startAgain(t *testing.T, s Suite) {
	r := newRig(t, s, nil)
	data := r.noise(1 << 20)
	for i := range 5 {
		c := r.client()
		if i > 0 {
			r.expect(c, 0, data)
		}
		data = r.noise(1 << 20)
		r.must(c.Write(data, 0))
		c.Close()
		link := r.front.Device().Link
		r.stop()
		if _, err := os.Lstat(link); link != "" && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s after the stop: %v", link, err)
		}
		if i < 4 {
			r.start(r.options(nil))
		}
	}
	if left, err := filepath.Glob(filepath.Join(linkDir(r.dir), "*")); len(left) > 0 || err != nil {
		t.Errorf("left in the link directory: %q (%v)", left, err)
	}
}

func abort(t *testing.T, s Suite) {
	r := newRig(t, s, nil)
	c := r.client()
	r.gate.Close()
	write := background(func() error { return c.Write(host.Buffer(4096), 0) })
	read := background(func() error { return c.Read(host.Buffer(1<<20), 1<<20) })
	r.must(r.gate.Await(2))
	r.must(r.front.Abort())
	if err := patiently.From(t, write); err == nil {
		t.Error("a write that the backend never did succeeded")
	}
	if err := patiently.From(t, read); err == nil {
		t.Error("a read that the backend never did succeeded")
	}
	if err := c.Write(host.Buffer(4096), 8192); err == nil {
		t.Error("a write after the abort succeeded")
	}
	select {
	case <-r.front.Ended():
		t.Error("ended while the backend has buffers of it")
	default:
	}
	r.gate.Open()
	patiently.From(t, r.front.Ended())
	r.must(r.front.Err())
	r.must(r.front.Abort()) // again is nothing
}

func abortThenStart(t *testing.T, s Suite) {
	r := newRig(t, s, nil)
	for range 3 {
		c := r.client()
		r.must(r.front.Abort())
		patiently.From(t, r.front.Ended())
		if err := c.Flush(); err == nil {
			err = c.Read(host.Buffer(4096), 0)
			if err == nil {
				t.Error("a read of an aborted device succeeded")
			}
		}
		// c is still open, as a mounted filesystem would be.
		r.start(r.options(nil))
		fresh := r.client()
		data := r.noise(4096)
		r.must(fresh.Write(data, 0))
		r.expect(fresh, 0, data)
		fresh.Close()
	}
}

func abortMeets(t *testing.T, s Suite) {
	for i, underWay := range []func(r *rig) error{
		func(r *rig) error { return r.front.Resize(r.patient(), 2*volumeSize) }, // which may be refused
		func(r *rig) error { return r.front.Stop(r.patient()) },
		func(r *rig) error { return r.front.HandOver(r.patient()) },
	} {
		if i == 2 && s.ExitsToHandOver {
			continue
		}
		for j := range 4 {
			r := newRig(t, s, nil)
			r.strict.Size.Store(2 * volumeSize)
			c := r.client()
			write := background(func() error { return c.Write(host.Buffer(1<<20), 0) })
			done := background(func() error { return underWay(r) })
			if j%2 == 0 {
				<-time.After(rand.N(30 * time.Millisecond))
			}
			r.must(r.front.Abort())
			patiently.From(t, r.front.Ended())
			if err := patiently.From(t, done); err == nil && i == 2 && s.Rescue != nil {
				s.Rescue(r.dir) // handed over in time: the abort came too late
			}
			patiently.From(t, write) // with whatever result
			c.Close()
			if _, err := os.Lstat(filepath.Join(linkDir(r.dir), "vol")); err == nil && i < 2 {
				t.Error("the link is still there")
			}
		}
	}
}

func handOver(t *testing.T, s Suite) {
	r := newRig(t, s, nil)
	c := r.client()
	load := newLoad(t, c, volumeSize, func() { _ = r.front.Abort() })
	load.start(16)
	for range 10 {
		load.await(50)
		r.must(r.front.HandOver(r.patient()))
		patiently.From(t, r.front.Ended())
		r.must(r.front.Err())
		fenced := false
		r.start(r.options(func(o *attach.Options) {
			o.Fence = func(done func(error)) { fenced = true; done(nil) }
		}))
		if !fenced {
			t.Error("the successor did not call the fence")
		}
		if again := r.front.Stats().Again; again != 0 {
			t.Errorf("%d requests were done again after a hand-over", again)
		}
	}
	load.stop()
}

func handOverLate(t *testing.T, s Suite) {
	r := newRig(t, s, nil)
	c := r.client()
	r.gate.Close()
	data := r.noise(4096)
	write := background(func() error { return c.Write(data, 0) })
	r.must(r.gate.Await(1))
	ctx, cancel := context.WithCancel(context.Background())
	over := background(func() error { return r.front.HandOver(ctx) })
	cancel()
	if err := patiently.From(t, over); err == nil {
		t.Error("handed over with a request in flight")
	}
	r.gate.Open()
	r.must(patiently.From(t, write))
	r.expect(c, 0, data)
}

func fenceFails(t *testing.T, s Suite) {
	r := newRig(t, s, nil)
	c := r.client()
	r.must(r.front.HandOver(r.patient()))
	patiently.From(t, r.front.Ended())
	passed := r.gate.Passed()
	data := r.noise(4096)
	write := background(func() error { return c.Write(data, 0) })
	for range 2 {
		err := r.tryStart(r.options(func(o *attach.Options) {
			o.Fence = func(done func(error)) { done(fault.Errorf("test", fault.Unavailable, "no replica answers")) }
		}))
		if !fault.Is(err, fault.Unavailable) {
			t.Fatalf("start whose fence failed: %v", err)
		}
	}
	select {
	case err := <-write:
		t.Errorf("a write was answered (%v) though nobody serves the device", err)
	default:
	}
	if r.gate.Passed() != passed {
		t.Error("a request reached the backend though the fence failed")
	}
	r.start(r.options(nil))
	r.must(patiently.From(t, write))
	r.expect(c, 0, data)
}

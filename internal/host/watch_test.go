package host

import (
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/host/patiently"
)

// sockets returns two connected non-blocking sockets.
func sockets(t *testing.T) (a, b int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeFD(fds[0]); closeFD(fds[1]) })
	return fds[0], fds[1]
}

// Two watches echo bytes: each reads until EAGAIN, then arms again.
func TestWatchesServeSockets(t *testing.T) {
	bothEngines(t, func(t *testing.T, o Options) {
		l, end := runLoop(t, o)
		defer end()
		a, b := sockets(t)
		const rounds = 1000
		ended := make(chan struct{})
		serve := func(fd int, got func(byte)) *Watch {
			var w *Watch
			w = l.Watch(fd, Readable, func() {
				var buf [1]byte
				for {
					n, err := unix.Read(fd, buf[:])
					if err == unix.EAGAIN {
						w.Arm()
						return
					}
					if err != nil || n != 1 {
						t.Errorf("read %d: %v", n, err)
						return
					}
					got(buf[0])
				}
			})
			return w
		}
		send := func(fd int, c byte) {
			if _, err := unix.Write(fd, []byte{c}); err != nil {
				t.Error(err)
			}
		}
		on(t, l, func() {
			count := 0
			serve(b, func(c byte) { send(b, c+1) }).Arm()
			serve(a, func(c byte) {
				if count++; c != byte(count) {
					t.Errorf("round %d brought %d", count, c)
				}
				if count == rounds {
					close(ended)
					return
				}
				send(a, c)
			}).Arm()
			send(a, 0)
		})
		patiently.From(t, ended)
	})
}

func TestWatchFiresOnceAnArm(t *testing.T) {
	bothEngines(t, func(t *testing.T, o Options) {
		l, end := runLoop(t, o)
		defer end()
		a, b := sockets(t)
		if _, err := unix.Write(b, []byte("data")); err != nil {
			t.Fatal(err)
		}
		var fired atomic.Int32
		var w *Watch
		fence := func() { on(t, l, func() { l.turn(0) }) } // what is due has happened
		on(t, l, func() { w = l.Watch(a, Readable, func() { fired.Add(1) }) })
		fence()
		if fired.Load() != 0 {
			t.Fatal("a watch fired that was not armed")
		}
		on(t, l, func() { w.Arm(); w.Arm() })
		patiently.True(t, "the watch fires", func() bool { fence(); return fired.Load() > 0 })
		fence()
		if fired.Load() != 1 {
			t.Fatalf("a watch that was armed once fired %d times", fired.Load())
		}
		on(t, l, func() { w.Arm() }) // still readable: level, not edge
		patiently.True(t, "the watch fires again", func() bool { fence(); return fired.Load() > 1 })
		on(t, l, func() { w.Arm(); w.Close(); w.Arm() })
		fence()
		fence()
		if fired.Load() != 2 {
			t.Fatal("a closed watch fired")
		}
	})
}

func TestWatchesForReadingAndWritingOneDescriptor(t *testing.T) {
	bothEngines(t, func(t *testing.T, o Options) {
		l, end := runLoop(t, o)
		defer end()
		a, b := sockets(t)
		readable, writable := make(chan struct{}), make(chan struct{})
		on(t, l, func() {
			l.Watch(a, Readable, func() { close(readable) }).Arm()
			l.Watch(a, Writable, func() { close(writable) }).Arm()
		})
		patiently.From(t, writable)
		select {
		case <-readable:
			t.Fatal("readable before anything was written")
		default:
		}
		if _, err := unix.Write(b, []byte("x")); err != nil {
			t.Fatal(err)
		}
		patiently.From(t, readable)
	})
}

func TestHangUpFiresWatch(t *testing.T) {
	bothEngines(t, func(t *testing.T, o Options) {
		l, end := runLoop(t, o)
		defer end()
		var fds [2]int
		if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
			t.Fatal(err)
		}
		defer closeFD(fds[0])
		fired := make(chan struct{})
		on(t, l, func() { l.Watch(fds[0], Readable, func() { close(fired) }).Arm() })
		closeFD(fds[1])
		patiently.From(t, fired)
	})
}

// More watches than the rings have entries: some are armed late.
func TestManyWatches(t *testing.T) {
	for _, o := range []Options{{Engine: EngineRing}, tiny(Options{Engine: EngineRing}), {Engine: EnginePool}} {
		l, end := runLoop(t, o)
		const count = 300
		fired := make(chan int, count)
		var ends [count]int
		var watches [count]*Watch
		for i := range ends {
			a, b := sockets(t)
			ends[i] = b
			on(t, l, func() {
				watches[i] = l.Watch(a, Readable, func() { fired <- i })
				watches[i].Arm()
			})
		}
		on(t, l, func() {
			for i := 0; i < count; i += 2 {
				watches[i].Close()
			}
		})
		for _, b := range ends {
			if _, err := unix.Write(b, []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		seen := map[int]bool{}
		for range count / 2 {
			seen[patiently.From(t, fired)] = true
		}
		for i := range ends {
			if seen[i] != (i%2 == 1) {
				t.Errorf("watch %d: fired is %v", i, seen[i])
			}
		}
		end()
	}
}

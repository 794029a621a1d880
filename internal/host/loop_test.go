package host

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
	"golang.org/x/sys/unix"
)

// bothEngines runs a test with each engine.
func bothEngines(t *testing.T, test func(t *testing.T, o Options)) {
	for _, engine := range []Engine{EngineRing, EnginePool} {
		t.Run(engine.String(), func(t *testing.T) { test(t, Options{Engine: engine}) })
	}
}

// on calls f on l's goroutine and waits until it has returned.
func on(t *testing.T, l *Loop, f func()) {
	t.Helper()
	done := make(chan struct{})
	if !l.Post(func() { defer close(done); f() }) {
		t.Fatal("the loop has ended")
	}
	patiently.From(t, done)
}

func TestPostsRunInOrderOnOneThread(t *testing.T) {
	bothEngines(t, func(t *testing.T, o Options) {
		o.Inbox = 3 // so that posts wait for room
		l, end := runLoop(t, o)
		const posters, each = 8, 2000
		var seen [posters][]int // touched by the loop only, until it has ended
		threads := map[int]bool{}
		var wg sync.WaitGroup
		for p := range posters {
			wg.Go(func() {
				for i := range each {
					l.Post(func() {
						seen[p] = append(seen[p], i)
						threads[unix.Gettid()] = true
					})
				}
			})
		}
		wg.Wait()
		end()
		for p := range seen {
			if len(seen[p]) != each || !slices.IsSorted(seen[p]) {
				t.Errorf("poster %d: %d posts of %d ran, or not in order", p, len(seen[p]), each)
			}
		}
		if len(threads) != 1 {
			t.Errorf("posts ran on %d threads", len(threads))
		}
	})
}

// A loop that goes to sleep just as something is posted must still see it. Each
// round waits for the answer, so that the loop is about to sleep when the next post
// comes; a lost wake-up would hang the test.
func TestNoWakeUpIsLost(t *testing.T) {
	bothEngines(t, func(t *testing.T, o Options) {
		l, end := runLoop(t, o)
		defer end()
		answer := make(chan struct{}, 1)
		for i := range 5000 {
			l.Post(func() { answer <- struct{}{} })
			patiently.From(t, answer)
			for range i % 50 { // vary the moment
				runtime.Gosched()
			}
		}
	})
}

func TestTryPostRefusesWhenFull(t *testing.T) {
	l, err := NewLoop(Options{Inbox: 2})
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	post := func() bool { return l.TryPost(func() { ran++ }) }
	if first, second, third := post(), post(), post(); !first || !second || third {
		t.Fatal("an inbox of 2 did not take exactly 2 posts")
	}
	l.Stop() // before Run: what was posted still runs
	l.Run(context.Background())
	if ran != 2 {
		t.Errorf("%d of 2 posts ran", ran)
	}
	if l.TryPost(func() {}) || l.Post(func() {}) {
		t.Error("a loop that has ended took a post")
	}
	l.Close()
}

func TestEndOfLoopWakesWaitingPosters(t *testing.T) {
	l, err := NewLoop(Options{Inbox: 1})
	if err != nil {
		t.Fatal(err)
	}
	ran := make(chan bool, 10)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() { ran <- l.Post(func() {}) })
	}
	l.Stop()
	l.Run(context.Background())
	wg.Wait() // none waits for ever, whether its post ran or was refused
	l.Close()
}

func TestRunEndsWithItsContextAndDrains(t *testing.T) {
	bothEngines(t, func(t *testing.T, o Options) {
		l, err := NewLoop(o)
		if err != nil {
			t.Fatal(err)
		}
		d, err := l.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := 0
		l.Post(func() {
			f := mustOpen(t, d, "file", Create)
			for i := range 1000 {
				d.Submit(&Op{Kind: OpWrite, File: f, Offset: int64(i), Buf: []byte("x"), Done: func(op *Op) {
					if op.Err != nil {
						t.Error(op.Err)
					}
					done++
				}})
			}
			cancel()
		})
		l.Run(ctx)
		if done != 1000 {
			t.Errorf("Run returned with %d of 1000 writes done", done)
		}
		l.Close()
	})
}

// The ring belongs to the thread that Run is on. What must happen first is posted
// before Run; polling from elsewhere is a mistake that shows at once.
func TestDiskOfALoopIsNotUsedOutsideIt(t *testing.T) {
	l, err := NewLoop(Options{Engine: EngineRing})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	if l.engine.(*ring).u.flags&setupDisabled == 0 {
		return // a kernel before 6.1: any thread may enter
	}
	d, err := l.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err, _ := recover().(error); !fault.Is(err, fault.Internal) {
			t.Errorf("polling outside of Run: %v, want a panic with a bug", err)
		}
	}()
	d.Submit(&Op{Kind: OpSpace, Done: func(*Op) {}})
	d.Poll(-1)
}

func TestDisksShareALoop(t *testing.T) {
	bothEngines(t, func(t *testing.T, o Options) {
		o.Depth = 4
		l, end := runLoop(t, o)
		defer end()
		const disks, writes = 5, 200
		var dirs [disks]*Dir
		for i := range dirs {
			var err error
			if dirs[i], err = l.Open(t.TempDir()); err != nil { // while the loop runs
				t.Fatal(err)
			}
		}
		ended := make(chan struct{})
		l.Post(func() {
			left := disks * writes
			for i, d := range dirs {
				f := mustOpen(t, d, "file", Create)
				for n := range writes {
					d.Submit(&Op{Kind: OpWrite, File: f, Offset: int64(n), Buf: []byte{byte(i)}, Done: func(op *Op) {
						if op.Err != nil {
							t.Error(op.Err)
						}
						if left--; left == 0 {
							close(ended)
						}
					}})
				}
			}
		})
		patiently.From(t, ended)
		on(t, l, func() {
			for i, d := range dirs {
				f := mustOpen(t, d, "file", 0)
				buf := make([]byte, writes)
				if must(t, d, &Op{Kind: OpRead, File: f, Buf: buf}); buf[0] != byte(i) || buf[writes-1] != byte(i) {
					t.Errorf("disk %d holds %d", i, buf[0])
				}
			}
			dirs[1].Close() // the others, and a new one in its place, go on
		})
		again, err := l.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		on(t, l, func() {
			mustOpen(t, again, "file", Create)
			mustOpen(t, dirs[4], "file", 0)
		})
	})
}

func TestPollInsideDone(t *testing.T) {
	bothEngines(t, func(t *testing.T, o Options) {
		d := openDir(t, t.TempDir(), o)
		f := mustOpen(t, d, "file", Create)
		const ops = 100
		done, depth, deepest := 0, 0, 0
		for i := range ops {
			d.Submit(&Op{Kind: OpWrite, File: f, Offset: int64(i), Buf: []byte("x"), Done: func(*Op) {
				done++
				depth++
				deepest = max(deepest, depth)
				if depth < 10 {
					d.Poll(-1)
				}
				depth--
			}})
		}
		for d.InFlight() > 0 {
			d.Poll(-1)
		}
		if done != ops || deepest < 2 {
			t.Errorf("%d of %d done, %d deep", done, ops, deepest)
		}
	})
}

func TestTimersFireInOrderOfTime(t *testing.T) {
	bothEngines(t, func(t *testing.T, o Options) {
		l, end := runLoop(t, o)
		defer end()
		var fired []int
		ended := make(chan struct{})
		on(t, l, func() {
			now := l.Now()
			set := func(n int, after time.Duration) *Timer {
				timer := l.NewTimer(func() { fired = append(fired, n) })
				timer.Set(now + after)
				return timer
			}
			set(3, 3*time.Millisecond)
			set(1, -time.Hour)
			stopped := set(9, 2*time.Millisecond)
			moved := set(5, time.Millisecond)
			set(2, 2*time.Millisecond)
			moved.Set(now + 5*time.Millisecond)
			set(4, 4*time.Millisecond)
			if !stopped.Stop() || stopped.Stop() {
				t.Error("Stop did not say once that the timer was set")
			}
			last := l.NewTimer(func() {
				if l.Now() < now+6*time.Millisecond {
					t.Error("a timer fired before its time")
				}
				close(ended)
			})
			last.Set(now + 6*time.Millisecond)
		})
		patiently.From(t, ended)
		if want := []int{1, 2, 3, 4, 5}; !slices.Equal(fired, want) {
			t.Errorf("fired %v, want %v", fired, want)
		}
	})
}

func TestTimerSetAnewFromItself(t *testing.T) {
	l, end := runLoop(t, Options{})
	defer end()
	ended := make(chan struct{})
	on(t, l, func() {
		n := 0
		var timer *Timer
		timer = l.NewTimer(func() {
			if n++; n == 5 {
				close(ended)
				return
			}
			timer.Set(l.Now() + time.Microsecond)
		})
		timer.Set(0)
	})
	patiently.From(t, ended)
}

func TestClockCountsOn(t *testing.T) {
	var c Clock = RealClock{}
	a := c.Now()
	for c.Now() == a {
	}
	if b := c.Now(); b < a || a <= 0 {
		t.Errorf("the clock went from %v to %v", a, b)
	}
}

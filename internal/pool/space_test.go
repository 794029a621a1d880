package pool

import (
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// fakeRoom is a filesystem that only has a size and what is written to it.
type fakeRoom struct {
	capacity, used, looks atomic.Int64
	err                   error
}

func (f *fakeRoom) stat() (room, error) {
	f.looks.Add(1)
	return room{capacity: f.capacity.Load(), used: f.used.Load(), free: f.capacity.Load() - f.used.Load()}, f.err
}

// newFakeSpace makes a filesystem of 1000 MiB with 5 % reserve.
func newFakeSpace() (*Space, *fakeRoom, *hands) {
	f, clock := &fakeRoom{}, &hands{}
	f.capacity.Store(1000 << 20)
	return newSpace(spaceOptions{Path: "/p", Clock: clock, Stat: f.stat, ReservePercent: 5}), f, clock
}

func TestSpaceRefusesWhenTheReserveIsReached(t *testing.T) {
	s, f, _ := newFakeSpace()
	var admitted int64
	for s.Admit(1<<20) == nil {
		admitted += 1 << 20
		f.used.Add(1 << 20)
	}
	if admitted != 950<<20 {
		t.Errorf("admitted %d MiB, want 950", admitted>>20)
	}
	wantFault(t, s.Admit(4096), fault.NoSpace, "/p is full", "5 %", "delete")
	if err := s.Admit(0); err != nil {
		t.Errorf("nothing was refused: %v", err)
	}
	wantFault(t, s.Admit(-1), fault.Invalid)
}

func TestSpaceCountsWhatItAdmittedBeforeItIsWritten(t *testing.T) {
	s, f, clock := newFakeSpace()
	f.used.Store(900 << 20)
	must(t, s.Admit(40<<20))
	clock.advance(spaceAgeMin - 1)
	wantFault(t, s.Admit(40<<20), fault.NoSpace) // 50 MiB are above the reserve, 40 of them promised
	must(t, s.Admit(10<<20))
	wantFault(t, s.Admit(1), fault.NoSpace)
}

func TestFreedSpaceIsFoundWithoutARestart(t *testing.T) {
	s, f, clock := newFakeSpace()
	f.used.Store(960 << 20)
	wantFault(t, s.Admit(4096), fault.NoSpace)
	f.used.Store(100 << 20)
	clock.advance(spaceAgeMin)
	must(t, s.Admit(4096))
}

func TestSpaceTakenByOthersIsSeenWithinASecond(t *testing.T) {
	s, f, clock := newFakeSpace()
	must(t, s.Admit(4096))
	f.used.Store(960 << 20)
	clock.advance(spaceAge)
	wantFault(t, s.Admit(4096), fault.NoSpace)
}

func TestSpaceSeldomAsksTheFilesystem(t *testing.T) {
	s, f, clock := newFakeSpace()
	for range 10_000 {
		must(t, s.Admit(4096))
		clock.advance(time.Microsecond)
	}
	if looks := f.looks.Load(); looks != 1 {
		t.Errorf("looked %d times for 40 MB in 10 ms, want once", looks)
	}
	f.used.Store(960 << 20)
	clock.advance(spaceAge)
	before := f.looks.Load()
	for range 10_000 {
		wantFault(t, s.Admit(4096), fault.NoSpace)
		clock.advance(time.Microsecond)
	}
	if looks := f.looks.Load() - before; looks > 2 {
		t.Errorf("looked %d times for 10 000 refusals in 10 ms, want at most twice", looks)
	}
}

func TestReserveCanBeChangedWhileInUse(t *testing.T) {
	s, f, _ := newFakeSpace()
	f.used.Store(900 << 20)
	must(t, s.Admit(4096))
	s.setReserve(10)
	wantFault(t, s.Admit(4096), fault.NoSpace, "10 %")
	u, err := s.Usage()
	must(t, err)
	if want := (Usage{Capacity: 1000 << 20, Used: 900 << 20, Free: 100 << 20, Reserve: 100 << 20}); u != want {
		t.Errorf("usage is %+v, want %+v", u, want)
	}
}

func TestSpaceOfAFilesystemThatFailsIsAnErrorNotAYes(t *testing.T) {
	s, f, _ := newFakeSpace()
	f.err = errors.New("gone")
	if err := s.Admit(4096); err == nil || fault.Is(err, fault.NoSpace) {
		t.Errorf("got %v", err)
	}
	if _, err := s.Usage(); err == nil {
		t.Error("usage is known of a filesystem that fails")
	}
}

func TestManyGoroutinesTogetherStayAboveTheReserve(t *testing.T) {
	s, f, clock := newFakeSpace()
	var workers sync.WaitGroup
	for seed := range uint64(8) {
		workers.Add(1)
		go func() {
			defer workers.Done()
			random := rand.New(rand.NewPCG(seed, 0))
			for range 20_000 {
				bytes := random.Int64N(1 << 20)
				clock.advance(time.Microsecond)
				switch err := s.Admit(bytes); {
				case err == nil:
					f.used.Add(bytes)
				case random.IntN(4) == 0: // somebody frees some
					if left := f.used.Add(-64 << 20); left < 0 {
						f.used.Add(-left)
					}
				}
			}
		}()
	}
	workers.Wait()
	// At a look, each goroutine may have one admitted piece that is not written yet.
	if over := f.used.Load() - 950<<20; over > 8<<20 {
		t.Errorf("the reserve was overrun by %d bytes", over)
	}
}

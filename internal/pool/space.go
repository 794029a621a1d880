package pool

import (
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// When Space looks at the filesystem again.
const (
	spaceAge     = time.Second           // what others write, or free, is seen after this
	spaceAgeMin  = 10 * time.Millisecond // before a refusal, unless it looked this recently
	spaceAdmits  = 64 << 20              // bytes admitted since it looked
	percentWhole = 100
)

// Usage is how full a pool is, in bytes.
type Usage struct {
	Capacity  int64 // of the pool's filesystem
	Used      int64 // of the capacity, by whomever
	Free      int64 // that can still be written; of images no more than their file can grow
	Reserve   int64 // of the free bytes, those that are kept free
	Available int64 // that Admit still gives: Free less Reserve, never below 0
}

// room is what a filesystem says of itself, in bytes.
type room struct{ capacity, used, free int64 }

// Space decides whether a pool has room for more, before its filesystem has none. Who is
// about to allocate asks Admit first; an overwrite of allocated space never asks.
//
// Between two looks at the filesystem it counts what it admitted, so a burst can't run
// past the reserve. A look forgets that count: bytes that were admitted less than some
// milliseconds before it, and were not allocated yet, come out of the reserve, which is
// there for that and for the filesystem's own needs. Space that is freed is found at the
// next refusal or after a second, whichever is first. Its methods may be called from
// several goroutines.
type Space struct {
	path  string
	clock host.Clock
	stat  func() (room, error)

	mu             sync.Mutex
	reservePercent int
	room           room          // as of the last look
	looked         time.Duration // when that was
	known          bool          // that there was one
	admitted       int64         // since
}

type spaceOptions struct {
	Path           string // for messages
	Clock          host.Clock
	Stat           func() (room, error)
	ReservePercent int
}

func newSpace(o spaceOptions) *Space {
	return &Space{path: o.Path, clock: o.Clock, stat: o.Stat, reservePercent: o.ReservePercent}
}

// Admit reports whether bytes more may be allocated now: nil, or NoSpace when the free
// space would fall below the reserve. Nothing has to be given back; bytes that are not
// allocated after all are free again at the next look.
func (s *Space) Admit(bytes int64) error {
	const op = "pool.Admit"
	if bytes < 0 {
		return fault.Errorf(op, fault.Invalid, "can't admit %d bytes", bytes)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.Now()
	if !s.known || now-s.looked >= spaceAge || s.admitted >= spaceAdmits {
		if err := s.look(now); err != nil {
			return fault.Wrap(op, err)
		}
	}
	if !s.fits(bytes) && now-s.looked >= spaceAgeMin {
		if err := s.look(now); err != nil {
			return fault.Wrap(op, err)
		}
	}
	if !s.fits(bytes) {
		return fault.WithCure(fault.Errorf(op, fault.NoSpace,
			"the pool at %s is full: %d bytes are free and %d are kept in reserve (%d %%), so %d more have no room",
			s.path, s.room.free-s.admitted, s.reserve(), s.reservePercent, bytes),
			"delete snapshots or volumes, or move volumes to another pool")
	}
	s.admitted += bytes
	return nil
}

func (s *Space) fits(bytes int64) bool {
	return bytes == 0 || s.room.free-s.admitted-s.reserve() >= bytes
}

func (s *Space) reserve() int64 {
	return s.room.capacity / percentWhole * int64(s.reservePercent)
}

// look asks the filesystem. The caller holds mu.
func (s *Space) look(now time.Duration) error {
	r, err := s.stat()
	if err != nil {
		return fmt.Errorf("free space of the pool at %s: %w", s.path, err)
	}
	s.room, s.looked, s.known, s.admitted = r, now, true, 0
	return nil
}

// Usage asks the filesystem how full the pool is now. Whoever is about to admit bytes is
// not disturbed by it.
func (s *Space) Usage() (Usage, error) {
	r, err := s.stat()
	if err != nil {
		return Usage{}, fault.Wrap("pool.Usage", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return usageOf(r, s.reservePercent), nil
}

func usageOf(r room, reservePercent int) Usage {
	reserve := r.capacity / percentWhole * int64(reservePercent)
	return Usage{
		Capacity: r.capacity, Used: r.used, Free: r.free,
		Reserve: reserve, Available: max(0, r.free-reserve),
	}
}

// setReserve changes the share of the capacity that is kept free.
func (s *Space) setReserve(percent int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reservePercent = percent
}

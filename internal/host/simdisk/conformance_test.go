package simdisk_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/host/hosttest"
	"github.com/holdfast-io/holdfast/internal/host/simdisk"
)

func TestConformance(t *testing.T) {
	for _, seed := range []uint64{1, 2, 3} {
		t.Run(fmt.Sprintf("Alone/seed=%d", seed), func(t *testing.T) {
			hosttest.TestDisk(t, func(*testing.T) host.Disk {
				return simdisk.New(simdisk.Options{Seed: seed})
			})
		})
	}
	t.Run("InOrder", func(t *testing.T) {
		hosttest.TestDisk(t, func(*testing.T) host.Disk {
			return simdisk.New(simdisk.Options{InOrder: true})
		})
	})
	t.Run("Simulated", func(t *testing.T) {
		hosttest.TestDisk(t, func(*testing.T) host.Disk { return newSimulation(simdisk.Options{Seed: 7}) })
	})
	t.Run("Clone", func(t *testing.T) {
		hosttest.TestDisk(t, func(*testing.T) host.Disk {
			return simdisk.New(simdisk.Options{}).Clone()
		})
	})
	t.Run("AfterCrash", func(t *testing.T) {
		hosttest.TestDisk(t, func(*testing.T) host.Disk {
			return simdisk.New(simdisk.Options{}).Crash(simdisk.KeepSome)
		})
	})
}

// simulation is the smallest simulator around a disk: a queue of events and a clock
// that jumps from one to the next.
type simulation struct {
	*simdisk.Disk
	rand   *rand.Rand
	now    time.Duration
	events []event // by time
}

type event struct {
	at   time.Duration
	fire func()
}

func newSimulation(o simdisk.Options) *simulation {
	s := &simulation{rand: rand.New(rand.NewPCG(o.Seed, 0))}
	o.Schedule = func(delay time.Duration, fire func()) {
		e := event{s.now + delay + time.Duration(s.rand.IntN(100))*time.Microsecond, fire}
		at, _ := slices.BinarySearchFunc(s.events, e.at+1, func(e event, at time.Duration) int {
			return cmp.Compare(e.at, at)
		})
		s.events = slices.Insert(s.events, at, e)
	}
	s.Disk = simdisk.New(o)
	return s
}

// Poll lets time pass until an operation is done; every call takes a microsecond.
func (s *simulation) Poll(wait time.Duration) int {
	until := s.now + max(wait, time.Microsecond)
	if len(s.events) == 0 || wait >= 0 && s.events[0].at > until {
		s.now = until
		return 0
	}
	e := s.events[0]
	s.events = slices.Delete(s.events, 0, 1)
	s.now = max(s.now, e.at)
	e.fire()
	return 1
}

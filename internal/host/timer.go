package host

import (
	"container/heap"
	"time"
)

// Timer calls a function from a loop at a time. All methods are for the loop's
// goroutine; setting and stopping do not allocate.
type Timer struct {
	loop  *Loop
	at    time.Duration
	fire  func()
	place int // in the heap, or notSet
}

const notSet = -1

// NewTimer returns a timer that is not set.
func (l *Loop) NewTimer(fire func()) *Timer {
	return &Timer{loop: l, fire: fire, place: notSet}
}

// Set makes the timer fire once, at the first turn of the loop when its clock says at
// or later. It replaces an earlier setting.
func (t *Timer) Set(at time.Duration) {
	t.at = at
	if t.place == notSet {
		heap.Push(&t.loop.timers, t)
	} else {
		heap.Fix(&t.loop.timers, t.place)
	}
}

// Stop takes the setting back and reports whether there was one.
func (t *Timer) Stop() bool {
	if t.place == notSet {
		return false
	}
	heap.Remove(&t.loop.timers, t.place)
	return true
}

// timers holds those that are set, the earliest first.
type timers []*Timer

func (h timers) Len() int           { return len(h) }
func (h timers) Less(i, j int) bool { return h[i].at < h[j].at }
func (h timers) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}

// Push is for package heap.
func (h *timers) Push(x any) {
	t := x.(*Timer)
	t.place = len(*h)
	*h = append(*h, t)
}

// Pop is for package heap.
func (h *timers) Pop() any {
	old := *h
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	t.place = notSet
	return t
}

// limit shortens wait so that it ends when the earliest timer is due.
func (h timers) limit(wait time.Duration, clock Clock) time.Duration {
	if len(h) == 0 || wait == 0 {
		return wait
	}
	due := max(0, h[0].at-clock.Now())
	if wait < 0 || due < wait {
		return due
	}
	return wait
}

// run fires the timers that are due.
func (h *timers) run(clock Clock) {
	if len(*h) == 0 {
		return
	}
	for now := clock.Now(); len(*h) > 0 && (*h)[0].at <= now; {
		heap.Pop(h).(*Timer).fire()
	}
}

package sim

import (
	"container/heap"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"time"
)

// world is time and chance.
type world struct {
	seed   uint64
	rand   *rand.Rand
	now    time.Duration
	events eventHeap
	seq    uint64
	trace  func(string)
	hash   uint64
	err    error // what was found
}

func newWorld(seed uint64, trace func(string)) *world {
	return &world{seed: seed, rand: rand.New(rand.NewPCG(seed, 0x51a)), trace: trace}
}

// option returns what an option of the run is drawn from: each has numbers of its own, so
// that a new option changes those runs only that have it.
func (w *world) option(name string) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(name))
	return rand.New(rand.NewPCG(w.seed, h.Sum64()))
}

type event struct {
	at  time.Duration
	seq uint64
	do  func()
}

type eventHeap []event

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].seq < h[j].seq
}
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(x any)   { *h = append(*h, x.(event)) }
func (h *eventHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

// after has do run when d has passed.
func (w *world) after(d time.Duration, do func()) {
	w.seq++
	heap.Push(&w.events, event{w.now + d, w.seq, do})
}

// run lets time pass until an event finds a fault, until stop says so, or until the
// moment end.
func (w *world) run(end time.Duration, stop func() bool) {
	for len(w.events) > 0 && w.err == nil && w.events[0].at <= end && !stop() {
		e := heap.Pop(&w.events).(event)
		w.now = e.at
		e.do()
	}
}

// between draws a duration, short ones more often.
func (w *world) between(lo, hi time.Duration) time.Duration {
	f := w.rand.Float64()
	return lo + time.Duration(f*f*float64(hi-lo))
}

func (w *world) chance(percent int) bool { return w.rand.IntN(100) < percent }

// log notes what happened: it goes into the run's hash, and to the trace.
func (w *world) log(format string, args ...any) {
	line := fmt.Sprintf("%12v ", w.now) + fmt.Sprintf(format, args...)
	h := fnv.New64a()
	fmt.Fprintf(h, "%d %s", w.hash, line)
	w.hash = h.Sum64()
	if w.trace != nil {
		w.trace(line)
	}
}

// found ends the run with a fault.
func (w *world) found(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf(format, args...)
		w.log("FAULT: %v", w.err)
	}
}

package control

import (
	"container/heap"
	"time"
)

// timers are times by id, one each, of which the first is found fast.
type timers struct {
	at   map[string]time.Time
	heap timerHeap // may have times that do not hold any more
}

type timer struct {
	id string
	at time.Time
}

type timerHeap []timer

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h timerHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *timerHeap) Push(x any)        { *h = append(*h, x.(timer)) }
func (h *timerHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// set sets the time of an id; the zero time is none.
func (t *timers) set(id string, at time.Time) {
	switch was, ok := t.at[id]; {
	case at.IsZero():
		delete(t.at, id)
	case !ok || !was.Equal(at):
		t.at[id] = at
		heap.Push(&t.heap, timer{id, at})
	}
}

// soon makes the time of an id earlier, if it is not.
func (t *timers) soon(id string, at time.Time) {
	if was, ok := t.at[id]; !ok || at.Before(was) {
		t.set(id, at)
	}
}

// first returns the first time.
func (t *timers) first() (time.Time, bool) {
	for len(t.heap) > 0 {
		if top := t.heap[0]; t.at[top.id].Equal(top.at) {
			return top.at, true
		}
		heap.Pop(&t.heap)
	}
	return time.Time{}, false
}

// due reports whether the first time has come.
func (t *timers) due(now time.Time) bool {
	at, ok := t.first()
	return ok && !now.Before(at)
}

// pop takes the first away, and returns its id. There must be one.
func (t *timers) pop() string {
	id := heap.Pop(&t.heap).(timer).id
	delete(t.at, id)
	return id
}

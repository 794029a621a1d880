package node

import "sync"

// late are requests that ended on another goroutine than the loop's.
type late struct {
	mu   sync.Mutex
	list []*ioRequest
	post func(func()) bool
}

func (l *late) add(q *ioRequest) {
	l.mu.Lock()
	l.list = append(l.list, q)
	l.mu.Unlock()
	l.post(l.drain) // when there is no room, the next tick drains
}

// drain ends them, on the loop.
func (l *late) drain() {
	l.mu.Lock()
	list := l.list
	l.list = nil
	l.mu.Unlock()
	for _, q := range list {
		q.endedLate()
	}
}

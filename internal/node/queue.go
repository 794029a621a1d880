package node

// queue is first in, first out. A decider's effects may cause its next event before they
// are all performed (a store that answers at once), so events wait here. It takes the
// memory that the most took that ever waited at once.
type queue[T any] struct {
	items []T // a circle
	head  int
	count int
}

func (q *queue[T]) push(v T) {
	if q.count == len(q.items) {
		more := make([]T, max(8, 2*len(q.items)))
		n := copy(more, q.items[q.head:])
		copy(more[n:], q.items[:q.head])
		q.items, q.head = more, 0
	}
	q.items[(q.head+q.count)%len(q.items)] = v
	q.count++
}

func (q *queue[T]) pop() (v T, ok bool) {
	if q.count == 0 {
		return v, false
	}
	var zero T
	v, q.items[q.head] = q.items[q.head], zero
	q.head = (q.head + 1) % len(q.items)
	q.count--
	return v, true
}

// first returns what pop would; there is something.
func (q *queue[T]) first() T { return q.items[q.head] }

package node

// queue is first in, first out. A decider's effects may cause its next event before they
// are all performed (a store that answers at once), so events wait here.
type queue[T any] struct {
	items []T
	head  int
}

func (q *queue[T]) push(v T) { q.items = append(q.items, v) }

func (q *queue[T]) pop() (v T, ok bool) {
	if q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
		return v, false
	}
	v = q.items[q.head]
	var zero T
	q.items[q.head] = zero
	q.head++
	return v, true
}

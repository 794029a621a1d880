package host

// opQueue is a first-in first-out queue of ops, linked through them.
type opQueue struct{ head, tail *Op }

func (q *opQueue) push(op *Op) {
	op.next = nil
	if q.head == nil {
		q.head = op
	} else {
		q.tail.next = op
	}
	q.tail = op
}

// pop returns nil when the queue is empty.
func (q *opQueue) pop() *Op {
	op := q.head
	if op == nil {
		return nil
	}
	q.head, op.next = op.next, nil
	if q.head == nil {
		q.tail = nil
	}
	return op
}

// slotQueue is the same for slots.
type slotQueue struct{ head, tail *slot }

func (q *slotQueue) push(s *slot) {
	s.next = nil
	if q.head == nil {
		q.head = s
	} else {
		q.tail.next = s
	}
	q.tail = s
}

// pop returns nil when the queue is empty.
func (q *slotQueue) pop() *slot {
	s := q.head
	if s == nil {
		return nil
	}
	q.head, s.next = s.next, nil
	if q.head == nil {
		q.tail = nil
	}
	return s
}

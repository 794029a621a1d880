// Package turns decides whose turn it is at a disk that volumes share, so that a volume
// whose user asks for much does not keep another one's user waiting.
//
// It promises, of the lines before one [Desk]:
//
//   - A line that keeps within its share of the window never waits. The share is the window
//     divided by the number of lines that used the desk lately, and one ticket at least.
//   - What such a line meets on the disk is no more than the window, or a ticket of each
//     line where there are more lines than that: however deep the others' queues are.
//   - Shares that are not used are not lost: the others have them, in turn.
//   - A line that has been alone lately is not held back at all.
//   - The tickets of one line go in the order in which they came.
//
// What is in flight is what is bounded, not a rate: a disk gives those who ask it in
// proportion to what each has in its queue. A Desk decides, it does nothing; the caller
// owns it and calls it from one goroutine at a time. Nothing it does allocates, but for the
// first ticket of a line that it has not seen lately.
package turns

// Window is what may be in flight while several lines use the desk, as a sum of costs. 64
// keep all but arrays of disks busy; a disk of 3,000 requests a second does them in 21 ms.
const Window = 64

// Memory is for how many tickets a line counts after its last one. Without it, one that
// makes one request after the other would find all that others have in flight anew, each
// time.
const Memory = 4096

// costBlocks is how many blocks, in order, cost as much as one.
const costBlocks = 16

// Cost returns what a request counts that moves so many blocks, in so many pieces that are
// apart.
func Cost(blocks, pieces int) int {
	return max(1, min(Window, max(pieces, (blocks+costBlocks-1)/costBlocks)))
}

// Desk is a disk's.
type Desk[T any] struct {
	used  int        // in flight, as a sum of costs
	came  uint64     // tickets, ever
	lines []*Line[T] // that have tickets, or had some lately
	hand  int        // of lines: the one to be forgotten next, if it may be
	ring  *Line[T]   // last of the lines that wait, which are a circle
	freed *Line[T]   // lines whose tickets have ended, and were not looked at since
}

// Line is the tickets of one volume. The zero value is good.
type Line[T any] struct {
	used        int
	seen        uint64 // Desk.came at its last ticket
	known       bool   // it is in Desk.lines
	first, last *Ticket[T]
	before      *Line[T] // in the circle
	after       *Line[T]
	freed       bool
	under       *Line[T] // in Desk.freed
}

// Ticket is one request. It may be used again after it was given to Leave.
type Ticket[T any] struct {
	Of   T // the caller's
	line *Line[T]
	cost int
	next *Ticket[T]
}

// Idle reports whether nothing is in flight, and nothing waits.
func (d *Desk[T]) Idle() bool { return d.used == 0 && d.ring == nil }

// Waiting reports whether a ticket of the line waits for its turn.
func (l *Line[T]) Waiting() bool { return l.first != nil }

// Enter puts a ticket in line, and reports whether its request may begin at once. If not,
// Next returns it in its time.
func (d *Desk[T]) Enter(l *Line[T], t *Ticket[T], cost int) bool {
	d.came++
	l.seen = d.came
	if !l.known {
		l.known = true
		d.lines = append(d.lines, l)
	}
	t.line, t.cost, t.next = l, cost, nil
	if !l.Waiting() && (d.entitled(l, cost) || d.ring == nil && d.used+cost <= Window) {
		d.begin(t)
		return true
	}
	if !l.Waiting() {
		l.first = t
		d.wait(l)
	} else {
		l.last.next = t
	}
	l.last = t
	return false
}

// Leave ends a ticket whose request has ended. Next is to be asked then, until it has none.
func (d *Desk[T]) Leave(t *Ticket[T]) {
	l := t.line
	l.used -= t.cost
	d.used -= t.cost
	if !l.freed && l.Waiting() {
		l.freed, l.under, d.freed = true, d.freed, l
	}
	d.forget()
}

// Next returns a ticket that waited, and whose request may begin now; nil when there is
// none.
func (d *Desk[T]) Next() *Ticket[T] {
	for l := d.freed; l != nil; l = d.freed {
		if l.Waiting() && d.entitled(l, l.first.cost) {
			return d.call(l)
		}
		l.freed, d.freed, l.under = false, l.under, nil
	}
	if d.ring == nil {
		return nil
	}
	l := d.ring.after
	if d.used+l.first.cost > Window {
		return nil
	}
	d.ring = l // the others first, then it again
	return d.call(l)
}

// entitled reports whether the line may begin a request whatever others do.
func (d *Desk[T]) entitled(l *Line[T], cost int) bool {
	return l.used == 0 || len(d.lines) == 1 || l.used+cost <= Window/len(d.lines)
}

func (d *Desk[T]) begin(t *Ticket[T]) {
	t.line.used += t.cost
	d.used += t.cost
}

// call takes the first ticket of a line that waits.
func (d *Desk[T]) call(l *Line[T]) *Ticket[T] {
	t := l.first
	if l.first, t.next = t.next, nil; l.first == nil {
		l.last = nil
		d.waitNoMore(l)
	}
	d.begin(t)
	return t
}

// wait adds a line to those that wait, as the last one.
func (d *Desk[T]) wait(l *Line[T]) {
	l.before, l.after = l, l
	if last := d.ring; last != nil {
		l.before, l.after = last, last.after
		last.after.before, last.after = l, l
	}
	d.ring = l
}

// waitNoMore takes a line out of the circle.
func (d *Desk[T]) waitNoMore(l *Line[T]) {
	l.before.after, l.after.before = l.after, l.before
	switch {
	case l.before == l:
		d.ring = nil
	case d.ring == l:
		d.ring = l.before
	}
	l.before, l.after = nil, nil
}

// forget drops a line that has not been used for long. It looks at one.
func (d *Desk[T]) forget() {
	last := len(d.lines) - 1
	if d.hand++; d.hand > last {
		d.hand = 0
	}
	if l := d.lines[d.hand]; l.used == 0 && !l.Waiting() && d.came-l.seen > Memory {
		l.known = false
		d.lines[d.hand], d.lines[last] = d.lines[last], nil
		d.lines = d.lines[:last]
	}
}

package store

import (
	"slices"

	"github.com/holdfast-io/holdfast/internal/block"
)

// Verb says what a Request does.
type Verb uint8

// The verbs.
const (
	Read   Verb = iota + 1 // fill Data and Sums from Extent as of Generation
	Write                  // store Data, whose checksums are Sums, at Extent
	Zero                   // make Extent read as zeros and free its space: discard, write zeroes
	Flush                  // make durable every request that was done before this one was submitted
	Verify                 // fill Sums with the checksums of Extent as of Generation, as the tables have them
)

// Request is one request to a replica. The caller fills it, submits it, and leaves it,
// Data and Sums alone until Done is called. It may be used again then; a request that
// finds tables and files ready does not allocate.
type Request struct {
	Verb       Verb
	Extent     block.Extent
	Generation block.Generation // Read, Verify: which one; 0 is the live one
	Data       []byte           // Extent.Bytes() bytes, aligned to host.Align
	// Sums has one checksum per block. Write trusts them, because they were computed
	// where the data came from; a wrong one shows when the block is read. Read fills
	// them after having compared each with the data.
	Sums []block.Sum

	// Done is called once, from the disk's Poll or from inside Submit.
	Done func(*Request)
	// Err is nil, or a *fault.Error: Corrupt (errors.As finds a *BadBlock), Media,
	// NoSpace, Invalid, NotFound (no such generation).
	Err error

	next   *Request
	number uint64       // of a write that has begun, see flights
	left   int          // transfers and journal records still to come, plus one while issuing
	cursor block.Index  // what comes before is done, or issued
	step   block.Extent // what is being issued, or looked at

	// What it found ready so far stays so until it is issued.
	tables []*table
	files  []*file

	counted bool // the regions of step count it as a write in flight
}

// rest returns what is still to be issued.
func (q *Request) rest() block.Extent {
	return block.Extent{Start: q.cursor, Count: uint64(q.Extent.End() - q.cursor)}
}

// within returns the part of q's step that lies in region n: the first block in the
// region, how many, and the first one's place in q.
func (q *Request) within(n block.Region) (first, count, at int) {
	e := q.step.Clip(block.Extent{Start: n.Start(), Count: block.PerRegion})
	return e.Start.InRegion(), int(e.Count), int(e.Start - q.Extent.Start)
}

// reqList is a queue of requests that wait for the same thing.
type reqList struct{ head, tail *Request }

func (l *reqList) push(q *Request) {
	q.next = nil
	if l.tail == nil {
		l.head = q
	} else {
		l.tail.next = q
	}
	l.tail = q
}

func (l *reqList) empty() bool { return l.head == nil }

// take empties the list and returns its first request; walk with next.
func (l *reqList) take() *Request {
	q := l.head
	l.head, l.tail = nil, nil
	return q
}

// rerun starts every request of the list again from the top: what they waited for has
// happened, and each checks everything once more.
func (r *Replica) rerun(l *reqList) {
	for q := l.take(); q != nil; {
		next := q.next
		q.next = nil
		r.run(q)
		q = next
	}
}

// failAll ends every request of the list with err.
func (r *Replica) failAll(l *reqList, err error) {
	for q := l.take(); q != nil; {
		next := q.next
		q.next = nil
		r.end(q, err)
		q = next
	}
}

// holdTable keeps t in memory until q is issued or ends.
func (q *Request) holdTable(t *table) {
	if t != emptyTable && !slices.Contains(q.tables, t) {
		t.pins++
		q.tables = append(q.tables, t)
	}
}

// holdFile keeps f open until q is issued or ends.
func (q *Request) holdFile(f *file) {
	if !slices.Contains(q.files, f) {
		f.refs++
		q.files = append(q.files, f)
	}
}

// letGo ends what holdTable and holdFile began.
func (q *Request) letGo() {
	for _, t := range q.tables {
		t.pins--
	}
	for _, f := range q.files {
		f.refs--
	}
	clear(q.tables)
	clear(q.files)
	q.tables, q.files = q.tables[:0], q.files[:0]
}

package link

import (
	"sync"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/wire"
)

// Holder is told when data that was to be sent is no longer looked at, because it was
// sent or because the connection is over. Release is called by whichever goroutine has
// written; it must not wait, and must not call the connection.
type Holder interface{ Release() }

// outbox is what is to be sent: a batch that senders fill, while the one before it is in
// the transmitter.
type outbox struct {
	framesMax, bytesMax int

	mu      sync.Mutex
	room    sync.Cond // senders wait here
	work    sync.Cond // Transmit waits here
	senders int       // that wait
	refused bool      // somebody who would not wait found no room

	ended   chan struct{} // closed when Transmit has returned
	running bool          // Transmit runs, or has
	parked  bool          // it waits and was not woken
	lent    bool          // the transmitter is used by one that flushes
	begun   bool          // the transmitter has a batch that was not written to its end

	filling batch
	frames  int // in the outbox and in the transmitter
	bytes   int
	closed  error // no more is taken; why
	aborted bool  // what was taken is not sent either
}

// batch is frames in the order in which they are sent.
type batch struct {
	heads []byte // one after the other
	items []item
}

type item struct {
	end  int // of its head, in heads
	data []byte
	hold Holder
}

// errFull has no room for anything that depends on the connection: it is made once.
var errFull = fault.Errorf("link.TrySend", fault.Busy, "the connection's queue is full")

func (o *outbox) init(framesMax, bytesMax int) {
	o.framesMax, o.bytesMax = framesMax, bytesMax
	o.ended = make(chan struct{})
	o.room.L, o.work.L = &o.mu, &o.mu
}

// put takes a message in; wait says that it waits for room, wake that Transmit should
// begin at once.
func (o *outbox) put(tag wire.Tag, m wire.Message, hold Holder, wait, wake bool) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.closed == nil && (o.frames >= o.framesMax || o.bytes >= o.bytesMax) {
		o.start()
		if !wait {
			o.refused = true
			return errFull
		}
		o.senders++
		o.room.Wait()
		o.senders--
	}
	if o.closed != nil {
		return o.closed
	}
	if err := o.add(tag, m, hold); err != nil {
		return err
	}
	if wake {
		o.start()
	}
	return nil
}

func (o *outbox) add(tag wire.Tag, m wire.Message, hold Holder) error {
	heads, err := wire.Append(o.filling.heads, tag, m)
	if err != nil {
		return err
	}
	data := wire.Data(m)
	o.bytes += len(heads) - len(o.filling.heads) + len(data)
	o.frames++
	o.filling.heads = heads
	o.filling.items = append(o.filling.items, item{end: len(heads), data: data, hold: hold})
	return nil
}

// start wakes Transmit, unless it can't do anything yet.
func (o *outbox) start() {
	if o.parked && !o.lent {
		o.parked = false
		o.work.Signal()
	}
}

// take puts what was put in since the last time into t, unless something in t was not
// written to its end, and waits for one of these. False means that there will be nothing
// more.
func (o *outbox) take(t *transmitter) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.lent || !o.begun && len(o.filling.items) == 0 && o.closed == nil {
		o.parked = true
		o.work.Wait()
	}
	o.parked = false
	if o.aborted || !o.begun && len(o.filling.items) == 0 {
		return false
	}
	if !o.begun {
		o.filling, t.batch = t.batch, o.filling
	}
	o.begun = false
	return true
}

// lend puts what was put in into t, for one that flushes, if there is something and
// Transmit has nothing to do. giveBack must follow.
func (o *outbox) lend(t *transmitter) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.filling.items) == 0 || !o.parked || o.lent || o.begun || o.aborted {
		return false
	}
	o.lent = true
	o.filling, t.batch = t.batch, o.filling
	return true
}

// giveBack ends lend; begun says that not all of the batch was written.
func (o *outbox) giveBack(begun bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lent, o.begun = false, begun
	if begun || len(o.filling.items) > 0 || o.closed != nil {
		o.start()
	}
}

// sent takes frames that were written off the count, and reports whether somebody who
// would not wait can be told that there is room: when half of it is.
func (o *outbox) sent(frames, bytes int) (tell bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.frames -= frames
	o.bytes -= bytes
	if o.senders > 0 {
		o.room.Broadcast()
	}
	if o.refused && o.frames <= o.framesMax/2 && o.bytes <= o.bytesMax/2 {
		o.refused = false
		return true
	}
	return false
}

// finish takes nothing more; last, if there is one, is the last thing to be sent.
func (o *outbox) finish(why error, last wire.Message) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed != nil {
		return
	}
	if last != nil {
		_ = o.add(wire.Tag{}, last, nil) // if it can't be said, the end is silent
	}
	o.closed = why
	o.start()
	o.room.Broadcast()
}

// abort takes nothing more and sends nothing more.
func (o *outbox) abort(why error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed == nil {
		o.closed = why
	}
	o.aborted = true
	o.start()
	o.room.Broadcast()
	if !o.running {
		o.filling.release()
	}
}

// lost reports whether something that was taken may not have been sent.
func (o *outbox) lost() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.aborted
}

// begin says that Transmit runs, or that it must not, because it did.
func (o *outbox) begin() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.running || o.aborted {
		return false
	}
	o.running = true
	return true
}

// end says that Transmit does not run any more; what is left is not sent.
func (o *outbox) end(t *transmitter) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.aborted = true
	o.filling.release()
	t.reset()
	close(o.ended)
}

// size returns how many bytes the batch has.
func (b *batch) size() int {
	n := len(b.heads)
	for i := range b.items {
		n += len(b.items[i].data)
	}
	return n
}

// release lets go of what is in the batch, and empties it.
func (b *batch) release() {
	for i := range b.items {
		b.items[i].release()
	}
	b.items, b.heads = b.items[:0], b.heads[:0]
}

func (it *item) release() {
	hold := it.hold
	it.data, it.hold = nil, nil
	if hold != nil {
		hold.Release()
	}
}

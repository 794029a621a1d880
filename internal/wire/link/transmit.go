package link

import (
	"crypto/tls"
	"net"
)

// transmitter writes the batch that was taken out of the outbox. It is used by one
// goroutine at a time: Transmit, or one that flushes while Transmit waits.
type transmitter struct {
	socket *socket
	batch  batch
	next   int // item to write next
	start  int // of its head, in batch.heads
	part   int // of it, head and data, is written

	list net.Buffers
	room [vectorsMax][]byte // that list is in

	secure *tls.Conn // nil in the clear
	record []byte    // plain text of the next TLS record
}

const (
	// vectorsMax is how many buffers one system call takes.
	vectorsMax = 256
	// recordMax is the most plain text that a TLS record has.
	recordMax = 16 << 10
	// flushMax is the most that Flush encrypts on the caller's time.
	flushMax = 32 << 10
)

// step writes a good part of the batch; written is called with what is not needed any
// more. Without wait it writes only what the socket takes at once. It reports whether all
// of the batch is on its way.
func (t *transmitter) step(wait bool, written func(items []item, bytes int)) (bool, error) {
	if t.secure != nil {
		return t.stepSecure(wait, written)
	}
	t.gather()
	n, err := t.socket.writeList(&t.list, wait)
	t.advance(n, written)
	return t.next == len(t.batch.items), err
}

// gather lists what comes next. Heads that follow each other are one buffer.
func (t *transmitter) gather() {
	t.list = t.room[:0]
	from, part := t.start, t.part
	end := from
	for i := t.next; i < len(t.batch.items) && len(t.list) < vectorsMax-2; i++ {
		it := &t.batch.items[i]
		data := it.data
		if head := it.end - end; part < head {
			from += part
		} else {
			from, data = it.end, data[part-head:]
		}
		part, end = 0, it.end
		if len(data) > 0 {
			if from < end {
				t.list = append(t.list, t.batch.heads[from:end])
			}
			t.list = append(t.list, data)
			from = end
		}
	}
	if from < end {
		t.list = append(t.list, t.batch.heads[from:end])
	}
}

// advance notes that n bytes of what was gathered are written.
func (t *transmitter) advance(n int, written func(items []item, bytes int)) {
	first, bytes := t.next, 0
	for n += t.part; t.next < len(t.batch.items); t.next++ {
		it := &t.batch.items[t.next]
		size := it.end - t.start + len(it.data)
		if n < size {
			break
		}
		n -= size
		bytes += size
		t.start = it.end
	}
	t.part = n
	if t.next > first {
		written(t.batch.items[first:t.next], bytes)
	}
}

// stepSecure packs heads and data into as few TLS records as can be, and writes what
// they make.
func (t *transmitter) stepSecure(wait bool, written func(items []item, bytes int)) (bool, error) {
	if !wait && t.batch.size() > flushMax {
		return false, nil
	}
	first, bytes := t.next, 0
	for ; t.next < len(t.batch.items) && bytes < gatherMax; t.next++ {
		it := &t.batch.items[t.next]
		if err := t.pack(t.batch.heads[t.start:it.end]); err != nil {
			return false, err
		}
		if err := t.pack(it.data); err != nil {
			return false, err
		}
		bytes += it.end - t.start + len(it.data)
		t.start = it.end
	}
	if len(t.record) > 0 {
		if err := t.seal(t.record); err != nil {
			return false, err
		}
		t.record = t.record[:0]
	}
	if t.next > first {
		written(t.batch.items[first:t.next], bytes)
	}
	all, err := t.socket.flush(wait)
	return all && t.next == len(t.batch.items), err
}

// pack adds p to the record, and seals the records that are full.
func (t *transmitter) pack(p []byte) error {
	for len(p) > 0 {
		if len(t.record) == 0 && len(p) >= recordMax {
			whole := len(p) - len(p)%recordMax
			if err := t.seal(p[:whole]); err != nil {
				return err
			}
			p = p[whole:]
			continue
		}
		n := min(len(p), recordMax-len(t.record))
		t.record = append(t.record, p[:n]...)
		p = p[n:]
		if len(t.record) == recordMax {
			if err := t.seal(t.record); err != nil {
				return err
			}
			t.record = t.record[:0]
		}
	}
	return nil
}

func (t *transmitter) seal(p []byte) error {
	_, err := t.secure.Write(p)
	return err
}

// reset lets go of the batch.
func (t *transmitter) reset() {
	t.batch.release()
	t.next, t.start, t.part = 0, 0, 0
}

// Transmit writes what is sent, until the connection is over, and returns why that is:
// nil after Finish. It is called once, by a goroutine that it may keep.
func (c *Conn) Transmit() error {
	if !c.out.begin() {
		return c.Err()
	}
	defer c.out.end(&c.transmitter)
	for c.out.take(&c.transmitter) {
		for all := false; !all; {
			var err error
			if all, err = c.transmitter.step(true, c.written); err != nil {
				c.cannotWrite("link.Transmit", err)
				return c.Err()
			}
		}
		c.transmitter.reset()
	}
	if c.out.lost() {
		return c.Err()
	}
	c.endWriting()
	return nil
}

// written lets go of frames that were written.
func (c *Conn) written(items []item, bytes int) {
	for i := range items {
		items[i].release()
	}
	if tell := c.out.sent(len(items), bytes); tell && c.options.Room != nil {
		c.options.Room()
	}
}

// Flush sends what was queued: from here, as far as that goes without waiting, else by
// Transmit. At low load that is quicker by a goroutine's wake-up than Send and TrySend
// are, which leave it to Transmit.
func (c *Conn) Flush() {
	if !c.out.lend(&c.transmitter) {
		return
	}
	all, err := c.transmitter.step(false, c.written)
	if all || err != nil {
		c.transmitter.reset()
	}
	c.out.giveBack(!all && err == nil)
	if err != nil {
		c.cannotWrite("link.Flush", err)
	}
}

// endWriting tells the other end that nothing more comes.
func (c *Conn) endWriting() {
	_ = c.socket.stopGathering() // if it is broken, reading says so
	if c.transmitter.secure != nil {
		_ = c.transmitter.secure.CloseWrite()
	}
	c.socket.closeWrite()
}

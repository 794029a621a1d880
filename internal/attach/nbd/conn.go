package nbd

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// conn is one client's connection after the handshake. Its reader, on a goroutine of
// its own, makes requests; the loop has the backend do them; its writer, on another
// goroutine, answers. A request is in one of their queues, so nothing is copied or
// allocated on the way.
type conn struct {
	f          *Frontend
	socket     net.Conn
	r          *bufio.Reader
	out        outlet
	structured bool
	mapped     bool // the client may ask for block status

	deliver func()        // on the loop
	part    chan struct{} // a part of a long write is done

	mu       sync.Mutex
	wake     sync.Cond // the writer waits here
	incoming queue     // for the loop
	posted   bool      // it knows
	outgoing queue     // for the writer
	inFlight int       // slots
	closing  bool      // nothing more is read
	broken   bool      // nothing more is written

	only *slot // the writer's: whose data must come next
}

func newConn(socket net.Conn) *conn {
	c := &conn{socket: socket, part: make(chan struct{}, 1)}
	c.wake.L = &c.mu
	c.deliver = c.onLoop
	return c
}

// serve answers requests until the client leaves, or is made to.
func (c *conn) serve(h *handshake, sendTimeout time.Duration) error {
	c.mu.Lock()
	c.socket, c.r = h.conn, h.r // which may be TLS by now
	c.mu.Unlock()
	c.structured, c.mapped = h.structured, h.mapped
	c.out = outlet{socket: c.socket, timeout: sendTimeout, buf: make([]byte, 0, bufferBytes)}
	written := make(chan struct{})
	go func() { defer close(written); c.write() }()
	err := c.read()
	c.hand() // what was read before the end is done too
	c.mu.Lock()
	c.closing = true
	c.wake.Signal()
	c.mu.Unlock()
	<-written
	gone := errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded)
	if gone { // or told to hang up
		return nil
	}
	return err
}

// hangUp ends the connection: at once, or after what is in flight was answered.
func (c *conn) hangUp(now bool) {
	c.mu.Lock()
	socket := c.socket
	c.mu.Unlock()
	if now {
		_ = socket.Close() // which ends reader and writer
		return
	}
	_ = socket.SetReadDeadline(time.Unix(1, 0)) // which ends the reader
}

// read makes requests of what the client sends.
func (c *conn) read() error {
	head := make([]byte, requestBytes)
	for {
		if c.r.Buffered() < requestBytes {
			c.hand()
		}
		if _, err := io.ReadFull(c.r, head); err != nil {
			return err
		}
		q, ok := parseRequest(head)
		if !ok {
			return fault.Errorf("nbd.read", fault.Invalid, "the client sent what is no request")
		}
		if q.cmd == cmdDisconnect {
			return nil
		}
		if q.cmd == cmdWrite && q.length > payloadBytesMax {
			return fault.Errorf("nbd.read", fault.Invalid, "the client sends %d bytes at once", q.length)
		}
		if err := c.request(q); err != nil {
			return err
		}
	}
}

// request does what the client asks for, or begins to.
func (c *conn) request(q request) error {
	n := 0
	if q.cmd == cmdRead || q.cmd == cmdWrite {
		n = int(min(q.length, attach.IOBytesMax))
	}
	s := c.f.slots.take(n, false)
	if s == nil {
		c.hand()
		if s = c.f.slots.take(n, true); s == nil {
			return net.ErrClosed
		}
	}
	s.conn, s.header = c, q
	c.mu.Lock()
	c.inFlight++
	c.mu.Unlock()
	errno := c.f.fill(s)
	if errno == 0 && q.cmd == cmdBlockStatus && !c.mapped {
		errno = syscall.EINVAL
	}
	if errno != 0 {
		c.f.meter.Malformed()
		s.errno = wireErrno(errno)
	}
	if q.cmd == cmdWrite {
		return c.payload(s)
	}
	if errno != 0 {
		c.answer(s)
	} else {
		c.submit(s)
	}
	return nil
}

// payload reads what is to be written. More than a slot holds is written part by part.
func (c *conn) payload(s *slot) error {
	if s.errno != 0 {
		return c.skip(s)
	}
	for {
		if _, err := io.ReadFull(c.r, s.request.Buf); err != nil {
			c.release(s)
			return err
		}
		last := s.left == 0
		switch {
		case s.errno != 0 && last:
			c.answer(s)
			return nil
		case s.errno != 0: // of an earlier part
		case last:
			c.submit(s)
			return nil
		default:
			c.submit(s)
			c.hand()
			<-c.part
		}
		s.advance()
	}
}

// skip reads what won't be written, and answers.
func (c *conn) skip(s *slot) error {
	if _, err := io.CopyN(io.Discard, c.r, int64(s.header.length)); err != nil {
		c.release(s)
		return err
	}
	c.answer(s)
	return nil
}

// advance makes s the next part of what is longer than a slot.
func (s *slot) advance() {
	r := &s.request
	r.Offset += r.Length
	r.Length = min(s.left, attach.IOBytesMax)
	s.left -= r.Length
	r.Buf = s.buf[:r.Length:r.Length]
	r.Err = nil
}

// submit has the loop do s, soon.
func (c *conn) submit(s *slot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.incoming.push(s)
}

// hand makes sure that the loop does what was submitted.
func (c *conn) hand() {
	c.mu.Lock()
	post := c.incoming.head != nil && !c.posted
	c.posted = c.posted || post
	c.mu.Unlock()
	if post && !c.f.o.Loop.Post(c.deliver) {
		c.f.loopEnded()
		for s := c.take(); s != nil; s = c.take() {
			s.errno = uint32(syscall.ESHUTDOWN)
			c.done(s)
		}
	}
}

// take returns the next for the loop, or nil when it knows of none any more.
func (c *conn) take() *slot {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.incoming.pop(nil)
	if s == nil {
		c.posted = false
	}
	return s
}

// onLoop gives the backend what was submitted.
func (c *conn) onLoop() {
	for s := c.take(); s != nil; s = c.take() {
		c.f.submit(s)
	}
}

// done is called when the backend is done with s.
func (c *conn) done(s *slot) {
	if s.header.cmd == cmdWrite && s.left > 0 {
		c.part <- struct{}{}
		return
	}
	c.answer(s)
}

// answer has the writer answer s.
func (c *conn) answer(s *slot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.outgoing.push(s)
	c.wake.Signal()
}

// release gives s back.
func (c *conn) release(s *slot) {
	c.f.slots.put(s)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inFlight--
}

// write answers requests until nothing more is read and everything was answered.
func (c *conn) write() {
	for s := c.next(); s != nil; s = c.next() {
		if !c.broken {
			c.reply(s)
		}
		if s.header.cmd == cmdRead && s.left > 0 && s.errno == 0 && !c.broken {
			s.advance()
			c.submit(s)
			c.hand()
			continue
		}
		c.release(s)
	}
}

// next returns the next to be answered, or nil at the end.
func (c *conn) next() *slot {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if s := c.outgoing.pop(c.only); s != nil {
			return s
		}
		if c.out.pending() && !c.broken {
			c.mu.Unlock()
			c.check(c.out.flush())
			c.mu.Lock()
			continue
		}
		if c.closing && c.inFlight == 0 {
			return nil
		}
		c.wake.Wait()
	}
}

// check ends a connection that can't be written to.
func (c *conn) check(err error) {
	if err == nil {
		return
	}
	_ = c.socket.Close() // which ends the reader
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken, c.only = true, nil
}

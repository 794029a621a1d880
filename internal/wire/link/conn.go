package link

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/wire"
)

// Conn is a connection that has shaken hands. Its methods are for any goroutine, but
// Transmit and Receive are called once each. Who has a Conn must Close it in the end,
// unless Receive has returned.
type Conn struct {
	options Options
	socket  *socket
	stream  io.Reader // the socket, or TLS over it
	peer    wire.Hello
	version wire.Version

	out         outbox
	transmitter transmitter

	handle        func(*Frame)
	pendingFrames int // received and not released; the pool's lock guards them
	pendingBytes  int

	over atomic.Bool // the socket is closed, or about to be

	mu       sync.Mutex
	cause    error // why nothing more is sent; the first reason
	finished bool  // that is Finish
}

func newConn(s *socket, secure *tls.Conn, o Options) *Conn {
	c := &Conn{options: o, socket: s, stream: s, transmitter: transmitter{socket: s, secure: secure}}
	c.out.init(o.QueueFramesMax, o.QueueBytesMax)
	if secure != nil {
		c.stream = secure
		c.transmitter.record = make([]byte, 0, recordMax)
		s.startGathering()
	}
	return c
}

// Peer returns what the other end said of itself, and with TLS has proved.
func (c *Conn) Peer() wire.Hello { return c.peer }

// Version returns the version that both ends speak.
func (c *Conn) Version() wire.Version { return c.version }

// LastReceived returns when, by Options.Clock, anything came from the other end last;
// the handshake counts.
func (c *Conn) LastReceived() time.Duration { return time.Duration(c.socket.last.Load()) }

// Stats counts what went through a connection's socket, the handshake included.
type Stats struct {
	Reads, BytesIn   uint64
	Writes, BytesOut uint64
}

// Stats returns the counts until now.
func (c *Conn) Stats() Stats {
	s := c.socket
	return Stats{Reads: s.reads.Load(), BytesIn: s.bytesIn.Load(), Writes: s.writes.Load(), BytesOut: s.bytesOut.Load()}
}

// Send sends a message and waits, while the queue is full, until there is room. m may be
// used again when it returns; its data, if it has any, must stay as it is until hold is
// released, once. hold may be nil when the data never changes. After an error hold is not
// released.
//
// The error is fault.Invalid when m can't be said, else why the connection is over.
func (c *Conn) Send(tag wire.Tag, m wire.Message, hold Holder) error {
	return c.out.put(tag, m, hold, true, true)
}

// TrySend is Send that does not wait: when the queue is full it fails with fault.Busy,
// and Options.Room is called when there is room again.
func (c *Conn) TrySend(tag wire.Tag, m wire.Message, hold Holder) error {
	return c.out.put(tag, m, hold, false, true)
}

// Queue is TrySend that lets the message wait for Flush, so that many are sent with one
// system call. A message that is sent otherwise, or a full queue, takes it along, and
// Receive flushes before it waits for more frames.
func (c *Conn) Queue(tag wire.Tag, m wire.Message, hold Holder) error {
	return c.out.put(tag, m, hold, false, false)
}

// Err returns why the connection is over, nil while it is not.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause
}

// Finish takes nothing more to be sent, has what was queued sent, and then tells the
// other end that this was all. Transmit returns when that is done, Receive when the other
// end has gone too; neither waits for the other end longer than Options.LingerMax. Finish
// itself does not wait.
func (c *Conn) Finish() {
	c.mu.Lock()
	if c.cause == nil {
		c.cause = c.because("link.Finish", fault.Canceled, fmt.Errorf("this end has finished"))
		c.finished = true
	}
	cause := c.cause
	c.mu.Unlock()
	c.lastWords(cause, nil)
}

// lastWords bounds what is left of the connection's life in time.
func (c *Conn) lastWords(cause error, last wire.Message) {
	_ = c.socket.SetDeadline(time.Now().Add(c.options.LingerMax)) // fails only when it is closed already
	c.out.finish(cause, last)
}

// Close ends the connection at once. What was queued and not sent never will be; what
// was received stays with its holders. It does not wait.
func (c *Conn) Close() {
	c.end(c.because("link.Close", fault.Canceled, fmt.Errorf("this end has closed the connection")))
}

// fail ends the connection because of err.
func (c *Conn) fail(op string, err error) {
	kind, err := explain(err)
	c.end(c.because(op, kind, err))
}

// cannotWrite ends the sending because of err. What there is to read may say why, so
// Receive goes on for a moment.
func (c *Conn) cannotWrite(op string, err error) {
	kind, err := explain(err)
	c.mu.Lock()
	if c.cause == nil {
		c.cause = c.because(op, kind, err)
	}
	cause := c.cause
	c.mu.Unlock()
	_ = c.socket.SetReadDeadline(time.Now().Add(c.options.LingerMax)) // fails only when it is closed already
	c.out.abort(cause)
}

// because makes an error that names the connection.
func (c *Conn) because(op string, kind fault.Kind, err error) error {
	return fault.E(op, kind, block.VolumeID{}, fmt.Errorf("connection with node %s (%q, %s): %w",
		c.peer.Node, c.peer.Name, c.socket.RemoteAddr(), err))
}

// end ends the connection at once. The first cause counts, or the other end's own words.
func (c *Conn) end(cause error) {
	var words refusedError
	refused := errors.As(cause, &words)
	c.mu.Lock()
	if c.cause == nil || refused {
		c.cause = cause
	}
	cause = c.cause
	c.mu.Unlock()
	c.over.Store(true)
	c.out.abort(cause)
	c.options.Pool.wake()
	_ = c.socket.Conn.Close() // there is nothing to be done about it
}

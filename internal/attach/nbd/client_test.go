package nbd

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"

	"github.com/holdfast-io/holdfast/internal/attach/attachtest"
)

// client is one of the protocol, for the suite: with or without structured replies.
type client struct {
	dial       func() (net.Conn, error)
	name       string
	structured bool

	conn net.Conn
	info exportInfo

	send    sync.Mutex
	w       *bufio.Writer
	mu      sync.Mutex
	next    uint64
	waiting map[uint64]*call
	free    []*call
	lost    error
	ended   chan struct{}
}

// call is a request that was sent.
type call struct {
	cookie uint64
	buf    []byte // where a read's data goes
	offset uint64
	errno  syscall.Errno
	status []uint32
	done   chan error
}

type exportInfo struct {
	size             int64
	flags            uint16
	minimum, maximum uint32
}

var _ attachtest.Client = (*client)(nil)

// dialExport connects to an export.
func dialExport(dial func() (net.Conn, error), name string, structured bool) (*client, error) {
	c := &client{dial: dial, name: name, structured: structured, waiting: map[uint64]*call{}, ended: make(chan struct{})}
	conn, err := dial()
	if err != nil {
		return nil, err
	}
	t := &talker{conn: conn, r: bufio.NewReader(conn)}
	err = t.greet()
	if err == nil && structured {
		err = errors.Join(t.ask(optStructuredReply, nil), t.ask(optSetMetaContext, metaQuery(name, contextAlloc)))
	}
	if err == nil {
		c.info, err = t.choose(optGo, name)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	c.conn, c.w = conn, bufio.NewWriter(conn)
	go c.receive(t.r)
	return c, nil
}

// talker is a client's side of the handshake.
type talker struct {
	conn net.Conn
	r    *bufio.Reader
}

func (t *talker) greet() error {
	var b [18]byte
	if _, err := io.ReadFull(t.r, b[:]); err != nil {
		return err
	}
	_, err := t.conn.Write([]byte{0, 0, 0, flagFixedNewstyle | flagNoZeroes})
	return err
}

func (t *talker) option(option uint32, data []byte) error {
	b := be.AppendUint64(nil, magicOption)
	b = be.AppendUint32(b, option)
	b = be.AppendUint32(b, uint32(len(data)))
	_, err := t.conn.Write(append(b, data...))
	return err
}

// reply reads one answer.
func (t *talker) reply() (kind uint32, data []byte, err error) {
	var b [20]byte
	if _, err := io.ReadFull(t.r, b[:]); err != nil {
		return 0, nil, err
	}
	if be.Uint64(b[:]) != magicReply {
		return 0, nil, errors.New("no answer to an option")
	}
	data = make([]byte, be.Uint32(b[16:]))
	_, err = io.ReadFull(t.r, data)
	return be.Uint32(b[12:]), data, err
}

// ask wants an option acknowledged.
func (t *talker) ask(option uint32, data []byte) error {
	if err := t.option(option, data); err != nil {
		return err
	}
	for {
		kind, _, err := t.reply()
		if err != nil || kind == repAck {
			return err
		}
		if kind&repErr != 0 {
			return fmt.Errorf("option %d: answer %#x", option, kind)
		}
	}
}

// choose sends GO or INFO.
func (t *talker) choose(option uint32, name string) (i exportInfo, err error) {
	if err := t.option(option, goData(name, infoBlockSize)); err != nil {
		return i, err
	}
	for {
		kind, data, err := t.reply()
		switch {
		case err != nil || kind == repAck:
			return i, err
		case kind&repErr != 0:
			return i, fmt.Errorf("export %q: answer %#x", name, kind)
		case be.Uint16(data) == infoExport:
			i.size, i.flags = int64(be.Uint64(data[2:])), be.Uint16(data[10:])
		case be.Uint16(data) == infoBlockSize:
			i.minimum, i.maximum = be.Uint32(data[2:]), be.Uint32(data[10:])
		}
	}
}

func goData(name string, infos ...uint16) []byte {
	b := append(be.AppendUint32(nil, uint32(len(name))), name...)
	b = be.AppendUint16(b, uint16(len(infos)))
	for _, i := range infos {
		b = be.AppendUint16(b, i)
	}
	return b
}

func metaQuery(name string, queries ...string) []byte {
	b := append(be.AppendUint32(nil, uint32(len(name))), name...)
	b = be.AppendUint32(b, uint32(len(queries)))
	for _, q := range queries {
		b = append(be.AppendUint32(b, uint32(len(q))), q...)
	}
	return b
}

// receive reads answers until the connection ends.
func (c *client) receive(r *bufio.Reader) {
	defer close(c.ended)
	var err error
	head := make([]byte, structuredBytes)
	for err == nil {
		err = c.answer(r, head)
	}
	c.conn.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost = err
	for _, w := range c.waiting {
		w.done <- err
	}
	c.waiting = nil
}

func (c *client) answer(r *bufio.Reader, head []byte) error {
	if _, err := io.ReadFull(r, head[:simpleBytes]); err != nil {
		return err
	}
	w := c.find(be.Uint64(head[8:]))
	if w == nil {
		return fmt.Errorf("an answer to request %d, which nobody sent", be.Uint64(head[8:]))
	}
	switch be.Uint32(head) {
	case magicSimple:
		w.errno = syscall.Errno(be.Uint32(head[4:]))
		if w.errno == 0 && w.buf != nil {
			if _, err := io.ReadFull(r, w.buf); err != nil {
				return err
			}
		}
		c.end(w)
		return nil
	case magicStructured:
		return c.chunk(r, head, w)
	}
	return fmt.Errorf("%x is no answer", head)
}

func (c *client) chunk(r *bufio.Reader, head []byte, w *call) error {
	if _, err := io.ReadFull(r, head[simpleBytes:]); err != nil {
		return err
	}
	flags, kind, n := be.Uint16(head[4:]), be.Uint16(head[6:]), int(be.Uint32(head[16:]))
	switch kind {
	case chunkOffsetData:
		if _, err := io.ReadFull(r, head[:8]); err != nil {
			return err
		}
		at := int(be.Uint64(head) - w.offset)
		if at < 0 || at+n-8 > len(w.buf) {
			return fmt.Errorf("data at %d, outside of what was asked for", be.Uint64(head))
		}
		if _, err := io.ReadFull(r, w.buf[at:at+n-8]); err != nil {
			return err
		}
	default:
		data := make([]byte, n)
		if _, err := io.ReadFull(r, data); err != nil {
			return err
		}
		if kind == chunkError {
			w.errno = syscall.Errno(be.Uint32(data))
		} else if kind == chunkBlockStatus {
			for data = data[4:]; len(data) > 0; data = data[4:] {
				w.status = append(w.status, be.Uint32(data))
			}
		}
	}
	if flags&chunkDone != 0 {
		c.end(w)
	}
	return nil
}

func (c *client) find(cookie uint64) *call {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.waiting[cookie]
}

func (c *client) end(w *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, w.cookie)
	w.done <- nil
}

// begin returns a call with a number of its own.
func (c *client) begin(buf []byte, offset int64) (*call, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting == nil {
		return nil, syscall.EIO
	}
	var w *call
	if n := len(c.free); n > 0 {
		w, c.free = c.free[n-1], c.free[:n-1]
	} else {
		w = &call{done: make(chan error, 1)}
	}
	c.next++
	w.cookie, w.buf, w.offset, w.errno, w.status = c.next, buf, uint64(offset), 0, nil
	c.waiting[w.cookie] = w
	return w, nil
}

// do sends a request and waits for the answer. Data is what is written, buf what is
// read into.
func (c *client) do(q request, data, buf []byte) ([]uint32, error) {
	w, err := c.begin(buf, int64(q.offset))
	if err != nil {
		return nil, err
	}
	q.cookie = w.cookie
	if err := c.write(q, data); err != nil {
		c.conn.Close() // all that wait hear of it
	}
	if err := <-w.done; err != nil {
		return nil, syscall.EIO
	}
	errno, status := w.errno, w.status
	c.mu.Lock()
	c.free = append(c.free, w)
	c.mu.Unlock()
	if errno != 0 {
		return status, errno
	}
	return status, nil
}

func (c *client) write(q request, data []byte) error {
	c.send.Lock()
	defer c.send.Unlock()
	b := c.w.AvailableBuffer()
	b = be.AppendUint32(b, magicRequest)
	b = be.AppendUint16(b, q.flags)
	b = be.AppendUint16(b, q.cmd)
	b = be.AppendUint64(b, q.cookie)
	b = be.AppendUint64(b, q.offset)
	b = be.AppendUint32(b, q.length)
	if _, err := c.w.Write(b); err != nil {
		return err
	}
	if _, err := c.w.Write(data); err != nil {
		return err
	}
	return c.w.Flush()
}

func (c *client) Size() (int64, error) {
	i, err := c.ask()
	return i.size, err
}

func (c *client) BlockSize() (int, error) { return int(c.info.minimum), nil }

// ask asks anew, on a connection of its own: an export may have grown.
func (c *client) ask() (i exportInfo, err error) {
	conn, err := c.dial()
	if err != nil {
		return i, err
	}
	defer conn.Close()
	t := &talker{conn: conn, r: bufio.NewReader(conn)}
	if err := t.greet(); err != nil {
		return i, err
	}
	return t.choose(optInfo, c.name)
}

func (c *client) Read(p []byte, offset int64) error {
	_, err := c.do(request{cmd: cmdRead, offset: uint64(offset), length: uint32(len(p))}, nil, p)
	return err
}

func (c *client) Write(p []byte, offset int64) error {
	_, err := c.do(request{cmd: cmdWrite, offset: uint64(offset), length: uint32(len(p))}, p, nil)
	return err
}

func (c *client) WriteThrough(p []byte, offset int64) error {
	_, err := c.do(request{flags: cmdFUA, cmd: cmdWrite, offset: uint64(offset), length: uint32(len(p))}, p, nil)
	return err
}

func (c *client) Flush() error {
	_, err := c.do(request{cmd: cmdFlush}, nil, nil)
	return err
}

func (c *client) Discard(offset, length int64) error {
	_, err := c.do(request{cmd: cmdTrim, offset: uint64(offset), length: uint32(length)}, nil, nil)
	return err
}

func (c *client) Zero(offset, length int64) error {
	_, err := c.do(request{flags: cmdNoHole, cmd: cmdWriteZeroes, offset: uint64(offset), length: uint32(length)}, nil, nil)
	return err
}

// Close leaves politely: when the server has closed the connection, it has forgotten it.
func (c *client) Close() {
	if c.write(request{cmd: cmdDisconnect}, nil) != nil {
		c.conn.Close()
	}
	<-c.ended
}

// secure begins TLS.
func (t *talker) secure(config *tls.Config) error {
	if err := t.ask(optStartTLS, nil); err != nil {
		return err
	}
	secured := tls.Client(t.conn, config)
	t.conn, t.r = secured, bufio.NewReader(secured)
	return secured.Handshake()
}

// connect returns a client of an export, until the test ends.
func connect(t testing.TB, dial func() (net.Conn, error), name string, structured bool) *client {
	t.Helper()
	c, err := dialExport(dial, name, structured)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

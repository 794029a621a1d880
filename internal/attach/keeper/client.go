package keeper

import (
	"context"
	"errors"
	"net"
	"sync"

	"github.com/holdfast-io/holdfast/internal/attach/packet"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// Client is a connection to a keeper. Its methods may be called from any goroutine;
// they block until the keeper has answered, or until ctx is done, which ends the
// connection.
type Client struct {
	socket  *net.UnixConn
	pid     int
	lost    chan struct{}
	closing sync.Once
	closed  chan struct{}
	calls   sync.Mutex // one at a time
	replies chan reply
}

type reply struct {
	answer
	files []int
}

// Dial connects the data process: it returns when the one before it has gone.
func Dial(ctx context.Context, socket string) (*Client, error) { return dial(ctx, socket, roleData) }

// DialTool connects a tool, which can List, and Remove what nobody serves.
func DialTool(ctx context.Context, socket string) (*Client, error) {
	return dial(ctx, socket, roleTool)
}

func dial(ctx context.Context, path, role string) (*Client, error) {
	var d net.Dialer
	socket, err := d.DialContext(ctx, "unixpacket", path)
	if ctx.Err() != nil {
		return nil, gaveUp("Dial", ctx)
	}
	if err != nil {
		return nil, fault.WithCure(fault.Errorf("keeper.Dial", fault.Unavailable, "no keeper answers at %s: %w", path, err),
			"start one: holdfast keeper --socket "+path)
	}
	c := &Client{socket: socket.(*net.UnixConn), lost: make(chan struct{}), closed: make(chan struct{}),
		replies: make(chan reply, 1)}
	go c.receive()
	hello := request{Verb: "hello", MinVersion: minVersion, MaxVersion: maxVersion, Role: role}
	r, err := c.call(ctx, "Dial", &hello, nil)
	if err != nil {
		c.Close()
		return nil, err
	}
	c.pid = r.PID
	return c, nil
}

// receive hands on answers until the connection ends.
func (c *Client) receive() {
	defer close(c.lost)
	for {
		var r reply
		var err error
		if r.files, err = packet.Receive(c.socket, &r.answer); err != nil {
			return
		}
		select {
		case c.replies <- r:
		case <-c.closed:
			packet.CloseAll(r.files)
			return
		}
	}
}

// call sends a request and returns the answer.
func (c *Client) call(ctx context.Context, verb string, r *request, files []int) (reply, error) {
	c.calls.Lock()
	defer c.calls.Unlock()
	if err := packet.Send(c.socket, r, files); err != nil {
		return reply{}, c.broken(verb, err)
	}
	return c.next(ctx, verb)
}

// next returns the next answer. One that nobody waits for any more would be taken for
// that of the next call, so giving up ends the connection.
func (c *Client) next(ctx context.Context, verb string) (reply, error) {
	select {
	case a := <-c.replies:
		return a, fault.Wrap("keeper."+verb, a.Err("keeper"))
	case <-c.lost:
		select {
		case a := <-c.replies: // the last words
			return a, fault.Wrap("keeper."+verb, a.Err("keeper"))
		default:
		}
		return reply{}, c.broken(verb, net.ErrClosed)
	case <-ctx.Done():
		c.Close()
		return reply{}, gaveUp(verb, ctx)
	}
}

// gaveUp returns the error of a call whose ctx is done.
func gaveUp(verb string, ctx context.Context) error {
	kind := fault.Canceled
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		kind = fault.Timeout
	}
	return fault.E("keeper."+verb, kind, noVolume, ctx.Err())
}

func (c *Client) broken(verb string, err error) error {
	return fault.Errorf("keeper."+verb, fault.Unavailable, "the connection to the keeper is lost: %w", err)
}

// PID returns the keeper's process id.
func (c *Client) PID() int { return c.pid }

// Lost is closed when the connection has ended: the keeper is dead, or Close was
// called. Files that this process serves are then to be put into the next keeper.
func (c *Client) Lost() <-chan struct{} { return c.lost }

// Put has the keeper keep files under e.Name, instead of those that it keeps there,
// which it has closed when Put returns. The new ones stay open here too. This process then serves them, until it releases them or
// ends.
func (c *Client) Put(ctx context.Context, e Entry, files []int) error {
	if len(e.Meta) > MetaBytesMax || len(files) > FilesMax {
		return fault.Errorf("keeper.Put", fault.Invalid, "%q: %d files and %d bytes are too many", e.Name, len(files), len(e.Meta))
	}
	_, err := c.call(ctx, "Put", &request{Verb: "put", Entry: &e}, files)
	return err
}

// Get returns what is kept under the name, with descriptors of its files that are the
// caller's, in the order in which they were put and of ascending numbers. Who means to
// serve them must Put them before it does: until then they count as being served by
// nobody. The error is fault.NotFound when nothing is kept there.
func (c *Client) Get(ctx context.Context, name string) (Entry, []int, error) {
	r, err := c.call(ctx, "Get", &request{Verb: "get", Name: name}, nil)
	if err != nil {
		return Entry{}, nil, err
	}
	if r.Entry == nil {
		packet.CloseAll(r.files)
		return Entry{}, nil, fault.Errorf("keeper.Get", fault.Internal, "an answer without an entry for %q", name)
	}
	return *r.Entry, r.files, nil
}

// Release says that this process does not serve the name's files any more: cleanly, so
// that its successor has nothing to repeat, or not.
func (c *Client) Release(ctx context.Context, name string, clean bool) error {
	_, err := c.call(ctx, "Release", &request{Verb: "release", Name: name, Clean: clean}, nil)
	return err
}

// Remove has the keeper forget the name and close its files. What is not there is
// removed. A tool gets fault.Busy for what is being served.
func (c *Client) Remove(ctx context.Context, name string) error {
	_, err := c.call(ctx, "Remove", &request{Verb: "remove", Name: name}, nil)
	return err
}

// List returns all that is kept, by name.
func (c *Client) List(ctx context.Context) ([]Entry, error) {
	c.calls.Lock()
	defer c.calls.Unlock()
	if err := packet.Send(c.socket, &request{Verb: "list"}, nil); err != nil {
		return nil, c.broken("List", err)
	}
	var list []Entry
	for {
		r, err := c.next(ctx, "List")
		if err != nil {
			return nil, err
		}
		if r.Entry == nil {
			return list, nil
		}
		list = append(list, *r.Entry)
	}
}

// Close ends the connection. If this is the data process, the next one is admitted.
func (c *Client) Close() {
	c.closing.Do(func() {
		close(c.closed)
		_ = c.socket.Close() // nothing is lost with it
	})
}

package keeper

import (
	"net"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/attach/packet"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// sendWait is how long a client may take to make room for an answer.
const sendWait = 5 * time.Second

// conn is one client.
type conn struct {
	k        *keeper
	socket   *net.UnixConn
	role     string
	version  int
	admitted atomic.Bool
}

// serve answers a client until it goes, or says what it must not.
func (k *keeper) serve(socket *net.UnixConn) {
	defer socket.Close()
	if !trusted(socket) {
		k.log("a connection of another user was refused")
		return
	}
	c := &conn{k: k, socket: socket}
	defer k.leave(c)
	for {
		var r request
		files, err := packet.Receive(socket, &r)
		if err == nil {
			err = c.handle(&r, files)
		}
		if fault.KindOf(err) == fault.Invalid {
			_ = c.answer(failed(err), nil)
		}
		if err != nil {
			return
		}
	}
}

// trusted reports whether the peer is root, or the user that the keeper runs as.
func trusted(socket *net.UnixConn) (ok bool) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return false
	}
	err = raw.Control(func(fd uintptr) {
		peer, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		ok = err == nil && (peer.Uid == 0 || int(peer.Uid) == os.Geteuid())
	})
	return ok && err == nil
}

// handle does what r asks for and answers. An error ends the connection.
func (c *conn) handle(r *request, files []int) error {
	if r.Verb == "put" && c.role == roleData && r.Entry != nil {
		old, err := c.k.put(c, *r.Entry, files)
		if err != nil {
			old = files
		}
		packet.CloseAll(old)
		return c.result(err)
	}
	packet.CloseAll(files) // nothing else brings any
	switch {
	case r.Verb == "hello" && c.role == "":
		return c.hello(r)
	case !c.admitted.Load():
		return fault.Errorf("keeper", fault.Invalid, "the first message must be a hello, and its answer awaited")
	case r.Verb == "get":
		return c.get(r.Name)
	case r.Verb == "release":
		return c.result(c.k.release(c, r.Name, r.Clean))
	case r.Verb == "remove":
		old, err := c.k.remove(c, r.Name)
		packet.CloseAll(old)
		return c.result(err)
	case r.Verb == "list":
		for _, e := range c.k.list() {
			if err := c.answer(answer{Entry: &e}, nil); err != nil {
				return err
			}
		}
		return c.result(nil)
	}
	return fault.Errorf("keeper", fault.Invalid, "%q is nothing that this keeper does", r.Verb)
}

func (c *conn) hello(r *request) error {
	if r.MinVersion > maxVersion || r.MaxVersion < minVersion {
		return c.answer(failed(fault.Errorf("keeper", fault.Unsupported,
			"this keeper speaks versions %d to %d, its client %d to %d", minVersion, maxVersion, r.MinVersion, r.MaxVersion)), nil)
	}
	c.version = min(maxVersion, r.MaxVersion)
	switch c.role = r.Role; c.role {
	case roleTool:
		return c.welcome()
	case roleData:
		c.k.enter(c) // welcome answers
		return nil
	}
	return fault.Errorf("keeper", fault.Invalid, "%q is no role", r.Role)
}

// welcome tells the client that it is admitted.
func (c *conn) welcome() error {
	c.admitted.Store(true)
	return c.answer(answer{Version: c.version, PID: os.Getpid()}, nil)
}

func (c *conn) get(name string) error {
	e, files, err := c.k.get(c, name)
	if err != nil {
		return c.result(err)
	}
	defer packet.CloseAll(files)
	return c.answer(answer{Entry: &e}, files)
}

func (c *conn) result(err error) error {
	if err != nil {
		return c.answer(failed(err), nil)
	}
	return c.answer(answer{PID: os.Getpid()}, nil)
}

// answer sends a; a client that does not read loses its connection.
func (c *conn) answer(a answer, files []int) error {
	_ = c.socket.SetWriteDeadline(time.Now().Add(sendWait)) // fails only on a closed socket
	return packet.Send(c.socket, a, files)
}

// failed returns err as an answer.
func failed(err error) answer { return answer{PID: os.Getpid(), Failure: packet.Fail(err)} }

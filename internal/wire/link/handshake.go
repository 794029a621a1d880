package link

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/wire"
)

// Target is who is dialed.
type Target struct {
	Network string // tcp or unix
	Address string // host:port or path
	Node    block.NodeID
}

// Dial connects to a node and shakes hands, within Options.HandshakeMax. The error is
// fault.Denied when somebody else answers, or the node does not believe this one;
// fault.Unsupported when there is no version in common; fault.Invalid when what answers
// is no Holdfast; fault.Timeout, fault.Canceled or fault.Unavailable when nothing does.
func Dial(ctx context.Context, to Target, o Options) (*Conn, error) {
	o = o.withDefaults()
	if err := o.check(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, o.HandshakeMax)
	defer cancel()
	var d net.Dialer
	nc, err := d.DialContext(ctx, to.Network, to.Address)
	if err != nil {
		return nil, about("link.Dial", to.Address, err)
	}
	c, err := establish(ctx, nc, o, func(h *handshake) error { return h.dial(ctx, to.Node) })
	return c, about("link.Dial", to.Address, err)
}

// Accept shakes hands with who has connected to nc, within Options.HandshakeMax. It
// closes nc when that fails; the errors are those of Dial. It costs some tens of KiB
// until the other end has proved who it is: the caller limits how many it does at once.
func Accept(ctx context.Context, nc net.Conn, o Options) (*Conn, error) {
	from := nc.RemoteAddr().String()
	o = o.withDefaults()
	if err := o.check(); err != nil {
		_ = nc.Close() // it was not used
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, o.HandshakeMax)
	defer cancel()
	c, err := establish(ctx, nc, o, func(h *handshake) error { return h.accept(ctx) })
	return c, about("link.Accept", from, err)
}

// about says which address an error concerns.
func about(op, address string, err error) error {
	if err == nil {
		return nil
	}
	kind, err := explain(err)
	return fault.E(op, kind, block.VolumeID{}, fmt.Errorf("%s: %w", address, err))
}

// establish makes a connection of nc if shake succeeds before ctx is done.
func establish(ctx context.Context, nc net.Conn, o Options, shake func(*handshake) error) (*Conn, error) {
	h := &handshake{options: &o, socket: newSocket(nc, o.Clock)}
	h.socket.tune(o.UnackedMax)
	h.stream = h.socket
	undo := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	err := shake(h)
	if !undo() && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = nc.Close() // the error to tell is the other one
		return nil, err
	}
	c := newConn(h.socket, h.secure, o)
	c.peer, c.version = h.peer, h.version
	return c, nil
}

// handshake is the beginning of a connection.
type handshake struct {
	options *Options
	socket  *socket
	secure  *tls.Conn
	stream  io.ReadWriter
	proved  block.NodeID // by its certificate
	peer    wire.Hello
	version wire.Version
}

// dial is the handshake of the end that has dialed node.
func (h *handshake) dial(ctx context.Context, node block.NodeID) error {
	if cr := h.options.Credentials; cr != nil {
		h.secure = tls.Client(h.socket, cr.config(h.options.Self.Cluster, x509.ExtKeyUsageServerAuth, &h.proved))
		if err := h.shakeTLS(ctx); err != nil {
			return err
		}
	}
	unsaid := h.say(&h.options.Self) // who has hung up already may have said why
	if err := h.meet(); err != nil {
		return err
	}
	if unsaid != nil {
		return unsaid
	}
	if h.peer.Node != node {
		return h.refuse(fault.Errorf("link.Dial", fault.Denied, "node %s (%q) answers, not %s", h.peer.Node, h.peer.Name, node))
	}
	return nil
}

// accept is the handshake of the other end.
func (h *handshake) accept(ctx context.Context) error {
	if cr := h.options.Credentials; cr != nil {
		h.secure = tls.Server(h.socket, cr.config(h.options.Self.Cluster, x509.ExtKeyUsageClientAuth, &h.proved))
		if err := h.shakeTLS(ctx); err != nil {
			return err
		}
	}
	if err := h.meet(); err != nil {
		return err
	}
	return h.say(&h.options.Self)
}

func (h *handshake) shakeTLS(ctx context.Context) error {
	h.stream = h.secure
	return h.secure.HandshakeContext(ctx)
}

// meet reads the peer's Hello and decides whether it is one to go on with.
func (h *handshake) meet() error {
	m, err := h.listen()
	if err != nil {
		if wrong := (protocolError{}); errors.As(err, &wrong) {
			return h.refuse(wrong.error)
		}
		return err
	}
	switch m := m.(type) {
	case *wire.Refuse:
		return m.Err("link.Hello")
	case *wire.Hello:
		h.peer = *m
	}
	if h.secure != nil && h.peer.Node != h.proved {
		return h.refuse(fault.Errorf("link.Hello", fault.Denied, "node %s has the certificate of node %s", h.peer.Node, h.proved))
	}
	if h.version, err = wire.Agree(&h.options.Self, &h.peer); err != nil {
		return h.refuse(err)
	}
	return nil
}

// say writes a message.
func (h *handshake) say(m wire.Message) error {
	head, err := wire.Append(nil, wire.Tag{}, m)
	if err != nil {
		return err
	}
	_, err = h.stream.Write(head)
	return err
}

const checkTLS = "check the address, and that both ends use TLS or neither does"

// headMax is the most bytes in the head of a Hello or a Refuse.
const headMax = wire.HeaderSize + wire.TextMax

// listen reads the peer's first message: Hello, or Refuse.
func (h *handshake) listen() (wire.Message, error) {
	const op = "link.Hello"
	var room [headMax]byte
	head := room[:wire.HeaderSize]
	if _, err := io.ReadFull(h.stream, head); err != nil {
		if kind, why := explain(err); h.secure == nil && kind == fault.Unavailable {
			err = fault.WithCure(fault.E(op, kind, block.VolumeID{}, why), checkTLS)
		}
		return nil, err
	}
	header, err := wire.ParseHeader(head)
	if err == nil && (header.Kind != wire.KindHello && header.Kind != wire.KindRefuse || header.HeadSize() > headMax) {
		err = fault.Errorf(op, fault.Invalid, "%s comes first", header.Kind)
	}
	if err != nil {
		err = fault.E(op, fault.Invalid, block.VolumeID{}, fmt.Errorf("the other end is no holdfast, or one that needs TLS: %w", err))
		return nil, protocolError{fault.WithCure(err, checkTLS)}
	}
	head = room[:header.HeadSize()]
	if _, err := io.ReadFull(h.stream, head[wire.HeaderSize:]); err != nil {
		return nil, err
	}
	m, err := new(wire.Box).Decode(head)
	if err != nil {
		return nil, protocolError{err}
	}
	return m, nil
}

// refuse tells the peer why not, waits until it has gone, or for LingerMax, and returns
// err.
func (h *handshake) refuse(err error) error {
	_ = h.socket.SetDeadline(time.Now().Add(h.options.LingerMax))
	if h.say(refusal(err)) != nil {
		return err
	}
	if h.secure != nil {
		_ = h.secure.CloseWrite()
	}
	h.socket.closeWrite()
	_, _ = io.Copy(io.Discard, io.LimitReader(h.stream, discardMax))
	return err
}

// discardMax bounds what is read from a peer that was refused.
const discardMax = 1 << 20

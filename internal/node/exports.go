package node

import (
	"net"
	"net/url"
	"path/filepath"
	"sync"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/attach/nbd"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/obs"
)

// exports are the addresses at which clients of the NBD protocol find volumes. Each has
// a server of its own, so that who may connect to one sees only what is exported there.
type exports struct {
	d *daemon

	mu   sync.Mutex
	list map[string]*exported // by address
}

// exported is one address.
type exported struct {
	of     *exports
	at     string
	uri    func(volume string) string
	server *nbd.Server
	users  int // volumes that are exported here, or are about to be
}

func newExports(d *daemon) *exports { return &exports{d: d, list: map[string]*exported{}} }

// open returns the address that is asked for, and listens there from now on. Its users
// leave it when they are done.
func (e *exports) open(volume string, x *v1.Export) (*exported, error) {
	network, at, err := e.resolve(volume, x)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.list[at]
	if p == nil {
		if p, err = e.listen(network, at); err != nil {
			return nil, err
		}
		e.list[at] = p
	}
	p.users++
	return p, nil
}

// resolve returns where to listen for what is asked for.
func (e *exports) resolve(volume string, x *v1.Export) (network, at string, err error) {
	wrong := func(cure, format string, args ...any) error {
		return fault.WithCure(fault.Errorf("node.export", fault.Invalid, format, args...), cure)
	}
	switch listen := x.GetListen(); {
	case listen != "" && e.d.o.ExportTLS == nil:
		return "", "", wrong("export on a Unix socket", "this node exports nothing over TCP, because it has no certificates for that")
	case listen != "":
		host, port, err := net.SplitHostPort(listen)
		if err != nil {
			return "", "", wrong("give IP:port, or :port", "%q is no address: %v", listen, err)
		}
		if host == "" {
			if host, _, err = net.SplitHostPort(e.d.o.Listen); err != nil {
				return "", "", wrong("give IP:port", "this node's own address is not known: %v", err)
			}
		}
		return "tcp", net.JoinHostPort(host, port), nil
	case x.GetSocket() != "":
		return "unix", x.Socket, nil
	case e.d.o.ExportDir == "":
		return "", "", wrong("name one", "this node has no directory for the sockets of exports")
	}
	return "unix", filepath.Join(e.d.o.ExportDir, volume+".sock"), nil
}

// listen begins to listen at an address.
func (e *exports) listen(network, at string) (*exported, error) {
	p := &exported{of: e, at: at, server: nbd.NewServer(nbd.ServerOptions{Log: e.d.o.Log})}
	if network == "unix" {
		l, err := nbd.Listen(at)
		if err != nil {
			return nil, err
		}
		p.uri = func(volume string) string {
			return "nbd+unix:///" + volume + "?socket=" + (&url.URL{Path: at}).EscapedPath()
		}
		p.serve(l)
		return p, nil
	}
	l, err := net.Listen("tcp", at)
	if err != nil {
		return nil, fault.WithCure(fault.Errorf("node.export", fault.KindOf(err), "%w", err), "choose another address, or end what uses it")
	}
	shown := e.reached(l.Addr().String())
	p.uri = func(volume string) string {
		return (&url.URL{Scheme: "nbds", Host: shown, Path: "/" + volume}).String()
	}
	p.serve(l)
	return p, nil
}

// reached returns the address that clients use for one that this node listens at: one that
// stands for all of the machine's is no address to connect to.
func (e *exports) reached(at string) string {
	host, port, err := net.SplitHostPort(at)
	if err != nil {
		return at
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		if own, _, err := net.SplitHostPort(e.d.o.Advertise); err == nil {
			host = own
		}
	}
	return net.JoinHostPort(host, port)
}

// serve takes clients until the server is closed.
func (p *exported) serve(l net.Listener) {
	config := p.of.d.o.ExportTLS
	if l.Addr().Network() == "unix" {
		config = nil
	}
	go func() {
		if err := p.server.Serve(l, config); err != nil && !fault.Is(err, fault.Canceled) {
			p.of.d.o.Log.Error("an export takes no more clients", "address", p.at, obs.Err(err))
		}
	}()
}

// leave ends the use of an address for a volume, after its export has ended. With the last
// one the address is closed.
func (p *exported) leave() {
	p.of.mu.Lock()
	if p.users--; p.users > 0 {
		p.of.mu.Unlock()
		return
	}
	if p.of.list[p.at] == p {
		delete(p.of.list, p.at)
	}
	// Closed before somebody else can listen there: the socket's name goes with the listener.
	p.server.Close()
	p.of.mu.Unlock()
}

// close closes all addresses, whoever uses them.
func (e *exports) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for at, p := range e.list {
		p.server.Close()
		delete(e.list, at)
	}
}

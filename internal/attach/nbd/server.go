package nbd

import (
	"cmp"
	"crypto/tls"
	"errors"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/obs"
)

// ServerOptions limit a server; zero values mean what their comments say.
type ServerOptions struct {
	Connections      int           // at once, those that shake hands included; more are refused; 0 is 64
	HandshakeTimeout time.Duration // 0 is 30 s
	SendTimeout      time.Duration // for a client to take something; 0 is one minute
	Log              *slog.Logger  // nil is slog.Default
}

// Server exports volumes on the sockets that it is given.
type Server struct {
	o ServerOptions

	mu        sync.Mutex
	closed    bool
	exports   map[string]*Frontend
	listeners map[net.Listener]bool
	sockets   map[net.Conn]bool
	working   sync.WaitGroup
}

// NewServer returns a server without exports that listens nowhere.
func NewServer(o ServerOptions) *Server {
	o.Connections = cmp.Or(o.Connections, 64)
	o.HandshakeTimeout = cmp.Or(o.HandshakeTimeout, 30*time.Second)
	o.SendTimeout = cmp.Or(o.SendTimeout, time.Minute)
	o.Log = cmp.Or(o.Log, slog.Default())
	return &Server{o: o, exports: map[string]*Frontend{}, listeners: map[net.Listener]bool{}, sockets: map[net.Conn]bool{}}
}

// Listen makes the Unix socket at path, which only the user of this process can reach,
// in the place of one that a dead process has left.
func Listen(path string) (net.Listener, error) {
	fail := func(err error) (net.Listener, error) {
		return nil, fault.Errorf("nbd.Listen", fault.KindOf(err), "%w", err)
	}
	if c, err := net.Dial("unix", path); err == nil {
		_ = c.Close() // nothing was said
		return nil, fault.Errorf("nbd.Listen", fault.Busy, "somebody listens at %s", path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fail(err)
	}
	if err := removeSocket(path); err != nil {
		return nil, err
	}
	mask := unix.Umask(0o077)
	l, err := net.Listen("unix", path)
	unix.Umask(mask)
	if err != nil {
		return fail(err)
	}
	return l, nil
}

// removeSocket removes a socket that a dead process has left, and nothing else.
func removeSocket(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err == nil && info.Mode().Type() != os.ModeSocket:
		return fault.WithCure(fault.Errorf("nbd.Listen", fault.Exists, "%s is there, and no socket", path), "choose another path")
	case err == nil:
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fault.Errorf("nbd.Listen", fault.KindOf(err), "%w", err)
	}
	return nil
}

// Serve takes clients from l, until l or the server is closed. With a config, clients
// must begin TLS before they learn anything; without one nothing is secret or proved,
// which is for Unix sockets.
func (s *Server) Serve(l net.Listener, config *tls.Config) error {
	if !s.begin(l) {
		_ = l.Close()
		return fault.Errorf("nbd.Serve", fault.Canceled, "%w", errClosed)
	}
	defer s.working.Done()
	for {
		c, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil: // out of descriptors, say
			s.o.Log.Warn("an NBD client can't be accepted", obs.Err(err))
			time.Sleep(100 * time.Millisecond)
		case !s.enter(c):
			_ = c.Close() // too many, or closed
		default:
			go func() {
				defer s.exit(c)
				s.handle(c, config)
			}()
		}
	}
}

func (s *Server) begin(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.listeners[l] = true
		s.working.Add(1)
	}
	return !s.closed
}

func (s *Server) enter(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.sockets) >= s.o.Connections {
		return false
	}
	s.sockets[c] = true
	s.working.Add(1)
	return true
}

func (s *Server) exit(c net.Conn) {
	_ = c.Close() // all that matters was written
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sockets, c)
	s.working.Done()
}

// handle serves one client.
func (s *Server) handle(socket net.Conn, config *tls.Config) {
	if tcp, ok := socket.(*net.TCPConn); ok {
		_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3})
	}
	_ = socket.SetDeadline(time.Now().Add(s.o.HandshakeTimeout))
	c, h := newConn(socket), newHandshake(socket, s, config)
	err := h.run(c)
	if err == nil {
		_ = socket.SetDeadline(time.Time{})
		if c.f.isOpen() { // else it was told to hang up before that
			err = c.serve(h, s.o.SendTimeout)
		}
	}
	if c.f != nil {
		c.f.leave(c)
	}
	_ = h.conn.Close() // now that the export does not count it any more
	if err != nil {
		s.o.Log.Debug("an NBD client was disconnected", obs.Err(err))
	}
}

// Close stops listening, ends all connections, and returns when they have ended; exports
// that are not stopped stay without clients.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	for l := range s.listeners {
		_ = l.Close() // nothing is lost with it
	}
	for c := range s.sockets {
		_ = c.Close() // which ends its goroutines
	}
	s.mu.Unlock()
	s.working.Wait()
}

func (s *Server) add(f *Frontend) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.exports[f.o.Name] != nil {
		return fault.Errorf("nbd.Start", fault.Exists, "there is an export %q", f.o.Name)
	}
	s.exports[f.o.Name] = f
	return nil
}

func (s *Server) remove(f *Frontend) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.exports[f.o.Name] == f {
		delete(s.exports, f.o.Name)
	}
}

// names returns the exports, sorted.
func (s *Server) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.exports))
}

// find returns the export of the name, or nil.
func (s *Server) find(name string) *Frontend {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.exports[name]
}

package link

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/host"
)

// socket is the kernel's end of a connection. It knows when something was received last,
// counts, and gathers what package tls writes record by record into one write.
type socket struct {
	net.Conn
	clock host.Clock
	last  atomic.Int64 // by clock, in ns

	reads, bytesIn   atomic.Uint64
	writes, bytesOut atomic.Uint64

	mu     sync.Mutex // for gather and out: package tls may write from both sides
	gather bool
	out    []byte
	one    [1][]byte // for flush

	now nowWriter

	beforeRead func() // nil, or called before every read, which may wait
}

func newSocket(nc net.Conn, clock host.Clock) *socket {
	s := &socket{Conn: nc, clock: clock}
	s.last.Store(int64(clock.Now()))
	s.now.init(s)
	return s
}

// gatherMax is how much a socket gathers: what one write of a busy connection takes.
const gatherMax = 256 << 10

// Read counts, and notes the time.
func (s *socket) Read(b []byte) (int, error) {
	if s.beforeRead != nil {
		s.beforeRead()
	}
	n, err := s.Conn.Read(b)
	if n > 0 {
		s.reads.Add(1)
		s.bytesIn.Add(uint64(n))
		s.last.Store(int64(s.clock.Now()))
	}
	return n, err
}

// Write writes b, now or with the next flush.
func (s *socket) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.gather {
		return s.write(b)
	}
	if len(s.out)+len(b) > gatherMax {
		if err := s.writeOut(); err != nil {
			return 0, err
		}
	}
	s.out = append(s.out, b...)
	return len(b), nil
}

func (s *socket) write(b []byte) (int, error) {
	n, err := s.Conn.Write(b)
	s.count(n)
	return n, err
}

// writeList writes a list of buffers with one system call when the socket has room, and
// returns how many bytes it wrote: all of them, if it may wait. The list is not to be
// used any more.
func (s *socket) writeList(list *net.Buffers, wait bool) (int, error) {
	if !wait {
		return s.now.write(*list)
	}
	n, err := list.WriteTo(s.Conn)
	s.count(int(n))
	return int(n), err
}

func (s *socket) count(n int) {
	s.writes.Add(1)
	s.bytesOut.Add(uint64(n))
}

// startGathering makes writes wait for flush.
func (s *socket) startGathering() {
	s.gather = true
}

// stopGathering writes what waits, and from then on at once.
func (s *socket) stopGathering() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gather = false
	return s.writeOut()
}

// flush writes what was gathered, or, without wait, what the socket takes at once. It
// reports whether that was all.
func (s *socket) flush(wait bool) (all bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if wait {
		return true, s.writeOut()
	}
	s.one[0] = s.out
	n, err := s.now.write(s.one[:])
	s.out = s.out[:copy(s.out, s.out[n:])]
	return len(s.out) == 0, err
}

func (s *socket) writeOut() error {
	if len(s.out) == 0 {
		return nil
	}
	_, err := s.write(s.out)
	s.out = s.out[:0]
	return err
}

// closeWrite tells the other end that nothing more comes.
func (s *socket) closeWrite() {
	if c, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite() // if it is broken, reading says so
	}
}

// tune makes the kernel find out about a peer that has vanished. Whatever it refuses,
// the connection works without; LastReceived does not depend on it.
func (s *socket) tune(unackedMax time.Duration) {
	tcp, ok := s.Conn.(*net.TCPConn)
	if !ok {
		return
	}
	_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: unackedMax / 2, Interval: max(time.Second, unackedMax/6), Count: 3})
	if raw, err := tcp.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unackedMax.Milliseconds()))
		})
	}
}

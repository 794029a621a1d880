package nbd

import (
	"net"
	"path/filepath"
	"sync"
	"testing"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/attach/attachtest"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
)

func TestConformance(t *testing.T) { attachtest.Run(t, suiteOf(true)) }

// TestConformanceOfSimpleReplies is for clients that know no structured ones.
func TestConformanceOfSimpleReplies(t *testing.T) { attachtest.Run(t, suiteOf(false)) }

// servers are the tests' servers, by directory.
var servers sync.Map

func socketOf(dir string) string { return filepath.Join(dir, "nbd.sock") }

func dialer(dir string) func() (net.Conn, error) {
	return func() (net.Conn, error) { return net.Dial("unix", socketOf(dir)) }
}

// startServer starts one that ends with the test.
func startServer(t testing.TB, dir string) *Server {
	t.Helper()
	l, err := Listen(socketOf(dir))
	must(t, err)
	s := NewServer(ServerOptions{})
	servers.Store(dir, s)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l, nil) }()
	t.Cleanup(func() {
		servers.Delete(dir)
		s.Close()
		if err := patiently.From(t, served); err != nil && !fault.Is(err, fault.Canceled) { // it was closed before it began
			t.Error(err)
		}
	})
	return s
}

func suiteOf(structured bool) attachtest.Suite {
	var dirs sync.Map // by front end
	return attachtest.Suite{
		Volatile: true, Coarse: true,
		Prepare: func(t testing.TB, dir string) { startServer(t, dir) },
		New: func(dir string, o attach.Options) (attach.Frontend, func(), error) {
			s, _ := servers.Load(dir)
			f, err := New(o, s.(*Server))
			if err != nil {
				return nil, nil, err
			}
			dirs.Store(f, dir)
			return f, func() { dirs.Delete(f) }, nil
		},
		Open: func(t testing.TB, f attach.Frontend) attachtest.Client {
			dir, _ := dirs.Load(f)
			return connect(t, dialer(dir.(string)), f.(*Frontend).o.Name, structured)
		},
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

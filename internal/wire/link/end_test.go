package link_test

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
	"github.com/holdfast-io/holdfast/internal/wire"
	"github.com/holdfast-io/holdfast/internal/wire/link"
)

func TestConnectionCutUnderneath(t *testing.T) {
	for _, tr := range transports {
		t.Run(tr.String(), func(t *testing.T) {
			l := listen(t, tr.network)
			got := acceptOne(l, options(t, 2, tr.secure))
			near, far := proxy(t, l)
			dialed, err := link.Dial(t.Context(), link.Target{Network: tr.network, Address: near, Node: node(2)}, options(t, 1, tr.secure))
			if err != nil {
				t.Fatal(err)
			}
			accepted := patiently.From(t, got)
			if accepted.err != nil {
				t.Fatal(accepted.err)
			}
			a := run(t, dialed, release)
			arrived, goOn := make(chan struct{}, 1), make(chan struct{})
			b := run(t, accepted.conn, func(f *link.Frame) {
				if f.Tag.ID == 0 {
					arrived <- struct{}{}
					patiently.From(t, goOn)
				}
				f.Release()
			})
			taken := stuck(t, dialed)
			patiently.From(t, arrived)
			waiting := make(chan error, 1)
			go func() {
				var err error
				for err == nil {
					err = dialed.Send(wire.Tag{}, &wire.Flush{}, nil)
				}
				waiting <- err
			}()
			far.cut()
			for _, err := range []error{patiently.From(t, a.received), patiently.From(t, a.transmitted), patiently.From(t, waiting), dialed.Send(wire.Tag{}, &wire.Flush{}, nil),
				dialed.TrySend(wire.Tag{}, &wire.Flush{}, nil), dialed.Err()} {
				if !fault.Is(err, fault.Unavailable) {
					t.Errorf("%v (%s), want %s", err, fault.KindOf(err), fault.Unavailable)
				}
			}
			for i, h := range taken {
				if n := h.released.Load(); n != 1 {
					t.Errorf("data %d was released %d times", i, n)
				}
			}
			close(goOn)
			if err := patiently.From(t, b.received); !fault.Is(err, fault.Unavailable) {
				t.Errorf("the other end: %v (%s)", err, fault.KindOf(err))
			}
		})
	}
}

// pipe is a connection through a proxy.
type pipe struct {
	mu   sync.Mutex
	ends []net.Conn
}

// cut closes both sides of the proxy, as the death of a machine between them would.
func (p *pipe) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.ends {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = c.Close()
	}
}

// proxy carries one connection to l and returns the address to dial instead.
func proxy(t *testing.T, l net.Listener) (address string, p *pipe) {
	network := l.Addr().Network()
	front := listen(t, network)
	p = &pipe{}
	go func() {
		near, err := front.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial(network, l.Addr().String())
		if err != nil {
			_ = near.Close()
			return
		}
		p.mu.Lock()
		p.ends = []net.Conn{near, far}
		p.mu.Unlock()
		go func() { _, _ = io.Copy(far, near) }()
		_, _ = io.Copy(near, far)
	}()
	t.Cleanup(p.cut)
	return front.Addr().String(), p
}

func TestFinishSendsWhatWasQueued(t *testing.T) {
	for _, tr := range transports {
		t.Run(tr.String(), func(t *testing.T) {
			a, b := connect(t, tr, nil)
			got := 0
			rb := run(t, b, func(f *link.Frame) {
				if f.Release(); f.Tag.ID == uint64(got) {
					got++
				}
			})
			ra := run(t, a, release)
			for id := range uint64(500) {
				if err := a.Queue(wire.Tag{ID: id}, message(id, 1), nil); err != nil {
					t.Fatal(err)
				}
			}
			a.Finish()
			a.Finish()
			if err := a.Send(wire.Tag{}, &wire.Flush{}, nil); !fault.Is(err, fault.Canceled) {
				t.Errorf("sending after the end: %v", err)
			}
			if err := patiently.From(t, ra.transmitted); err != nil {
				t.Errorf("Transmit: %v", err)
			}
			if err := patiently.From(t, rb.received); !fault.Is(err, fault.Unavailable) {
				t.Errorf("the other end's Receive: %v", err)
			}
			if got != 500 {
				t.Errorf("%d of 500 frames arrived", got)
			}
			if err := patiently.From(t, ra.received); err != nil {
				t.Errorf("Receive: %v", err)
			}
		})
	}
}

func TestFinishDoesNotWaitForeverForOneWhoDoesNotRead(t *testing.T) {
	for _, tr := range transports {
		a, b := connect(t, tr, func(dial, _ *link.Options) { dial.LingerMax = time.Millisecond })
		_ = b // does not read
		r := run(t, a, release)
		taken := stuck(t, a)
		a.Finish()
		for what, err := range map[string]error{"Transmit": patiently.From(t, r.transmitted), "Receive": patiently.From(t, r.received)} {
			if err == nil {
				t.Errorf("%v: %s says that the last words were heard", tr, what)
			}
		}
		for i, h := range taken {
			if n := h.released.Load(); n != 1 {
				t.Errorf("%v: data %d was released %d times", tr, i, n)
			}
		}
	}
}

func TestCloseEndsTheWaitForMemory(t *testing.T) {
	o := options(t, 2, false)
	a, b := connect(t, transport{"tcp", false}, func(_, accept *link.Options) {
		*accept = o
		accept.PendingFramesMax = 1
	})
	run(t, a, release)
	kept := make(chan *link.Frame, 10)
	r := run(t, b, func(f *link.Frame) { kept <- f })
	for id := range uint64(3) {
		if err := a.Send(wire.Tag{ID: id}, message(id, 1), nil); err != nil {
			t.Fatal(err)
		}
	}
	f := patiently.From(t, kept)
	b.Close()
	if err := patiently.From(t, r.received); !fault.Is(err, fault.Canceled) {
		t.Errorf("Receive: %v", err)
	}
	if f.Tag.ID != 0 || len(kept) > 0 || block.Checksum(f.Message.(*wire.Write).Data) != message(0, 1).Sums[0] {
		t.Errorf("the frame that was kept is %+v %+v, and %d more came", f.Tag, f.Message, len(kept))
	}
	f.Release()
	if frames, bytes := o.Pool.InUse(); frames != 0 || bytes != 0 {
		t.Errorf("%d frames with %d bytes were lost", frames, bytes)
	}
	panics(t, "a second Release", f.Release)
}

func TestFlushOnABrokenConnection(t *testing.T) {
	conn, raw := impostor(t, options(t, 2, false))
	r := run(t, conn, release)
	if err := raw.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	if err := raw.Close(); err != nil {
		t.Fatal(err)
	}
	patiently.True(t, "nothing can be queued", func() bool {
		err := conn.Queue(wire.Tag{}, &wire.Flush{}, nil)
		if err != nil && !fault.Is(err, fault.Unavailable) && !fault.Is(err, fault.Busy) {
			t.Fatal(err)
		}
		conn.Flush()
		return fault.Is(err, fault.Unavailable)
	})
	for _, err := range []error{patiently.From(t, r.transmitted), patiently.From(t, r.received)} {
		if !fault.Is(err, fault.Unavailable) {
			t.Error(err)
		}
	}
}

func TestCloseBeforeTheGoroutinesRun(t *testing.T) {
	a, _ := connect(t, transport{"tcp", true}, nil)
	h := &holder{m: message(1, 1)}
	if err := a.Send(wire.Tag{}, h.m, h); err != nil {
		t.Fatal(err)
	}
	a.Close()
	a.Close()
	if n := h.released.Load(); n != 1 {
		t.Errorf("the data was released %d times", n)
	}
	if err := a.Transmit(); !fault.Is(err, fault.Canceled) {
		t.Errorf("Transmit: %v", err)
	}
	if err := a.Receive(release); !fault.Is(err, fault.Canceled) {
		t.Errorf("Receive: %v", err)
	}
	if err := a.Send(wire.Tag{}, h.m, h); !fault.Is(err, fault.Canceled) || h.released.Load() != 1 {
		t.Errorf("Send: %v, and the data was released %d times", err, h.released.Load())
	}
}

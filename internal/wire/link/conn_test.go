package link_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/wire"
	"github.com/holdfast-io/holdfast/internal/wire/link"
)

func release(f *link.Frame) { f.Release() }

// small are pools and queues so small that everything is full all the time.
func small(dial, accept *link.Options) {
	for _, o := range []*link.Options{dial, accept} {
		o.Pool = link.NewPool(link.PoolLimits{BytesMax: 1 << 20, FramesMax: 8})
		o.QueueFramesMax, o.QueueBytesMax = 16, 64<<10
		o.PendingFramesMax, o.PendingBytesMax = 4, 1<<20
	}
}

func TestThousandsOfFramesBothWays(t *testing.T) {
	for _, tr := range transports {
		for name, change := range map[string]func(dial, accept *link.Options){"small": small, "large": nil} {
			t.Run(tr.String()+"/"+name, func(t *testing.T) {
				t.Parallel()
				a, b := connect(t, tr, change)
				var ends sync.WaitGroup
				for i, c := range []*link.Conn{a, b} {
					expected := rand.New(rand.NewPCG(1, uint64(1-i)))
					next := uint64(0)
					all := make(chan struct{})
					run(t, c, func(f *link.Frame) {
						expect(t, f, next, expected)
						f.Release()
						if next++; next == count {
							close(all)
						}
					})
					ends.Go(func() {
						sendMany(t, c, rand.New(rand.NewPCG(1, uint64(i))))
						<-all
					})
				}
				ends.Wait()
			})
		}
	}
}

const count = 1000

// draw returns the message that is sent with id.
func draw(r *rand.Rand, id uint64) wire.Message {
	switch r.IntN(8) {
	case 0:
		return message(id, 1+r.IntN(64))
	case 1, 2, 3:
		return message(id, 1)
	case 4:
		return &wire.Verified{Sums: make([]block.Sum, r.IntN(1024))}
	case 5:
		return &wire.Fail{Status: fault.Corrupt, Block: block.Index(id), Text: "bad"}
	}
	return &wire.Renew{Epoch: 1, Sequence: id}
}

// sendMany sends what expect expects, by every verb that sends.
func sendMany(t *testing.T, c *link.Conn, r *rand.Rand) {
	for id := range uint64(count) {
		m, tag := draw(r, id), wire.Tag{Channel: 7, ID: id}
		var err error
		switch id % 3 {
		case 0:
			err = c.Send(tag, m, nil)
		case 1:
			if err = c.TrySend(tag, m, nil); fault.Is(err, fault.Busy) {
				err = c.Send(tag, m, nil)
			}
		default:
			if err = c.Queue(tag, m, nil); fault.Is(err, fault.Busy) {
				err = c.Send(tag, m, nil)
			}
			c.Flush()
		}
		if err != nil {
			t.Error(err)
			return
		}
	}
}

func expect(t *testing.T, f *link.Frame, id uint64, r *rand.Rand) {
	want, tag := draw(r, id), wire.Tag{Channel: 7, ID: id}
	if f.Tag != tag || f.Message.Kind() != want.Kind() {
		t.Errorf("frame %d is %+v %s, want %s", id, f.Tag, f.Message.Kind(), want.Kind())
		return
	}
	data := wire.Data(f.Message)
	if !host.Aligned(data) {
		t.Errorf("frame %d: its data is not aligned", id)
	}
	got, err := wire.Append(nil, f.Tag, f.Message)
	if err != nil {
		t.Errorf("frame %d: %v", id, err)
	}
	head, err := wire.Append(nil, tag, want)
	if err != nil {
		t.Error(err)
	}
	if !bytes.Equal(got, head) || !bytes.Equal(data, wire.Data(want)) {
		t.Errorf("frame %d differs from what was sent", id)
	}
}

func TestBatchIsOneSystemCall(t *testing.T) {
	for _, tr := range transports {
		c, d := connect(t, tr, nil)
		arrived := make(chan struct{}, 100)
		run(t, d, func(f *link.Frame) {
			f.Release()
			arrived <- struct{}{}
		})
		run(t, c, release)
		send := func(blocks, n int) {
			for !link.Waiting(c) { // or Transmit takes the first message of the batch along
				runtime.Gosched()
			}
			for id := range n {
				var m wire.Message = &wire.Done{Incarnation: 1}
				if id%3 == 0 {
					m = message(uint64(id), blocks)
				}
				if err := c.Queue(wire.Tag{ID: uint64(id)}, m, nil); err != nil {
					t.Fatal(err)
				}
			}
			c.Flush()
			for range n {
				<-arrived
			}
		}
		before := c.Stats()
		send(1, 21)
		if n := c.Stats().Writes - before.Writes; n != 1 {
			t.Errorf("%v: 21 frames, 7 of them with data, took %d writes", tr, n)
		}
		before = c.Stats()
		send(16, 9) // too much to encrypt on the caller's time, and maybe for the socket at once
		if n := c.Stats().Writes - before.Writes; n > 2 {
			t.Errorf("%v: 9 frames, 3 of them with 64 KiB, took %d writes", tr, n)
		}
	}
}

// holder counts how often it is released.
type holder struct {
	m        *wire.Write
	released atomic.Int32
}

// Release uses the data for something else at once.
func (h *holder) Release() {
	h.released.Add(1)
	clear(h.m.Data)
}

func TestDataIsHeldUntilItIsWritten(t *testing.T) {
	for _, tr := range transports {
		a, b := connect(t, tr, small)
		var got atomic.Int32
		all := make(chan struct{})
		run(t, b, func(f *link.Frame) {
			m := f.Message.(*wire.Write)
			for i, sum := range m.Sums {
				if block.Checksum(m.Data[i*block.Size:][:block.Size]) != sum {
					t.Errorf("%v: frame %d was sent after its data had been released", tr, f.Tag.ID)
				}
			}
			f.Release()
			if got.Add(1) == 300 {
				close(all)
			}
		})
		r := run(t, a, release)
		var holders [300]holder
		for i := range holders {
			h := &holders[i]
			h.m = message(uint64(i), 1+i%20)
			if err := a.Send(wire.Tag{ID: uint64(i)}, h.m, h); err != nil {
				t.Fatal(err)
			}
		}
		<-all
		a.Finish()
		if err := <-r.transmitted; err != nil {
			t.Error(err)
		}
		for i := range holders {
			if n := holders[i].released.Load(); n != 1 {
				t.Errorf("%v: data %d was released %d times", tr, i, n)
			}
		}
	}
}

// stuck sends until nothing is taken any more, because the other end does not read, and
// returns what was taken.
func stuck(t *testing.T, c *link.Conn) []*holder {
	t.Helper()
	var taken []*holder
	h := &holder{m: message(0, 16)}
	for refusals := 0; refusals < 1000; {
		switch err := c.TrySend(wire.Tag{ID: uint64(len(taken))}, h.m, h); {
		case err == nil:
			taken = append(taken, h)
			h = &holder{m: message(uint64(len(taken)), 16)}
		case fault.Is(err, fault.Busy):
			refusals++
		default:
			t.Fatal(err)
		}
		if len(taken) > 4000 {
			t.Fatal("250 MiB were taken that nobody reads")
		}
	}
	return taken
}

func TestSlowReaderPushesBack(t *testing.T) {
	for _, tr := range transports {
		t.Run(tr.String(), func(t *testing.T) {
			room := make(chan struct{}, 1)
			pool := link.NewPool(link.PoolLimits{BytesMax: 1 << 20, FramesMax: 100})
			a, b := connect(t, tr, func(dial, accept *link.Options) {
				dial.QueueBytesMax = 1 << 20
				dial.Room = func() {
					select {
					case room <- struct{}{}:
					default:
					}
				}
				accept.Pool = pool
			})
			frames := make(chan *link.Frame, 100)
			run(t, b, func(f *link.Frame) { frames <- f })
			run(t, a, release)
			taken := stuck(t, a)
			if frames, bytes := pool.InUse(); frames > 100 || bytes > 1<<20 {
				t.Errorf("%d frames with %d bytes are held by a pool of 100 with 1 MiB", frames, bytes)
			}
			// A sender that waits gets through, too, once there is room.
			last := make(chan error, 1)
			go func() { last <- a.Send(wire.Tag{ID: uint64(len(taken))}, &wire.Flush{Epoch: 1}, nil) }()
			for i := range len(taken) + 1 {
				f := <-frames
				if f.Tag.ID != uint64(i) {
					t.Fatalf("frame %d came as number %d", f.Tag.ID, i)
				}
				f.Release()
			}
			if err := <-last; err != nil {
				t.Error(err)
			}
			<-room
			if err := a.TrySend(wire.Tag{}, &wire.Flush{}, nil); err != nil {
				t.Errorf("there is room, but %v", err)
			}
			(<-frames).Release()
			if frames, bytes := pool.InUse(); frames != 0 || bytes != 0 {
				t.Errorf("all was released, but %d frames with %d bytes are out", frames, bytes)
			}
		})
	}
}

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
			accepted := <-got
			if accepted.err != nil {
				t.Fatal(accepted.err)
			}
			a := run(t, dialed, release)
			arrived, goOn := make(chan struct{}, 1), make(chan struct{})
			b := run(t, accepted.conn, func(f *link.Frame) {
				if f.Tag.ID == 0 {
					arrived <- struct{}{}
					<-goOn
				}
				f.Release()
			})
			taken := stuck(t, dialed)
			<-arrived
			waiting := make(chan error, 1)
			go func() {
				var err error
				for err == nil {
					err = dialed.Send(wire.Tag{}, &wire.Flush{}, nil)
				}
				waiting <- err
			}()
			far.cut()
			for _, err := range []error{<-a.received, <-a.transmitted, <-waiting, dialed.Send(wire.Tag{}, &wire.Flush{}, nil),
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
			if err := <-b.received; !fault.Is(err, fault.Unavailable) {
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

func TestHalfOpenConnectionShowsInLastReceived(t *testing.T) {
	clock := &fakeClock{}
	clock.now.Store(int64(time.Hour))
	a, b := connect(t, transport{"tcp", true}, func(dial, _ *link.Options) { dial.Clock = clock })
	pong := make(chan struct{})
	r := run(t, a, func(f *link.Frame) {
		f.Release()
		close(pong)
	})
	if a.LastReceived() != time.Hour {
		t.Errorf("the handshake was at %v", a.LastReceived())
	}
	clock.now.Store(int64(2 * time.Hour))
	// The other end is there, but nothing moves in it: its Receive does not run.
	if err := a.Send(wire.Tag{}, &wire.Ping{}, nil); err != nil {
		t.Fatal(err)
	}
	if a.LastReceived() != time.Hour {
		t.Errorf("something came at %v, from nobody", a.LastReceived())
	}
	// It comes to life.
	run(t, b, release)
	if err := b.Send(wire.Tag{}, &wire.Renewed{}, nil); err != nil {
		t.Fatal(err)
	}
	<-pong
	if a.LastReceived() != 2*time.Hour {
		t.Errorf("something came at %v, want 2h", a.LastReceived())
	}
	a.Close()
	if err := <-r.received; !fault.Is(err, fault.Canceled) {
		t.Errorf("this end was closed, and says %v", err)
	}
	if err := <-r.transmitted; !fault.Is(err, fault.Canceled) {
		t.Errorf("this end was closed, and says %v", err)
	}
}

type fakeClock struct{ now atomic.Int64 }

// Now returns what was set.
func (c *fakeClock) Now() time.Duration { return time.Duration(c.now.Load()) }

func TestPingIsAnsweredAndNotShown(t *testing.T) {
	a, b := connect(t, transport{"tcp", false}, nil)
	shown := make(chan wire.Kind, 10)
	show := func(f *link.Frame) {
		shown <- f.Message.Kind()
		f.Release()
	}
	run(t, a, show)
	rb := run(t, b, show)
	before := a.Stats()
	for range 3 {
		if err := a.Send(wire.Tag{ID: 5}, &wire.Ping{}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Send(wire.Tag{}, &wire.Flush{}, nil); err != nil {
		t.Fatal(err)
	}
	if k := <-shown; k != wire.KindFlush {
		t.Errorf("%s was shown", k)
	}
	// What was answered before the last word has arrived with it.
	b.Finish()
	if err := <-rb.transmitted; err != nil {
		t.Error(err)
	}
	for a.Err() == nil {
		if a.Send(wire.Tag{}, &wire.Ping{}, nil) != nil {
			break
		}
	}
	if n := a.Stats().BytesIn - before.BytesIn; n < 3*wire.HeaderSize {
		t.Errorf("3 pings were answered with %d bytes", n)
	}
	if len(shown) > 0 {
		t.Errorf("%s was shown", <-shown)
	}
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
			if err := <-ra.transmitted; err != nil {
				t.Errorf("Transmit: %v", err)
			}
			if err := <-rb.received; !fault.Is(err, fault.Unavailable) {
				t.Errorf("the other end's Receive: %v", err)
			}
			if got != 500 {
				t.Errorf("%d of 500 frames arrived", got)
			}
			if err := <-ra.received; err != nil {
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
		for what, err := range map[string]error{"Transmit": <-r.transmitted, "Receive": <-r.received} {
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
	f := <-kept
	b.Close()
	if err := <-r.received; !fault.Is(err, fault.Canceled) {
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
	for {
		err := conn.Queue(wire.Tag{}, &wire.Flush{}, nil)
		if fault.Is(err, fault.Unavailable) {
			break
		}
		if err != nil && !fault.Is(err, fault.Busy) {
			t.Fatal(err)
		}
		conn.Flush()
	}
	for _, err := range []error{<-r.transmitted, <-r.received} {
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

func TestWhatCannotBeSaidDoesNotEndTheConnection(t *testing.T) {
	a, b := connect(t, transport{"unix", false}, nil)
	run(t, a, release)
	arrived := make(chan wire.Kind, 1)
	run(t, b, func(f *link.Frame) {
		arrived <- f.Message.Kind()
		f.Release()
	})
	if err := a.Send(wire.Tag{}, &wire.Write{}, nil); !fault.Is(err, fault.Invalid) {
		t.Error(err)
	}
	if err := a.Send(wire.Tag{}, &wire.Flush{}, nil); err != nil {
		t.Error(err)
	}
	if k := <-arrived; k != wire.KindFlush {
		t.Errorf("%s arrived", k)
	}
}

func TestFramesOnALoop(t *testing.T) {
	a, b := connect(t, transport{"tcp", true}, nil)
	loop, err := host.NewLoop(host.Options{Engine: host.EnginePool})
	if err != nil {
		t.Fatal(err)
	}
	ran := make(chan struct{})
	go func() {
		defer close(ran)
		loop.Run(t.Context())
	}()
	t.Cleanup(func() {
		loop.Stop()
		<-ran
		loop.Close()
	})
	go func() { _ = b.Transmit() }()
	received := make(chan error, 1)
	go func() {
		received <- b.ReceiveOn(loop, func(f *link.Frame) {
			if err := f.Conn().Queue(f.Tag, &wire.Done{Incarnation: 2}, nil); err != nil {
				t.Error(err)
			}
			f.Conn().Flush()
			f.Release()
		})
	}()
	answers := make(chan uint64, 1)
	ra := run(t, a, func(f *link.Frame) {
		answers <- f.Tag.ID
		f.Release()
	})
	for id := range uint64(100) {
		if err := a.Send(wire.Tag{ID: id}, message(id, 1), nil); err != nil {
			t.Fatal(err)
		}
		if got := <-answers; got != id {
			t.Fatalf("answer %d to request %d", got, id)
		}
	}
	loop.Stop()
	<-ran
	// A loop that has ended takes nothing more, and so the connection ends.
	if err := a.Send(wire.Tag{}, &wire.Flush{}, nil); err != nil {
		t.Fatal(err)
	}
	if err := <-received; !fault.Is(err, fault.Canceled) {
		t.Errorf("ReceiveOn: %v", err)
	}
	if err := <-ra.received; !fault.Is(err, fault.Unavailable) {
		t.Errorf("the other end: %v", err)
	}
}

func TestPeerThatBreaksTheRulesIsToldSo(t *testing.T) {
	head := func(m wire.Message) []byte {
		b, err := wire.Append(nil, wire.Tag{Channel: 1, ID: 2}, m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	change := func(b []byte, at int, v byte) []byte { b[at] = v; return b }
	sums := func(b []byte) []byte {
		s := uint32(block.Checksum(b[4:]))
		b[0], b[1], b[2], b[3] = byte(s), byte(s>>8), byte(s>>16), byte(s>>24)
		return b
	}
	write := message(1, 1)
	for _, c := range []struct {
		what string
		sent []byte
		want fault.Kind
		told bool
	}{
		{"an unknown kind", change(head(&wire.Ping{}), 8, 200), fault.Unsupported, true},
		{"an unknown flag", sums(change(head(&wire.Flush{}), 11, 0x80)), fault.Unsupported, true},
		{"a flipped bit", change(head(&wire.Flush{}), 20, 1), fault.Corrupt, true},
		{"too much data", sums(change(head(write), 7, 2)), fault.Invalid, true},
		{"data where none belongs", sums(change(head(&wire.Flush{}), 6, 1)), fault.Invalid, true},
		{"meta of 64 KiB", append(change(change(head(&wire.Ping{}), 4, 0xff), 5, 0xff), make([]byte, 1<<16)...), fault.Corrupt, true},
		{"a second Hello", head(&wire.Hello{Lowest: 1, Highest: 1, Incarnation: 1}), fault.Invalid, true},
		{"zeros", make([]byte, 1<<20), fault.Unsupported, true},
		{"a frame cut in its header", head(&wire.Flush{})[:20], fault.Unavailable, false},
		{"a frame cut in its meta", head(write)[:40], fault.Unavailable, false},
		{"a frame cut before its data", head(write), fault.Unavailable, false},
		{"a frame cut in its data", append(head(write), write.Data[:4000]...), fault.Unavailable, false},
		{"the end", nil, fault.Unavailable, false},
		{"a refusal", head(&wire.Refuse{Status: fault.Denied, Text: "go away"}), fault.Denied, false},
	} {
		t.Run(c.what, func(t *testing.T) {
			o := options(t, 2, false)
			conn, raw := impostor(t, o)
			r := run(t, conn, release)
			if _, err := raw.Write(c.sent); err != nil {
				t.Fatal(err)
			}
			if err := raw.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if err := <-r.received; !fault.Is(err, c.want) {
				t.Errorf("%v (%s), want %s", err, fault.KindOf(err), c.want)
			}
			answer, err := io.ReadAll(raw)
			if err != nil {
				t.Fatal(err)
			}
			if told := refusedFor(answer); c.told && told != c.want || !c.told && len(answer) > 0 {
				t.Errorf("was answered with %d bytes, a refusal for %s", len(answer), told)
			}
			if frames, bytes := o.Pool.InUse(); frames != 0 || bytes != 0 {
				t.Errorf("%d frames with %d bytes were lost", frames, bytes)
			}
		})
	}
}

func TestRefusalIsHeardByOneWhoCannotWriteAnyMore(t *testing.T) {
	conn, raw := impostor(t, options(t, 2, false))
	head, err := wire.Append(nil, wire.Tag{}, &wire.Refuse{Status: fault.Precondition, Text: "the node is being removed"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := raw.Write(head); err != nil {
		t.Fatal(err)
	}
	if err := raw.Close(); err != nil {
		t.Fatal(err)
	}
	transmitted := make(chan error, 1)
	go func() { transmitted <- conn.Transmit() }()
	for conn.Send(wire.Tag{}, &wire.Flush{}, nil) == nil {
		runtime.Gosched()
	}
	if err := <-transmitted; !fault.Is(err, fault.Unavailable) {
		t.Errorf("Transmit: %v", err)
	}
	if err := conn.Receive(release); !fault.Is(err, fault.Precondition) {
		t.Errorf("Receive: %v", err)
	}
	if err := conn.Err(); !fault.Is(err, fault.Precondition) {
		t.Errorf("the connection is over because %v", err)
	}
}

// refusedFor returns why a Refuse, the only frame in b, refuses.
func refusedFor(b []byte) fault.Kind {
	m, err := new(wire.Box).Decode(b)
	if r, ok := m.(*wire.Refuse); ok && err == nil {
		return r.Status
	}
	return fault.Unknown
}

// impostor shakes hands by hand and returns our end of a connection and its socket.
func impostor(t *testing.T, o link.Options) (*link.Conn, net.Conn) {
	t.Helper()
	l := listen(t, "tcp")
	got := acceptOne(l, o)
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = raw.Close() })
	hello := wire.Hello{Lowest: 1, Highest: 1, Cluster: cluster(1), Node: node(1), Incarnation: 1}
	head, err := wire.Append(nil, wire.Tag{}, &hello)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := raw.Write(head); err != nil {
		t.Fatal(err)
	}
	accepted := <-got
	if accepted.err != nil {
		t.Fatal(accepted.err)
	}
	t.Cleanup(accepted.conn.Close)
	self := o.Self
	self.Lowest, self.Highest = wire.Lowest, wire.Highest
	answer, err := wire.Append(nil, wire.Tag{}, &self)
	if err != nil {
		t.Fatal(err)
	}
	got2 := make([]byte, len(answer))
	if _, err := io.ReadFull(raw, got2); err != nil || !bytes.Equal(got2, answer) {
		t.Fatalf("Hello was answered with %x (%v)", got2, err)
	}
	return accepted.conn, raw
}

func TestErrorsNameThePeer(t *testing.T) {
	a, b := connect(t, transport{"tcp", false}, nil)
	r := run(t, a, release)
	b.Close()
	err := <-r.received
	var f *fault.Error
	if !errors.As(err, &f) || !bytes.Contains([]byte(err.Error()), []byte(node(2).String())) {
		t.Errorf("%v does not name node %s", err, node(2))
	}
}

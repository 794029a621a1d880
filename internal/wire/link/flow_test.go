package link_test

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
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
						patiently.From(t, all)
					})
				}
				patiently.Return(t, ends.Wait)
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
		transmitted := make(chan error, 1)
		go func() { transmitted <- c.Transmit() }() // but not Receive, which flushes too
		send := func(blocks, n int) {
			// Or Transmit takes the first message of the batch along.
			patiently.True(t, "Transmit waits for a message", func() bool { return link.Waiting(c) })
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
				patiently.From(t, arrived)
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
		c.Close()
		patiently.From(t, transmitted)
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
		patiently.From(t, all)
		a.Finish()
		if err := patiently.From(t, r.transmitted); err != nil {
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
				f := patiently.From(t, frames)
				if f.Tag.ID != uint64(i) {
					t.Fatalf("frame %d came as number %d", f.Tag.ID, i)
				}
				f.Release()
			}
			if err := patiently.From(t, last); err != nil {
				t.Error(err)
			}
			patiently.From(t, room)
			if err := a.TrySend(wire.Tag{}, &wire.Flush{}, nil); err != nil {
				t.Errorf("there is room, but %v", err)
			}
			patiently.From(t, frames).Release()
			if frames, bytes := pool.InUse(); frames != 0 || bytes != 0 {
				t.Errorf("all was released, but %d frames with %d bytes are out", frames, bytes)
			}
		})
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
	if k := patiently.From(t, arrived); k != wire.KindFlush {
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
		patiently.From(t, ran)
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
		if got := patiently.From(t, answers); got != id {
			t.Fatalf("answer %d to request %d", got, id)
		}
	}
	loop.Stop()
	patiently.From(t, ran)
	// A loop that has ended takes nothing more, and so the connection ends.
	if err := a.Send(wire.Tag{}, &wire.Flush{}, nil); err != nil {
		t.Fatal(err)
	}
	if err := patiently.From(t, received); !fault.Is(err, fault.Canceled) {
		t.Errorf("ReceiveOn: %v", err)
	}
	if err := patiently.From(t, ra.received); !fault.Is(err, fault.Unavailable) {
		t.Errorf("the other end: %v", err)
	}
}

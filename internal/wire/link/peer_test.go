package link_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
	"github.com/holdfast-io/holdfast/internal/wire"
	"github.com/holdfast-io/holdfast/internal/wire/link"
)

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
	patiently.From(t, pong)
	if a.LastReceived() != 2*time.Hour {
		t.Errorf("something came at %v, want 2h", a.LastReceived())
	}
	a.Close()
	if err := patiently.From(t, r.received); !fault.Is(err, fault.Canceled) {
		t.Errorf("this end was closed, and says %v", err)
	}
	if err := patiently.From(t, r.transmitted); !fault.Is(err, fault.Canceled) {
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
	if k := patiently.From(t, shown); k != wire.KindFlush {
		t.Errorf("%s was shown", k)
	}
	// What was answered before the last word has arrived with it.
	b.Finish()
	if err := patiently.From(t, rb.transmitted); err != nil {
		t.Error(err)
	}
	patiently.True(t, "the connection is over", func() bool { return a.Err() != nil || a.Send(wire.Tag{}, &wire.Ping{}, nil) != nil })
	if n := a.Stats().BytesIn - before.BytesIn; n < 3*wire.HeaderSize {
		t.Errorf("3 pings were answered with %d bytes", n)
	}
	if len(shown) > 0 {
		t.Errorf("%s was shown", patiently.From(t, shown))
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
		s := block.MetaSum(b[4:])
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
		{"a second Hello", head(&wire.Hello{Lowest: wire.Lowest, Highest: wire.Highest, Incarnation: 1}), fault.Invalid, true},
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
			if err := patiently.From(t, r.received); !fault.Is(err, c.want) {
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
	patiently.True(t, "nothing can be sent", func() bool { return conn.Send(wire.Tag{}, &wire.Flush{}, nil) != nil })
	if err := patiently.From(t, transmitted); !fault.Is(err, fault.Unavailable) {
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
	hello := wire.Hello{Lowest: wire.Lowest, Highest: wire.Highest, Cluster: cluster(1), Node: node(1), Incarnation: 1}
	head, err := wire.Append(nil, wire.Tag{}, &hello)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := raw.Write(head); err != nil {
		t.Fatal(err)
	}
	accepted := patiently.From(t, got)
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
	err := patiently.From(t, r.received)
	var f *fault.Error
	if !errors.As(err, &f) || !bytes.Contains([]byte(err.Error()), []byte(node(2).String())) {
		t.Errorf("%v does not name node %s", err, node(2))
	}
}

package link

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/wire"
)

// script is a socket whose other end says something and hangs up.
type script struct {
	net.Conn
	say   io.Reader
	heard bytes.Buffer
}

// Read reads what is said.
func (s *script) Read(b []byte) (int, error) { return s.say.Read(b) }

// Write listens.
func (s *script) Write(b []byte) (int, error) { return s.heard.Write(b) }

// Close does nothing.
func (s *script) Close() error { return nil }

// SetDeadline does nothing.
func (s *script) SetDeadline(time.Time) error { return nil }

// RemoteAddr is nowhere.
func (s *script) RemoteAddr() net.Addr { return &net.UnixAddr{Name: "script"} }

// pieces reads at most size bytes at a time.
type pieces struct {
	from io.Reader
	size int
}

// Read reads a piece.
func (p *pieces) Read(b []byte) (int, error) { return p.from.Read(b[:min(len(b), p.size)]) }

// listenTo has a connection read a stream in pieces, and returns the frames that were
// handled, as they would be written.
func listenTo(t *testing.T, stream []byte, piece int, cheap bool) []byte {
	o := Options{Clear: true, Pool: NewPool(PoolLimits{BytesMax: 1 << 20, FramesMax: 2}), LingerMax: time.Nanosecond}.withDefaults()
	c := newConn(newSocket(&script{}, o.Clock), nil, o)
	var frames []byte
	err := c.frames(newReader(&pieces{bytes.NewReader(stream), piece}, cheap), func(f *Frame) {
		var err error
		if frames, err = wire.Append(frames, f.Tag, f.Message); err != nil {
			t.Errorf("%s was read and can't be written: %v", f.Message.Kind(), err)
		}
		frames = append(frames, wire.Data(f.Message)...)
		f.Release()
	})
	if err == nil {
		t.Error("the end of the stream is no error")
	}
	if frames, used := o.Pool.InUse(); frames != 0 || used != 0 {
		t.Errorf("%d frames with %d bytes were lost", frames, used)
	}
	return frames
}

// FuzzStream cuts a stream into pieces. The frames that are handled must be the
// beginning of the stream, but for what the connection keeps to itself.
func FuzzStream(f *testing.F) {
	sums := []block.Sum{1, 2}
	data := make([]byte, 2*block.Size)
	var all []byte
	for _, m := range []wire.Message{
		&wire.Write{Epoch: 1, Extent: block.Extent{Start: 1, Count: 2}, Sums: sums, Data: data},
		&wire.Flush{Epoch: 1},
		&wire.ReadDone{Sums: sums, Data: data},
		&wire.Verified{Sums: make([]block.Sum, 1024)},
		&wire.Done{Incarnation: 1},
		&wire.Leave{Text: "bye"},
	} {
		head, err := wire.Append(nil, wire.Tag{Channel: 1, ID: 2}, m)
		if err != nil {
			f.Fatal(err)
		}
		one := append(head, wire.Data(m)...)
		all = append(all, one...)
		f.Add(one, uint16(5), true)
	}
	f.Add(all, uint16(1000), false)
	f.Add(all, uint16(65000), true)
	f.Fuzz(func(t *testing.T, stream []byte, piece uint16, cheap bool) {
		mend(stream)
		got := listenTo(t, stream, int(piece)+1, cheap)
		if !bytes.HasPrefix(withoutOurs(stream), got) {
			t.Errorf("handled %d bytes that the stream of %d does not begin with", len(got), len(stream))
		}
	})
}

// mend makes the checksums of the frames in a stream right, as far as it has frames: no
// fuzzer guesses one.
func mend(stream []byte) {
	for len(stream) >= wire.HeaderSize {
		h, err := wire.ParseHeader(stream)
		if err != nil || h.HeadSize() > len(stream) {
			return
		}
		binary.LittleEndian.PutUint32(stream, block.MetaSum(stream[4:h.HeadSize()]))
		stream = stream[min(len(stream), h.HeadSize()+h.DataSize()):]
	}
}

// withoutOurs returns a stream without the frames that are not shown.
func withoutOurs(stream []byte) (rest []byte) {
	for len(stream) >= wire.HeaderSize {
		h, err := wire.ParseHeader(stream)
		if err != nil || h.HeadSize()+h.DataSize() > len(stream) {
			break
		}
		n := h.HeadSize() + h.DataSize()
		if h.Kind != wire.KindPing && h.Kind != wire.KindPong {
			rest = append(rest, stream[:n]...)
		}
		stream = stream[n:]
	}
	return rest
}

// TestWritesThatStopAnywhereGoOnThere takes what is gathered a few bytes at a time, as a
// socket without room does.
func TestWritesThatStopAnywhereGoOnThere(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		var want []byte
		tr := &transmitter{}
		for range 1 + r.IntN(2*vectorsMax) {
			head, data := make([]byte, 1+r.IntN(50)), make([]byte, r.IntN(3)*r.IntN(100))
			for _, b := range [][]byte{head, data} {
				for i := range b {
					b[i] = byte(r.Uint32())
				}
			}
			tr.batch.heads = append(tr.batch.heads, head...)
			tr.batch.items = append(tr.batch.items, item{end: len(tr.batch.heads), data: data})
			want = append(append(want, head...), data...)
		}
		var got []byte
		items, bytesWritten, taken := 0, 0, 1+r.IntN(20000)
		for tr.next < len(tr.batch.items) {
			tr.gather()
			if len(tr.list) > vectorsMax {
				t.Fatalf("%d buffers at once", len(tr.list))
			}
			room := r.IntN(taken + 1)
			n := 0
			for _, b := range tr.list {
				if len(b) == 0 {
					t.Fatal("an empty buffer")
				}
				k := min(len(b), room-n)
				got = append(got, b[:k]...)
				n += k
			}
			tr.advance(n, func(list []item, n int) {
				items += len(list)
				bytesWritten += n
			})
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("%d bytes were written, and not those %d", len(got), len(want))
		}
		if items != len(tr.batch.items) || bytesWritten != len(want) || tr.part != 0 {
			t.Fatalf("%d items and %d bytes were reported, of %d and %d", items, bytesWritten, len(tr.batch.items), len(want))
		}
	}
}

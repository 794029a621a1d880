package fuse

import (
	"bytes"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/attach/attachtest"
	"github.com/holdfast-io/holdfast/internal/host"
)

func newSlots(t testing.TB, g geometry) *slots {
	t.Helper()
	fd, err := newMemory(g)
	must(t, err)
	defer unix.Close(fd)
	s, err := mapSlots(fd, g)
	must(t, err)
	t.Cleanup(s.unmap)
	return s
}

// Small requests of all slots, and large ones of as many slots as may be large, keep
// their bytes apart, whatever the order in which they come and go.
func TestSlotsDoNotShareWhatIsInUse(t *testing.T) {
	for _, g := range []geometry{{1, 1}, {5, 1}, {7, 3}, {8, 8}, {32, 4}} {
		s := newSlots(t, g)
		if int64(len(s.memory)) != int64(g.Depth)*slotBytes || g.bytes() > (attach.Options{Depth: g.Depth, LargeDepth: g.Large}).MemoryBytesMax() {
			t.Errorf("%+v takes %d bytes", g, g.bytes())
		}
		r := rand.New(rand.NewPCG(1, 2))
		inUse := map[*slot]byte{}
		large := 0
		for i := range 1500 {
			l := s.take()
			if l == nil && large < g.Large && len(inUse) < g.Depth && large == 0 {
				t.Fatalf("%+v: no slot with %d in use", g, len(inUse))
			}
			if l != nil {
				n := attach.SmallBytesMax
				if r.IntN(3) == 0 {
					n = attach.IOBytesMax
					s.enlarge(l)
					large++
				}
				fillBytes(l.data[:n], byte(i))
				le.PutUint64(l.message[8:], uint64(i)+1)
				inUse[l] = byte(i)
			}
			for l == nil || len(inUse) > r.IntN(g.Depth+1) {
				var victim *slot
				for o, v := range inUse {
					n := attach.SmallBytesMax
					if o.large {
						n = attach.IOBytesMax
					}
					if i%50 == 0 && (bytes.Count(o.data[:n], []byte{v}) != n || o.message.unique() == 0) {
						t.Fatalf("%+v: slot %d was written over", g, o.request.Slot)
					}
					victim = o
				}
				if victim.large {
					large--
				}
				s.put(victim)
				delete(inUse, victim)
				if l = s.take(); l != nil {
					s.put(l)
				}
			}
		}
		for l := range inUse {
			s.put(l)
		}
		if s.used != 0 || len(s.left()) != 0 {
			t.Errorf("%+v: %d in use at the end", g, s.used)
		}
	}
}

func fillBytes(p []byte, v byte) {
	for i := range p {
		p[i] = v
	}
}

// A successor finds what its predecessor did not answer, data included.
func TestSlotsAreFoundByTheNext(t *testing.T) {
	g := geometry{Depth: 6, Large: 2}
	fd, err := newMemory(g)
	must(t, err)
	defer unix.Close(fd)
	s, err := mapSlots(fd, g)
	must(t, err)
	var taken []*slot
	for range 4 {
		taken = append(taken, s.take())
	}
	want := map[uint64]byte{}
	for i, l := range taken {
		le.PutUint64(l.message[8:], uint64(100+i))
		fillBytes(l.data[:4096], byte(i))
		want[uint64(100+i)] = byte(i)
	}
	s.put(taken[2])
	delete(want, 102)
	s.unmap()

	s, err = mapSlots(fd, g)
	must(t, err)
	defer s.unmap()
	left := s.left()
	if len(left) != len(want) || s.used != len(want) {
		t.Fatalf("%d slots are left, want %d", len(left), len(want))
	}
	for _, l := range left {
		v, ok := want[l.message.unique()]
		if !ok || bytes.Count(l.data[:4096], []byte{v}) != 4096 {
			t.Errorf("request %d has %d", l.message.unique(), l.data[0])
		}
	}
	s.forget()
	for _, l := range left {
		s.put(l)
	}
	if len(s.left()) != 0 {
		t.Error("what was forgotten is left")
	}
	if _, err := mapSlots(fd, geometry{Depth: 7, Large: 2}); err == nil {
		t.Error("memory of another size was mapped")
	}
}

// talk is a server whose kernel is the test: each packet is a request.
type talk struct {
	t      testing.TB
	server *server
	kernel int
	loop   *host.Loop
}

func newTalk(t testing.TB, backend attach.Backend) *talk {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	loop, err := host.NewLoop(host.Options{Engine: host.EnginePool}) // never run: the test pumps
	must(t, err)
	o, err := attach.Options{Loop: loop, Backend: backend, Name: "vol", Size: 1 << 30, Depth: 4,
		Log: slog.New(slog.DiscardHandler)}.WithDefaults()
	must(t, err)
	s := newServer(fds[0], o, newSlots(t, geometry{Depth: o.Depth, Large: o.LargeDepth}))
	s.paused = false
	t.Cleanup(func() {
		s.close()
		loop.Close()
		_, _ = unix.Close(fds[0]), unix.Close(fds[1]) // sockets
	})
	return &talk{t: t, server: s, kernel: fds[1], loop: loop}
}

// say sends a request and returns the answer, nil if there is none.
func (k *talk) say(m []byte) []byte {
	if _, err := unix.Write(k.kernel, m); err != nil {
		return nil
	}
	k.server.pump()
	answer := make([]byte, outHeaderSize+attach.IOBytesMax)
	n, err := unix.Read(k.kernel, answer)
	if err != nil {
		return nil
	}
	return answer[:n]
}

// request returns a message with a true header.
func request(opcode uint32, node uint64, args ...byte) []byte {
	m := make([]byte, inHeaderSize, inHeaderSize+len(args))
	m = append(m, args...)
	le.PutUint32(m[0:], uint32(len(m)))
	le.PutUint32(m[4:], opcode)
	le.PutUint64(m[8:], 4242)
	le.PutUint64(m[16:], node)
	return m
}

// ioArgs returns the arguments of a read or write.
func ioArgs(offset uint64, size uint32) []byte {
	a := make([]byte, ioArgsSize)
	le.PutUint64(a[8:], offset)
	le.PutUint32(a[16:], size)
	return a
}

// fallocateArgs returns those of fallocate.
func fallocateArgs(offset, length uint64, mode uint32) []byte {
	a := make([]byte, 32)
	le.PutUint64(a[8:], offset)
	le.PutUint64(a[16:], length)
	le.PutUint32(a[24:], mode)
	return a
}

// conversations are requests as kernels send them.
func conversations() [][]byte {
	init := make([]byte, 64)
	le.PutUint32(init[0:], 7)
	le.PutUint32(init[4:], 45)
	le.PutUint32(init[12:], initExt|initAsyncDIO|initMaxPages)
	le.PutUint32(init[16:], initHasResend>>32)
	return [][]byte{
		request(opInit, 0, init...),
		request(opLookup, rootNode, []byte(filePrefix+"x\x00")...),
		request(opGetattr, fileNode, make([]byte, 16)...),
		request(opOpen, fileNode, make([]byte, 8)...),
		request(opRead, fileNode, ioArgs(4096, 8192)...),
		request(opWrite, fileNode, append(ioArgs(1<<20, 4096), make([]byte, 4096)...)...),
		request(opFsync, fileNode, make([]byte, 16)...),
		request(opFallocate, fileNode, fallocateArgs(0, 1<<20, fallocatePunchHole|fallocateKeepSize)...),
		request(opFallocate, fileNode, fallocateArgs(0, 1<<20, fallocateZeroRange|fallocateKeepSize)...),
		request(opStatfs, rootNode),
		request(opForget, fileNode, make([]byte, 8)...),
		request(opInterrupt, 0, make([]byte, 8)...),
		request(opRelease, fileNode, make([]byte, 24)...),
		request(opDestroy, 0),
	}
}

func errnoOf(answer []byte) int32 { return -int32(le.Uint32(answer[4:])) }

// Requests that no kernel sends are refused, one by one, and the next is served.
func TestMalformedRequestsAreRefused(t *testing.T) {
	k := newTalk(t, attachtest.NewMemory())
	short := request(opRead, fileNode, ioArgs(0, 4096)...)
	le.PutUint32(short[0:], 4000)
	bad := [][]byte{
		short,
		short[:inHeaderSize-4],
		request(opRead, fileNode),
		request(opRead, fileNode, ioArgs(1, 4096)...),
		request(opRead, fileNode, ioArgs(0, 1<<21)...),
		request(opRead, fileNode, ioArgs(1<<30, 4096)...),
		request(opRead, fileNode, ioArgs(1<<63, 4096)...),
		request(opRead, fileNode, ioArgs(0, 0)...),
		request(opWrite, fileNode, ioArgs(0, 4096)...),
		request(opFallocate, fileNode, 1, 2, 3),
		request(opFallocate, fileNode, fallocateArgs(0, 0, 3)...),
		request(opFallocate, fileNode, fallocateArgs(1<<63, 1<<63, 3)...),
		request(opInit, 0, 7),
	}
	for i, m := range bad {
		if a := k.say(m); a == nil || errnoOf(a) != int32(unix.EINVAL) {
			t.Errorf("request %d: %x", i, a)
		}
	}
	if got := k.server.meter.Stats().Malformed; got != uint64(len(bad)) {
		t.Errorf("%d were counted of %d", got, len(bad))
	}
	for _, m := range [][]byte{
		request(opFallocate, fileNode, fallocateArgs(0, 4096, 0)...),
		request(opLookup, rootNode, []byte("other\x00")...),
		request(99, rootNode),
	} {
		if a := k.say(m); a == nil || errnoOf(a) == 0 {
			t.Errorf("answer to %x: %x", m[:inHeaderSize], a)
		}
	}
	for i, m := range conversations() {
		a := k.say(m)
		if noAnswer := slices.Contains([]uint32{opForget, opInterrupt}, message(m).opcode()); noAnswer != (a == nil) {
			t.Errorf("conversation %d: answer %x", i, a)
		} else if a != nil && (errnoOf(a) != 0 || le.Uint64(a[8:]) != 4242 || int(le.Uint32(a)) != len(a)) {
			t.Errorf("conversation %d: answer %x", i, a[:outHeaderSize])
		}
	}
	if !k.server.hasResend || k.server.slots.used != 0 {
		t.Errorf("resend %v, %d slots in use", k.server.hasResend, k.server.slots.used)
	}
}

// FuzzRequests sends what it likes: the server neither falls nor keeps a slot.
func FuzzRequests(f *testing.F) {
	for _, m := range conversations() {
		f.Add(m)
	}
	if os.Geteuid() != 0 {
		f.Skip("locking memory needs root")
	}
	k := newTalk(f, attachtest.NewMemory())
	f.Fuzz(func(t *testing.T, m []byte) {
		k.say(m)
		if k.server.slots.used != 0 {
			t.Errorf("%d slots in use", k.server.slots.used)
		}
		if a := k.say(request(opStatfs, rootNode)); a == nil || errnoOf(a) != 0 {
			t.Errorf("the next request is answered by %x", a)
		}
	})
}

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
	s, err := mapSlots(fd, g, nil)
	must(t, err)
	t.Cleanup(s.unmap)
	return s
}

// Requests small and large keep their bytes apart, whatever the order in which they come
// and go, and whichever slots they are in.
func TestSlotsDoNotShareWhatIsInUse(t *testing.T) {
	for _, g := range []geometry{{Depth: 1, Large: 1}, {Depth: 5, Large: 1}, {Depth: 7, Large: 3}, {Depth: 8, Large: 8}, {Depth: 32, Large: 4}} {
		s := newSlots(t, g)
		if most := (attach.Options{Depth: g.Depth, LargeDepth: g.Large}).MemoryBytesMax(); int64(len(s.memory)) > most {
			t.Errorf("%+v takes %d bytes, more than %d", g, len(s.memory), most)
		}
		r := rand.New(rand.NewPCG(1, 2))
		inUse := map[*slot][]byte{} // data
		release := func() {
			for l, data := range inUse {
				if v := data[0]; bytes.Count(data, []byte{v}) != len(data) || l.message.unique() != 1+uint64(v) {
					t.Fatalf("%+v: slot %d was written over", g, l.request.Slot)
				}
				s.put(l)
				delete(inUse, l)
				return
			}
		}
		for i := range 1500 {
			for len(inUse) > r.IntN(g.Depth+1) {
				release()
			}
			l := s.take()
			if l == nil && len(inUse) == 0 {
				t.Fatalf("%+v: no slot though none is in use", g)
			}
			if l == nil {
				continue
			}
			// As a read would leave it: the beginning in the slot, the rest in the spill.
			n := 4096 << r.IntN(9)
			if !s.isBig(l.request.Slot) {
				le.PutUint32(l.page, uint32(s.spills[len(s.spills)-1]))
				fillBytes(s.spillAt(s.spills[len(s.spills)-1])[attach.SmallBytesMax:max(n, attach.SmallBytesMax)], byte(i))
			}
			fillBytes(l.own[:min(n, len(l.own))], byte(i))
			le.PutUint64(l.message[8:], 1+uint64(byte(i)))
			if !s.room(l, n, true) {
				t.Fatalf("%+v: no room for %d bytes", g, n)
			}
			inUse[l] = l.data[:n]
		}
		for len(inUse) > 0 {
			release()
		}
		if s.used != 0 || len(s.left()) != 0 || len(s.spills) != g.spills() {
			t.Errorf("%+v: %d in use at the end, %d spills", g, s.used, len(s.spills))
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
	g := geometry{Depth: 6, Large: 4}
	fd, err := newMemory(g)
	must(t, err)
	defer unix.Close(fd)
	first := newTalkOn(t, fd, g, held{})
	data := [][]byte{pattern(1, 4096), pattern(2, attach.IOBytesMax), pattern(3, attach.SmallBytesMax), pattern(4, 8192)}
	for i, d := range data {
		m := request(opWrite, fileNode, append(ioArgs(uint64(i)<<20, uint32(len(d))), d...)...)
		le.PutUint64(m[8:], uint64(100+i))
		first.say(m)
	}
	first.server.answer(&first.server.slots.list[first.slotOf(103)], 0, nil)

	memory := attachtest.NewMemory()
	second := newTalkOn(t, fd, g, memory)
	must(t, second.server.repeat(true))
	if again := second.server.meter.Stats().Again; again != 3 || second.server.slots.used != 0 {
		t.Errorf("%d requests were done again, %d slots are in use", again, second.server.slots.used)
	}
	for i, d := range data[:3] {
		if !bytes.Equal(memory.Bytes(int64(i)<<20, int64(len(d))), d) {
			t.Errorf("write %d was not done as it was asked for", i)
		}
	}
	if got := memory.Bytes(3<<20, 8192); got[0] != 0 {
		t.Error("what was answered was done again")
	}
	if left := second.server.slots.left(); len(left) != 0 {
		t.Errorf("%d are left", len(left))
	}
	if _, err := mapSlots(fd, geometry{Depth: 7, Large: 4}, nil); err == nil {
		t.Error("memory of another size was mapped")
	}
}

// held is a backend that answers nothing.
type held struct{}

func (held) Submit(*attach.Request) {}

func pattern(v byte, n int) []byte {
	p := make([]byte, n)
	fillBytes(p, v)
	return p
}

// slotOf returns the slot of the request with that number.
func (k *talk) slotOf(unique uint64) int {
	return slices.IndexFunc(k.server.slots.list, func(l slot) bool { return l.message.unique() == unique })
}

// talk is a server whose kernel is the test: each packet is a request.
type talk struct {
	t      testing.TB
	server *server
	kernel int
	loop   *host.Loop
}

func newTalk(t testing.TB, g geometry, backend attach.Backend) *talk {
	t.Helper()
	fd, err := newMemory(g)
	must(t, err)
	defer unix.Close(fd)
	return newTalkOn(t, fd, g, backend)
}

// newTalkOn returns one whose slots are in the memory fd.
func newTalkOn(t testing.TB, fd int, g geometry, backend attach.Backend) *talk {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	for _, fd := range fds { // for the longest request
		must(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 4<<20))
	}
	loop, err := host.NewLoop(host.Options{Engine: host.EnginePool}) // never run: the test pumps
	must(t, err)
	o, err := attach.Options{Loop: loop, Backend: backend, Name: "vol", Size: 1 << 30, Depth: g.Depth, LargeDepth: max(g.Large, 1),
		Log: slog.New(slog.DiscardHandler)}.WithDefaults()
	must(t, err)
	m, err := mapSlots(fd, g, newPool(t, 2, 1))
	must(t, err)
	s := newServer(fds[0], o, m)
	s.paused = false
	t.Cleanup(func() {
		s.close()
		loop.Close()
		m.unmap()
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
	for _, g := range []geometry{{Depth: 4, Large: 4}, {Depth: 4, Pooled: true}} {
		refuses(t, newTalk(t, g, attachtest.NewMemory()))
	}
}

func refuses(t *testing.T, k *talk) {
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
	own, pooled := newTalk(f, geometry{Depth: 4, Large: 4}, attachtest.NewMemory()), newTalk(f, geometry{Depth: 4, Pooled: true}, attachtest.NewMemory())
	f.Fuzz(func(t *testing.T, m []byte) {
		for _, k := range []*talk{own, pooled} {
			k.say(m)
			if k.server.slots.used != 0 {
				t.Errorf("%d slots in use", k.server.slots.used)
			}
			if a := k.say(request(opStatfs, rootNode)); a == nil || errnoOf(a) != 0 {
				t.Errorf("the next request is answered by %x", a)
			}
		}
		if p := pooled.server.slots.pool; len(p.small) != 2 || len(p.big) != 1 || len(pooled.server.slots.landing) != 1 {
			t.Errorf("%d small and %d big buffers are free", len(p.small), len(p.big))
		}
	})
}

package fuse

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/host"
)

func newPool(t testing.TB, small, big int) *Pool {
	t.Helper()
	p, err := NewPool(small, big)
	must(t, err)
	t.Cleanup(p.Close)
	return p
}

// Devices that share a pool, with more requests than it has room for, keep their bytes
// apart, and each finds room for one request whatever the others have.
func TestDevicesDoNotShareWhatIsInUse(t *testing.T) {
	const depth = 6
	pool := newPool(t, 5, 3)
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	must(t, unix.SetsockoptInt(fds[1], unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 1<<20))

	type use struct {
		data  []byte
		value byte
	}
	devices := make([]*slots, 3)
	inUse := make([]map[*slot]use, len(devices))
	for i := range devices {
		g := geometry{Depth: depth, Pooled: true}
		fd, err := newMemory(g)
		must(t, err)
		devices[i], err = mapSlots(fd, g, pool)
		must(t, err)
		must(t, unix.Close(fd))
		t.Cleanup(devices[i].unmap)
		inUse[i] = map[*slot]use{}
	}
	release := func(i int) {
		for l, u := range inUse[i] {
			if bytes.Count(u.data, []byte{u.value}) != len(u.data) || !host.Aligned(u.data) {
				t.Fatalf("device %d: slot %d was written over", i, l.request.Slot)
			}
			devices[i].put(l)
			delete(inUse[i], l)
			return
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	served := 0
	for n := range 5000 {
		i := r.IntN(len(devices))
		s := devices[i]
		for len(inUse[i]) > r.IntN(depth+1) {
			release(i)
		}
		l := s.take()
		if l == nil {
			if len(inUse[i]) == 0 {
				t.Fatalf("device %d finds no room for its only request", i)
			}
			continue
		}
		size, v := 4096<<r.IntN(7), byte(n)
		data := make([]byte, size)
		fillBytes(data, v)
		m := request(opWrite, fileNode, append(ioArgs(0, uint32(size)), data...)...)
		if _, err := unix.Write(fds[1], m); err != nil {
			t.Fatal(err)
		}
		got, errno := s.read(fds[0], l)
		if errno != 0 || got != len(m) || l.message.length() != len(m) {
			t.Fatalf("%d bytes were read of %d, %v", got, len(m), errno)
		}
		if !s.room(l, size, true) {
			t.Fatalf("no room for %d bytes", size)
		}
		inUse[i][l] = use{l.data[:size], v}
		served++
	}
	for i, s := range devices {
		for len(inUse[i]) > 0 {
			release(i)
		}
		if s.used != 0 || len(s.landing) != 1 || len(s.small) != depth {
			t.Errorf("device %d: %d in use, %d slots free", i, s.used, len(s.small))
		}
	}
	if len(pool.small) != 5 || len(pool.big) != 3 || served < 2000 {
		t.Errorf("%d small and %d big buffers are free after %d requests", len(pool.small), len(pool.big), served)
	}
}

// What an idle device takes of its own is little: one long request, and headers.
func TestIdleDevicesTakeLittle(t *testing.T) {
	if n := (geometry{Depth: 64, Pooled: true}).bytes(); n > attach.SmallBytesMax+PooledBytesMax {
		t.Errorf("a device takes %d bytes", n)
	}
}

func TestKernelVersions(t *testing.T) {
	for release, want := range map[string][2]int{
		"6.18.44-fc-v669": {6, 18}, "6.1.0-13-amd64": {6, 1}, "6.9": {6, 9}, "7.0.0": {7, 0}, "": {0, 0}, "10.2-rc1": {10, 2},
	} {
		if major, minor := versionOf(release); major != want[0] || minor != want[1] {
			t.Errorf("%q is %d.%d", release, major, minor)
		}
	}
}

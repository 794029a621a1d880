package packet

import (
	"errors"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/fault"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// sockets returns two connected sockets.
func sockets(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		c, err := net.FileConn(f)
		must(t, err)
		must(t, f.Close())
		ends[i] = c.(*net.UnixConn)
		t.Cleanup(func() { c.Close() })
	}
	return ends[0], ends[1]
}

type letter struct{ Text string }

func files(t testing.TB, n int) []int {
	t.Helper()
	var fds []int
	for range n {
		fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
		must(t, err)
		fds = append(fds, fd)
	}
	t.Cleanup(func() { CloseAll(fds) })
	return fds
}

func TestFilesArriveInOrderWithAscendingNumbers(t *testing.T) {
	a, b := sockets(t)
	sent := files(t, FilesMax)
	for i, fd := range sent {
		_, err := unix.Write(fd, []byte{byte(i)})
		must(t, err)
	}
	// A hole among the descriptors, so that the kernel may give a low number late.
	hole := files(t, 3)
	must(t, Send(a, letter{"x"}, sent))
	must(t, unix.Close(hole[1]))
	var got letter
	fds, err := Receive(b, &got)
	must(t, err)
	defer CloseAll(fds)
	hole[1], err = unix.FcntlInt(uintptr(sent[0]), unix.F_DUPFD_CLOEXEC, 0)
	must(t, err)
	if got.Text != "x" || len(fds) != len(sent) {
		t.Fatalf("got %+v with %d files", got, len(fds))
	}
	for i, fd := range fds {
		var p [1]byte
		if _, err := unix.Pread(fd, p[:], 0); err != nil || p[0] != byte(i) {
			t.Errorf("file %d is number %d (%v)", i, p[0], err)
		}
		if i > 0 && fd <= fds[i-1] {
			t.Errorf("descriptor %d comes after %d", fd, fds[i-1])
		}
	}
	shuffled := []int{fds[3], fds[1]}
	copies := make([]int, 2)
	for i, fd := range shuffled {
		copies[i], err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 900-100*i)
		must(t, err)
	}
	must(t, ascend(copies))
	if copies[1] <= copies[0] {
		t.Errorf("descriptors %v", copies)
	}
	CloseAll(copies)
}

func TestPacketsThatCannotBe(t *testing.T) {
	a, b := sockets(t)
	if err := Send(a, letter{string(make([]byte, BytesMax))}, nil); !fault.Is(err, fault.Invalid) {
		t.Errorf("a long packet: %v", err)
	}
	if err := Send(a, make(chan int), nil); err == nil {
		t.Error("a channel was sent")
	}
	var got letter
	_, err := a.Write([]byte("{"))
	must(t, err)
	if _, err := Receive(b, &got); !fault.Is(err, fault.Invalid) {
		t.Errorf("half a packet: %v", err)
	}
	_, _, err = a.WriteMsgUnix([]byte("{}"), unix.UnixRights(files(t, FilesMax+5)...), nil)
	must(t, err)
	if _, err := Receive(b, &got); !fault.Is(err, fault.Invalid) {
		t.Errorf("too many files: %v", err)
	}
	must(t, a.Close())
	if _, err := Receive(b, &got); err == nil || fault.Is(err, fault.Invalid) {
		t.Errorf("after the end: %v", err)
	}
}

func TestFailuresKeepKindAndCure(t *testing.T) {
	if err := Fail(nil).Err("x"); err != nil {
		t.Errorf("success became %v", err)
	}
	for k := fault.Unknown; k <= fault.Internal; k++ {
		err := Fail(fault.WithCure(fault.E("y", k, noVolume, errors.New("text")), "do this")).Err("x")
		what, cure := fault.Describe(err)
		if what != "text" || cure != "do this" || fault.KindOf(err) != k {
			t.Errorf("%v became %q of kind %v, cure %q", k, what, fault.KindOf(err), cure)
		}
	}
	if k := fault.KindOf(Failure{Error: "x", Kind: "of the future"}.Err("x")); k != fault.Unknown {
		t.Errorf("an unknown kind became %v", k)
	}
}

// FuzzReceive reads what anybody may send.
func FuzzReceive(f *testing.F) {
	f.Add([]byte(`{"Text":"x"}`))
	f.Add([]byte(`{}`))
	f.Add([]byte(`[1,2`))
	a, b := sockets(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) == 0 || len(raw) > BytesMax {
			return
		}
		if _, err := a.Write(raw); err != nil {
			t.Fatal(err)
		}
		var got letter
		if _, err := Receive(b, &got); err != nil && !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %v", raw, err)
		}
	})
}

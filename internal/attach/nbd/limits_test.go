package nbd

import (
	"bufio"
	"errors"
	"io"
	"net"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/attach/attachtest"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
)

func newReader(r io.Reader) *bufio.Reader { return bufio.NewReader(r) }

func TestWhatCantBeDoneIsRefusedAndTheRestGoesOn(t *testing.T) {
	e := newExport(t, nil)
	e.add(t, "read-only", func(o *attach.Options) { o.ReadOnly = true })
	e.add(t, "no-discard", func(o *attach.Options) { o.NoDiscard = true })
	for _, structured := range []bool{true, false} {
		for _, test := range []struct {
			export string
			q      request
			want   syscall.Errno
		}{
			{"vol", request{cmd: cmdRead, offset: exportSize, length: 4096}, syscall.EINVAL},
			{"vol", request{cmd: cmdRead, offset: 1 << 63, length: 4096}, syscall.EINVAL},
			{"vol", request{cmd: cmdRead, offset: 1, length: 4096}, syscall.EINVAL},
			{"vol", request{cmd: cmdRead, length: 4095}, syscall.EINVAL},
			{"vol", request{cmd: cmdRead, length: 1<<20 + 512}, syscall.EINVAL},
			{"vol", request{cmd: cmdRead, length: 0}, syscall.EINVAL},
			{"vol", request{cmd: cmdRead, length: 33 << 20}, syscall.EOVERFLOW},
			{"vol", request{cmd: cmdRead, flags: cmdDF, length: 2 << 20}, syscall.EOVERFLOW},
			{"vol", request{cmd: cmdWrite, offset: exportSize - 4096, length: 8192}, syscall.ENOSPC},
			{"vol", request{cmd: cmdWrite, offset: exportSize - 4096, length: 3 << 20}, syscall.ENOSPC},
			{"vol", request{cmd: cmdWrite, flags: cmdDF, length: 4096}, syscall.EINVAL},
			{"vol", request{cmd: cmdTrim, offset: exportSize - 4096, length: 1 << 31}, syscall.EINVAL},
			{"vol", request{cmd: cmdWriteZeroes, flags: cmdNoHole | cmdFastZero, length: 4096}, syscall.ENOTSUP},
			{"vol", request{cmd: 77}, syscall.EINVAL},
			{"vol", request{cmd: cmdBlockStatus, offset: 4096, length: 0}, syscall.EINVAL},
			{"read-only", request{cmd: cmdWrite, length: 3 << 20}, syscall.EPERM},
			{"read-only", request{cmd: cmdTrim, length: 4096}, syscall.EPERM},
			{"read-only", request{cmd: cmdWriteZeroes, length: 4096}, syscall.EPERM},
			{"no-discard", request{cmd: cmdTrim, length: 4096}, syscall.ENOTSUP},
		} {
			c := connect(t, dialer(e.dir), test.export, structured)
			var data []byte
			if test.q.cmd == cmdWrite {
				data = make([]byte, test.q.length)
			}
			if _, err := c.do(test.q, data, nil); err != test.want {
				t.Errorf("%+v of %s: %v, want %v", test.q, test.export, err, test.want)
			}
			must(t, c.Read(host.Buffer(4096), 0))
			c.Close()
		}
	}
	if seen := e.memory.Seen(); seen.Writes+seen.Zeros > 0 {
		t.Errorf("the backend has seen %+v", seen)
	}
}

// Reads and writes that are longer than any slot, of clients that ask for no limit, are
// done part by part, and may fail in the middle.
func TestLongRequestThatFailsInTheMiddle(t *testing.T) {
	for _, structured := range []bool{true, false} {
		broken := &brokenAt{Memory: attachtest.NewMemory(), at: 3 << 20}
		e := newExport(t, func(o *attach.Options) { o.Backend = broken })
		c := connect(t, dialer(e.dir), "vol", structured)
		if err := c.Write(host.Buffer(5<<20), 0); err != syscall.EIO {
			t.Errorf("write: %v", err)
		}
		must(t, c.Write(host.Buffer(2<<20), 0)) // the connection goes on
		if err := c.Read(host.Buffer(5<<20), 0); err != syscall.EIO {
			t.Errorf("read: %v", err)
		}
		if err := c.Read(host.Buffer(4096), 0); (err == nil) != structured {
			t.Errorf("after a read that failed in the middle, structured %v: %v", structured, err)
		}
	}
}

// brokenAt fails requests that begin at an offset.
type brokenAt struct {
	*attachtest.Memory
	at int64
}

func (b *brokenAt) Submit(r *attach.Request) {
	if r.Offset == b.at && r.Length > 0 {
		r.End(fault.Errorf("test", fault.Media, "broken"))
		return
	}
	b.Memory.Submit(r)
}

func TestBlockStatusSaysOneExtentIfOneIsWanted(t *testing.T) {
	e := newExport(t, nil)
	c := connect(t, dialer(e.dir), "vol", true)
	must(t, c.Write(host.Buffer(8192), 4096))
	ask := func(flags uint16, offset uint64, length uint32) []uint32 {
		t.Helper()
		status, err := c.do(request{cmd: cmdBlockStatus, flags: flags, offset: offset, length: length}, nil, nil)
		must(t, err)
		return status
	}
	const hole = extentHole | extentZero
	if got := ask(0, 0, 16384); !slices.Equal(got, []uint32{4096, hole, 8192, 0, 4096, hole}) {
		t.Errorf("status %d", got)
	}
	if got := ask(cmdReqOne, 4096, 16384); !slices.Equal(got, []uint32{8192, 0}) {
		t.Errorf("status %d", got)
	}
	// A backend that does not know has data everywhere.
	e.add(t, "unknown", func(o *attach.Options) { o.Backend = attachtest.Null{} })
	c = connect(t, dialer(e.dir), "unknown", true)
	if got := ask(0, 0, exportSize); !slices.Equal(got, []uint32{exportSize, 0}) {
		t.Errorf("status %d", got)
	}
	// Who did not ask for it before may not now.
	c = connect(t, dialer(e.dir), "vol", false)
	if _, err := c.do(request{cmd: cmdBlockStatus, length: 4096}, nil, nil); err != syscall.EINVAL {
		t.Errorf("block status that was not asked for: %v", err)
	}
}

// A client that takes no answers holds slots, until it is disconnected.
func TestClientThatReadsNothingIsDisconnected(t *testing.T) {
	dir := t.TempDir()
	l, err := Listen(socketOf(dir))
	must(t, err)
	s := NewServer(ServerOptions{SendTimeout: 50 * time.Millisecond})
	go func() { _ = s.Serve(l, nil) }()
	t.Cleanup(s.Close)
	f, err := New(attach.Options{Loop: runLoop(t), Backend: attachtest.Null{}, Name: "vol", Size: exportSize, Depth: 4, LargeDepth: 2}, s)
	must(t, err)
	must(t, f.Start(t.Context()))
	t.Cleanup(func() { _ = f.Abort(); patiently.From(t, f.Ended()) })

	conn, err := net.Dial("unix", socketOf(dir))
	must(t, err)
	defer conn.Close()
	k := &talker{conn: conn, r: newReader(conn)}
	must(t, k.greet())
	_, err = k.choose(optGo, "vol")
	must(t, err)
	for i := 0; err == nil; i++ { // until it is felt
		b := be.AppendUint32(nil, magicRequest)
		b = be.AppendUint16(be.AppendUint16(b, 0), cmdRead)
		b = be.AppendUint32(be.AppendUint64(be.AppendUint64(b, uint64(i)), 0), 1<<20)
		_, err = conn.Write(b)
	}
	c := connect(t, dialer(dir), "vol", true)
	must(t, c.Read(host.Buffer(1<<20), 0))
}

func TestMoreClientsThanAllowed(t *testing.T) {
	dir := t.TempDir()
	l, err := Listen(socketOf(dir))
	must(t, err)
	s := NewServer(ServerOptions{Connections: 2})
	go func() { _ = s.Serve(l, nil) }()
	t.Cleanup(s.Close)
	for i := range 4 {
		conn, err := dialer(dir)()
		must(t, err)
		defer conn.Close()
		var b [1]byte
		if _, err := io.ReadFull(conn, b[:]); (err == nil) != (i < 2) {
			t.Errorf("client %d: %v", i, err)
		}
	}
}

func TestSocketIsTakenFromTheDeadOnly(t *testing.T) {
	path := socketOf(t.TempDir())
	l, err := Listen(path)
	must(t, err)
	if _, err := Listen(path); !fault.Is(err, fault.Busy) {
		t.Errorf("a second listener: %v", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // as a process that is killed
	must(t, l.Close())
	l, err = Listen(path)
	must(t, err)
	must(t, l.Close())
}

func TestOldClientChoosesByName(t *testing.T) {
	e := newExport(t, nil)
	for name, want := range map[string]error{"vol": nil, "no": io.EOF} {
		conn, err := dialer(e.dir)()
		must(t, err)
		k := &talker{conn: conn, r: newReader(conn)}
		must(t, k.greet())
		must(t, k.option(optExportName, []byte(name)))
		var b [10]byte
		if _, err := io.ReadFull(k.r, b[:]); !errors.Is(err, want) || err == nil && be.Uint64(b[:]) != exportSize {
			t.Errorf("%q: %v", name, err)
		}
		must(t, conn.Close())
	}
}

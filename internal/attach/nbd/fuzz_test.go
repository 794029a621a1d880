package nbd

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/attach/attachtest"
)

// played is a connection whose client has said everything beforehand, and whose answers
// are thrown away.
type played struct {
	said   []byte
	closed sync.Once
	done   chan struct{}
}

func (p *played) Read(b []byte) (int, error) {
	if len(p.said) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.said)
	p.said = p.said[n:]
	return n, nil
}

func (p *played) Write(b []byte) (int, error)      { return len(b), nil }
func (p *played) Close() error                     { p.closed.Do(func() { close(p.done) }); return nil }
func (p *played) LocalAddr() net.Addr              { return nil }
func (p *played) RemoteAddr() net.Addr             { return nil }
func (p *played) SetDeadline(time.Time) error      { return nil }
func (p *played) SetReadDeadline(time.Time) error  { return nil }
func (p *played) SetWriteDeadline(time.Time) error { return nil }

// FuzzClient has a client say anything: the server neither fails nor hangs, and the
// backend gets nothing that package attach does not allow.
func FuzzClient(f *testing.F) {
	greeting := []byte{0, 0, 0, 3}
	option := func(b []byte, option uint32, data []byte) []byte {
		b = be.AppendUint32(be.AppendUint64(b, magicOption), option)
		return append(be.AppendUint32(b, uint32(len(data))), data...)
	}
	chosen := option(greeting, optStructuredReply, nil)
	chosen = option(chosen, optListMetaContext, metaQuery("vol"))
	chosen = option(chosen, optSetMetaContext, metaQuery("vol", contextAlloc))
	chosen = option(chosen, optList, nil)
	chosen = option(chosen, optInfo, goData("vol", infoName))
	f.Add(option(chosen, optAbort, nil))
	chosen = option(chosen, optGo, goData("vol", infoBlockSize))
	say := func(b []byte, q request, data []byte) []byte {
		b = be.AppendUint16(be.AppendUint16(be.AppendUint32(b, magicRequest), q.flags), q.cmd)
		b = be.AppendUint64(be.AppendUint64(b, q.cookie), q.offset)
		return append(be.AppendUint32(b, q.length), data...)
	}
	said := say(chosen, request{cmd: cmdRead, length: 8192}, nil)
	said = say(said, request{cmd: cmdWrite, flags: cmdFUA, offset: 4096, length: 4096}, make([]byte, 4096))
	said = say(said, request{cmd: cmdFlush}, nil)
	said = say(said, request{cmd: cmdTrim, length: 4096}, nil)
	said = say(said, request{cmd: cmdWriteZeroes, flags: cmdNoHole, length: 4096}, nil)
	said = say(said, request{cmd: cmdBlockStatus, flags: cmdReqOne, length: 1 << 20}, nil)
	f.Add(say(said, request{cmd: cmdDisconnect}, nil))
	f.Add(option(greeting, optExportName, []byte("vol")))
	f.Add(option(greeting, optStartTLS, nil))

	strict := &attachtest.Strict{Behind: attachtest.NewMemory(), T: f, BlockSize: 4096, Depth: 8}
	strict.Size.Store(1 << 20)
	server := NewServer(ServerOptions{})
	front, err := New(attach.Options{Loop: runLoop(f), Backend: strict, Name: "vol", Size: 1 << 20, Depth: 8, LargeDepth: 2}, server)
	must(f, err)
	must(f, front.Start(f.Context()))
	f.Fuzz(func(t *testing.T, said []byte) {
		p := &played{said: said, done: make(chan struct{})}
		server.handle(p, nil)
		if n := front.Clients(); n != 0 {
			t.Errorf("%d clients are left", n)
		}
		if n := front.Stats().InFlight; n != 0 {
			t.Errorf("%d requests are left", n)
		}
	})
}

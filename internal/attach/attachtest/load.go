package attachtest

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
)

// load works a device from many goroutines, each in blocks of its own, writing and
// reading back; any error, and any byte that is not the last written, fails the test.
type load struct {
	t       testing.TB
	c       Client
	size    int64
	seed    uint64
	rescue  func()
	users   []*user
	ended   sync.WaitGroup
	stopped atomic.Bool
	done    atomic.Int64 // requests

	mu      sync.Mutex
	changed sync.Cond
	failed  bool
}

// user has the areas whose number is i modulo the number of users to itself.
type user struct {
	l        *load
	i        int
	rand     *rand.Rand
	version  uint64           // of the last write, counted
	versions map[int64]uint64 // by offset of a block: what it should hold; 0 or none is zeros
	buf      []byte
	want     []byte
}

const (
	loadArea  = 64 << 10 // the longest request
	loadBlock = 4 << 10
)

// newLoad returns a load on c, a client of a device of size bytes. A test that fails
// calls rescue, after which no request hangs.
func newLoad(t testing.TB, c Client, size int64, rescue func()) *load {
	l := &load{t: t, c: c, size: size, seed: rand.Uint64(), rescue: rescue}
	l.changed.L = &l.mu
	return l
}

// start starts n users, which are stopped when the test ends, at the latest.
func (l *load) start(n int) {
	l.t.Cleanup(func() {
		if l.stopped.CompareAndSwap(false, true) && l.rescue != nil {
			l.rescue()
		}
		l.ended.Wait()
	})
	for i := range n {
		u := newUser(l, i, loadArea)
		l.users = append(l.users, u)
	}
	for _, u := range l.users {
		l.ended.Go(u.run)
	}
}

// newUser returns user i, whose requests have at most n bytes.
func newUser(l *load, i, n int) *user {
	return &user{l: l, i: i, rand: rand.New(rand.NewPCG(l.seed, uint64(i))), versions: map[int64]uint64{},
		buf: host.Buffer(n), want: make([]byte, n)}
}

// stop ends the users and reads back all that they wrote.
func (l *load) stop() {
	l.t.Helper()
	l.stopped.Store(true)
	patiently.Return(l.t, l.ended.Wait)
	if l.bad() {
		return
	}
	if err := l.c.Flush(); err != nil {
		l.t.Errorf("flush: %v", err)
	}
	for _, u := range l.users {
		for at := range u.versions {
			u.verify(at, loadBlock)
		}
	}
}

// await waits until n more requests are done, or one has failed.
func (l *load) await(n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	until := l.done.Load() + n
	end := time.AfterFunc(patience, func() { l.fail("%d requests are missing after %s", until-l.done.Load(), patience) })
	defer end.Stop()
	for l.done.Load() < until && !l.failed {
		l.changed.Wait()
	}
}

func (l *load) bad() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

func (l *load) fail(format string, args ...any) {
	l.t.Errorf(format, args...)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = true
	l.changed.Broadcast()
}

func (l *load) count() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done.Add(1)
	l.changed.Broadcast()
}

func (u *user) run() {
	for !u.l.stopped.Load() && !u.l.bad() {
		at, n := u.choose()
		switch what := u.rand.IntN(20); {
		case what == 0:
			if err := u.l.c.Flush(); err != nil {
				u.l.fail("flush: %v", err)
			}
		case what == 1:
			u.discard(at, n)
		case what < 11:
			u.write(at, n)
		default:
			u.verify(at, n)
		}
		u.l.count()
	}
}

// choose returns a range of whole blocks in an area of the user's.
func (u *user) choose() (at, n int64) {
	n = loadBlock
	if u.rand.IntN(3) == 0 {
		n *= 1 + u.rand.Int64N(loadArea/loadBlock)
	}
	users := int64(len(u.l.users))
	area := u.rand.Int64N(u.l.size/loadArea/users)*users + int64(u.i)
	return area*loadArea + u.rand.Int64N((loadArea-n)/loadBlock+1)*loadBlock, n
}

// fill makes p what version of the block at offset at is: each 32 bytes tell all
// about themselves.
func (u *user) fill(p []byte, at int64, version uint64) {
	if version == 0 {
		clear(p)
		return
	}
	for i := 0; i < len(p); i += 32 {
		binary.LittleEndian.PutUint64(p[i:], uint64(at)+uint64(i))
		binary.LittleEndian.PutUint64(p[i+8:], version)
		binary.LittleEndian.PutUint64(p[i+16:], uint64(u.i))
		binary.LittleEndian.PutUint64(p[i+24:], u.l.seed)
	}
}

// next returns what is to be written next, n bytes at offset at, and remembers it.
func (u *user) next(at, n int64) []byte {
	u.version++
	p := host.Buffer(int(n))
	for i := int64(0); i < n; i += loadBlock {
		u.fill(p[i:i+loadBlock], at+i, u.version)
		u.versions[at+i] = u.version
	}
	return p
}

// forget remembers that n bytes at offset at are zeros.
func (u *user) forget(at, n int64) {
	for i := int64(0); i < n; i += loadBlock {
		u.versions[at+i] = 0
	}
}

func (u *user) write(at, n int64) {
	u.version++
	for i := int64(0); i < n; i += loadBlock {
		u.fill(u.buf[i:i+loadBlock], at+i, u.version)
		u.versions[at+i] = u.version
	}
	if err := u.l.c.Write(u.buf[:n], at); err != nil {
		u.l.fail("write %d bytes at %d: %v", n, at, err)
	}
}

func (u *user) discard(at, n int64) {
	u.forget(at, n)
	if err := u.l.c.Discard(at, n); err != nil {
		u.l.fail("discard %d bytes at %d: %v", n, at, err)
	}
}

// verify reads n bytes at offset at, which must be what they should.
func (u *user) verify(at, n int64) {
	if err := u.check(at, n); err != nil {
		u.l.fail("%v", err)
	}
}

func (u *user) check(at, n int64) error {
	got, want := u.buf[:n], u.want[:n]
	for i := range got {
		got[i] = 0xee // what the device must overwrite
	}
	if err := u.l.c.Read(got, at); err != nil {
		return fmt.Errorf("read %d bytes at %d: %w", n, at, err)
	}
	for i := int64(0); i < n; i += loadBlock {
		u.fill(want[i:i+loadBlock], at+i, u.versions[at+i])
	}
	if i := firstDifference(got, want); i >= 0 {
		i &^= 31
		return fmt.Errorf("at %d: %x, want %x", at+int64(i), got[i:i+32], want[i:i+32])
	}
	return nil
}

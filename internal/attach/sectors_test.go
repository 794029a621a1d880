package attach_test

import (
	"bytes"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/attach/attachtest"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// shuffled is a backend that does requests later, in any order, and fails some.
type shuffled struct {
	behind  attach.Backend
	rand    *rand.Rand
	fail    int // one in so many; 0 is none
	waiting []*attach.Request
}

func (s *shuffled) Submit(r *attach.Request) {
	i := s.rand.IntN(len(s.waiting) + 1)
	s.waiting = slices.Insert(s.waiting, i, r)
}

func (s *shuffled) doOne() {
	r := s.waiting[0]
	s.waiting = s.waiting[1:]
	if s.fail > 0 && s.rand.IntN(s.fail) == 0 {
		r.End(fault.Errorf("test", fault.Media, "broken"))
		return
	}
	s.behind.Submit(r)
}

// Users that have every so-many-th sector to themselves, so that they share blocks, find
// what they wrote, whatever is in flight meanwhile.
func TestSectorsOfOneBlockDoNotUndoEachOther(t *testing.T) {
	runtime.LockOSThread() // as a loop is
	defer runtime.UnlockOSThread()
	for seed := range uint64(60) {
		const size, sector, depth = 1 << 20, 512, 24
		r := rand.New(rand.NewPCG(seed, 0))
		memory := attachtest.NewMemory()
		strict := &attachtest.Strict{Behind: memory, T: t, BlockSize: 4096, Depth: depth}
		strict.Size.Store(size)
		late := &shuffled{behind: strict, rand: r}
		sectors := attach.NewSectors(late, depth)
		model := make([]byte, size)
		busy := make([]int, size/sector) // who changes it, from 1
		var free []int
		for i := range depth {
			free = append(free, i)
		}
		buffers := make([][]byte, depth)
		for i := range buffers {
			buffers[i] = host.Buffer(256 << 10)
		}
		submit := func() {
			i := free[len(free)-1]
			most := 12
			if r.IntN(8) == 0 {
				most = 512
			}
			n := int64(1 + r.IntN(most))
			at := int64(r.IntN(int(size/sector - n + 1)))
			if slices.ContainsFunc(busy[at:at+n], func(b int) bool { return b > 0 }) {
				return
			}
			free = free[:len(free)-1]
			q := &attach.Request{Slot: i, Offset: at * sector, Length: n * sector}
			want := slices.Clone(model[q.Offset : q.Offset+q.Length])
			switch r.IntN(4) {
			case 0:
				q.Op, q.Flags = attach.Zero, attach.Unmap
				clear(model[q.Offset : q.Offset+q.Length])
			case 1:
				q.Op = attach.Read
				q.Buf = buffers[i][:q.Length]
			default:
				q.Op = attach.Write
				q.Buf = buffers[i][:q.Length]
				for j := range q.Buf {
					q.Buf[j] = byte(r.Uint32())
				}
				copy(model[q.Offset:], q.Buf)
			}
			for j := at; j < at+n; j++ {
				busy[j] = i + 1
			}
			q.Done = func(q *attach.Request) {
				if q.Err != nil {
					t.Errorf("seed %d: %v", seed, q.Err)
				}
				if q.Op == attach.Read && !bytes.Equal(q.Buf, want) {
					t.Errorf("seed %d: a read at %d returned something else", seed, q.Offset)
				}
				for j := at; j < at+n; j++ {
					busy[j] = 0
				}
				free = append(free, i)
			}
			sectors.Submit(q)
		}
		for range 600 {
			if len(free) > 0 && (len(late.waiting) == 0 || r.IntN(2) == 0) {
				submit()
			} else {
				late.doOne()
			}
		}
		for len(late.waiting) > 0 {
			late.doOne()
		}
		if len(free) != depth {
			t.Fatalf("seed %d: %d requests never end", seed, depth-len(free))
		}
		if !bytes.Equal(memory.Bytes(0, size), model) {
			t.Fatalf("seed %d: the backend has something else", seed)
		}
	}
}

// An error ends the request and what waits for it goes on.
func TestSectorsPassErrorsOn(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	late := &shuffled{behind: attachtest.NewMemory(), rand: r, fail: 3}
	sectors := attach.NewSectors(late, 32)
	ended, failed := 0, 0
	for i := range 32 {
		q := &attach.Request{Slot: i, Op: attach.Write, Offset: int64(i%4) * 512, Length: 5120, Buf: host.Buffer(5120)}
		q.Done = func(q *attach.Request) {
			ended++
			if fault.Is(q.Err, fault.Media) {
				failed++
			}
		}
		sectors.Submit(q)
	}
	for len(late.waiting) > 0 {
		late.doOne()
	}
	if ended != 32 || failed == 0 || failed == 32 {
		t.Errorf("%d ended, %d failed", ended, failed)
	}
}

func TestSectorsDoNotAllocate(t *testing.T) {
	sectors := attach.NewSectors(attachtest.Null{}, 4)
	q := &attach.Request{Op: attach.Write, Buf: host.Buffer(8192)}
	done := func(*attach.Request) {}
	if n := testing.AllocsPerRun(100, func() {
		q.Offset, q.Length, q.Done = 512, 4096, done
		sectors.Submit(q)
		q.Offset, q.Length, q.Done = 4096, 8192, done
		sectors.Submit(q)
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestSectorsAnswerWhatIsAHole(t *testing.T) {
	memory := attachtest.NewMemory()
	sectors := attach.NewSectors(memory, 1)
	w := attach.Request{Op: attach.Write, Offset: 4096, Length: 4096, Buf: host.Buffer(4096), Done: func(*attach.Request) {}}
	sectors.Submit(&w)
	q := attach.Question{Offset: 512, Length: 8192, Extents: make([]attach.Extent, 0, 8)}
	q.Done = func(*attach.Question) {}
	sectors.Map(&q)
	want := []attach.Extent{{Length: 3584, Hole: true}, {Length: 4096}, {Length: 4096, Hole: true}}
	if q.Err != nil || !slices.Equal(q.Extents, want) {
		t.Errorf("%+v (%v), want %+v", q.Extents, q.Err, want)
	}
}

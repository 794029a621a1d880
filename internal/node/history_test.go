package node

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/host"
)

// access is a read or a write of one block, as its user sees it.
type access struct {
	block int
	write bool
	value uint64
}

// register is what a block is: a read returns what was written last.
var register = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		by := map[int][]porcupine.Operation{}
		for _, o := range history {
			b := o.Input.(access).block
			by[b] = append(by[b], o)
		}
		var parts [][]porcupine.Operation
		for _, p := range by {
			parts = append(parts, p)
		}
		return parts
	},
	Init: func() any { return uint64(0) },
	Step: func(state, input, output any) (bool, any) {
		a := input.(access)
		if a.write {
			return true, a.value
		}
		return output.(uint64) == state.(uint64), state
	},
}

// history is what the users of a volume did and saw.
type history struct {
	mu    sync.Mutex
	began time.Time
	list  []porcupine.Operation
	value uint64
}

func (h *history) now() int64 { return int64(time.Since(h.began)) }

func (h *history) next() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.value++
	return h.value
}

func (h *history) add(o porcupine.Operation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.list = append(h.list, o)
}

// use does an access through the volume. One whose outcome nobody knows may take effect
// at any time after it began: a write is recorded as one that never ended, a read not at
// all.
func (h *history) use(v *volume, user int, a access) (ok bool) {
	buf := host.Buffer(block.Size)
	op := attach.Read
	if a.write {
		op = attach.Write
		binary.LittleEndian.PutUint64(buf, a.value)
	}
	o := porcupine.Operation{ClientId: user, Input: a, Call: h.now()}
	done := make(chan error, 1)
	r := &attach.Request{Op: op, Slot: user, Offset: int64(a.block) * block.Size, Length: block.Size, Buf: buf}
	r.Done = func(r *attach.Request) { done <- r.Err }
	err := errGone
	if v.n.live(v, func() { v.b.Submit(r) }) {
		select {
		case err = <-done:
		case <-v.gone:
		}
	}
	o.Return, o.Output = h.now(), binary.LittleEndian.Uint64(buf)
	if err != nil {
		o.Return = int64(time.Hour)
	}
	if err == nil || a.write {
		h.add(o)
	}
	return err == nil
}

// TestHistoriesAreLinearizable has users read and write a few blocks while nodes are
// killed and restarted, connections are cut, and the volume moves, and then asks whether
// there is one order of all this in which every read returns what was written last.
func TestHistoriesAreLinearizable(t *testing.T) {
	seeds := []uint64{1, 2}
	if s := os.Getenv("HOLDFAST_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		must(t, err)
		seeds = []uint64{n}
	}
	for _, seed := range seeds {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			rounds := 8
			if testing.Short() {
				rounds = 3
			}
			disturb(t, newRig(t, 3), rand.New(rand.NewPCG(seed, 0)), rounds)
		})
	}
}

// users is how many there are; each does this many accesses between two disturbances.
const (
	users    = 4
	accesses = 150
)

func disturb(t *testing.T, g *rig, r *rand.Rand, rounds int) {
	h := &history{began: time.Now()}
	at := 0
	v := g.nodes[at].attach()
	for range rounds {
		var done sync.WaitGroup
		for user := range users {
			rand := rand.New(rand.NewPCG(r.Uint64(), 0))
			done.Go(func() {
				for range accesses {
					a := access{block: rand.IntN(6), write: rand.IntN(2) == 0}
					if a.write {
						a.value = h.next()
					}
					if !h.use(v, user, a) {
						return // each attachment has users of its own
					}
				}
			})
		}
		other := (at + 1 + r.IntN(2)) % 3
		switch r.IntN(4) {
		case 0: // a replica's process dies
			g.nodes[other].kill()
			g.nodes[other].start() // it may be the last one in sync, so users wait for it
			done.Wait()
		case 1:
			g.nodes[at].cut()
			done.Wait()
		case 2: // the owner's process dies, the volume moves
			v.die()
			g.nodes[at].kill()
			done.Wait()
			g.nodes[at].start()
			at = other
			v = g.nodes[at].attach()
		case 3: // the owner's process dies and comes back
			v.die()
			g.nodes[at].kill()
			done.Wait()
			g.nodes[at].start()
			v = g.nodes[at].attach()
		}
	}
	if !porcupine.CheckOperations(register, h.list) {
		t.Errorf("%d accesses are in no order: replay with HOLDFAST_SEED", len(h.list))
	}
	t.Logf("%d accesses", len(h.list))
}

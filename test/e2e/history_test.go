package e2e

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"golang.org/x/sys/unix"
)

// history is what the users of a few blocks of a volume did and saw, on whichever device,
// in rounds: when one is over, all of it must be explained by one order in which every read
// returned what was written last. The next round begins with what the blocks were then.
type history struct {
	first int64 // block of the volume
	began time.Time
	value atomic.Uint64 // written last; each write has its own

	mu    sync.Mutex
	round []porcupine.Operation
	was   map[int64]uint64 // what the blocks were when the round began
	all   int
}

// historyBlocks is how many blocks users share, so that they meet.
const historyBlocks = 8

// access is a read or a write of one block.
type access struct {
	block int64
	write bool
	value uint64 // that is written
}

// newHistory begins the history of blocks that are zeros.
func newHistory(first int64) *history {
	h := &history{first: first, began: time.Now(), was: map[int64]uint64{}}
	for b := range int64(historyBlocks) {
		h.was[b] = 0
	}
	return h
}

func (h *history) now() int64 { return int64(time.Since(h.began)) }

func (h *history) add(user int, a access, value uint64, call, end int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.round = append(h.round, porcupine.Operation{ClientId: user, Input: a, Output: value, Call: call, Return: end})
}

// noEnd is the end of a write that has none: nobody knows whether it took effect.
const noEnd = math.MaxInt64

// blockModel is what a block is: a read returns what was written last.
var blockModel = porcupine.Model{
	Init: func() any { return uint64(0) },
	Step: func(state, input, output any) (bool, any) {
		if a := input.(access); a.write {
			return true, a.value
		}
		return output == state, state
	},
	DescribeOperation: func(input, output any) string {
		if a := input.(access); a.write {
			return fmt.Sprintf("write %d", a.value)
		}
		return fmt.Sprintf("read %d", output)
	},
}

// settled returns the round's accesses of a block, the first being what it was before. A
// write without an end that nobody saw took no effect, or one after all else. One that
// was seen took effect before the end of whatever saw it first.
func (h *history) settled(b int64) (list []porcupine.Operation) {
	seen := map[uint64]int64{}
	for _, o := range h.round {
		if a := o.Input.(access); a.block == b && !a.write {
			if end, ok := seen[o.Output.(uint64)]; !ok || o.Return < end {
				seen[o.Output.(uint64)] = o.Return
			}
		}
	}
	list = append(list, porcupine.Operation{Input: access{b, true, h.was[b]}, Call: math.MinInt64, Return: math.MinInt64 + 1})
	for _, o := range h.round {
		a := o.Input.(access)
		if a.block != b {
			continue
		}
		if o.Return == noEnd {
			end, ok := seen[a.value]
			if !ok {
				continue
			}
			o.Return = max(end, o.Call)
		}
		list = append(list, o)
	}
	return list
}

// end ends the round, of which the device shows the outcome, and tells what is wrong with it.
func (h *history) end(device string) error {
	f, buf, err := openBlocks(device)
	if err != nil {
		return err
	}
	defer closeBlocks(f, buf)
	for b := range int64(historyBlocks) {
		if err := h.access(f, buf, access{block: b}, 0); err != nil {
			return err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for b := range int64(historyBlocks) {
		list := h.settled(b)
		if porcupine.CheckOperations(blockModel, list) {
			continue
		}
		shown := ""
		for _, o := range list[max(0, len(list)-40):] {
			shown += fmt.Sprintf("\n%d to %d, user %d: %s", o.Call, o.Return, o.ClientId, blockModel.DescribeOperation(o.Input, o.Output))
		}
		return fmt.Errorf("%d accesses of block %d are in no order; the last of them: %s", len(list), h.first+b, shown)
	}
	h.all += len(h.round)
	for _, o := range h.round[len(h.round)-historyBlocks:] {
		h.was[o.Input.(access).block] = o.Output.(uint64)
	}
	h.round = nil
	return nil
}

func openBlocks(device string) (*os.File, []byte, error) {
	f, err := os.OpenFile(device, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return nil, nil, err
	}
	buf, err := unix.Mmap(-1, 0, blockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		_ = f.Close() // nothing was done with it
	}
	return f, buf, err
}

func closeBlocks(f *os.File, buf []byte) {
	_ = f.Close() // direct: nothing is left to say
	_ = unix.Munmap(buf)
}

// access does one and notes it. A read that failed says nothing; a write that failed may
// have taken effect, or take it later.
func (h *history) access(f *os.File, buf []byte, a access, user int) error {
	at := (h.first + a.block) * blockSize
	if a.write {
		a.value = h.value.Add(1)
		for i := 0; i < blockSize; i += 8 {
			binary.LittleEndian.PutUint64(buf[i:], a.value)
		}
		call := h.now()
		_, err := f.WriteAt(buf, at)
		end := h.now()
		if err != nil {
			end = noEnd
		}
		h.add(user, a, 0, call, end)
		return err
	}
	call := h.now()
	if _, err := f.ReadAt(buf, at); err != nil {
		return err
	}
	end, value := h.now(), binary.LittleEndian.Uint64(buf)
	for i := 8; i < blockSize; i += 8 {
		if other := binary.LittleEndian.Uint64(buf[i:]); other != value {
			return tornError(fmt.Sprintf("block %d is torn: %d and, at %d, %d", h.first+a.block, value, i, other))
		}
	}
	h.add(user, a, value, call, end)
	return nil
}

// tornError is what no disturbance excuses.
type tornError string

func (e tornError) Error() string { return string(e) }

// users are those of one device, at the same time. Each is a client of its own.
type users struct {
	ends  atomic.Bool
	count atomic.Int64 // of accesses that ended
	done  chan error   // of each: what it met, nil when it was asked to end
}

const (
	usersOfDevice = 4
	userPause     = 2 * time.Millisecond // between two accesses of one
)

// use has users read and write through the device until they are to end, or meet an error.
func (h *history) use(t *testing.T, device string, seed uint64) *users {
	t.Helper()
	u := &users{done: make(chan error, usersOfDevice)}
	for user := range usersOfDevice {
		f, buf, err := openBlocks(device)
		must(t, err)
		random := rand.New(rand.NewPCG(seed, uint64(user)))
		go func() {
			defer closeBlocks(f, buf)
			pause := time.NewTicker(userPause)
			defer pause.Stop()
			var err error
			for !u.ends.Load() && err == nil {
				err = h.access(f, buf, access{block: random.Int64N(historyBlocks), write: random.IntN(2) == 0}, user)
				u.count.Add(1)
				<-pause.C
			}
			u.done <- err
		}()
	}
	t.Cleanup(func() { u.ends.Store(true) })
	return u
}

// goOn waits until the users have done some more.
func (u *users) goOn(c *cluster) {
	c.t.Helper()
	now := u.count.Load()
	c.await("the users go on", func(context.Context) bool { return u.count.Load() > now+10*usersOfDevice })
}

// end ends them, and returns the first error that one met.
func (u *users) end(c *cluster) (first error) {
	c.t.Helper()
	u.ends.Store(true)
	left := usersOfDevice
	c.await("the users end", func(context.Context) bool {
		select {
		case err := <-u.done:
			left--
			if torn := (tornError("")); errors.As(err, &torn) {
				c.t.Error(err)
			}
			if first == nil {
				first = err
			}
		default:
		}
		return left == 0
	})
	return first
}

// What is checked would be of no use if it were not found wrong.
func TestAHistoryIsFoundWrong(t *testing.T) {
	type op struct {
		write     bool
		value     uint64
		call, end int64
	}
	for _, c := range []struct {
		name  string
		list  []op
		wrong bool
	}{
		{"a read of what was written last", []op{{true, 1, 0, 1}, {false, 1, 2, 3}}, false},
		{"a read of what was before the round", []op{{false, 9, 0, 1}}, false},
		{"a stale read", []op{{true, 1, 0, 1}, {true, 2, 2, 3}, {false, 1, 4, 5}}, true},
		{"a read of what nobody wrote", []op{{false, 7, 0, 1}}, true},
		{"a lost write", []op{{true, 1, 0, 1}, {false, 9, 2, 3}}, true},
		{"two reads while a write is under way", []op{{true, 1, 0, 9}, {false, 9, 1, 2}, {false, 1, 3, 4}}, false},
		{"what was shown is gone again", []op{{true, 1, 0, 9}, {false, 1, 1, 2}, {false, 9, 3, 4}}, true},
		{"an unanswered write that took effect", []op{{true, 1, 0, noEnd}, {false, 9, 1, 2}, {false, 1, 5, 6}}, false},
		{"an unanswered write that took none", []op{{true, 1, 0, noEnd}, {true, 2, 1, 2}, {false, 2, 5, 6}}, false},
		{"an unanswered write that undid a newer one", []op{{true, 1, 0, noEnd}, {false, 1, 1, 2}, {true, 2, 3, 4}, {false, 1, 5, 6}}, true},
	} {
		h := newHistory(0)
		h.was[0] = 9
		for i, o := range c.list {
			h.add(i, access{0, o.write, o.value}, o.value, o.call, o.end)
		}
		if right := porcupine.CheckOperations(blockModel, h.settled(0)); right == c.wrong {
			t.Errorf("%s: found right: %v", c.name, right)
		}
	}
}

package e2e

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// chain is an application whose data is on several volumes: it writes the numbers 1, 2, 3
// and so on, each to another volume than the one before, and begins with a number only
// when the one before was confirmed. What it has on all volumes at one moment is what it
// wrote up to some number, and nothing later.
type chain struct {
	first   int64 // its first block on each volume
	volumes uint64
	acked   atomic.Uint64
	ends    atomic.Bool
	done    chan error
}

// chainSlots is how many blocks of each volume a chain writes, round and round.
const chainSlots = 32

// newChain starts one; number is 0, 1, 2... of those on the same devices.
func newChain(t *testing.T, devices []string, number int) *chain {
	t.Helper()
	w := &chain{first: int64(number * chainSlots), volumes: uint64(len(devices)), done: make(chan error, 1)}
	var files []*os.File
	for _, path := range devices {
		f, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT|unix.O_DSYNC, 0)
		must(t, err)
		files = append(files, f)
	}
	buf, err := unix.Mmap(-1, 0, blockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	must(t, err)
	go func() {
		var err error
		for !w.ends.Load() && err == nil {
			n := w.acked.Load() + 1
			for at := 0; at < blockSize; at += 8 {
				binary.LittleEndian.PutUint64(buf[at:], n)
			}
			volume, slot := n%w.volumes, n/w.volumes%chainSlots
			if _, err = files[volume].WriteAt(buf, (w.first+int64(slot))*blockSize); err == nil {
				w.acked.Store(n)
			} else {
				err = fmt.Errorf("number %d: %w", n, err)
			}
		}
		for _, f := range files {
			_ = f.Close() // direct and synchronous: nothing is left to say
		}
		_ = unix.Munmap(buf)
		w.done <- err
	}()
	t.Cleanup(func() { w.ends.Store(true) })
	return w
}

// goesOn waits until more has been confirmed than there is now.
func (w *chain) goesOn(c *cluster) {
	c.t.Helper()
	now := w.acked.Load()
	c.await("a chain of writes goes on", func(context.Context) bool {
		select {
		case err := <-w.done:
			w.done <- err
			c.t.Fatalf("a chain of writes ended: %v", err)
		default:
		}
		return w.acked.Load() > now+3*w.volumes
	})
}

// end ends it.
func (w *chain) end(c *cluster) {
	c.t.Helper()
	w.ends.Store(true)
	c.await("a chain of writes ends", func(context.Context) bool {
		select {
		case err := <-w.done:
			w.done <- err
			must(c.t, err)
			return true
		default:
			return false
		}
	})
}

// at returns the number that a slot of a volume has when the chain has come to number last
// and not further; 0 is none.
func (w *chain) at(volume, slot, last uint64) uint64 {
	if last < volume {
		return 0
	}
	turn := (last - volume) / w.volumes
	if turn < slot {
		return 0
	}
	return (turn-(turn-slot)%chainSlots)*w.volumes + volume
}

// verify reads copies of the volumes, and returns up to which number they have all: an
// error if they have something later, or lack something. It must be at least after.
func (w *chain) verify(t *testing.T, devices []string, after uint64) (last uint64, err error) {
	found := make([][]uint64, len(devices))
	buf := aligned(t, chainSlots*blockSize)
	for v, path := range devices {
		f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT, 0)
		must(t, err)
		_, err = f.ReadAt(buf, w.first*blockSize)
		must(t, f.Close())
		must(t, err)
		for slot := range chainSlots {
			b := buf[slot*blockSize : (slot+1)*blockSize]
			n := binary.LittleEndian.Uint64(b)
			for at := 8; at < blockSize; at += 8 {
				if binary.LittleEndian.Uint64(b[at:]) != n {
					return 0, fmt.Errorf("slot %d of volume %d has several numbers", slot, v)
				}
			}
			found[v] = append(found[v], n)
			last = max(last, n)
		}
	}
	if last < after {
		return last, fmt.Errorf("it ends with %d, and %d was confirmed before", last, after)
	}
	for v, numbers := range found {
		for slot, n := range numbers {
			if want := w.at(uint64(v), uint64(slot), last); n != want {
				return last, fmt.Errorf("slot %d of volume %d has the number %d, where %d should be: another volume has %d", slot, v, n, want, last)
			}
		}
	}
	return last, nil
}

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

// writer is an application: it writes increasing numbers, one block at a time, round and
// round, past the page cache, and counts those that were confirmed.
type writer struct {
	path   string
	blocks uint64
	acked  atomic.Uint64
	ends   atomic.Bool
	done   chan error // what it ended with; nil when it was asked to
}

const (
	blockSize    = 4096
	writerBlocks = 1024
)

// aligned returns a buffer that may be used with O_DIRECT.
func aligned(t testing.TB, size int) []byte {
	buf, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	must(t, err)
	t.Cleanup(func() { _ = unix.Munmap(buf) })
	return buf
}

// newWriter starts one on a device or in a file, which it makes. first is the number
// before its first.
func newWriter(t *testing.T, path string, first uint64) *writer {
	t.Helper()
	w := &writer{path: path, blocks: writerBlocks, done: make(chan error, 1)}
	w.acked.Store(first)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_DIRECT|unix.O_DSYNC, 0o600)
	must(t, err)
	buf, err := unix.Mmap(-1, 0, blockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	must(t, err)
	go func() {
		var err error
		for !w.ends.Load() && err == nil {
			n := w.acked.Load() + 1
			for at := 0; at < blockSize; at += 8 {
				binary.LittleEndian.PutUint64(buf[at:], n)
			}
			if _, err = f.WriteAt(buf, int64(n%w.blocks)*blockSize); err == nil {
				w.acked.Store(n)
			}
		}
		_ = f.Close() // direct and synchronous: nothing is left to say
		_ = unix.Munmap(buf)
		w.done <- err
	}()
	t.Cleanup(func() { w.ends.Store(true) })
	return w
}

// goesOn waits until more has been confirmed than there is now.
func (w *writer) goesOn(c *cluster) {
	c.t.Helper()
	now := w.acked.Load()
	c.await("the writer goes on", func(context.Context) bool {
		select {
		case err := <-w.done:
			w.done <- err
			c.t.Fatalf("the writer of %s ended: %v", w.path, err)
		default:
		}
		return w.acked.Load() > now+20
	})
}

// end ends it, and returns what it ended with.
func (w *writer) end(c *cluster) (err error) {
	c.t.Helper()
	w.ends.Store(true)
	w.ended(c, &err)
	return err
}

// ended waits until it has ended.
func (w *writer) ended(c *cluster, err *error) {
	c.t.Helper()
	c.await("the writer of "+w.path+" ends", func(context.Context) bool {
		select {
		case *err = <-w.done:
			w.done <- *err
			return true
		default:
			return false
		}
	})
}

// verify reads what the writer wrote, from where it is now: every number that was
// confirmed is there, or the one after it that overwrote it.
func (w *writer) verify(t *testing.T, path string) {
	t.Helper()
	must(t, w.check(t, path))
}

func (w *writer) check(t *testing.T, path string) error {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT, 0)
	must(t, err)
	defer f.Close()
	last := w.acked.Load()
	buf := aligned(t, blockSize)
	for slot := range w.blocks {
		if last < w.blocks && slot > last {
			continue // never written, or in flight
		}
		want := last - (last-slot)%w.blocks
		if want == 0 {
			continue
		}
		if _, err := f.ReadAt(buf, int64(slot)*blockSize); err != nil {
			return fmt.Errorf("block %d: %w", slot, err)
		}
		got := binary.LittleEndian.Uint64(buf)
		if got != want && got != last+1 {
			return fmt.Errorf("block %d has the number %d; %d was confirmed, and %d last of all", slot, got, want, last)
		}
		for at := 8; at < blockSize; at += 8 {
			if binary.LittleEndian.Uint64(buf[at:]) != got {
				return fmt.Errorf("block %d has several numbers", slot)
			}
		}
	}
	return nil
}

package e2e

import (
	"encoding/binary"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// image is what a volume must hold: a number for each block, which fills it; 0 is nothing.
type image []uint64

func newImage(size int64) image { return make(image, size/blockSize) }

func (m image) clone() image { return append(image(nil), m...) }

// write writes count blocks of a device from block at on, past the page cache, all with
// the same number.
func (m image) write(t testing.TB, device string, at, count int, number uint64) {
	t.Helper()
	f, err := os.OpenFile(device, os.O_WRONLY|unix.O_DIRECT, 0)
	must(t, err)
	defer f.Close()
	buf, err := unix.Mmap(-1, 0, count*blockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	must(t, err)
	defer unix.Munmap(buf)
	for i := 0; i < len(buf); i += 8 {
		binary.LittleEndian.PutUint64(buf[i:], number)
	}
	_, err = f.WriteAt(buf, int64(at)*blockSize)
	must(t, err)
	for i := range count {
		m[at+i] = number
	}
}

// discard takes blocks away.
func (m image) discard(t testing.TB, device string, at, count int) {
	t.Helper()
	sh(t, `blkdiscard --offset "$2" --length "$3" "$1"`, device, fmt.Sprint(at*blockSize), fmt.Sprint(count*blockSize))
	clear(m[at : at+count])
}

// check reads a device, from block first on, and returns an error if it holds something
// else.
func (m image) check(t testing.TB, device string, first int) error {
	t.Helper()
	f, err := os.OpenFile(device, os.O_RDONLY|unix.O_DIRECT, 0)
	must(t, err)
	defer f.Close()
	const step = 256
	buf, err := unix.Mmap(-1, 0, step*blockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	must(t, err)
	defer unix.Munmap(buf)
	for at := first; at < len(m); at += step {
		count := min(step, len(m)-at)
		if _, err := f.ReadAt(buf[:count*blockSize], int64(at)*blockSize); err != nil {
			return fmt.Errorf("blocks from %d on: %w", at, err)
		}
		for i := range count {
			for j := i * blockSize; j < (i+1)*blockSize; j += 8 {
				if got := binary.LittleEndian.Uint64(buf[j:]); got != m[at+i] {
					return fmt.Errorf("block %d has the number %d, where %d should be", at+i, got, m[at+i])
				}
			}
		}
	}
	return nil
}

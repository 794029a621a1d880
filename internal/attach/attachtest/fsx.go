package attachtest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/host"
)

// modelThrough does random operations on a file, cached and direct, checks each against
// a model, and disturbs the device meanwhile; then the filesystem is unmounted, checked,
// mounted, and the file compared once more.
func modelThrough(t *testing.T, s Suite, fs filesystem, ops int, disturb func(*outliving)) {
	o := newOutliving(t, s)
	o.config.Size = filesystemSize
	o.serve(nil).await("ready")
	dir, unmount := o.mounted(fs)
	x := &fsx{path: filepath.Join(dir, "file"), rand: rand.New(rand.NewPCG(1, rand.Uint64()))}
	done := background(func() error { return x.run(ops) })
	n, limit := 0, time.After(disturbedMax)
	for err, running := error(nil), true; running; {
		select {
		case err = <-done:
			if err != nil {
				t.Fatalf("after %d operations and %d disturbances: %v", x.done, n, err)
			}
			running = false
		case <-limit:
			t.Fatalf("the operations go on after %s and %d disturbances", disturbedMax, n)
		default:
			disturb(o)
			n++
		}
	}
	unmount()
	tool(t, fs.check[0], append(fs.check[1:], o.link())...)
	dir, unmount = o.mount(fs)
	x.path = filepath.Join(dir, "file")
	if err := x.compare(); err != nil {
		t.Errorf("after another mount: %v", err)
	}
	unmount()
	o.settle()
	o.end()
}

// fsx is a file and what should be in it.
type fsx struct {
	path  string
	rand  *rand.Rand
	model []byte
	done  int
}

const fsxBytes = 4 << 20 // the longest file

func (x *fsx) run(ops int) (err error) {
	var files [2]int // cached, direct
	for i, flags := range []int{0, unix.O_DIRECT} {
		if files[i], err = unix.Open(x.path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|flags, 0o600); err != nil {
			return err
		}
		defer unix.Close(files[i])
	}
	for x.done = range ops {
		if err := x.step(files[0], files[1]); err != nil {
			return err
		}
	}
	return errors.Join(unix.Fsync(files[0]), x.compare())
}

// step does one operation. Direct ones are made of whole blocks.
func (x *fsx) step(cached, direct int) error {
	at, n := x.rand.IntN(fsxBytes), 1+x.rand.IntN(128<<10)
	n = min(n, fsxBytes-at)
	blockAt, blockN := at&^4095, max(4096, n&^4095)
	blockN = min(blockN, fsxBytes-blockAt)
	switch what := x.rand.IntN(16); {
	case what < 5:
		return x.write(cached, at, make([]byte, n))
	case what < 8:
		return x.write(direct, blockAt, host.Buffer(blockN))
	case what < 10:
		return x.read(cached, at, make([]byte, n))
	case what < 12:
		return x.read(direct, blockAt, host.Buffer(blockN))
	case what == 12:
		x.grow(at)
		x.model = x.model[:at]
		return wrap("truncate", unix.Ftruncate(cached, int64(at)))
	case what == 13:
		clear(x.model[min(at, len(x.model)):min(at+n, len(x.model))])
		return wrap("punch", unix.Fallocate(cached, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(at), int64(n)))
	case what == 14:
		x.grow(at + n)
		clear(x.model[at : at+n])
		return wrap("zero", unix.Fallocate(cached, unix.FALLOC_FL_ZERO_RANGE, int64(at), int64(n)))
	default:
		return wrap("sync", unix.Fdatasync(direct))
	}
}

func wrap(what string, err error) error {
	if err != nil {
		err = fmt.Errorf("%s: %w", what, err)
	}
	return err
}

// grow makes the model n bytes long, if it is shorter.
func (x *fsx) grow(n int) {
	if n > len(x.model) {
		x.model = append(x.model, make([]byte, n-len(x.model))...)
	}
}

func (x *fsx) write(fd, at int, p []byte) error {
	for i := range p {
		p[i] = byte(x.rand.Uint32())
	}
	x.grow(at + len(p))
	copy(x.model[at:], p)
	n, err := unix.Pwrite(fd, p, int64(at))
	return wrap("write", whole(n, len(p), err))
}

func (x *fsx) read(fd, at int, p []byte) error {
	n, err := unix.Pread(fd, p, int64(at))
	if err != nil {
		return wrap("read", err)
	}
	want := x.model[min(at, len(x.model)):min(at+len(p), len(x.model))]
	if i := firstDifference(p[:n], want); i >= 0 {
		return fmt.Errorf("a read of %d bytes at %d differs at %d: %d bytes came, want %d", len(p), at, i, n, len(want))
	}
	return nil
}

// compare reads the file from end to end.
func (x *fsx) compare() error {
	fd, err := unix.Open(x.path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return x.read(fd, 0, make([]byte, fsxBytes+1))
}

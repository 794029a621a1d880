package host

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The benchmarks move random 4 KiB blocks of a preallocated file, past the page
// cache: at depth 1 and 32, through a loop that is Run ("ring"), through a disk with a
// loop of its own ("ring-poll"), through the pool of blocking calls ("pool"), and
// with nothing but the two rings between the kernel and the benchmark ("raw"), which
// is the floor. cpu-µs/op is what the whole process used.

const benchFileSize = 256 << 20

func BenchmarkRead4K(b *testing.B)  { benchEngines(b, OpRead) }
func BenchmarkWrite4K(b *testing.B) { benchEngines(b, OpWrite) }

func benchEngines(b *testing.B, kind Kind) {
	root := b.TempDir()
	fillFile(b, root)
	for _, depth := range []int{1, 32} {
		run := func(name string, f func(b *testing.B)) {
			b.Run(fmt.Sprintf("depth=%d/%s", depth, name), func(b *testing.B) {
				b.ReportAllocs()
				before := cpuTime(b)
				f(b)
				b.ReportMetric(float64(cpuTime(b)-before)/1e3/float64(b.N), "cpu-µs/op")
			})
		}
		run("raw", func(b *testing.B) { benchRaw(b, root, kind, depth) })
		run("ring", func(b *testing.B) { benchLoop(b, root, kind, depth) })
		run("ring-poll", func(b *testing.B) { benchPoll(b, root, kind, depth, EngineRing) })
		run("pool", func(b *testing.B) { benchPoll(b, root, kind, depth, EnginePool) })
	}
}

func fillFile(b *testing.B, root string) {
	d := openDir(b, root, Options{})
	f := mustOpen(b, d, "data", Create|Direct)
	buf := Buffer(1 << 20)
	for at := int64(0); at < benchFileSize; at += int64(len(buf)) {
		must(b, d, &Op{Kind: OpWrite, File: f, Offset: at, Buf: buf})
	}
	must(b, d, &Op{Kind: OpSync, File: f})
	must(b, d, &Op{Kind: OpClose, File: f})
}

func cpuTime(b *testing.B) int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

func randomOffset() int64 { return rand.Int64N(benchFileSize/Align) * Align }

// load keeps depth ops in flight until count are done, then calls ended.
type load struct {
	d     *Dir
	count int
	begun int
	done  int
	ended func()
	err   error
	batch [1]*Op
}

func (l *load) start(op *Op) {
	l.begun++
	op.Offset = randomOffset()
	l.batch[0] = op
	l.d.Submit(l.batch[:]...)
}

func (l *load) finish(op *Op) {
	if op.Err != nil || op.N != Align {
		l.err = fmt.Errorf("%d bytes at %d: %w", op.N, op.Offset, op.Err)
	}
	if l.done++; l.done == l.count {
		l.ended()
	} else if l.begun < l.count {
		l.start(op)
	}
}

func (l *load) begin(f File, kind Kind, depth int) {
	for range min(depth, l.count) {
		l.start(&Op{Kind: kind, File: f, Buf: Buffer(Align), Done: l.finish})
	}
}

func benchPoll(b *testing.B, root string, kind Kind, depth int, engine Engine) {
	d := openDir(b, root, Options{Engine: engine})
	f := mustOpen(b, d, "data", Direct)
	l := &load{d: d, count: b.N, ended: func() {}}
	b.ResetTimer()
	l.begin(f, kind, depth)
	for l.done < b.N {
		d.Poll(-1)
	}
	b.StopTimer()
	if l.err != nil {
		b.Fatal(l.err)
	}
}

func benchLoop(b *testing.B, root string, kind Kind, depth int) {
	loop, end := runLoop(b, Options{Engine: EngineRing})
	defer end()
	d, err := loop.Open(root)
	if err != nil {
		b.Fatal(err)
	}
	ended := make(chan struct{})
	l := &load{d: d, count: b.N, ended: func() { close(ended) }}
	b.ResetTimer()
	loop.Post(func() {
		op := &Op{Kind: OpOpen, Path: "data", Flags: Direct}
		if l.err = Do(d, op); l.err != nil {
			close(ended)
			return
		}
		l.begin(op.File, kind, depth)
	})
	<-ended
	b.StopTimer()
	if l.err != nil {
		b.Fatal(l.err)
	}
}

func benchRaw(b *testing.B, root string, kind Kind, depth int) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fd, err := unix.Open(filepath.Join(root, "data"), unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer closeFD(fd)
	u, err := openURing(32, 64, setupSingleIssuer|setupDeferTaskrun)
	if err != nil {
		b.Fatal(err)
	}
	defer u.close()
	code := uint8(uringRead)
	if kind == OpWrite {
		code = uringWrite
	}
	buf := Buffer(depth * Align)
	begun := 0
	start := func(i int) {
		begun++
		*u.next() = sqe{opcode: code, fd: int32(fd), off: uint64(randomOffset()),
			addr: uint64(uintptr(unsafe.Pointer(&buf[i*Align]))), len: Align, userData: uint64(i)}
	}
	b.ResetTimer()
	for i := range min(depth, b.N) {
		start(i)
	}
	for done := 0; done < b.N; {
		if err := u.enter(-1); err != nil && err != syscall.EINTR {
			b.Fatal(err)
		}
		for ; u.completed() > 0; done++ {
			c := u.take()
			if c.res != Align {
				b.Fatalf("result %d", c.res)
			}
			if begun < b.N {
				start(int(c.userData))
			}
		}
	}
	b.StopTimer()
	runtime.KeepAlive(buf)
}

// BenchmarkPost measures how long a goroutine waits for a loop to call its function
// and for the answer.
func BenchmarkPost(b *testing.B) {
	for _, engine := range []Engine{EngineRing, EnginePool} {
		b.Run(engine.String(), func(b *testing.B) {
			b.ReportAllocs()
			loop, end := runLoop(b, Options{Engine: engine})
			defer end()
			answer := make(chan struct{}, 1)
			f := func() { answer <- struct{}{} }
			for b.Loop() {
				loop.Post(f)
				<-answer
			}
		})
	}
}

func BenchmarkClock(b *testing.B) {
	for b.Loop() {
		RealClock{}.Now()
	}
}

// runLoop starts a loop; end stops it and gives it back.
func runLoop(t testing.TB, o Options) (l *Loop, end func()) {
	t.Helper()
	l, err := NewLoop(o)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.Run(context.Background())
	}()
	return l, func() {
		l.Stop()
		<-ended
		l.Close()
	}
}

package attachtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
)

// patience bounds what would otherwise hang for ever when a front end is wrong; no
// test waits for it to pass.
const patience = 60 * time.Second

const volumeSize = 64 << 20

// rig is one volume, its front end, and a client of it, or soon will be.
type rig struct {
	t      *testing.T
	suite  Suite
	dir    string
	loop   *host.Loop
	memory *Memory
	gate   *Gate
	strict *Strict
	front  attach.Frontend
	rand   *rand.Rand
}

// newRig starts a front end with the options that change makes of the usual ones.
func newRig(t *testing.T, s Suite, change func(o *attach.Options)) *rig {
	t.Helper()
	dir := prepare(t, s)
	r := &rig{t: t, suite: s, dir: dir, loop: runLoop(t), rand: rand.New(rand.NewPCG(1, 2))}
	r.memory = NewMemory()
	r.gate = NewGate(r.memory, r.loop)
	r.start(r.options(change))
	return r
}

// prepare returns a directory in which front ends can be made.
func prepare(t testing.TB, s Suite) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("block devices need root")
	}
	dir := t.TempDir()
	if s.Prepare != nil {
		s.Prepare(t, dir)
	}
	return dir
}

// runLoop returns a loop that runs until the test ends.
func runLoop(t testing.TB) *host.Loop {
	t.Helper()
	l, err := host.NewLoop(host.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); l.Run(context.Background()) }()
	t.Cleanup(func() {
		l.Stop()
		patiently.From(t, ended)
		l.Close()
	})
	return l
}

func linkDir(dir string) string { return filepath.Join(dir, "dev") }

// options returns what front ends of the suite have in common, with the rig's backend.
func (r *rig) options(change func(o *attach.Options)) attach.Options {
	o := commonOptions(r.dir, "vol")
	o.Loop = r.loop
	if change != nil {
		change(&o)
	}
	if o.Backend == nil {
		o.Backend = r.gate
	}
	r.strict = &Strict{Behind: o.Backend, T: r.t, BlockSize: o.BlockSize, Depth: o.Depth, ReadOnly: o.ReadOnly, NoDiscard: o.NoDiscard}
	r.strict.Size.Store(o.Size)
	o.Backend = r.strict
	return o
}

// commonOptions are the same in the test and in its child process.
func commonOptions(dir, name string) attach.Options {
	return attach.Options{
		Volume: Volume, Node: NodeOf(dir), Name: name,
		Size: volumeSize, BlockSize: block.Size, Depth: 128, LargeDepth: 16, Wait: patience,
		LinkDir: linkDir(dir), Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
}

// NodeOf returns the node that devices in dir are of: no two tests share one.
func NodeOf(dir string) block.NodeID {
	sum := sha256.Sum256([]byte(dir))
	return block.NodeID(sum[:16])
}

// start starts a front end, which is aborted when the test ends unless it has ended.
func (r *rig) start(o attach.Options) {
	r.t.Helper()
	if err := r.tryStart(o); err != nil {
		r.t.Fatalf("start: %v", err)
	}
}

func (r *rig) tryStart(o attach.Options) error {
	r.t.Helper()
	f, free, err := r.suite.New(r.dir, o)
	if err != nil {
		r.t.Fatalf("make a front end: %v", err)
	}
	if err := f.Start(r.patient()); err != nil {
		patiently.From(r.t, f.Ended())
		free()
		return err
	}
	r.t.Cleanup(func() {
		select {
		case <-f.Ended():
		default:
			r.gate.Open() // or what is held back would keep it
			if err := f.Abort(); err != nil {
				r.t.Errorf("abort in clean-up: %v", err)
			}
			patiently.From(r.t, f.Ended())
		}
		free()
	})
	r.front = f
	return nil
}

// patient returns a context for what should not take long.
func (r *rig) patient() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	r.t.Cleanup(cancel)
	return ctx
}

func (r *rig) client() Client {
	r.t.Helper()
	return r.suite.Open(r.t, r.front)
}

// stop stops the front end, and waits until its device is gone.
func (r *rig) stop() {
	r.t.Helper()
	r.must(r.front.Stop(r.patient()))
	patiently.From(r.t, r.front.Ended())
	r.must(r.front.Err())
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// noise returns n random bytes in an aligned buffer.
func (r *rig) noise(n int) []byte {
	b := host.Buffer(n)
	for i := 0; i+8 <= n; i += 8 {
		v := r.rand.Uint64()
		for j := range 8 {
			b[i+j] = byte(v >> (8 * j))
		}
	}
	return b
}

// expect reads at offset and compares.
func (r *rig) expect(c Client, offset int64, want []byte) {
	r.t.Helper()
	got := host.Buffer(len(want))
	for i := range got {
		got[i] = 0xee // what the device must overwrite
	}
	if err := c.Read(got, offset); err != nil {
		r.t.Fatalf("read %d bytes at %d: %v", len(want), offset, err)
	}
	if i := firstDifference(got, want); i >= 0 {
		r.t.Fatalf("byte %d of %d at %d is %#x, want %#x", i, len(want), offset, got[i], want[i])
	}
}

func firstDifference(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return len(a)
}

// background runs f and returns the channel that its error will be in.
func background(f func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return done
}

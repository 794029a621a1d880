package attachtest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
)

// outliving is a device that one process after the other serves from a file.
type outliving struct {
	t      *testing.T
	suite  Suite
	config childConfig
	child  *child
	killed int
}

func newOutliving(t *testing.T, s Suite) *outliving {
	t.Helper()
	o := &outliving{t: t, suite: s, killed: 1}
	o.config = childConfig{Dir: prepare(t, s), Name: "vol", Size: volumeSize, Wait: patience}
	t.Cleanup(func() {
		if t.Failed() {
			o.rescue()
		}
	})
	return o
}

// rescue ends what hangs.
func (o *outliving) rescue() {
	if o.suite.Rescue != nil {
		o.suite.Rescue(o.config.Dir)
	}
}

// serve starts a process, which the caller awaits.
func (o *outliving) serve(change func(*childConfig)) *child {
	o.t.Helper()
	config := o.config
	if change != nil {
		change(&config)
	}
	o.child = startChild(o.t, config)
	return o.child
}

func (o *outliving) link() string { return filepath.Join(linkDir(o.config.Dir), o.config.Name) }

// open returns a client of the device.
func (o *outliving) open() Client {
	o.t.Helper()
	return OpenDevice(o.t, o.link())
}

// end stops the device, which must be served and closed.
func (o *outliving) end() {
	o.t.Helper()
	o.child.tell("stop")
	o.child.await("stop")
	o.child.end()
	if _, err := os.Lstat(o.link()); err == nil {
		o.t.Errorf("%s is still there", o.link())
	}
}

// killsEnv says how often a process is killed under load, instead of 15 times.
const killsEnv = "HOLDFAST_TEST_KILLS"

func kills() int {
	if n, err := strconv.Atoi(os.Getenv(killsEnv)); err == nil {
		return n
	}
	if testing.Short() {
		return 4
	}
	return 15
}

// The process that serves is killed at random moments: under load, while it starts,
// while it takes over. Nobody notices.
func killsUnderLoad(t *testing.T, s Suite) {
	o := newOutliving(t, s)
	o.serve(nil).await("ready")
	c := o.open()
	load := newLoad(t, c, volumeSize, o.rescue)
	load.start(16)
	load.await(100)
	for range kills() {
		o.killAndServe(func() { load.await(rand.Int64N(600)) })
	}
	o.child.await("ready")
	load.await(200)
	load.stop()
	c.Close()
	o.end()
}

// killAndServe kills the process that serves and starts another, which is killed next
// time at one of three moments: after it has worked for a while, when it has hardly
// started, or just before it has the requests of the dead done again.
func (o *outliving) killAndServe(work func()) {
	o.t.Helper()
	switch o.killed++; o.killed % 3 {
	case 1:
		o.child.await("ready")
		work()
	case 2:
		<-time.After(rand.N(80 * time.Millisecond))
	case 0:
		o.child.await("fence")
		<-time.After(rand.N(2 * time.Millisecond))
	}
	o.child.kill()
	o.serve(nil)
}

// A successor that waits takes over at a request boundary: nothing is done twice.
func upgradesUnderLoad(t *testing.T, s Suite) {
	o := newOutliving(t, s)
	o.serve(nil).await("ready")
	c := o.open()
	load := newLoad(t, c, volumeSize, o.rescue)
	load.start(16)
	for range 12 {
		old := o.child
		next := o.serve(nil)
		load.await(100)
		old.tell("handover")
		old.await("handover")
		old.end()
		next.await("ready")
		if again := next.ask("again"); again != "again 0" {
			t.Errorf("after a planned restart: %s", again)
		}
	}
	load.await(100)
	load.stop()
	c.Close()
	o.end()
}

// What the dead process had in flight, and what came after it died, waits until the
// fence is through.
func fenceFirst(t *testing.T, s Suite) {
	o := newOutliving(t, s)
	first := o.serve(nil)
	first.await("ready")
	c := o.open() // which may look for partitions
	first.ask("close")
	pattern := func(b byte) []byte {
		p := host.Buffer(4096)
		for i := range p {
			p[i] = b
		}
		return p
	}
	before := background(func() error { return c.Write(pattern(1), 0) })
	first.hold(1)
	first.kill()
	after := background(func() error { return c.Write(pattern(2), 8192) })
	second := o.serve(func(c *childConfig) { c.HoldFence = true })
	second.await("fence")
	raw, err := os.ReadFile(filepath.Join(o.config.Dir, o.config.Name))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if i := slices.IndexFunc(raw, func(b byte) bool { return b != 0 }); i >= 0 {
		t.Errorf("byte %d is %d before the fence is through", i, raw[i])
	}
	select {
	case err := <-before:
		t.Fatalf("a request was answered (%v) before the fence", err)
	case err := <-after:
		t.Fatalf("a request was answered (%v) before the fence", err)
	default:
	}
	second.tell("fence")
	second.await("ready")
	for _, done := range []<-chan error{before, after} {
		if err := patiently.From(t, done); err != nil {
			t.Fatal(err)
		}
	}
	got := host.Buffer(12288)
	if err := c.Read(got, 0); err != nil || got[0] != 1 || got[4095] != 1 || got[4096] != 0 || got[8192] != 2 {
		t.Errorf("read %d %d %d %d (%v)", got[0], got[4095], got[4096], got[8192], err)
	}
	c.Close()
	o.end()
}

// Requests of every kind that processes died with, one after the other, are done by
// the first that lives.
func doneAgain(t *testing.T, s Suite) {
	o := newOutliving(t, s)
	o.serve(nil).await("ready")
	c := o.open()
	u := newUser(newLoad(t, c, volumeSize, nil), 0, 4<<20)
	u.write(0, 4<<20)
	u.write(8<<20, 1<<20)
	small, big := u.next(16<<20, 4096), u.next(20<<20, 512<<10)
	o.dieWith(
		func() error { return c.Write(small, 16<<20) },
		func() error { return c.Write(big, 20<<20) },
		func() error { return u.check(8<<20, 512<<10) },
		c.Flush,
	)
	o.dieWith(func() error { return c.Discard(1<<20, 1<<20) })
	u.forget(1<<20, 1<<20)
	u.verify(0, 4<<20)
	u.verify(16<<20, 4096)
	u.verify(20<<20, 512<<10)
	c.Close()
	o.end()
}

// dieWith has four processes die with the same requests in flight, and a fifth do
// them. The process that serves is done with.
func (o *outliving) dieWith(requests ...func() error) {
	o.t.Helper()
	closed := func(c *childConfig) { c.CloseGate = true }
	o.child.tell("handover")
	o.child.end()
	o.serve(closed).await("ready")
	var pending []<-chan error
	for i, f := range requests {
		pending = append(pending, background(f))
		o.child.hold(i + 1)
	}
	for range 3 {
		o.child.kill()
		o.serve(closed).await("ready")
		o.child.hold(len(pending))
	}
	o.child.kill()
	o.serve(nil).await("ready")
	for i, done := range pending {
		if err := patiently.From(o.t, done); err != nil {
			o.t.Errorf("request %d: %v", i, err)
		}
	}
	if o.suite.Uncounted {
		return
	}
	var again int
	if _, err := fmt.Sscanf(o.child.ask("again"), "again %d", &again); err != nil || again < len(requests) {
		o.t.Errorf("%d requests were done again (%v), want at least %d", again, err, len(requests))
	}
}

// comeAndGo kills the process while it makes the device, and while it takes it away with
// data in the kernel's cache: neither gets stuck, nothing is lost.
func comeAndGo(t *testing.T, s Suite) {
	o := newOutliving(t, s)
	want := make([]byte, 1<<20)
	for i := range 12 {
		o.serve(nil)
		<-time.After(rand.N(60 * time.Millisecond))
		o.child.kill()
		o.serve(nil).await("ready")
		f, err := os.OpenFile(o.link(), os.O_RDWR, 0) // through the cache
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(want))
		if _, err := f.ReadAt(got, 0); err != nil || firstDifference(got, want) >= 0 {
			t.Fatalf("round %d: byte %d differs (%v)", i, firstDifference(got, want), err)
		}
		for j := range want {
			want[j] = byte(i + j/512)
		}
		if _, err := f.WriteAt(want, 0); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		o.child.tell("stop")
		<-time.After(rand.N(60 * time.Millisecond))
		o.child.kill()
	}
	o.serve(nil).await("ready")
	o.end()
}

func resizedMeanwhile(t *testing.T, s Suite) {
	o := newOutliving(t, s)
	o.serve(nil).await("ready")
	c := o.open()
	o.child.kill()
	o.config.Size *= 2
	o.serve(nil).await("ready")
	if size, err := c.Size(); err != nil || size != o.config.Size {
		t.Errorf("the device has %d bytes (%v), want %d", size, err, o.config.Size)
	}
	p := host.Buffer(4096)
	p[0] = 7
	if err := c.Write(p, o.config.Size-4096); err != nil {
		t.Error(err)
	}
	c.Close()
	o.end()
}

func nobodyComes(t *testing.T, s Suite) {
	o := newOutliving(t, s)
	o.config.Wait = 300 * time.Millisecond
	o.serve(nil).await("ready")
	c := o.open()
	o.child.kill()
	if err := c.Write(host.Buffer(4096), 0); err == nil {
		t.Error("a write succeeded though nobody serves")
	}
	c.Close()
	o.serve(nil).await("ready")
	c = o.open()
	if err := c.Write(host.Buffer(4096), 0); err != nil {
		t.Errorf("a write to the new device: %v", err)
	}
	c.Close()
	o.end()
}

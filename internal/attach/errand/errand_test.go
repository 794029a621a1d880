package errand

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/attach/loopdev"
	"github.com/holdfast-io/holdfast/internal/fault"
)

const mainArg = "errand-of-a-test"

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == mainArg {
		os.Exit(Main())
	}
	// A process built for the race detector sleeps for a second when it exits.
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

var self = Command{"/proc/self/exe", mainArg}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantKind(t *testing.T, err error, kind fault.Kind) {
	t.Helper()
	if !fault.Is(err, kind) {
		t.Errorf("got %v (%v), want it %v", err, fault.KindOf(err), kind)
	}
}

// attached has a loop device set up over a file of 1 MiB.
func attached(t *testing.T) (file, loop int, name string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("loop devices need root")
	}
	dir := t.TempDir()
	name = filepath.Join(dir, "file")
	must(t, os.WriteFile(name, make([]byte, 1<<20), 0o600))
	root, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(root)
	_, _, err = self.Attach(t.Context(), root, Attach{File: "nothing", BlockSize: 4096})
	wantKind(t, err, fault.NotFound)
	file, loop, err = self.Attach(t.Context(), root, Attach{File: "file", BlockSize: 4096})
	must(t, err)
	t.Cleanup(func() { _ = unix.Close(file) })
	return file, loop, name
}

func TestErrandsOnADevice(t *testing.T) {
	file, loop, name := attached(t)
	d, err := loopdev.Held(loop)
	must(t, err)
	t.Cleanup(d.Close)

	must(t, os.Truncate(name, 2<<20))
	must(t, self.Resize(t.Context(), file, loop, 2<<20))
	wantKind(t, self.Resize(t.Context(), file, loop, 3<<20), fault.Internal)
	if size, err := d.Size(); err != nil || size != 2<<20 {
		t.Errorf("the device has %d bytes (%v)", size, err)
	}

	// Claimed: refused before anything is let go of.
	claim, err := os.OpenFile(d.Path(), os.O_RDONLY|os.O_EXCL, 0)
	must(t, err)
	_, err = self.Detach(t.Context(), d.FD(), func() error { t.Error("let go of a device that is claimed"); return nil })
	wantKind(t, err, fault.Busy)
	must(t, claim.Close())

	// Open: found out when everybody else has let go, and held from then on.
	user, err := os.Open(d.Path())
	must(t, err)
	held, err := self.Detach(t.Context(), d.FD(), func() error { d.Close(); return nil })
	wantKind(t, err, fault.Busy)
	if held < 0 {
		t.Fatal("the device was not held")
	}
	if what, cure := fault.Describe(err); !strings.Contains(what, "open") || cure == "" {
		t.Errorf("the error is %q, cure %q", what, cure)
	}
	must(t, user.Close())
	d, err = loopdev.Held(held)
	must(t, err)
	if backing, ok := loopdev.Backing(d.Number); !ok || backing != name {
		t.Errorf("the device is over %q", backing)
	}

	other, err := self.Hold(t.Context(), d.Number, name)
	must(t, err)
	must(t, unix.Close(other))

	// A sender that changes its mind keeps what it has.
	_, err = self.Detach(t.Context(), d.FD(), func() error { return fault.Errorf("test", fault.Denied, "no") })
	wantKind(t, err, fault.Denied)

	held, err = self.Detach(t.Context(), d.FD(), func() error { d.Close(); return nil })
	must(t, err)
	if backing, ok := loopdev.Backing(d.Number); held >= 0 || ok && backing == name {
		t.Errorf("the device is there, over %q", backing)
	}
	gone, err := self.Hold(t.Context(), d.Number, name)
	must(t, err)
	if gone >= 0 {
		t.Error("a device that is gone was held")
	}
}

func TestErrandsThatCannotBe(t *testing.T) {
	null, err := os.Open(os.DevNull)
	must(t, err)
	defer null.Close()
	wantKind(t, self.Resize(t.Context(), int(null.Fd()), int(null.Fd()), 0), fault.Invalid)
	_, err = self.Detach(t.Context(), int(null.Fd()), func() error { return nil })
	wantKind(t, err, fault.Invalid)
	_, err = Command{"/bin/true"}.Hold(t.Context(), 0, "x")
	wantKind(t, err, fault.Unavailable)
	_, err = Command{filepath.Join(t.TempDir(), "nothing")}.Hold(t.Context(), 0, "x")
	wantKind(t, err, fault.NotFound)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = self.Hold(ctx, 0, "x")
	wantKind(t, err, fault.Canceled)

	p, err := self.start(t.Context())
	must(t, err)
	defer p.end()
	for _, o := range []order{{}, {Verb: "dance"}, {Verb: verbAttach}, {Verb: verbDetach}} {
		_, _, err := p.do(o)
		wantKind(t, err, fault.Invalid)
	}
	_, _, err = p.do(order{Verb: verbDetach}, int(null.Fd()))
	wantKind(t, err, fault.Invalid)
}

//go:build vm

// These tests need a kernel with ublk: `make test-vm` runs them in a virtual machine.

package ublk

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/attach/attachtest"
	"github.com/holdfast-io/holdfast/internal/attach/errand"
	"github.com/holdfast-io/holdfast/internal/attach/keeper"
	"github.com/holdfast-io/holdfast/internal/attach/ublk/ublkctl"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
)

const (
	keeperEnv = "HOLDFAST_UBLK_TEST_KEEPER"
	errandArg = "errand-of-a-test"
)

func TestMain(m *testing.M) {
	if socket := os.Getenv(keeperEnv); socket != "" {
		os.Exit(keeper.Main([]string{"--socket", socket}))
	}
	if len(os.Args) == 2 && os.Args[1] == errandArg {
		os.Exit(errand.Main())
	}
	attachtest.Main(m, suite)
}

func errands() errand.Command { return errand.Command{"/proc/self/exe", errandArg} }

var suite = attachtest.Suite{Prepare: prepare, New: newFrontend, Rescue: rescue, FixedSize: !ublkctl.Grows(), Uncounted: true, ExitsToHandOver: true}

func TestConformance(t *testing.T) { attachtest.Run(t, suite) }

func socketOf(dir string) string { return filepath.Join(dir, "keeper.sock") }

// prepare starts a keeper, which must be left with nothing when the test ends.
func prepare(t testing.TB, dir string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), keeperEnv+"="+socketOf(dir))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		leaveNothing(t, dir)
	})
	patiently.Until(t, func() error {
		c, err := keeper.DialTool(t.Context(), socketOf(dir))
		if err == nil {
			c.Close()
		}
		return err
	})
}

// mine returns the devices that were made in dir.
func mine(dir string) (list []ublkctl.Info) {
	node := attachtest.NodeOf(dir)
	for _, id := range ublkctl.List() {
		if i, err := ublkctl.Get(id); err == nil && i.Mark>>32 == markOf(node[:])>>32 {
			list = append(list, i)
		}
	}
	return list
}

// leaveNothing fails a test that leaves devices, and takes them away.
func leaveNothing(t testing.TB, dir string) {
	for tick, tries := time.NewTicker(10*time.Millisecond), 0; len(mine(dir)) > 0 && tries < 2000; tries++ {
		<-tick.C // a guard may be at it
	}
	for _, i := range mine(dir) {
		t.Errorf("%s is left", ublkctl.BlockPath(i.ID))
	}
	rescue(dir)
}

func rescue(dir string) {
	for _, i := range mine(dir) {
		_ = ublkctl.Delete(i.ID, i.Mark) // the test has failed
	}
}

// clients are the connections of this process to its keepers, by directory: a data
// process has one, for all its devices.
var clients = struct {
	sync.Mutex
	of map[string]*client
}{of: map[string]*client{}}

type client struct {
	*keeper.Client
	users int
}

func newFrontend(dir string, o attach.Options) (attach.Frontend, func(), error) {
	clients.Lock()
	defer clients.Unlock()
	c := clients.of[dir]
	if c == nil {
		k, err := keeper.Dial(context.Background(), socketOf(dir))
		if err != nil {
			return nil, nil, err
		}
		c = &client{Client: k}
		clients.of[dir] = c
	}
	f, err := New(o, Config{Keeper: c.Client, Errand: errands()})
	if err != nil {
		if c.users == 0 {
			delete(clients.of, dir)
			c.Close()
		}
		return nil, nil, err
	}
	c.users++
	return f, func() {
		clients.Lock()
		defer clients.Unlock()
		if c.users--; c.users == 0 {
			delete(clients.of, dir)
			c.Close()
		}
	}, nil
}

// A device whose keeper and process are dead is taken away by its guard; Sweep finds what
// even that has left.
func TestNothingIsLeftOfTheDead(t *testing.T) {
	dir := t.TempDir()
	prepare(t, dir)
	node := attachtest.NodeOf(dir)
	i, err := ublkctl.Add(ublkctl.Params{Depth: 8, IOBytes: 64 << 10, Size: 1 << 20, BlockSize: 4096, Mark: markOf(node[:]) | 7})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := meta{Volume: attachtest.Volume, ID: i.ID, Mark: i.Mark}.entry("vol")
	if err != nil {
		t.Fatal(err)
	}
	link, err := attach.Link(dir, "vol", ublkctl.BlockPath(i.ID))
	if err != nil {
		t.Fatal(err)
	}
	l := Leftovers{Errand: errands(), Node: node, LinkDir: dir, Kept: []keeper.Entry{raw}}
	if gone, err := l.Sweep(t.Context()); err != nil || len(gone) != 0 {
		t.Errorf("swept %q (%v), which is to be kept", gone, err)
	}
	if _, err := os.Readlink(link); err != nil {
		t.Error(err)
	}
	l.Kept = nil
	if gone, err := l.Sweep(t.Context()); err != nil || !slices.Equal(gone, []string{ublkctl.BlockPath(i.ID)}) {
		t.Errorf("swept %q (%v)", gone, err)
	}
	if _, err := os.Readlink(link); err == nil {
		t.Error("the link is still there")
	}
}

//go:build vm

// These tests need a kernel with nbd: `make test-vm` runs them in a virtual machine.

package nbdclient

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/attach/attachtest"
	"github.com/holdfast-io/holdfast/internal/attach/errand"
	"github.com/holdfast-io/holdfast/internal/attach/keeper"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
)

const (
	keeperEnv = "HOLDFAST_NBDCLIENT_TEST_KEEPER"
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

var suite = attachtest.Suite{Prepare: prepare, New: newFrontend, Rescue: rescue, OnlyEIO: true, Uncounted: true}

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

// leaveNothing fails a test that leaves devices, and takes them away.
func leaveNothing(t testing.TB, dir string) {
	gone, err := Leftovers{Node: attachtest.NodeOf(dir), LinkDir: filepath.Join(dir, "dev")}.Sweep()
	if err != nil || len(gone) > 0 {
		t.Errorf("%q are left (%v)", gone, err)
	}
}

func rescue(dir string) {
	_, _ = Leftovers{Node: attachtest.NodeOf(dir), LinkDir: filepath.Join(dir, "dev")}.Sweep()
} // the test has failed

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

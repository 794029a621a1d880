package fuse

import (
	"context"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/attach/attachtest"
	"github.com/holdfast-io/holdfast/internal/attach/errand"
	"github.com/holdfast-io/holdfast/internal/attach/keeper"
	"github.com/holdfast-io/holdfast/internal/attach/loopdev"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
)

const keeperEnv = "HOLDFAST_FUSE_TEST_KEEPER"

// slotsEnv has front ends take unanswered requests from the slots.
const slotsEnv = "HOLDFAST_FUSE_TEST_FROM_SLOTS"

func TestMain(m *testing.M) {
	if socket := os.Getenv(keeperEnv); socket != "" {
		os.Exit(keeper.Main([]string{"--socket", socket}))
	}
	if len(os.Args) == 2 && os.Args[1] == errandArg {
		os.Exit(errand.Main())
	}
	// A process built for the race detector sleeps for a second when it exits.
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0"); err != nil {
		panic(err)
	}
	attachtest.Main(m, suite)
}

// errandArg makes the test binary the process of an errand.
const errandArg = "errand-of-a-test"

func errands() errand.Command { return errand.Command{"/proc/self/exe", errandArg} }

var suite = attachtest.Suite{Prepare: prepare, New: newFrontend, Rescue: rescue}

func TestConformance(t *testing.T) { attachtest.Run(t, suite) }

// TestTakeOverFromSlots does without the kernel's help, as kernels before 6.9 must.
func TestTakeOverFromSlots(t *testing.T) {
	t.Setenv(slotsEnv, "1")
	attachtest.RunOutliving(t, suite)
}

func socketOf(dir string) string { return filepath.Join(dir, "keeper.sock") }

// prepare starts a keeper, which must be left with nothing when the test ends.
func prepare(t testing.TB, dir string) {
	t.Helper()
	cmd := startKeeper(t, dir)
	if deadline, ok := t.(*testing.T).Deadline(); ok {
		// A test binary that is given up while a thread waits for its own device stays.
		giveUp := time.AfterFunc(time.Until(deadline)-5*time.Second, func() { rescue(dir) })
		t.Cleanup(func() { giveUp.Stop() })
	}
	t.Cleanup(func() {
		stopKeeper(cmd)
		leaveNothing(t, dir)
	})
}

// startKeeper starts a keeper that does not outlive the test.
func startKeeper(t testing.TB, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), keeperEnv+"="+socketOf(dir))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopKeeper(cmd) })
	patiently.Until(t, func() error {
		c, err := keeper.DialTool(t.Context(), socketOf(dir))
		if err == nil {
			c.Close()
		}
		return err
	})
	return cmd
}

func stopKeeper(cmd *exec.Cmd) {
	if cmd.ProcessState == nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
	}
}

// devicesOf returns the loop devices that were made in dir.
func devicesOf(t testing.TB, dir string) map[loopdev.Found]attach.FileName {
	found, err := loopdev.List()
	if err != nil {
		t.Error(err)
	}
	node := attachtest.NodeOf(dir)
	mine := map[loopdev.Found]attach.FileName{}
	for _, d := range found {
		if name, ok := attach.ParseFileName(d.Backing); ok && name.Node == hex.EncodeToString(node[:4]) {
			mine[d] = name
		}
	}
	return mine
}

// leaveNothing fails a test that leaves devices, and takes them away. The keeper and all
// children are dead.
func leaveNothing(t testing.TB, dir string) {
	for tick, tries := time.NewTicker(10*time.Millisecond), 0; len(devicesOf(t, dir)) > 0 && tries < 200; tries++ {
		<-tick.C // the last close may still be under way
	}
	for d, name := range devicesOf(t, dir) {
		t.Errorf("%s is left, over %s", d.Path(), d.Backing)
		_ = name.Connection.Abort() // the test has failed
		_ = loopdev.Detach(d.Number)
	}
}

// rescue aborts all devices in dir.
func rescue(dir string) {
	found, _ := loopdev.List()
	node := attachtest.NodeOf(dir)
	for _, d := range found {
		if name, ok := attach.ParseFileName(d.Backing); ok && name.Node == hex.EncodeToString(node[:4]) {
			_ = name.Connection.Abort() // the test has failed
		}
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
	k, free, err := connect(dir)
	if err != nil {
		return nil, nil, err
	}
	pool, err := NewPool(48, 6)
	if err != nil {
		free()
		return nil, nil, err
	}
	f, err := New(o, Config{Keeper: k, Errand: errands(), FromSlots: os.Getenv(slotsEnv) != "", Pool: pool})
	if err != nil {
		free()
		return nil, nil, err
	}
	return f, free, nil
}

// connect returns the connection to the keeper of dir, and what gives it back.
func connect(dir string) (*keeper.Client, func(), error) {
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
	c.users++
	return c.Client, func() {
		clients.Lock()
		defer clients.Unlock()
		if c.users--; c.users == 0 {
			delete(clients.of, dir)
			c.Close()
		}
	}, nil
}

func TestFilesystems(t *testing.T) { attachtest.RunFilesystems(t, suite) }

package keeper

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// Main is the keeper's process: it serves the socket of --socket until it is told to
// end (SIGTERM, SIGINT) while it holds nothing, and returns its exit status. args are
// those after the command's name.
func Main(args []string) int {
	flags := flag.NewFlagSet("keeper", flag.ContinueOnError)
	socket := flags.String("socket", "/run/holdfast/keeper.sock", "where data processes find it")
	group := flags.String("cgroup", "", "control group of its own to move into, such as holdfast-keeper")
	if err := flags.Parse(args); err != nil {
		return fault.Invalid.ExitCode()
	}
	logs := newLogger(os.Stderr)
	hardened(*group, logs.printf)
	if err := run(*socket, logs.printf); err != nil {
		fmt.Fprintln(os.Stderr, "keeper:", err)
		return fault.KindOf(err).ExitCode()
	}
	return 0
}

// run listens at path and serves.
func run(path string, log func(string, ...any)) error {
	l, lock, err := listen(path)
	if err != nil {
		return err
	}
	defer lock.Close()
	k := newKeeper(log)
	signals := make(chan os.Signal, 8)
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		for range signals {
			if k.empty() {
				l.Close()
				return
			}
			log("told to end, but devices depend on this process: it goes on")
		}
	}()
	log("listening at %s", path)
	for {
		c, err := l.AcceptUnix()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil: // out of descriptors, say
			log("accept: %v", err)
			time.Sleep(100 * time.Millisecond)
		default:
			go k.serve(c)
		}
	}
}

// listen makes the socket, which only root can reach. The file beside it is locked for
// as long as the keeper lives, so a socket that is there is that of a dead one.
func listen(path string) (*net.UnixListener, *os.File, error) {
	fail := func(kind fault.Kind, format string, args ...any) (*net.UnixListener, *os.File, error) {
		return nil, nil, fault.Errorf("keeper.listen", kind, format, args...)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fail(fault.KindOf(err), "%w", err)
	}
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fail(fault.KindOf(err), "%w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return fail(fault.KindOf(err), "another keeper is at %s", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		lock.Close()
		return fail(fault.KindOf(err), "%w", err)
	}
	mask := unix.Umask(0o077)
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	unix.Umask(mask)
	if err != nil {
		lock.Close()
		return fail(fault.KindOf(err), "%w", err)
	}
	return l, lock, nil
}

// hardened makes it likelier that the process lives as long as the machine. Whatever
// it lacks the right to is done without.
func hardened(group string, log func(string, ...any)) {
	runtime.GOMAXPROCS(1)
	_ = os.Chdir("/") // so that it holds no filesystem
	if group != "" {
		if err := joinGroup(group); err != nil {
			log("stays in the control group that it was started in: %v", err)
		}
	}
	// On fault: only what it touches, not all of the program. What the start has touched, which
	// is most of it, would be locked too.
	if _, err := host.Unload(); err != nil {
		log("all that the start needed is locked, too: %v", err)
	}
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		log("memory can't be locked: %v", err)
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0); err != nil {
		log("may be chosen when memory runs out: %v", err)
	}
}

// joinGroup moves the process into a control group of its own, where no limit is but
// the machine's: a limit that it shared with the writers to its devices would make it
// wait for itself.
func joinGroup(name string) error {
	if name != filepath.Base(name) {
		return fault.Errorf("keeper", fault.Invalid, "control group %q: want a name without slashes", name)
	}
	root := "/sys/fs/cgroup"
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err != nil {
		root = filepath.Join(root, "memory") // version 1
	}
	dir := filepath.Join(root, name)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0)
}

// logger writes lines without ever waiting: whoever reads them may be what waits for
// a device.
type logger struct{ lines chan string }

func newLogger(w io.Writer) *logger {
	l := &logger{lines: make(chan string, 64)}
	go func() {
		for line := range l.lines {
			_, _ = io.WriteString(w, line) // nobody to tell
		}
	}()
	return l
}

func (l *logger) printf(format string, args ...any) {
	line := fmt.Sprintf(time.Now().UTC().Format(time.RFC3339)+" keeper: "+format+"\n", args...)
	select {
	case l.lines <- line:
	default: // full: the line is lost
	}
}

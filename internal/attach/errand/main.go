package errand

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/attach/loopdev"
	"github.com/holdfast-io/holdfast/internal/attach/packet"
	"github.com/holdfast-io/holdfast/internal/attach/ublk/ublkctl"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// socketFD is where an errand's process finds its socket.
const socketFD = 3

// Main is the process of an errand, which a [Command] started. It returns its exit
// status.
func Main() int {
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP)
	f := os.NewFile(socketFD, "errand")
	c, err := net.FileConn(f)
	f.Close()
	socket, ok := c.(*net.UnixConn)
	if err != nil || !ok {
		return fault.Invalid.ExitCode()
	}
	e := &errand{socket: socket}
	for {
		var o order
		files, err := packet.Receive(socket, &o)
		if err != nil {
			e.keepWatch()
			return 0 // done, or not wanted any more
		}
		r, back := e.do(o, files)
		if err := packet.Send(socket, r, back); err != nil {
			return 0
		}
		packet.CloseAll(back)
	}
}

// errand is what a process remembers from one order to the next.
type errand struct {
	socket *net.UnixConn
	loop   *loopdev.Device // that Detach lets go of
	pipe   *os.File        // that Guard watches; nil is none
	watch  Ublk
}

// do carries an order out, and returns the files to send back, which are then closed.
func (e *errand) do(o order, files []int) (report, []int) {
	want := map[string]int{verbAttach: 1, verbResize: 2, verbFlush: 1, verbDetach: 0, verbHold: 0, verbSync: 0, verbUblk: 0, verbGuard: 1}
	n, known := want[o.Verb]
	if !known || len(files) != n {
		packet.CloseAll(files)
		return failed(fault.Errorf("errand", fault.Invalid, "%q with %d files is no errand", o.Verb, len(files))), nil
	}
	switch o.Verb {
	case verbAttach:
		defer packet.CloseAll(files)
		return doAttach(files[0], o.Attach)
	case verbResize:
		defer packet.CloseAll(files)
		return failed(doResize(files[0], files[1], o.Size)), nil
	case verbFlush:
		return failed(e.flush(files[0])), nil
	case verbDetach:
		return e.detach()
	case verbSync:
		return failed(doSync(o.Backing)), nil
	case verbUblk:
		return doUblk(o.Ublk)
	case verbGuard:
		return e.guard(files[0], o.Ublk), nil
	default:
		return hold(o.Number, o.Backing)
	}
}

func failed(err error) report { return report{Failure: packet.Fail(err)} }

func doAttach(root int, a Attach) (report, []int) {
	mode := unix.O_RDWR
	if a.ReadOnly {
		mode = unix.O_RDONLY
	}
	backing, err := unix.Openat(root, a.File, mode|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return failed(&os.PathError{Op: "open", Path: a.File, Err: err}), nil
	}
	defer unix.Close(backing)
	file, err := unix.Openat(root, a.File, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return failed(&os.PathError{Op: "open", Path: a.File, Err: err}), nil
	}
	loop, err := loopdev.Attach(loopdev.Config{Backing: backing, Name: a.File, BlockSize: a.BlockSize, ReadOnly: a.ReadOnly})
	if err != nil {
		_ = unix.Close(file) // opened as a path
		return failed(err), nil
	}
	if a.NoDiscard && !a.ReadOnly {
		loop.LearnDiscards()
	}
	return report{}, []int{file, loop.FD()}
}

func doResize(file, loopFD int, size int64) error {
	var st unix.Stat_t
	if err := unix.Fstat(file, &st); err != nil {
		return fault.Errorf("errand.resize", fault.KindOf(err), "have the kernel learn the size: %w", err)
	}
	if st.Size != size {
		return fault.Errorf("errand.resize", fault.Internal, "the kernel believes in %d bytes instead of %d", st.Size, size)
	}
	loop, err := loopdev.Held(loopFD)
	if err != nil {
		return err
	}
	if err := loop.UpdateSize(); err != nil {
		return err
	}
	if got, err := loop.Size(); err != nil || got != size {
		return fault.Errorf("errand.resize", fault.Internal, "%s has %d bytes (%v) after it was made %d", loop.Path(), got, err, size)
	}
	return nil
}

// flush is the first half of Detach.
func (e *errand) flush(fd int) error {
	loop, err := loopdev.Held(fd)
	if err != nil {
		packet.CloseAll([]int{fd})
		return err
	}
	e.loop = loop
	claimed, err := loop.Claimed()
	if err != nil {
		return err
	}
	if claimed {
		return inUse("errand.flush", loop.Path())
	}
	return loopdev.Sync(loop.Path())
}

const (
	// detachWait is how long a loop device may take to go away. Most kernels have done it
	// when the last descriptor is closed.
	detachWait = 100 * time.Millisecond
	// fellowWait is how long errands of a dead sender, which are about to end, may have it
	// open.
	fellowWait = 10 * time.Second
)

// detach is the second half: it closes the last descriptor that is ours.
func (e *errand) detach() (report, []int) {
	if e.loop == nil {
		return failed(fault.Errorf("errand.detach", fault.Invalid, "nothing was flushed")), nil
	}
	n := e.loop.Number
	name, _ := loopdev.Backing(n)
	e.loop.Close()
	began, users := time.Now(), []int(nil)
	for wait := detachWait; time.Since(began) < wait; time.Sleep(time.Millisecond) {
		if now, bound := loopdev.Backing(n); !bound || now != name {
			return report{}, nil
		}
		if time.Since(began) < detachWait/2 {
			continue
		}
		if users = e.loop.Users(); slices.ContainsFunc(users, isFellow) {
			wait = fellowWait
		} else {
			wait = detachWait
		}
	}
	r, held := hold(n, name)
	if len(held) > 0 {
		r = failed(fault.WithCure(fault.Errorf("errand.detach", fault.Busy, "%s is open", e.loop.Path()), "end "+describe(users)))
	}
	return r, held
}

// inUse is the error of a device that is mounted: here, or only in the mount namespace of a
// container, which began with a copy of every mount.
func inUse(op, path string) error {
	return fault.WithCure(fault.Errorf(op, fault.Busy, "%s is mounted, here or in another mount namespace", path),
		"unmount it; who has it says: grep -l "+path+" /proc/*/mountinfo")
}

// doSync writes and flushes what the page cache has of a device.
func doSync(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if err == unix.EBUSY {
		return inUse("errand.sync", path)
	}
	if err != nil {
		return fault.Errorf("errand.sync", fault.KindOf(err), "open %s: %w", path, err)
	}
	_ = unix.Close(fd) // opened for reading
	return loopdev.Sync(path)
}

// doUblk does a verb of package ublkctl.
func doUblk(u *Ublk) (r report, _ []int) {
	if u == nil {
		return failed(fault.Errorf("errand.ublk", fault.Invalid, "nothing to do")), nil
	}
	var err error
	switch u.Do {
	case UblkAdd:
		r.Ublk, err = ublkctl.Add(u.Params)
	case UblkGet:
		r.Ublk, err = ublkctl.Get(u.ID)
	case UblkStart:
		err = ublkctl.Start(u.ID, u.Mark, u.PID)
	case UblkRecover:
		err = ublkctl.Recover(u.ID, u.Mark)
	case UblkRecovered:
		err = ublkctl.Recovered(u.ID, u.Mark, u.PID)
	case UblkResize:
		err = ublkctl.Resize(u.ID, u.Mark, u.Params.Size)
	case UblkDelete:
		err = ublkctl.Delete(u.ID, u.Mark)
	default:
		err = fault.Errorf("errand.ublk", fault.Invalid, "%q is no verb", u.Do)
	}
	r.Failure = packet.Fail(err)
	return r, nil
}

// guard remembers what to watch once the sender is done with this process.
func (e *errand) guard(pipe int, u *Ublk) report {
	if u == nil {
		packet.CloseAll([]int{pipe})
		return failed(fault.Errorf("errand.guard", fault.Invalid, "nothing to guard"))
	}
	e.pipe, e.watch = os.NewFile(uintptr(pipe), "guard"), *u
	return report{}
}

// keepWatch takes the guarded device away when the pipe ends.
func (e *errand) keepWatch() {
	if e.pipe == nil {
		return
	}
	_ = e.socket.Close() // nobody is there
	_, _ = io.Copy(io.Discard, e.pipe)
	_ = ublkctl.Delete(e.watch.ID, e.watch.Mark) // nobody to tell
}

// isFellow reports whether a process is an errand's too.
func isFellow(pid int) bool {
	mine, err := os.ReadFile("/proc/self/cmdline")
	if err != nil {
		return false
	}
	its, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && bytes.Equal(mine, its)
}

// describe names processes: "process 12 (fio), process 13 (dd)".
func describe(pids []int) string {
	if len(pids) == 0 {
		return "its users"
	}
	var names []string
	for _, pid := range pids {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)) // it may have ended
		names = append(names, fmt.Sprintf("process %d (%s)", pid, bytes.TrimSpace(comm)))
	}
	return strings.Join(names, ", ")
}

// hold opens device n if it is over the file of that name.
func hold(n int, name string) (report, []int) {
	held, err := loopdev.Hold(n)
	if err != nil {
		return failed(err), nil
	}
	if now, bound := loopdev.Backing(n); !bound || strings.TrimPrefix(now, "/") != strings.TrimPrefix(name, "/") {
		held.Close()
		return report{}, nil
	}
	return report{}, []int{held.FD()}
}

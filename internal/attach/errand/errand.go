// Package errand does, in a process of its own, what has to wait for whoever serves a
// device: open its file, set up the loop device, resize it, flush it, let go of it.
//
// The process that serves the device must not do this itself. A thread that waits for
// an answer of its own process can't be killed: the process would stay, with all its
// files open, so the keeper would admit no successor, and nobody would ever answer. An
// errand's process holds none of the files that a successor needs. If the process that
// sent it dies, it waits on, unnoticed, until the successor answers.
package errand

import (
	"context"
	"net"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/attach/packet"
	"github.com/holdfast-io/holdfast/internal/attach/ublk/ublkctl"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// Command is the program, with its first arguments, whose process calls [Main].
type Command []string

// order is what a process is sent to do. Its files come with it.
type order struct {
	Verb    string `json:"verb"`
	Attach  Attach `json:"attach"`
	Size    int64  `json:"size,omitempty"`
	Number  int    `json:"number,omitempty"`
	Backing string `json:"backing,omitempty"`
	Ublk    *Ublk  `json:"ublk,omitempty"`
}

// report is what comes back.
type report struct {
	packet.Failure
	Ublk ublkctl.Info `json:"ublk,omitzero"`
}

// The verbs.
const (
	verbAttach = "attach" // file: the root; the report brings the file and the loop device
	verbResize = "resize" // files: the file, the loop device
	verbFlush  = "flush"  // file: the loop device
	verbDetach = "detach" // after flush; the report brings the loop device if it is in use
	verbHold   = "hold"   // the report brings the loop device if it is there
	verbSync   = "sync"   // what the page cache holds of a block device, by its path
	verbUblk   = "ublk"   // a verb of package ublkctl
	verbGuard  = "guard"  // file: a pipe; when that ends, a ublk device is taken away
)

// Attach says what loop device to set up.
type Attach struct {
	File      string `json:"file"` // name in the root
	BlockSize int    `json:"block_size"`
	ReadOnly  bool   `json:"read_only,omitempty"`
	NoDiscard bool   `json:"no_discard,omitempty"`
}

// Attach sets up a loop device over a file of the filesystem whose root, an O_PATH
// descriptor, is given. It returns an O_PATH descriptor of the file, and one of the
// loop device, for reading, by which it is held.
func (c Command) Attach(ctx context.Context, root int, a Attach) (file, loop int, err error) {
	p, err := c.start(ctx)
	if err != nil {
		return -1, -1, err
	}
	defer p.end()
	_, files, err := p.do(order{Verb: verbAttach, Attach: a}, root)
	if err == nil && len(files) == 2 {
		return files[0], files[1], nil
	}
	packet.CloseAll(files)
	if err == nil {
		err = fault.Errorf("errand.Attach", fault.Internal, "%d files came back", len(files))
	}
	return -1, -1, err
}

// Resize has the kernel learn the file's size, which must be size by now, and makes
// the loop device as long.
func (c Command) Resize(ctx context.Context, file, loop int, size int64) error {
	p, err := c.start(ctx)
	if err != nil {
		return err
	}
	defer p.end()
	_, files, err := p.do(order{Verb: verbResize, Size: size}, file, loop)
	packet.CloseAll(files)
	return err
}

// Detach takes a loop device away in two steps. First everything that the kernel has
// of it is written and flushed; the error is fault.Busy if it is mounted. Then gone is
// called, after which this process must be the only one that was given the device, by
// whichever descriptor, and it goes away. If somebody else has it open after all, the
// error is fault.Busy too, and the descriptor by which it is held from then on is
// returned; otherwise that is -1.
func (c Command) Detach(ctx context.Context, loop int, gone func() error) (int, error) {
	p, err := c.start(ctx)
	if err != nil {
		return -1, err
	}
	defer p.end()
	if _, _, err = p.do(order{Verb: verbFlush}, loop); err != nil {
		return -1, err
	}
	if err = gone(); err != nil {
		return -1, err
	}
	_, files, err := p.do(order{Verb: verbDetach})
	if len(files) == 1 {
		return files[0], err
	}
	packet.CloseAll(files)
	return -1, err
}

// Hold opens loop device n, if it is over the file of that name, and returns the
// descriptor, which is -1 if it is not.
func (c Command) Hold(ctx context.Context, n int, name string) (int, error) {
	p, err := c.start(ctx)
	if err != nil {
		return -1, err
	}
	defer p.end()
	_, files, err := p.do(order{Verb: verbHold, Number: n, Backing: name})
	if err == nil && len(files) == 1 {
		return files[0], nil
	}
	packet.CloseAll(files)
	return -1, err
}

// Sync writes what the page cache holds of the block device at path, and flushes it. The
// error is fault.Busy when it is mounted.
func (c Command) Sync(ctx context.Context, path string) error {
	p, err := c.start(ctx)
	if err != nil {
		return err
	}
	defer p.end()
	_, files, err := p.do(order{Verb: verbSync, Backing: path})
	packet.CloseAll(files)
	return err
}

// Ublk is what to do with a ublk device.
type Ublk struct {
	Do     UblkVerb       `json:"do"`
	ID     uint32         `json:"id"`
	Mark   uint64         `json:"mark,omitempty"`
	PID    int            `json:"pid,omitempty"` // who serves it
	Params ublkctl.Params `json:"params,omitzero"`
}

// UblkVerb is a verb of package ublkctl.
type UblkVerb string

// The verbs.
const (
	UblkAdd       UblkVerb = "add"
	UblkGet       UblkVerb = "get"
	UblkStart     UblkVerb = "start"
	UblkRecover   UblkVerb = "recover"
	UblkRecovered UblkVerb = "recovered"
	UblkResize    UblkVerb = "resize" // to Params.Size
	UblkDelete    UblkVerb = "delete"
)

// Ublk does it.
func (c Command) Ublk(ctx context.Context, u Ublk) (ublkctl.Info, error) {
	p, err := c.start(ctx)
	if err != nil {
		return ublkctl.Info{}, err
	}
	defer p.end()
	r, files, err := p.do(order{Verb: verbUblk, Ublk: &u})
	packet.CloseAll(files)
	return r.Ublk, err
}

// Guard starts a process that stays, and takes a ublk device away when the last
// descriptor of the pipe's other end is closed.
func (c Command) Guard(ctx context.Context, pipe int, id uint32, mark uint64) error {
	p, err := c.start(ctx)
	if err != nil {
		return err
	}
	_, files, err := p.do(order{Verb: verbGuard, Ublk: &Ublk{Do: UblkDelete, ID: id, Mark: mark}}, pipe)
	packet.CloseAll(files)
	p.reported = false // it is not waited for
	p.end()
	return err
}

// process is one that was started for an errand.
type process struct {
	ctx    context.Context
	cmd    *exec.Cmd
	socket *net.UnixConn
	stop   func() bool

	reported bool // the last order was carried out, or not
}

// start starts a process. What it says on its standard error is lost; its report says
// it all.
func (c Command) start(ctx context.Context) (*process, error) {
	fail := func(err error) (*process, error) {
		return nil, fault.Errorf("errand.start", fault.KindOf(err), "start %v: %w", c, err)
	}
	ours, theirs, err := pair()
	if err != nil {
		return fail(err)
	}
	defer theirs.Close()
	cmd := exec.Command(c[0], c[1:]...)
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt at the terminal is not for it
	if err := cmd.Start(); err != nil {
		ours.Close()
		return fail(err)
	}
	p := &process{ctx: ctx, cmd: cmd, socket: ours}
	p.stop = context.AfterFunc(ctx, func() { _ = ours.Close() })
	return p, nil
}

// pair returns two connected sockets.
func pair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "errand"), os.NewFile(uintptr(fds[1]), "errand")
	c, err := net.FileConn(ours) // a copy
	ours.Close()
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return c.(*net.UnixConn), theirs, nil
}

// do sends an order and waits for the report.
func (p *process) do(o order, files ...int) (r report, back []int, err error) {
	p.reported = false
	if err = packet.Send(p.socket, o, files); err == nil {
		back, err = packet.Receive(p.socket, &r)
	}
	p.reported = err == nil
	switch {
	case p.ctx.Err() != nil:
		packet.CloseAll(back)
		return r, nil, attach.GaveUp(p.ctx, "errand."+o.Verb)
	case err != nil:
		return r, nil, fault.Errorf("errand."+o.Verb, fault.Unavailable, "the process ended before it reported: %w", err)
	}
	return r, back, r.Err("errand." + o.Verb)
}

// end lets the process go, and waits for that if it has reported: then it has nothing
// to wait for itself, and until it is gone it has the device open.
func (p *process) end() {
	p.stop()
	_ = p.socket.Close() // which ends it
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = p.cmd.Wait() // its report said it all
	}()
	if p.reported {
		<-ended
	}
}

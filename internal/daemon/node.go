package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/attach/keeper"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/obs"
	"github.com/holdfast-io/holdfast/internal/pool"
)

// How long processes may take to end by themselves.
const (
	dataStopMax    = 30 * time.Second
	controlStopMax = 15 * time.Second
	keeperStartMax = 30 * time.Second
)

// NodeOptions are Node's.
type NodeOptions struct {
	Config  Config
	Program string // this program
	Version string
	Out     io.Writer // what people are told
	Log     *slog.Logger
}

// Node runs a node until ctx ends.
func Node(ctx context.Context, o NodeOptions) error {
	c := &o.Config
	if err := c.Complete(); err != nil {
		return err
	}
	for _, dir := range []string{c.DataDir, c.RunDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fault.Wrap("daemon.Node", err)
		}
	}
	lock, err := lockDir(c.DataDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	id, err := o.identify(ctx)
	if err != nil {
		return err
	}
	if err := o.pools(ctx, id); err != nil {
		return err
	}
	if err := c.save(); err != nil {
		return err
	}
	return o.supervise(ctx, id)
}

// lockDir keeps a second Node from the directory.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fault.Wrap("daemon.Node", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fault.WithCure(fault.Errorf("daemon.Node", fault.Busy, "a node runs in %s already", dir),
			"give each node of a machine its own --data-dir, --run-dir and --address or ports")
	}
	return f, nil
}

// supervise runs the node's processes until ctx ends.
func (o *NodeOptions) supervise(ctx context.Context, id identity) error {
	c := &o.Config
	if err := replace(c.pidFile("node"), []byte(strconv.Itoa(os.Getpid())+"\n")); err != nil {
		return fault.Wrap("daemon.Node", err)
	}
	defer os.Remove(c.pidFile("node"))
	if err := o.keeper(ctx); err != nil {
		return err
	}
	data, control := o.process("data", dataStopMax), o.process("control", controlStopMax)
	data.waitMax = restartMostData
	dataCtx, stopData := context.WithCancel(context.WithoutCancel(ctx))
	controlCtx, stopControl := context.WithCancel(context.WithoutCancel(ctx))
	go control.watch(controlCtx)
	go data.watch(dataCtx)
	go o.announce(ctx, id)
	go settle(ctx, o.Log)
	go o.keepKeeper(ctx)
	<-ctx.Done()
	notify("STOPPING=1")
	o.Log.Info("the node ends")
	stopData()
	<-data.ended
	stopControl()
	<-control.ended
	if o.endKeeper() {
		o.unmountPools()
	}
	return nil
}

// unmountPools takes the pools' filesystems off: nobody uses them any more. Whoever starts
// the node mounts them again.
func (o *NodeOptions) unmountPools() {
	for _, path := range o.Config.Pools {
		if err := pool.Unmount(path); err != nil {
			o.Log.Warn("a pool stays mounted", "pool", path, obs.Err(err))
		}
	}
}

// process returns one of the node's processes.
func (o *NodeOptions) process(name string, stopMax time.Duration) *process {
	return &process{name: name, command: []string{o.Program, name, "--config", o.Config.childConfig()},
		pidFile: o.Config.pidFile(name), stopMax: stopMax, waitMax: restartMost, log: o.Log, ended: make(chan struct{})}
}

// keeper has a keeper run, or waits for the one that somebody else runs: one of ours would
// end with this container, and devices with it.
func (o *NodeOptions) keeper(ctx context.Context) error {
	if o.Config.KeeperApart {
		return o.awaitKeeper(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, keeperStartMax)
	defer cancel()
	socket := o.Config.keeperSocket()
	command := []string{o.Program, "keeper", "--socket", socket, "--cgroup", "holdfast-keeper"}
	return keeper.Ensure(ctx, socket, command, os.Stderr)
}

// awaitKeeper waits until a keeper answers.
func (o *NodeOptions) awaitKeeper(ctx context.Context) error {
	for said := false; ; said = true {
		k, err := keeper.DialTool(ctx, o.Config.keeperSocket())
		if err == nil {
			k.Close()
			return nil
		}
		if ctx.Err() != nil {
			return fault.Errorf("daemon.Node", fault.Unavailable, "no keeper answers at %s: %w", o.Config.keeperSocket(), ctx.Err())
		}
		if !said {
			o.Log.Warn("the node waits for a keeper", "socket", o.Config.keeperSocket(), obs.Err(err))
		}
		pause(ctx, restartLeast)
	}
}

// keepKeeper has another keeper run when the one there is has died: the data process puts
// into it what it serves.
func (o *NodeOptions) keepKeeper(ctx context.Context) {
	for ctx.Err() == nil {
		k, err := keeper.DialTool(ctx, o.Config.keeperSocket())
		if err == nil {
			_ = replace(o.Config.pidFile("keeper"), []byte(strconv.Itoa(k.PID())+"\n")) // for people
			select {
			case <-k.Lost():
			case <-ctx.Done():
			}
			k.Close()
			continue
		}
		if ctx.Err() == nil {
			o.Log.Warn("the keeper is gone; another one is needed", obs.Err(err))
			if err := o.keeper(ctx); err != nil && ctx.Err() == nil {
				o.Log.Error("no keeper can be started", obs.Err(err))
				pause(ctx, restartLeast*10)
			}
		}
	}
}

// endKeeper has the keeper end if it holds nothing, and otherwise says what goes on. One
// that somebody else runs is theirs: Kubernetes would start it again, each time later. It
// reports whether there are no devices, as far as that is known.
func (o *NodeOptions) endKeeper() bool {
	if o.Config.KeeperApart {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	k, err := keeper.DialTool(ctx, o.Config.keeperSocket())
	if err != nil {
		return true
	}
	defer k.Close()
	list, err := k.List(ctx)
	if err == nil && len(list) > 0 {
		o.Log.Warn("devices stay, and their I/O waits for this node to be started again", "devices", len(list), "keeper", k.PID())
		return false
	}
	_ = unix.Kill(k.PID(), unix.SIGTERM) // it ends only if it holds nothing
	select {
	case <-k.Lost():
	case <-ctx.Done():
	}
	_ = os.Remove(o.Config.pidFile("keeper"))
	return err == nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// announce says when the node is ready.
func (o *NodeOptions) announce(ctx context.Context, id identity) {
	c := &o.Config
	for {
		_, making := os.Stat(c.foundingFile())
		conn, err := net.Dial("unix", c.apiSocket())
		if err == nil {
			conn.Close()
		}
		if err == nil && making != nil {
			break
		}
		if pause(ctx, 50*time.Millisecond); ctx.Err() != nil {
			return
		}
	}
	notify("READY=1\nSTATUS=node " + c.Name + " of cluster " + id.Cluster.String())
	fmt.Fprintf(o.Out, "node %s is ready: API at https://%s and %s\n", c.Name, c.at(c.APIPort), c.apiSocket())
	if id.founding {
		fmt.Fprintf(o.Out, "this node has made the cluster %s. Others join it with a token:\n", c.Cluster)
		fmt.Fprintf(o.Out, "  here:  holdfast token create%s\n", o.socketHint())
		fmt.Fprintf(o.Out, "  there: holdfast node --join %s --token TOKEN\n", c.at(c.APIPort))
	}
}

// socketHint is the flag with which commands find this node, unless it is where they look.
func (o *NodeOptions) socketHint() string {
	if o.Config.RunDir == "/run/holdfast" {
		return ""
	}
	return " --address " + o.Config.apiSocket()
}

// notify tells systemd, if it is listening.
func notify(what string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	if name, abstract := strings.CutPrefix(path, "@"); abstract {
		path = "\x00" + name
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return
	}
	_, err = c.Write([]byte(what))
	_ = errors.Join(err, c.Close()) // nobody else is to be told
}

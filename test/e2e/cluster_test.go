package e2e

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/holdfast-io/holdfast/api/client"
	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/attach/loopdev"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
)

// program is the binary under test.
var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "holdfast-e2e-")
	if err != nil {
		panic(err)
	}
	program = filepath.Join(dir, "holdfast")
	build := exec.Command("go", "build", "-o", program, "../../cmd/holdfast")
	build.Stdout, build.Stderr = os.Stdout, os.Stderr
	status := 1
	if build.Run() == nil {
		status = m.Run()
	}
	_ = os.RemoveAll(dir) // of the system's temporary files
	os.Exit(status)
}

// long is whether the long forms of tests are wanted, as by make test-long.
var long = os.Getenv("HOLDFAST_LONG") != ""

// drawn returns the random choices of a test, and says how to have the same ones again.
func drawn(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if s, ok := os.LookupEnv("HOLDFAST_SEED"); ok {
		var err error
		seed, err = strconv.ParseUint(s, 10, 64)
		must(t, err)
	}
	t.Logf("the same choices again: HOLDFAST_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// rounds is how often something is done.
func rounds(inShort, inLong int) int {
	if long {
		return inLong
	}
	return inShort
}

// patience bounds every wait: the machine may be busy, and a test that fails says where.
const patience = 2 * time.Minute

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// cluster is nodes on addresses of the loopback network.
type cluster struct {
	t     *testing.T
	dir   string
	net   string // 127.x.y
	token string
	nodes []*node
	wires *wires // between the nodes; nil when they share this machine's network

	saw string // by who waits: shown when that was in vain

	poolSize string   // of each node; "" is 3Gi
	args     []string // of each node, too
}

type node struct {
	c    *cluster
	i    int
	name string
	id   string // by which loop devices are known to be its own; "" before it was up
	cmd  *exec.Cmd
	log  *os.File
	own  *client.Client // of api
}

var networks atomic.Int32

// newCluster starts a cluster of count nodes and waits until all are up.
func newCluster(t *testing.T, count int) *cluster {
	c := prepare(t)
	c.grow(count)
	return c
}

// prepare makes a cluster without nodes.
func prepare(t *testing.T) *cluster {
	if os.Getuid() != 0 {
		t.Skip("needs root, to make devices and mount them")
	}
	// A path that is short enough for sockets.
	dir, err := os.MkdirTemp("", "hf")
	must(t, err)
	c := &cluster{t: t, dir: dir, net: fmt.Sprintf("127.%d.%d", 10+os.Getpid()%200, networks.Add(1))}
	t.Cleanup(c.destroy)
	return c
}

// next returns the node that grow adds next.
func (c *cluster) next() *node {
	return &node{c: c, i: len(c.nodes), name: fmt.Sprintf("n%d", len(c.nodes)+1)}
}

// grow adds count nodes.
func (c *cluster) grow(count int) {
	for range count {
		n := c.next()
		c.nodes = append(c.nodes, n)
		if c.wires != nil {
			c.wires.plug(n)
		}
		n.start()
		c.await("node "+n.name+" is up, with its pool", func(ctx context.Context) bool { return c.nodes[0].isUp(ctx, n.name) })
		if n.i == 0 {
			r, err := n.api().Cluster.CreateToken(c.t.Context(), &v1.CreateTokenRequest{Kind: v1.TokenKind_TOKEN_KIND_JOIN, Lifetime: durationpb.New(time.Hour)})
			must(c.t, err)
			c.token = r.Secret
		}
	}
	if len(c.nodes) == 3 {
		c.await("any one node may be lost: all three have a member that votes", c.threeVote)
	}
}

// threeVote reports whether the metadata has three members that vote and are healthy.
func (c *cluster) threeVote(ctx context.Context) bool {
	status, err := c.nodes[0].api().Cluster.GetStatus(ctx, &v1.GetStatusRequest{})
	if err != nil {
		return false
	}
	voters := 0
	for _, m := range status.Metadata.GetMembers() {
		if m.Healthy && !m.Learner {
			voters++
		}
	}
	return voters == 3
}

// during runs a test that uses the cluster, which is another's, or several's.
func (c *cluster) during(t *testing.T, name string, test func(t *testing.T)) {
	t.Run(name, func(t *testing.T) {
		of := c.t
		c.t = t
		defer func() { c.t = of }()
		test(t)
		if t.Failed() {
			c.logs()
		}
	})
}

func (n *node) isUp(ctx context.Context, name string) bool {
	got, err := n.api().Nodes.GetNode(ctx, &v1.GetNodeRequest{Node: name})
	if err != nil || got.Status.GetState() != v1.NodeState_NODE_STATE_UP {
		return false
	}
	pools, err := n.api().Pools.ListPools(ctx, &v1.ListPoolsRequest{})
	if err != nil {
		return false
	}
	for _, p := range pools.Pools {
		if p.Spec.GetNodeId() == got.Meta.Id && p.Status.GetHealthy() {
			if i := slices.IndexFunc(n.c.nodes, func(x *node) bool { return x.name == name }); i >= 0 {
				n.c.nodes[i].id = got.Meta.Id[:8]
			}
			return true
		}
	}
	return false
}

// note notes what is seen of a volume, for when the wait is in vain.
func (c *cluster) note(v *v1.Volume, err error) {
	if err == nil || !errors.Is(err, context.DeadlineExceeded) && connect.CodeOf(err) != connect.CodeDeadlineExceeded {
		c.saw = fmt.Sprint(v.GetStatus(), err)
	}
}

// await waits until so.
func (c *cluster) await(what string, so func(ctx context.Context) bool) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	c.saw = "nothing that was noted"
	for tick := time.NewTicker(20 * time.Millisecond); !so(ctx); <-tick.C {
		if ctx.Err() != nil {
			c.logs()
			c.t.Fatalf("waited %v for this: %s\nseen last: %s", patience, what, c.saw)
		}
	}
}

func (n *node) path(name string) string {
	return filepath.Join(n.c.dir, n.name, name)
}

func (n *node) address() string {
	if n.c.wires != nil {
		return n.c.wires.address(n)
	}
	return fmt.Sprintf("%s.%d", n.c.net, n.i+1)
}

// start starts the node's processes.
func (n *node) start() {
	t := n.c.t
	must(t, os.MkdirAll(n.path(""), 0o700))
	args := []string{"node", "--name", n.name, "--data-dir", n.path("data"), "--run-dir", n.path("run"), "--link-dir", n.path("dev"),
		"--address", n.address(), "--pool", n.path("pool"), "--pool-size", cmp.Or(n.c.poolSize, "3Gi"),
		"--replace-member-after", "30s"}
	args = append(args, n.c.args...)
	if n.i > 0 {
		args = append(args, "--join", net.JoinHostPort(n.c.nodes[0].address(), "7400"), "--token", n.c.token)
	}
	args = append([]string{program}, args...)
	if n.c.wires != nil {
		args = append(n.c.wires.inside(n), args...)
	}
	n.cmd = exec.Command(args[0], args[1:]...)
	var err error
	n.log, err = os.OpenFile(n.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(t, err)
	n.cmd.Stdout, n.cmd.Stderr = n.log, n.log
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	must(t, n.cmd.Start())
}

// api is a client of the node's own socket.
func (n *node) api() *client.Client {
	if n.own == nil {
		var err error
		n.own, err = client.Dial(client.Options{Address: n.path("run/api.sock")})
		must(n.c.t, err)
	}
	return n.own
}

// pid returns the process id of one of the node's processes: keeper, data or control.
func (n *node) pid(process string) int {
	raw, err := os.ReadFile(n.path("run/" + process + ".pid"))
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(raw))) // 0 is none
	return pid
}

// kill kills one process with SIGKILL.
func (n *node) kill(process string) {
	if pid := n.pid(process); pid > 1 {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may be dead
	}
}

// crash kills all processes of the node at once, as the loss of the machine would.
func (n *node) crash() {
	if n.cmd != nil {
		_ = n.cmd.Process.Kill() // the supervisor first, so that it starts nothing
	}
	for _, process := range []string{"data", "control", "keeper"} {
		n.kill(process)
	}
	if n.cmd != nil {
		_ = n.cmd.Wait() // killed
		n.cmd = nil
		_ = n.log.Close() // written by then
	}
}

// stop ends the node as an administrator would.
func (n *node) stop() {
	must(n.c.t, n.cmd.Process.Signal(syscall.SIGTERM))
	must(n.c.t, n.cmd.Wait())
	n.cmd = nil
}

// destroy takes everything away, whatever state it is in.
func (c *cluster) destroy() {
	if c.t.Failed() {
		c.logs()
	}
	ids := map[string]bool{}
	for _, n := range c.nodes {
		ids[n.id] = true
		if n.own != nil {
			n.own.Close()
		}
		n.crash()
	}
	if c.wires != nil {
		c.wires.remove()
	}
	// With the keepers all devices have ended: what is mounted from them can only fail.
	mounts, _ := os.ReadFile("/proc/self/mounts")
	lines := strings.Split(string(mounts), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if f := strings.Fields(lines[i]); len(f) > 1 && strings.HasPrefix(f[1], c.dir+"/") {
			_ = syscall.Unmount(f[1], syscall.MNT_DETACH) // reported below
		}
	}
	if err := os.RemoveAll(c.dir); err != nil {
		c.t.Errorf("something is left: %v", err)
	}
	patiently.Until(c.t, func() error {
		devices, err := loopdev.List()
		for _, d := range devices {
			if name, ok := attach.ParseFileName(d.Backing); ok && ids[name.Node] {
				return fmt.Errorf("%s is left, over %s", d.Path(), d.Backing)
			}
		}
		return err
	})
}

// logs shows what the nodes said last.
func (c *cluster) logs() {
	for _, n := range c.nodes {
		raw, _ := os.ReadFile(n.path("log"))
		lines := strings.Split(string(raw), "\n")
		c.t.Logf("%s said last:\n%s", n.name, strings.Join(lines[max(0, len(lines)-40):], "\n"))
	}
}

// sh runs a command of the shell.
func sh(t testing.TB, command string, args ...string) string {
	t.Helper()
	out, err := exec.Command("sh", append([]string{"-euc", command, "sh"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", command, args, err, out)
	}
	return string(bytes.TrimSpace(out))
}

// restarts ends a process by end, and waits until the node has started it again.
func (n *node) restarts(process string, end func(process string)) {
	n.c.t.Helper()
	before := n.pid(process)
	end(process)
	n.c.await(n.name+" has started "+process+" again", func(context.Context) bool {
		now := n.pid(process)
		return now != 0 && now != before && syscall.Kill(now, 0) == nil
	})
}

package cluster_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/api/holdfast/v1/holdfastv1connect"
	"github.com/holdfast-io/holdfast/internal/daemon"
	"github.com/holdfast-io/holdfast/test/program"
)

// TestMain makes the test's program the one that nodes run, too.
func TestMain(m *testing.M) { program.Main(m) }

// patience is how long a test waits for what must come, on a machine with much to do.
const patience = 2 * time.Minute

// cluster is some nodes on this machine.
type cluster struct {
	*testing.T
	dir     string
	network string // the first three bytes of the nodes' addresses
	nodes   []*node
}

// node is one of them. Its processes are known by their files alone, as they outlive each
// other.
type node struct {
	c       *cluster
	name    string
	address string
	dir     string
	run     string
	cmd     *exec.Cmd
}

func newCluster(t *testing.T, nodes int) *cluster {
	if os.Getuid() != 0 {
		t.Skip("nodes run as root")
	}
	if testing.Short() {
		t.Skip("the race detector sees the parts of a node in their own tests")
	}
	dir, err := os.MkdirTemp("", "hf") // short: sockets have short paths
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{T: t, dir: dir, network: fmt.Sprintf("127.%d.%d.", 64+rand.IntN(128), rand.IntN(256))}
	t.Cleanup(c.clean)
	for i := 1; i <= nodes; i++ {
		name := fmt.Sprint("n", i)
		c.nodes = append(c.nodes, &node{c: c, name: name, address: c.network + strconv.Itoa(i), dir: filepath.Join(dir, name), run: filepath.Join(dir, name, "run")})
	}
	return c
}

// clean ends all processes, by their ids, and shows the log when the test has failed.
func (c *cluster) clean() {
	for _, n := range c.nodes {
		n.kill("node", "control", "data", "keeper")
		if c.Failed() {
			raw, _ := os.ReadFile(n.log()) // it may not have begun
			c.Logf("the log of %s:\n%s", n.name, raw)
		}
	}
	_ = unix.Unmount(filepath.Join(c.dir, "pool", "mount"), 0) // of a node that was killed
	if err := os.RemoveAll(c.dir); err != nil {
		c.Error(err)
	}
}

func (n *node) log() string { return filepath.Join(n.c.dir, n.name+".log") }

// start starts the node, and does not wait until it is ready.
func (n *node) start(args ...string) {
	n.c.Helper()
	log, err := os.OpenFile(n.log(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		n.c.Fatal(err)
	}
	defer log.Close()
	program, err := os.Executable()
	if err != nil {
		n.c.Fatal(err)
	}
	n.cmd = exec.Command(program, append([]string{"node", "--name", n.name, "--address", n.address, "--data-dir", n.dir, "--run-dir", n.run,
		"--link-dir", filepath.Join(n.dir, "dev"), "--replace-member-after", "4s", "--dump-every", "2s", "--dumps-kept", "3"}, args...)...)
	n.cmd.Stdout, n.cmd.Stderr = log, log
	if err := n.cmd.Start(); err != nil {
		n.c.Fatal(err)
	}
	go func(cmd *exec.Cmd) { _ = cmd.Wait() }(n.cmd) // its end is seen by its files
}

// pid returns the process id of one of the node's processes, 0 for none.
func (n *node) pid(process string) int { return program.PID(n.run, process) }

// kill kills processes as kill -9 does, in this order, and waits until they are gone.
func (n *node) kill(processes ...string) {
	n.c.Helper()
	for _, p := range processes {
		pid := n.pid(p)
		if pid == 0 {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // it is gone
		}
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // or it is gone
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000)
		unix.Close(fd)
	}
}

// stop ends the node as people do.
func (n *node) stop() {
	n.c.Helper()
	_ = unix.Kill(n.pid("node"), unix.SIGTERM) // or it is gone
	n.c.await("the end of "+n.name, func() error {
		if _, err := os.Stat(filepath.Join(n.run, "node.pid")); err == nil {
			return fmt.Errorf("it runs")
		}
		return nil
	})
}

// client returns a client of the API at the node's socket.
func (n *node) client() *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(n.run, "api.sock"))
	}}}
}

func (n *node) cluster() holdfastv1connect.ClusterServiceClient {
	return holdfastv1connect.NewClusterServiceClient(n.client(), "http://holdfast")
}

// await waits until is returns nil.
func (c *cluster) await(what string, is func() error) {
	c.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := is()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			c.Fatalf("waited in vain for %s: %v", what, err)
		case <-tick.C:
		}
	}
}

// ready waits until the node answers, and the cluster has so many nodes.
func (n *node) ready(nodes int32) {
	n.c.Helper()
	n.c.await(n.name+" to be ready", func() error {
		s, err := n.cluster().GetStatus(n.c.Context(), &v1.GetStatusRequest{})
		if err == nil && s.GetNodes().GetTotal() != nodes {
			err = fmt.Errorf("the cluster has %d nodes", s.GetNodes().GetTotal())
		}
		return err
	})
}

// token makes a join token at the node.
func (n *node) token(uses int32) string {
	n.c.Helper()
	var secret string
	n.c.await("a token", func() error {
		t, err := n.cluster().CreateToken(n.c.Context(), &v1.CreateTokenRequest{Kind: v1.TokenKind_TOKEN_KIND_JOIN, UsesMax: uses})
		secret = t.GetSecret()
		return err
	})
	return secret
}

// voters waits until members of the metadata store, healthy and voting, are at these nodes
// and no others.
func (n *node) voters(want ...*node) {
	n.c.Helper()
	n.c.await(fmt.Sprint(len(want), " voters"), func() error {
		s, err := n.cluster().GetStatus(n.c.Context(), &v1.GetStatusRequest{})
		if err != nil {
			return err
		}
		members := s.GetMetadata().GetMembers()
		good := 0
		for _, m := range members {
			for _, w := range want {
				if m.GetHealthy() && !m.GetLearner() && strings.Contains(m.GetAddress(), w.address+":") {
					good++
				}
			}
		}
		if good != len(want) || len(members) != len(want) {
			return fmt.Errorf("members: %v", members)
		}
		return nil
	})
}

// metadata runs a command of holdfast metadata at the node, and reads what it prints.
func (n *node) metadata(into any, args ...string) {
	n.c.Helper()
	program, err := os.Executable()
	if err != nil {
		n.c.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(program, append([]string{"metadata", "--run-dir", n.run, "-o", "json"}, args...)...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		n.c.Fatalf("holdfast metadata %v: %v: %s", args, err, stderr.Bytes())
	}
	if err := json.Unmarshal(stdout.Bytes(), into); err != nil {
		n.c.Fatal(err)
	}
}

// members returns the members of the metadata store, as the node sees them.
func (c *cluster) members(at *node) (list []daemon.Member) {
	c.Helper()
	at.metadata(&list, "members")
	return list
}

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/holdfast-io/holdfast/api/client"
	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/bench"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// cluster is three nodes of the built program on loopback addresses, with mutual TLS and
// embedded etcd, whose pools are images on one disk.
type cluster struct {
	r       *bench.Run
	dir     string
	net     string
	program string
	token   string
	nodes   []*clusterNode
}

type clusterNode struct {
	c       *cluster
	name    string
	address string
	cmd     *exec.Cmd
	api     *client.Client
}

// clusterWait bounds every wait for the cluster.
const clusterWait = 2 * time.Minute

// startCluster starts a cluster that ends with the run.
func startCluster(r *bench.Run, poolBytes int64) (*cluster, error) {
	if os.Geteuid() != 0 {
		return nil, fault.WithCure(fault.Errorf("bench.cluster", fault.Unsupported, "nodes run as root"), "run make bench as root")
	}
	scratch, err := r.Scratch()
	if err != nil {
		return nil, err
	}
	c := &cluster{r: r, net: fmt.Sprintf("127.%d.%d", 80+os.Getpid()%40, os.Getpid()/40%250)}
	if c.dir, err = filepath.Abs(scratch); err != nil {
		return nil, err
	}
	c.program = filepath.Join(c.dir, "holdfast")
	if out, err := exec.CommandContext(r.Context, "go", "build", "-o", c.program, "./cmd/holdfast").CombinedOutput(); err != nil {
		return nil, fault.Errorf("bench.cluster", fault.Unknown, "go build: %w: %s", err, out)
	}
	r.Undo(c.destroy)
	for i := range 3 {
		n := &clusterNode{c: c, name: fmt.Sprint("n", i+1), address: fmt.Sprintf("%s.%d", c.net, i+1)}
		if n.api, err = client.Dial(client.Options{Address: n.path("run/api.sock")}); err != nil {
			return nil, err
		}
		c.nodes = append(c.nodes, n)
		if err := n.start(poolBytes); err != nil {
			return nil, err
		}
		if err := c.await(n.name+" is up", c.pools(i+1)); err != nil {
			return nil, err
		}
		if i == 0 {
			t, err := n.api.Cluster.CreateToken(r.Context, &v1.CreateTokenRequest{Kind: v1.TokenKind_TOKEN_KIND_JOIN, Lifetime: durationpb.New(time.Hour)})
			if err != nil {
				return nil, err
			}
			c.token = t.Secret
		}
	}
	return c, nil
}

func (n *clusterNode) path(name string) string { return filepath.Join(n.c.dir, n.name, name) }

func (n *clusterNode) start(poolBytes int64) error {
	if err := os.MkdirAll(n.path(""), 0o700); err != nil {
		return err
	}
	args := []string{"node", "--name", n.name, "--data-dir", n.path("data"), "--run-dir", n.path("run"), "--link-dir", n.path("dev"),
		"--address", n.address, "--pool", n.path("pool"), "--pool-size", strconv.FormatInt(poolBytes, 10)}
	if n != n.c.nodes[0] {
		args = append(args, "--join", net.JoinHostPort(n.c.nodes[0].address, "7400"), "--token", n.c.token)
	}
	log, err := os.OpenFile(n.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	n.cmd = exec.Command(n.c.program, args...)
	n.cmd.Stdout, n.cmd.Stderr = log, log
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return n.cmd.Start()
}

// pid returns the id of one of the node's processes, 0 for none.
func (n *clusterNode) pid(process string) int {
	raw, err := os.ReadFile(n.path("run/" + process + ".pid"))
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(raw))) // 0 is none
	return pid
}

// crash kills all processes of the node, as the loss of its machine would.
func (n *clusterNode) crash() {
	_ = n.cmd.Process.Kill() // first, so that it starts nothing
	for _, process := range []string{"data", "control", "keeper"} {
		n.signal(process, syscall.SIGKILL)
	}
	_ = n.cmd.Wait() // killed
}

func (n *clusterNode) signal(process string, s syscall.Signal) {
	if pid := n.pid(process); pid > 1 {
		_ = syscall.Kill(pid, s) // it may be dead
	}
}

// destroy takes everything away. With the keepers all devices have ended.
func (c *cluster) destroy() error {
	for _, n := range c.nodes {
		if n.cmd != nil {
			n.signal("data", syscall.SIGCONT)
			n.crash()
		}
		n.api.Close()
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	for _, line := range strings.Split(string(mounts), "\n") {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], c.dir+"/") {
			err = errors.Join(err, syscall.Unmount(f[1], syscall.MNT_DETACH))
		}
	}
	return err
}

// await waits until so.
func (c *cluster) await(what string, so func(context.Context) bool) error {
	ctx, cancel := context.WithTimeout(c.r.Context, clusterWait)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !so(ctx) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fault.Errorf("bench.cluster", fault.Timeout, "waited in vain until %s", what)
		}
	}
	return nil
}

// pools is the condition that so many pools are healthy.
func (c *cluster) pools(want int) func(context.Context) bool {
	return func(ctx context.Context) bool {
		s, err := c.nodes[0].api.Cluster.GetStatus(ctx, &v1.GetStatusRequest{})
		return err == nil && int(s.GetPools().GetHealthy()) == want
	}
}

func (c *cluster) awaitHealth(at *clusterNode, volume string, health v1.Health) error {
	return c.await(volume+" is "+health.String(), func(ctx context.Context) bool {
		v, err := at.api.Volumes.GetVolume(ctx, &v1.GetVolumeRequest{Volume: volume})
		return err == nil && v.Status.GetHealth() == health
	})
}

// create makes a volume.
func (c *cluster) create(q *v1.CreateVolumeRequest) error {
	q.Wait = durationpb.New(clusterWait)
	_, err := c.nodes[0].api.Volumes.CreateVolume(c.r.Context, q)
	return err
}

// attach attaches a volume to the node, and returns its device.
func (n *clusterNode) attach(volume string) (string, error) {
	a, err := n.api.Attachments.Attach(n.c.r.Context, &v1.AttachRequest{Volume: volume, Node: n.name, Wait: durationpb.New(clusterWait)})
	return a.GetStatus().GetDevice(), err
}

// device makes a volume with replicas on those nodes, attaches it to the first node, and
// writes all of it.
func (c *cluster) device(name string, bytes int64, nodes ...string) (string, error) {
	if err := c.create(&v1.CreateVolumeRequest{Name: name, Spec: &v1.VolumeSpec{SizeBytes: bytes, Replicas: int32(len(nodes)), Placement: &v1.Placement{Nodes: nodes}}}); err != nil {
		return "", err
	}
	device, err := c.nodes[0].attach(name)
	if err != nil {
		return "", err
	}
	return device, fillWithFio(c.r.Context, device, bytes)
}

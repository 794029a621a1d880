package docker_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-io/holdfast/internal/csi/csitest"
	"github.com/holdfast-io/holdfast/internal/docker"
	"github.com/holdfast-io/holdfast/internal/docker/dockertest"
)

// dockerd is a real engine, with a plugin of ours.
type dockerd struct {
	*dockertest.Engine
	driver string
}

// startEngine runs an engine, and a plugin for a node of the cluster where engines look for
// plugins.
func startEngine(t *testing.T, c *csitest.Cluster, node csitest.Node) *dockerd {
	t.Helper()
	driver := fmt.Sprintf("holdfast-test-%d-%s", os.Getpid(), node.Name)
	socket := filepath.Join(filepath.Dir(docker.DefaultSocket), driver+".sock")
	start(t, c, node).serveAt(socket)
	t.Cleanup(func() { _ = os.Remove(socket) }) // it may be gone
	return &dockerd{dockertest.Start(t, ""), driver}
}

// run runs a shell's line in a container that has a volume at /data, and no more.
func (e *dockerd) run(volume, line string, flags ...string) string {
	e.T.Helper()
	args := append([]string{"run", "--network", "none", "--volume-driver", e.driver, "-v", volume + ":/data"}, flags...)
	return e.Docker(append(args, dockertest.Image, "/busybox", "sh", "-c", line)...)
}

// TestRealEngines is a volume's life with two real engines, each on a node of its own.
func TestRealEngines(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("an engine needs root")
	}
	c := csitest.Start(t, 2)
	a, b := startEngine(t, c, c.Nodes[0]), startEngine(t, c, c.Nodes[1])
	a.Docker("volume", "create", "-d", a.driver, "--opt", "size=64Mi", "--opt", "repl=2", "db")
	if _, err := a.Try("volume", "create", "-d", a.driver, "--opt", "sice=64Mi", "x"); err == nil || !strings.Contains(err.Error(), "did you mean size?") {
		t.Errorf("a misspelt option: %v", err)
	}
	if all := a.Docker("volume", "ls", "-q"); all != "db" {
		t.Errorf("volumes are %q", all)
	}
	if shown := a.Docker("volume", "inspect", "db", "-f", "{{.Scope}} {{.Status.health}} {{.Status.replicas}}"); shown != "global healthy 2" {
		t.Errorf("it is %q", shown)
	}
	a.run("db", "echo hello > /data/a && /busybox sync", "--rm")
	if got := b.run("db", "/busybox cat /data/a", "--rm"); got != "hello" {
		t.Errorf("the other node read %q", got)
	}

	// Two containers of a node share it; it stays until the last has ended.
	first := a.run("db", "echo more > /data/b; /busybox sync; exec /busybox sleep 100000", "-d")
	a.run("db", "/busybox test -e /data/a", "--rm")
	if _, err := b.Try("run", "--rm", "--network", "none", "--volume-driver", b.driver, "-v", "db:/data", "busybox:1", "/busybox", "true"); err == nil || !strings.Contains(err.Error(), "node-a") {
		t.Errorf("a volume that another node has: %v", err)
	}
	a.Docker("exec", first, "/busybox", "sh", "-c", "until /busybox test -s /data/b; do :; done; /busybox sync")

	// The first node dies: its container's data is there on the other.
	c.Kill(c.Nodes[0])
	if got := b.run("db", "/busybox cat /data/b", "--rm"); got != "more" {
		t.Errorf("after its death the other node read %q", got)
	}
	_, _ = a.Try("rm", "-f", first) // its volume is gone from under it
	b.run("name=web,size=64Mi,repl=1", "echo x > /data/x", "--rm")
	if got := b.run("web", "/busybox cat /data/x", "--rm"); got != "x" {
		t.Errorf("the inline volume has %q", got)
	}
	b.Docker("volume", "rm", "db")
}

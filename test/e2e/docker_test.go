package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/docker/dockertest"
)

// engine is a node's Docker engine, with the plugin beside it.
type engine struct {
	*dockertest.Engine
	n      *node
	plugin *exec.Cmd
}

// engine starts the node's plugin, and an engine to which it is the driver holdfast.
func (n *node) engine() *engine {
	t := n.c.t
	must(t, os.MkdirAll(n.path("plugins"), 0o700))
	must(t, os.MkdirAll(n.path("docker"), 0o700))
	sh(t, `mount --bind "$1" "$1"; mount --make-shared "$1"`, n.path("docker")) // engines see what is mounted in it
	e := &engine{n: n}
	e.startPlugin()
	t.Cleanup(e.killPlugin)
	e.Engine = dockertest.Start(t, n.path("plugins"))
	return e
}

func (e *engine) startPlugin() {
	n := e.n
	e.plugin = exec.Command(program, "docker", "--api", "unix://"+n.path("run/api.sock"), "--node", n.name,
		"--socket", n.path("plugins/holdfast.sock"), "--root", n.path("docker"), "--dir", n.path("docker-users"))
	e.plugin.Stdout, e.plugin.Stderr = n.log, n.log
	must(n.c.t, e.plugin.Start())
}

func (e *engine) killPlugin() {
	if e.plugin.ProcessState == nil {
		_ = e.plugin.Process.Kill()
		_ = e.plugin.Wait() // killed
	}
}

// run runs a line of the shell in a container that has a volume at /data.
func (e *engine) run(volume, line string, flags ...string) string {
	e.T.Helper()
	return e.Docker(containerOf(volume, line, flags...)...)
}

func containerOf(volume, line string, flags ...string) []string {
	args := append([]string{"run", "--network", "none", "-v", volume + ":/data"}, flags...)
	return append(args, dockertest.Image, "/busybox", "sh", "-c", line)
}

// counting writes a number, flushes it, says it, and goes on with the next.
const counting = `i=$(/busybox cat /data/n 2>/dev/null | /busybox sed 's/^0*//')
while :; do
	i=$((i + 1))
	if /busybox printf '%09d\n' $i | /busybox dd of=/data/n conv=fsync,notrunc 2>/dev/null; then echo $i; else echo failed; fi
done`

// said returns the last number that the container said.
func (e *engine) said(container string) int {
	e.T.Helper()
	n, _ := strconv.Atoi(e.Docker("logs", "--tail", "1", container)) // 0 before the first
	return n
}

// goesOn waits until the container has said more than now.
func (e *engine) goesOn(container string) {
	e.T.Helper()
	before := e.said(container)
	e.n.c.await("the container writes on", func(context.Context) bool { return e.said(container) > before })
}

// TestDocker is the life of a volume with two engines, of nodes of a real cluster.
func TestDocker(t *testing.T) {
	c := newCluster(t, 3)
	a, b := c.nodes[0].engine(), c.nodes[1].engine()
	during := func(name string, test func(t *testing.T)) {
		c.during(t, name, func(s *testing.T) {
			a.T, b.T = s, s
			defer func() { a.T, b.T = t, t }()
			test(s)
		})
	}

	during("AVolumeIsMadeShownAndSharedOnOneNode", func(t *testing.T) {
		a.Docker("volume", "create", "-d", "holdfast", "--opt", "size=512M", "--opt", "repl=3", "--opt", "fs=xfs", "db")
		if out, err := a.Try("volume", "create", "-d", "holdfast", "--opt", "sice=64M", "x"); err == nil || !strings.Contains(err.Error(), "did you mean size?") {
			t.Errorf("a misspelt option: %v, %s", err, out)
		}
		for _, e := range []*engine{a, b} {
			if all := e.Docker("volume", "ls", "-q"); all != "db" {
				t.Errorf("%s lists %q", e.n.name, all)
			}
		}
		if shown := a.Docker("volume", "inspect", "db", "-f", "{{.Driver}} {{.Scope}} {{.Status.replicas}}"); shown != "holdfast global 3" {
			t.Errorf("it is %q", shown)
		}
		a.run("db", counting, "-d", "--name", "writer")
		a.goesOn("writer")
		a.run("db", "/busybox test -s /data/n", "--rm")
		a.goesOn("writer") // the other has let go, and it has not
		if _, err := b.Try(containerOf("db", "true", "--rm")...); err == nil || !strings.Contains(err.Error(), "n1") {
			t.Errorf("a volume that another node has: %v", err)
		}
		a.Docker("restart", "-t", "0", "writer")
		a.goesOn("writer")
		if _, err := a.Try("volume", "rm", "db"); err == nil {
			t.Error("a volume in use was removed")
		}
	})

	during("DaemonsThatAreKilledAreNotSeenByARunningContainer", func(t *testing.T) {
		for _, process := range []string{"data", "control"} {
			c.nodes[0].restarts(process, c.nodes[0].kill)
			a.goesOn("writer")
		}
		a.killPlugin()
		a.startPlugin()
		c.await("the node's API and plugin answer", func(context.Context) bool {
			_, err := a.Try(containerOf("db", "/busybox test -s /data/n", "--rm")...)
			return err == nil
		})
		a.goesOn("writer") // the plugin remembers it
		if said := a.Docker("logs", "writer"); strings.Contains(said, "failed") {
			t.Errorf("the container saw an error: %s", said)
		}
	})

	during("ANameSaysWhatTheVolumeIs", func(t *testing.T) {
		const name = "name=web,size=64M,repl=2"
		b.run(name, "echo x >/data/x", "--rm", "--volume-driver", "holdfast")
		if got := b.run("web", "/busybox cat /data/x", "--rm"); got != "x" {
			t.Errorf("it has %q", got)
		}
		if shown := b.Docker("volume", "inspect", "web", "-f", "{{.Driver}} {{.Status.replicas}} {{.Status.health}}"); shown != "holdfast 2 healthy" {
			t.Errorf("it is %q", shown)
		}
	})

	during("WhenTheNodeDiesAContainerElsewhereHasTheData", func(t *testing.T) {
		last := a.said("writer")
		a.Kill()
		a.killPlugin()
		c.nodes[0].crash()
		began := time.Now()
		got, err := strconv.Atoi(strings.TrimLeft(b.run("db", "/busybox cat /data/n", "--rm"), "0"))
		if err != nil || got < last {
			t.Errorf("%d was flushed, and %d is there (%v)", last, got, err)
		}
		t.Logf("from the node's death to its data in a container elsewhere: %v", time.Since(began).Round(10*time.Millisecond))
		b.run("db", counting, "-d", "--name", "writer")
		b.goesOn("writer")
		b.Docker("rm", "-f", "writer")
		b.Docker("volume", "rm", "db")
	})

	if long {
		during("ComposeMakesAndUsesVolumes", func(t *testing.T) { composes(t, b) })
	}
}

// composeFile is the example of the documentation, with an image that is there.
const composeFile = `services:
  db:
    image: ` + dockertest.Image + `
    command: ["/busybox", "sh", "-c", "echo again >>/data/log; /busybox cat /data/log"]
    network_mode: none
    volumes: ["data:/data"]
volumes:
  data:
    driver: holdfast
    driver_opts: {size: 64M, repl: "2"}
`

// composes brings a project up twice, with a removal of its containers between.
func composes(t *testing.T, e *engine) {
	file := filepath.Join(t.TempDir(), "compose.yaml")
	must(t, os.WriteFile(file, []byte(composeFile), 0o600))
	for n := 1; n <= 2; n++ {
		said := e.Compose(file, "up", "--no-color")
		if got := strings.Count(said, "again\n") + strings.Count(said, "again\r\n"); got != n {
			t.Errorf("time %d: it said %q", n, said)
		}
		e.Compose(file, "down")
	}
	volumes := e.Docker("volume", "ls", "-q", "-f", "driver=holdfast")
	if !strings.Contains(volumes, "_data") {
		t.Errorf("the volumes are %q", volumes)
	}
	e.Compose(file, "down", "-v")
	if left := e.Docker("volume", "ls", "-q", "-f", "driver=holdfast"); strings.Contains(left, "_data") {
		t.Errorf("left are %q", left)
	}
}

package docker_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/csi/csitest"
	"github.com/holdfast-io/holdfast/internal/docker"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
)

// dockerd is a real engine, with a plugin of ours.
type dockerd struct {
	t      *testing.T
	dir    string
	driver string
}

// startEngine runs an engine on its own socket, and a plugin for a node of the cluster where
// engines look for plugins.
func startEngine(t *testing.T, c *csitest.Cluster, node csitest.Node) *dockerd {
	t.Helper()
	dir, err := os.MkdirTemp("", "hfd") // short enough for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // of the system's temporary files
	e := &dockerd{t: t, dir: dir, driver: fmt.Sprintf("holdfast-test-%d-%s", os.Getpid(), node.Name)}
	socket := filepath.Join(filepath.Dir(docker.DefaultSocket), e.driver+".sock")
	p := start(t, c, node)
	p.serveAt(socket)
	t.Cleanup(func() { _ = os.Remove(socket) }) // it may be gone
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("dockerd", "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"), "--pidfile", filepath.Join(dir, "pid"),
		"-H", "unix://"+filepath.Join(dir, "s"), "--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs")
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	cmd.Stdout, cmd.Stderr = log, log
	if cmd.Path, err = exec.LookPath("/usr/sbin/dockerd"); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait() // it was interrupted
		_ = log.Close()
		if t.Failed() {
			said, _ := os.ReadFile(log.Name())
			t.Logf("%s: %s", e.driver, said)
		}
	})
	patiently.Until(t, func() error {
		_, err := e.try("version")
		return err
	})
	e.image()
	return e
}

// image imports an image that is nothing but a static busybox.
func (e *dockerd) image() {
	raw, err := os.ReadFile("/bin/busybox")
	if err != nil {
		e.t.Fatal(err)
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := w.WriteHeader(&tar.Header{Name: "busybox", Mode: 0o755, Size: int64(len(raw))}); err != nil {
		e.t.Fatal(err)
	}
	if _, err := w.Write(raw); err != nil {
		e.t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		e.t.Fatal(err)
	}
	cmd := e.command("import", "-", "busybox:1")
	cmd.Stdin = &archive
	if out, err := cmd.CombinedOutput(); err != nil {
		e.t.Fatalf("%v: %s", err, out)
	}
}

func (e *dockerd) command(args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	e.t.Cleanup(cancel)
	return exec.CommandContext(ctx, "/usr/bin/docker", append([]string{"-H", "unix://" + filepath.Join(e.dir, "s")}, args...)...)
}

func (e *dockerd) try(args ...string) (string, error) {
	out, err := e.command(args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), err
}

// docker runs a command that has to go well.
func (e *dockerd) docker(args ...string) string {
	e.t.Helper()
	out, err := e.try(args...)
	if err != nil {
		e.t.Fatal(err)
	}
	return out
}

// run runs a shell's line in a container that has a volume at /data, and no more.
func (e *dockerd) run(volume, line string, flags ...string) string {
	e.t.Helper()
	args := append([]string{"run", "--network", "none", "--volume-driver", e.driver, "-v", volume + ":/data"}, flags...)
	return e.docker(append(args, "busybox:1", "/busybox", "sh", "-c", line)...)
}

// TestRealEngines is a volume's life with two real engines, each on a node of its own.
func TestRealEngines(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("an engine needs root")
	}
	c := csitest.Start(t, 2)
	a, b := startEngine(t, c, c.Nodes[0]), startEngine(t, c, c.Nodes[1])
	a.docker("volume", "create", "-d", a.driver, "--opt", "size=64Mi", "--opt", "repl=2", "db")
	if _, err := a.try("volume", "create", "-d", a.driver, "--opt", "sice=64Mi", "x"); err == nil || !strings.Contains(err.Error(), "did you mean size?") {
		t.Errorf("a misspelt option: %v", err)
	}
	if all := a.docker("volume", "ls", "-q"); all != "db" {
		t.Errorf("volumes are %q", all)
	}
	if shown := a.docker("volume", "inspect", "db", "-f", "{{.Scope}} {{.Status.health}} {{.Status.replicas}}"); shown != "global healthy 2" {
		t.Errorf("it is %q", shown)
	}
	a.run("db", "echo hello > /data/a && /busybox sync", "--rm")
	if got := b.run("db", "/busybox cat /data/a", "--rm"); got != "hello" {
		t.Errorf("the other node read %q", got)
	}

	// Two containers of a node share it; it stays until the last has ended.
	first := a.run("db", "echo more > /data/b; /busybox sync; exec /busybox sleep 100000", "-d")
	a.run("db", "/busybox test -e /data/a", "--rm")
	if _, err := b.try("run", "--rm", "--network", "none", "--volume-driver", b.driver, "-v", "db:/data", "busybox:1", "/busybox", "true"); err == nil || !strings.Contains(err.Error(), "node-a") {
		t.Errorf("a volume that another node has: %v", err)
	}
	a.docker("exec", first, "/busybox", "sh", "-c", "until /busybox test -s /data/b; do :; done; /busybox sync")

	// The first node dies: its container's data is there on the other.
	c.Kill(c.Nodes[0])
	if got := b.run("db", "/busybox cat /data/b", "--rm"); got != "more" {
		t.Errorf("after its death the other node read %q", got)
	}
	_, _ = a.try("rm", "-f", first) // its volume is gone from under it
	b.run("name=web,size=64Mi,repl=1", "echo x > /data/x", "--rm")
	if got := b.run("web", "/busybox cat /data/x", "--rm"); got != "x" {
		t.Errorf("the inline volume has %q", got)
	}
	b.docker("volume", "rm", "db")
}

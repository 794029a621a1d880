// Package dockertest runs real Docker engines for tests, each on a socket and in
// directories of its own, with an image that is nothing but a static busybox.
package dockertest

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

	"github.com/holdfast-io/holdfast/internal/host/patiently"
)

// Image is the image that every engine has. It has one file, /busybox.
const Image = "busybox:1"

// Engine is an engine that runs until the test ends.
type Engine struct {
	T      testing.TB // of the moment: whoever uses the engine may put in a subtest
	dir    string
	cgroup string
	cmd    *exec.Cmd
	log    *os.File
	alone  bool
}

// Start starts an engine. It finds plugins where engines look for them; with a directory
// plugins, it looks there instead, in a mount namespace of its own, where it sees what is
// mounted below shared mounts; and in a process namespace, so that Kill ends all of it.
func Start(t testing.TB, plugins string) *Engine {
	t.Helper()
	dir, err := os.MkdirTemp("", "hfd") // short enough for sockets
	if err != nil {
		t.Fatal(err)
	}
	e := &Engine{T: t, dir: dir, cgroup: filepath.Base(dir), alone: plugins != ""}
	t.Cleanup(e.clean)
	if e.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	args := []string{"/usr/sbin/dockerd", "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"), "--pidfile", filepath.Join(dir, "pid"),
		"-H", e.host(), "--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs", "--cgroup-parent", "/" + e.cgroup}
	if e.alone {
		args = append([]string{"unshare", "--mount", "--propagation", "slave", "--pid", "--fork", "--kill-child", "--mount-proc",
			"sh", "-euc", alone, "sh", plugins}, args...)
	}
	e.cmd = exec.Command(args[0], args[1:]...)
	e.cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	e.cmd.Stdout, e.cmd.Stderr = e.log, e.log
	if err := e.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	patiently.Until(t, func() error {
		_, err := e.Try("version")
		return err
	})
	e.load()
	return e
}

// alone prepares a mount namespace for an engine. Copies of mounts of loop devices are taken
// off: they would keep others, such as tests of pools, from detaching those.
const alone = `
mkdir -p /run/docker/plugins
mount --bind "$1" /run/docker/plugins
shift
findmnt -rno TARGET,SOURCE | while read -r target source; do
	case $source in /dev/loop*) umount -l "$target" || true ;; esac
done
exec "$@"`

func (e *Engine) host() string { return "unix://" + filepath.Join(e.dir, "s") }

// load imports the image.
func (e *Engine) load() {
	raw, err := os.ReadFile("/bin/busybox")
	if err != nil {
		e.T.Fatal(err)
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := w.WriteHeader(&tar.Header{Name: "busybox", Mode: 0o755, Size: int64(len(raw))}); err != nil {
		e.T.Fatal(err)
	}
	if _, err := w.Write(raw); err != nil {
		e.T.Fatal(err)
	}
	if err := w.Close(); err != nil {
		e.T.Fatal(err)
	}
	cmd := e.command("/usr/bin/docker", "import", "-", Image)
	cmd.Stdin = &archive
	if out, err := cmd.CombinedOutput(); err != nil {
		e.T.Fatalf("%v: %s", err, out)
	}
}

func (e *Engine) command(name string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), patiently.Patience)
	e.T.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+e.host())
	return cmd
}

// Try runs a command of docker's.
func (e *Engine) Try(args ...string) (string, error) { return e.try("/usr/bin/docker", args...) }

func (e *Engine) try(name string, args ...string) (string, error) {
	out, err := e.command(name, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), err
}

// Docker runs a command of docker's that has to go well.
func (e *Engine) Docker(args ...string) string {
	e.T.Helper()
	out, err := e.Try(args...)
	if err != nil {
		e.T.Fatal(err)
	}
	return out
}

// Compose runs a command of docker-compose's, that has to go well, on a project.
func (e *Engine) Compose(file string, args ...string) string {
	e.T.Helper()
	out, err := e.try("/usr/bin/docker-compose", append([]string{"-f", file, "-p", e.cgroup}, args...)...)
	if err != nil {
		e.T.Fatal(err)
	}
	return out
}

// Kill ends an engine that has a namespace of its own, and all its containers, as the loss
// of its machine would.
func (e *Engine) Kill() {
	if e.cmd.ProcessState == nil {
		_ = e.cmd.Process.Kill()
		_ = e.cmd.Wait() // killed
		patiently.True(e.T, "the engine's processes are gone", func() bool { return len(e.processes()) == 0 })
	}
}

// processes returns the processes of the engine's containers.
func (e *Engine) processes() (all []string) {
	for _, pattern := range []string{"/sys/fs/cgroup/*/" + e.cgroup + "/*/cgroup.procs", "/sys/fs/cgroup/" + e.cgroup + "/*/cgroup.procs"} {
		files, _ := filepath.Glob(pattern) // the pattern is right
		for _, file := range files {
			raw, _ := os.ReadFile(file) // it may be gone
			all = append(all, strings.Fields(string(raw))...)
		}
	}
	return all
}

// clean ends the engine and takes away what is left of it.
func (e *Engine) clean() {
	if e.cmd != nil && e.cmd.Process != nil && e.cmd.ProcessState == nil {
		if e.alone {
			e.Kill()
		} else {
			_ = e.cmd.Process.Signal(os.Interrupt)
			_ = e.cmd.Wait() // it was interrupted
		}
	}
	if e.log != nil {
		_ = e.log.Close()
		if e.T.Failed() {
			said, _ := os.ReadFile(e.log.Name())
			e.T.Logf("%s said: %s", e.dir, said)
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup/*/" + e.cgroup, "/sys/fs/cgroup/" + e.cgroup} {
		groups, _ := filepath.Glob(pattern) // the pattern is right
		for _, group := range groups {
			inner, _ := filepath.Glob(filepath.Join(group, "*"))
			for _, path := range append(inner, group) {
				_ = os.Remove(path) // files can't be removed, and need not be
			}
		}
	}
	if err := os.RemoveAll(e.dir); err != nil { // of the system's temporary files
		e.T.Errorf("something of the engine is left: %v", err)
	}
}

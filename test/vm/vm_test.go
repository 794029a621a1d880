//go:build vm

package vm

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/attach/keeper"
	"github.com/holdfast-io/holdfast/internal/attach/ublk/ublkctl"
	"github.com/holdfast-io/holdfast/test/program"
)

// TestMain makes the test's program the one that the node runs, too.
func TestMain(m *testing.M) { program.Main(m) }

// patience bounds every wait: the machine is emulated.
const patience = 4 * time.Minute

// node is the cluster of one node that holdfast up makes.
type node struct {
	t   *testing.T
	dir string
	cmd *exec.Cmd
}

func up(t *testing.T) *node {
	n := &node{t: t, dir: filepath.Join(t.TempDir(), "disk")} // pools are not for a tmpfs
	sh(t, `truncate -s 900M "$1.img"; mkfs.ext4 -q "$1.img"; mkdir "$1"; mount -o loop "$1.img" "$1"`, n.dir)
	t.Cleanup(func() {
		if t.Failed() {
			raw, _ := os.ReadFile(n.path("log"))
			t.Logf("the node said:\n%s", raw)
		}
		_ = syscall.Unmount(n.dir, syscall.MNT_DETACH) // the machine ends soon
	})
	n.start()
	return n
}

func (n *node) path(name string) string { return filepath.Join(n.dir, name) }

func (n *node) start() {
	n.t.Helper()
	n.cmd = exec.Command("/proc/self/exe", "up", "--name", "n1", "--data-dir", n.path("data"), "--run-dir", n.path("run"), "--link-dir", n.path("dev"),
		"--address", "127.0.0.1", "--pool-size", "600Mi")
	log, openErr := os.OpenFile(n.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if openErr != nil {
		n.t.Fatal(openErr)
	}
	defer log.Close()
	n.cmd.Stdout, n.cmd.Stderr = log, log
	n.keeper(log)
	if err := n.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	var said string
	var err error
	defer func() {
		if n.t.Failed() {
			n.t.Logf("the last answer: %s", said)
		}
	}()
	n.await("the pool is there", func() bool {
		said, err = n.try("pool", "list", "-o", "yaml")
		return err == nil && strings.Contains(said, "healthy: true")
	})
	n.await("the node is up", func() bool {
		said, err = n.try("node", "list", "-o", "yaml")
		return err == nil && strings.Contains(said, "NODE_STATE_UP")
	})
}

// keeper starts the node's keeper, which the node itself does not wait for as long as an
// emulated machine may take.
func (n *node) keeper(log *os.File) {
	n.t.Helper()
	if err := os.MkdirAll(n.path("run"), 0o700); err != nil {
		n.t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "keeper", "--socket", n.path("run/keeper.sock"), "--cgroup", "holdfast-keeper")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	go cmd.Wait() // it ends when the node has
	n.await("the keeper listens", func() bool { _, err := os.Stat(n.path("run/keeper.sock")); return err == nil })
}

// stop ends the node as people do, and finds that nothing of it is left.
func (n *node) stop() {
	n.t.Helper()
	if err := n.cmd.Process.Signal(os.Interrupt); err != nil {
		n.t.Fatal(err)
	}
	if err := n.cmd.Wait(); err != nil {
		n.t.Errorf("the node ended: %v", err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(mounts), n.dir+"/") {
		n.t.Errorf("something is mounted still: %v\n%s", err, mounts)
	}
}

// await waits until so.
func (n *node) await(what string, so func() bool) {
	n.t.Helper()
	limit := time.After(patience)
	for tick := time.NewTicker(200 * time.Millisecond); !so(); {
		select {
		case <-tick.C:
		case <-limit:
			n.t.Fatalf("waited %v for this: %s", patience, what)
		}
	}
}

// try runs a command of holdfast.
func (n *node) try(args ...string) (string, error) {
	raw, err := exec.CommandContext(n.t.Context(), "/proc/self/exe", append(args, "--address", n.path("run/api.sock"))...).CombinedOutput()
	return strings.TrimSpace(string(raw)), err
}

// do runs a command of holdfast that succeeds.
func (n *node) do(args ...string) string {
	n.t.Helper()
	out, err := n.try(args...)
	if err != nil {
		n.t.Fatalf("holdfast %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// killData kills the data process, and waits until another one runs.
func (n *node) killData() { n.kill("data") }

// kill kills one of the node's processes, and waits until another one runs.
func (n *node) kill(process string) {
	n.t.Helper()
	pid := func() int { return program.PID(n.path("run"), process) }
	before := pid()
	if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
		n.t.Fatal(err)
	}
	n.await("another process "+process, func() bool { now := pid(); return now != 0 && now != before })
}

// replaceKeeper kills the keeper, and waits until another one has the volume's device.
func (n *node) replaceKeeper(volume string) {
	n.t.Helper()
	n.kill("keeper")
	n.await("the next keeper has the device", func() bool {
		k, err := keeper.DialTool(n.t.Context(), n.path("run/keeper.sock"))
		if err != nil {
			return false
		}
		defer k.Close()
		list, err := k.List(n.t.Context())
		return err == nil && len(list) == 1 && list[0].Name == volume && list[0].Served
	})
}

func sh(t *testing.T, command string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "sh", append([]string{"-euc", command, "sh"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", command, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// TestNodeShowsVolumesThroughEveryDriver has a filesystem on a volume, which is shown by each
// kind of front end, through deaths of the data process under a writer, through growth, and
// through an end of the node.
func TestNodeShowsVolumesThroughEveryDriver(t *testing.T) {
	n := up(t)
	for _, kind := range []string{"ublk", "nbd", "fuse"} {
		ok := t.Run(kind, func(t *testing.T) {
			defer func(outer *testing.T) { n.t = outer }(n.t)
			n.t = t
			n.life(kind, map[string]string{"ublk": "/dev/ublkb", "nbd": "/dev/nbd", "fuse": "/dev/loop"}[kind])
		})
		if !ok {
			return
		}
	}
	n.stop()
}

// life is that of one volume.
func (n *node) life(kind, device string) {
	t, dir := n.t, n.path("mnt-"+kind)
	n.do("volume", "create", kind, "--size", "64Mi", "--repl", "1")
	n.do("volume", "attach", kind, "--frontend", kind, "--mount", dir)
	if path := sh(t, `readlink "$1"`, n.path("dev/"+kind)); !strings.HasPrefix(path, device) {
		t.Errorf("the device is %s", path)
	}
	n.throughKills(dir)
	n.replaceKeeper(kind)
	n.killData() // from which only a keeper that knows of the device saves it
	sh(t, `echo 3 >/proc/sys/vm/drop_caches; cd "$1" && sha256sum -c sums && dd if=/dev/zero of=more bs=64k count=1 conv=fsync 2>/dev/null`, dir)
	if out, err := n.try("volume", "update", kind, "--size", "96Mi"); (err != nil) != fixed(kind) || err != nil && !strings.Contains(out, "cure: holdfast volume detach") {
		t.Errorf("growth of a device of %s says: %v\n%s", kind, err, out)
	}
	n.grows(kind, dir)
	sh(t, `cd "$1" && sha256sum -c sums`, dir)
	n.do("volume", "unmount", kind)
	sh(t, `e2fsck -f -n "$1"`, n.path("dev/"+kind))
	n.do("volume", "detach", kind)
	n.do("volume", "delete", kind, "--purge")
}

// throughKills writes files, each of which is then read again, while the data process is
// killed.
func (n *node) throughKills(dir string) {
	t := n.t
	writer := exec.Command("sh", "-euc", `cd "$1"
		for i in $(seq 40); do
			dd if=/dev/urandom of="f$i" bs=64k count=8 conv=fsync 2>/dev/null
			sha256sum "f$i" >>sums
			sync sums
		done`, "sh", dir)
	var said strings.Builder
	writer.Stdout, writer.Stderr = &said, &said
	if err := writer.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- writer.Wait() }()
	written := func(more int) func() bool {
		return func() bool {
			raw, _ := os.ReadFile(filepath.Join(dir, "sums"))
			return strings.Count(string(raw), "\n") >= more
		}
	}
	for i := range 3 {
		n.await("files are written", written(3+8*i))
		n.killData()
	}
	select {
	case err := <-done:
		if err != nil {
			t.Fatalf("the writer: %v\n%s", err, said.String())
		}
	case <-time.After(patience):
		t.Fatal("the writer hangs")
	}
	sh(t, `echo 3 >/proc/sys/vm/drop_caches; cd "$1" && sha256sum -c sums`, dir)
}

// fixed reports whether devices of a kind can't grow while they are there, on this kernel.
func fixed(kind string) bool { return kind == "ublk" && !ublkctl.Grows() }

// grows waits until the filesystem has grown: when the device is attached anew, if it is
// fixed.
func (n *node) grows(kind, dir string) {
	large := func() bool {
		var st syscall.Statfs_t
		return syscall.Statfs(dir, &st) == nil && int64(st.Blocks)*st.Bsize > 80<<20
	}
	if fixed(kind) {
		n.killData() // after which it is still so, and said
		n.await("it is said that the device can't grow", func() bool { return strings.Contains(n.do("volume", "get", kind), "attach it again") })
		n.do("volume", "detach", kind)
		n.do("volume", "attach", kind, "--frontend", kind, "--mount", dir)
	}
	n.await("the filesystem has grown", large)
}

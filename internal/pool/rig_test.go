package pool

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// These have the test binary open, or create, the pool that they name, and hold it until
// its standard input ends.
const (
	holdEnv   = "HOLDFAST_TEST_HOLD_POOL"
	createEnv = "HOLDFAST_TEST_CREATE_POOL"
)

func TestMain(m *testing.M) {
	var p *Pool
	var err error
	switch hold, make := os.Getenv(holdEnv), os.Getenv(createEnv); {
	case make != "":
		p, err = Create(context.Background(), CreateOptions{Path: make, Cluster: clusterA, Kind: Image,
			SizeBytes: xfsBytesMin, MeasureFor: 20 * time.Millisecond})
	case hold != "":
		p, err = Open(context.Background(), hold, OpenOptions{AnyCluster: true})
	}
	if p != nil || err != nil {
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("open")
		bufio.NewReader(os.Stdin).ReadByte()
		p.Close()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// holder is another process that has a pool open.
type holder struct {
	cmd  *exec.Cmd
	stop func()
}

func hold(t *testing.T, path string) *holder {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), holdEnv+"="+path)
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	line, _ := bufio.NewReader(out).ReadString('\n')
	if line != "open\n" {
		t.Fatalf("the other process did not open the pool: %s", line)
	}
	h := &holder{cmd: cmd}
	h.stop = func() { in.Close(); cmd.Wait() }
	t.Cleanup(h.stop)
	return h
}

var (
	clusterA = block.ClusterID{0xa}
	clusterB = block.ClusterID{0xb}
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantFault fails unless err is of the kind and says all of the texts.
func wantFault(t testing.TB, err error, kind fault.Kind, texts ...string) {
	t.Helper()
	if !fault.Is(err, kind) {
		t.Fatalf("got %v (%v), want %v", err, fault.KindOf(err), kind)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("the error does not say %q: %v", text, err)
		}
	}
}

// needRoot skips tests that mount, and fails those that leave a mount or a loop device
// behind, after it has removed it. It returns the test's directory.
func needRoot(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	t.Cleanup(func() { leaveNothing(t, dir) }) // runs after all that the test registers
	return dir
}

func leaveNothing(t *testing.T, dir string) {
	for _, mount := range mountsBelow(dir) {
		t.Errorf("%s is still mounted", mount)
		unix.Unmount(mount, unix.MNT_DETACH)
	}
	for _, loop := range loopsBelow(dir) {
		t.Errorf("%s is still attached", loop)
		exec.Command("losetup", "-d", loop).Run()
	}
}

func mountsBelow(dir string) (mounts []string) {
	raw, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(raw)) {
		if mount := strings.Fields(line)[4]; strings.HasPrefix(mount, dir+"/") {
			mounts = append([]string{mount}, mounts...) // the innermost first
		}
	}
	return mounts
}

func loopsBelow(dir string) (loops []string) {
	backings, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, backing := range backings {
		if raw, _ := os.ReadFile(backing); strings.HasPrefix(string(raw), dir+"/") {
			loops = append(loops, "/dev/"+strings.Split(backing, "/")[3])
		}
	}
	return loops
}

// disk is a file that plays a disk: in the machine as a loop device, or taken out.
type disk struct {
	t     *testing.T
	image string
	f     *os.File // the loop device, while it is in
}

// newDisk makes a disk and puts it in.
func newDisk(t *testing.T, dir, name string, size int64) *disk {
	t.Helper()
	d := &disk{t: t, image: filepath.Join(dir, name)}
	must(t, makeImage(d.image, size))
	t.Cleanup(d.takeOut)
	d.putIn()
	return d
}

func (d *disk) putIn() {
	d.t.Helper()
	f, err := attachLoop(d.image)
	must(d.t, err)
	d.f = f
}

func (d *disk) takeOut() {
	d.t.Helper()
	if d.f == nil {
		return
	}
	d.f.Close()
	d.f = nil
	must(d.t, detachLoop(d.image))
}

func (d *disk) device() string { return d.f.Name() }

// command runs a program that the test needs.
func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

// newFilesystem makes a filesystem, with mkfs told how, and mounts it until the test
// ends.
func newFilesystem(t *testing.T, dir, kind string, size int64, how ...string) (mount string) {
	t.Helper()
	d := newDisk(t, dir, kind+".disk", size)
	command(t, "mkfs."+kind, append(how, "-q", d.device())...)
	mount = filepath.Join(dir, kind)
	must(t, os.Mkdir(mount, 0o700))
	must(t, unix.Mount(d.device(), mount, kind, 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(mount, 0)) })
	return mount
}

// create makes a pool in a hurry.
func create(t *testing.T, o CreateOptions) (*Pool, error) {
	t.Helper()
	o.MeasureFor = 20 * time.Millisecond
	if o.Cluster.IsZero() {
		o.Cluster = clusterA
	}
	p, err := Create(context.Background(), o)
	if err == nil {
		t.Cleanup(func() { p.Close() })
	}
	return p, err
}

func mustCreate(t *testing.T, o CreateOptions) *Pool {
	t.Helper()
	p, err := create(t, o)
	must(t, err)
	return p
}

// imagePool makes the smallest image pool.
func imagePool(t *testing.T, path string) *Pool {
	t.Helper()
	return mustCreate(t, CreateOptions{Path: path, Kind: Image, SizeBytes: xfsBytesMin})
}

func open(t *testing.T, path string) (*Pool, error) {
	t.Helper()
	p, err := Open(context.Background(), path, OpenOptions{Cluster: clusterA})
	if err == nil {
		t.Cleanup(func() { p.Close() })
	}
	return p, err
}

func mustOpen(t *testing.T, path string) *Pool {
	t.Helper()
	p, err := open(t, path)
	must(t, err)
	return p
}

// keep writes a file into the pool and returns a check that it is there.
func keep(t *testing.T, p *Pool) (check func(*Pool)) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(p.Volumes(), "kept"), []byte("kept"), 0o600))
	return func(p *Pool) {
		t.Helper()
		raw, err := os.ReadFile(filepath.Join(p.Volumes(), "kept"))
		if err != nil || string(raw) != "kept" {
			t.Fatalf("what was in the pool is gone: %q, %v", raw, err)
		}
	}
}

// names lists a directory.
func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return strings.Join(all, " ")
}

// hands is a clock that the test moves.
type hands struct{ at atomic.Int64 }

func (h *hands) Now() time.Duration      { return time.Duration(h.at.Load()) }
func (h *hands) advance(d time.Duration) { h.at.Add(int64(d)) }

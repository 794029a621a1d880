package node

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/attach/errand"
	"github.com/holdfast-io/holdfast/internal/attach/keeper"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
	"github.com/holdfast-io/holdfast/internal/pool"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/memory"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
)

const keeperEnv = "HOLDFAST_NODE_TEST_KEEPER"

// errandArg makes the test binary the process of an errand.
const errandArg = "errand-of-a-test"

func TestMain(m *testing.M) {
	if socket := os.Getenv(keeperEnv); socket != "" {
		os.Exit(keeper.Main([]string{"--socket", socket}))
	}
	if len(os.Args) == 2 && os.Args[1] == errandArg {
		os.Exit(errand.Main())
	}
	os.Exit(m.Run())
}

// machine is a node's machine: a pool, a keeper, and a data process that can end and
// begin again. The cluster's state is in memory.
type machine struct {
	t     *testing.T
	o     Options
	store *memory.Store
	pool  block.PoolID
	kind  string // of filesystems
	end   func()
}

func newMachine(t *testing.T) *machine {
	dir := t.TempDir()
	m := &machine{t: t, store: memory.New(), kind: "xfs"}
	t.Cleanup(func() { must(t, m.store.Close()) })
	cluster, err := block.NewClusterID(rand.Reader)
	must(t, err)
	node, err := block.NewNodeID(rand.Reader)
	must(t, err)
	p, err := pool.Create(t.Context(), pool.CreateOptions{Path: filepath.Join(dir, "pool"), Cluster: cluster, Kind: pool.Image,
		SizeBytes: 1 << 30, MeasureFor: time.Millisecond})
	must(t, err)
	m.pool = p.Identity().Pool
	must(t, p.Close())
	t.Cleanup(func() { must(t, pool.Unmount(filepath.Join(dir, "pool"))) })
	socket := filepath.Join(dir, "keeper.sock")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), keeperEnv+"="+socket)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
	})
	patiently.Until(t, func() error {
		c, err := keeper.DialTool(t.Context(), socket)
		if err == nil {
			c.Close()
		}
		return err
	})
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	m.o = Options{Node: node, Cluster: cluster, Name: "n", Store: m.store, Pools: []string{filepath.Join(dir, "pool")},
		Listen: "127.0.0.1:0", Keeper: socket, Errand: errand.Command{"/proc/self/exe", errandArg},
		LinkDir: filepath.Join(dir, "dev"), Debug: filepath.Join(dir, "debug.sock"), ExportDir: filepath.Join(dir, "export"), Lease: time.Second, ReplicaTimeout: time.Second, Log: log}
	t.Cleanup(func() { m.stop() })
	m.start()
	return m
}

func (m *machine) start() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, m.o) }()
	m.end = func() {
		cancel()
		must(m.t, patiently.From(m.t, ended))
	}
}

func (m *machine) stop() {
	if end := m.end; end != nil {
		m.end = nil
		end()
	}
}

func (m *machine) commit(ops ...state.Op) {
	m.t.Helper()
	_, err := m.store.Commit(context.Background(), ops...)
	must(m.t, err)
}

// create does what server and control do for a volume of one replica.
func (m *machine) create(name string, size int64) (id string) {
	v, err := block.NewVolumeID(rand.Reader)
	must(m.t, err)
	r, err := block.NewReplicaID(rand.Reader)
	must(m.t, err)
	id = v.String()
	m.commit(
		state.Volumes.Create(id, &v1.Volume{Meta: &v1.Meta{Id: id, Name: name}, Spec: &v1.VolumeSpec{SizeBytes: size, Replicas: 1, Filesystem: m.kind}}),
		state.Assignments.Create(id, &statepb.Assignment{VolumeId: id, SizeBytes: size, Replicas: []*statepb.AssignedReplica{
			{ReplicaId: r.String(), NodeId: m.o.Node.String(), PoolId: m.pool.String()}}}),
		state.Records.Create(id, state.RecordMessage(spec.Record{Version: 1, Volume: v, Size: size, Epoch: 1,
			Members: []spec.Member{{Replica: r, Node: m.o.Node, State: spec.InSync}}})))
	await(m, state.Holdings, r.String(), func(h *statepb.Holding) bool { return h.Ready })
	return id
}

// attach returns the device.
func (m *machine) attach(id string) string {
	m.commit(state.Attachments.Put(id, &v1.Attachment{VolumeId: id, Spec: &v1.AttachmentSpec{NodeId: m.o.Node.String()}}))
	return await(m, state.AttachStatuses, id, attached).Device
}

func attached(s *v1.AttachmentStatus) bool {
	return s.State == v1.AttachmentState_ATTACHMENT_STATE_ATTACHED
}

// await waits for an entry to be so.
func await[T proto.Message](m *machine, table state.Table[T], id string, so func(T) bool) T {
	m.t.Helper()
	began := time.Now()
	for tick := time.NewTicker(5 * time.Millisecond); ; <-tick.C {
		e, err := table.Get(m.t.Context(), m.store, id)
		if err == nil && so(e.Value) {
			return e.Value
		}
		if time.Since(began) > time.Minute {
			m.t.Fatalf("%s stays %v, %v", table.Key(id), e.Value, err)
		}
	}
}

// page reads a debug page.
func (m *machine) page(path string) string {
	m.t.Helper()
	c := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", m.o.Debug)
	}}}
	r, err := c.Get("http://node" + path)
	must(m.t, err)
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	must(m.t, err)
	return string(text)
}

// sh runs a command of the shell: a process that may wait for a device.
func sh(t *testing.T, command string, args ...string) string {
	t.Helper()
	out, err := exec.Command("sh", append([]string{"-euc", command, "sh"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", command, args, err, out)
	}
	return string(bytes.TrimSpace(out))
}

func TestVolumeIsADeviceThroughARestart(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to mount")
	}
	m := newMachine(t)
	id := m.create("db", 64<<20)
	dev := m.attach(id)
	sh(t, `seq 1 100000 | dd of="$1" bs=64k oflag=direct conv=fsync,notrunc iflag=fullblock status=none || true`, dev)
	before := sh(t, `sha256sum <"$1"`, dev)
	for page, want := range map[string]string{
		"/metrics":          `holdfast_volume_io_seconds_count{op="flush",volume="db"} `,
		"/debug/volumes":    id + " db",
		"/debug/volumes/db": "member 0: InSync",
	} {
		if got := m.page(page); !strings.Contains(got, want) {
			t.Errorf("%s lacks %q:\n%s", page, want, got)
		}
	}
	m.measures(id)
	m.stop()
	m.start()
	await(m, state.AttachStatuses, id, attached)
	sh(t, `blockdev --flushbufs "$1"`, dev)
	if after := sh(t, `sha256sum <"$1"`, dev); after != before {
		t.Errorf("the device holds %s, then %s", before, after)
	}
	m.detach(id)
	if _, err := os.Lstat(dev); err == nil {
		t.Error("the device is still there")
	}
	if r, err := state.Records.Get(t.Context(), m.store, id); err != nil || r.Value.OwnerNodeId != "" {
		t.Errorf("the record says %v, %v: the volume was not given back", r.Value, err)
	}
}

// measures looks at the figures of a volume that was written.
func (m *machine) measures(id string) {
	m.t.Helper()
	total, err := Stats(m.t.Context(), m.o.Debug, StatsQuery{Volume: id})
	must(m.t, err)
	if w := total.Operations[1]; w.Operation != "write" || w.Count == 0 || w.Bytes == 0 || w.PerSecond <= 0 || w.P50.AsDuration() <= 0 || w.P50.AsDuration() > w.P999.AsDuration() || len(w.Latencies) == 0 {
		m.t.Errorf("writes are measured as %v", w)
	}
	now, err := Stats(m.t.Context(), m.o.Debug, StatsQuery{Volume: id, Over: time.Millisecond})
	must(m.t, err)
	if w := now.Operations[1]; w.Count != 0 || w.P50 != nil || len(w.Latencies) != 0 {
		m.t.Errorf("nobody writes, and it is measured as %v", w)
	}
	if _, err := Stats(m.t.Context(), m.o.Debug, StatsQuery{Volume: "another"}); !fault.Is(err, fault.NotFound) {
		m.t.Errorf("of another volume: %v", err)
	}
}

// detach waits until nothing is left.
func (m *machine) detach(id string) {
	m.t.Helper()
	m.commit(state.Attachments.Delete(id, 0))
	began := time.Now()
	for tick := time.NewTicker(5 * time.Millisecond); ; <-tick.C {
		if time.Since(began) > time.Minute {
			m.t.Fatal("it stays attached")
		}
		if _, err := state.AttachStatuses.Get(m.t.Context(), m.store, id); err != nil {
			return
		}
	}
}

// A filesystem that was asked for is there, through a restart, and goes with the device.
func TestVolumeIsMountedThroughARestart(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to mount")
	}
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			m := newMachine(t)
			m.kind = kind
			id := m.create("db", 512<<20)
			dir := filepath.Join(t.TempDir(), "mnt")
			m.commit(state.Attachments.Put(id, &v1.Attachment{VolumeId: id, Spec: &v1.AttachmentSpec{NodeId: m.o.Node.String(), MountPath: dir}}))
			mounted := func(s *v1.AttachmentStatus) bool { return s.MountPath == dir }
			await(m, state.AttachStatuses, id, mounted)
			sh(t, `echo kept >"$1/file"; sync "$1/file"`, dir)
			m.stop()
			m.start()
			if got := sh(t, `cat "$1/file"`, dir); got != "kept" {
				t.Errorf("the file holds %q", got)
			}
			m.detach(id)
			if _, err := os.Stat(filepath.Join(dir, "file")); err == nil {
				t.Error("it is still mounted")
			}
			m.commit(state.Attachments.Put(id, &v1.Attachment{VolumeId: id, Spec: &v1.AttachmentSpec{NodeId: m.o.Node.String(), MountPath: dir}}))
			await(m, state.AttachStatuses, id, mounted)
			if got := sh(t, `cat "$1/file"`, dir); got != "kept" {
				t.Errorf("the file holds %q after it was attached again", got)
			}
			m.detach(id)
		})
	}
}

// waitFor waits until so.
func waitFor(t *testing.T, so func() bool) {
	t.Helper()
	began := time.Now()
	for tick := time.NewTicker(20 * time.Millisecond); !so(); <-tick.C {
		if time.Since(began) > time.Minute {
			t.Fatal("it does not come about")
		}
	}
}

// A node that was away while another took its volume takes the device away when it
// returns, and leaves the volume to its new owner.
func TestDeviceOfALostVolumeGoes(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to make devices")
	}
	m := newMachine(t)
	id := m.create("db", 64<<20)
	dev := m.attach(id)
	m.stop()
	other, err := block.NewNodeID(rand.Reader)
	must(t, err)
	e, err := state.Records.Get(t.Context(), m.store, id)
	must(t, err)
	e.Value.OwnerNodeId, e.Value.Epoch, e.Value.Version = other.String(), e.Value.Epoch+1, e.Value.Version+1
	m.commit(state.Records.Replace(id, e.Value, e.Revision), state.Attachments.Put(id, &v1.Attachment{VolumeId: id, Spec: &v1.AttachmentSpec{NodeId: other.String()}}))
	m.start()
	waitFor(t, func() bool { _, err := os.Lstat(dev); return err != nil })
	e, err = state.Records.Get(t.Context(), m.store, id)
	must(t, err)
	if e.Value.OwnerNodeId != other.String() {
		t.Error("the volume was taken back from its new owner")
	}
}

package cli

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/server/servertest"
	"github.com/holdfast-io/holdfast/internal/state"
)

var golden = flag.Bool("golden", false, "write testdata/golden anew")

// terminal is a cluster with commands that were run on it.
type terminal struct {
	t *testing.T
	*servertest.Cluster
	transcript strings.Builder
}

func newTerminal(t *testing.T) *terminal {
	t.Helper()
	t.Setenv("HOLDFAST_ADDRESS", "")
	s := &terminal{t: t, Cluster: servertest.Start(t, servertest.Options{Now: func() time.Time { return servertest.Then }, NodeID: servertest.NodeID(1), Devices: devices{}})}
	s.Stage.Nodes(3)
	return s
}

// devices are those of the first node, as a test would have them.
type devices struct{}

// Stats is server.Devices.Stats.
func (devices) Stats(_ context.Context, volume string, over time.Duration) (*v1.VolumeStats, error) {
	took := func(d time.Duration) *durationpb.Duration { return durationpb.New(d) }
	return &v1.VolumeStats{VolumeId: volume, NodeId: servertest.NodeID(1), At: timestamppb.New(servertest.Then), Over: took(over + 500*time.Microsecond), InFlight: 3, Operations: []*v1.OperationStats{
		{Operation: "read", Count: 12345, Bytes: 12345 << 12, PerSecond: 12345, BytesPerSecond: 12345 << 12, Mean: took(81234), P50: took(80 * time.Microsecond), P99: took(320 * time.Microsecond), P999: took(1792 * time.Microsecond),
			Latencies: []*v1.LatencyBucket{{Below: took(80 * time.Microsecond), Count: 9000}, {Below: took(1792 * time.Microsecond), Count: 3345}}},
		{Operation: "write"}, {Operation: "flush"}, {Operation: "zero"}}}, nil
}

// run runs a command on the cluster, and writes down what it printed.
func (s *terminal) run(line string) result {
	s.t.Helper()
	r := holdfast(s.t, append(strings.Fields(line), "--address", s.Socket)...)
	fmt.Fprintf(&s.transcript, "$ holdfast %s\n%s", line, r.out+r.err)
	if r.status != 0 {
		fmt.Fprintf(&s.transcript, "exit status %d\n", r.status)
	}
	s.transcript.WriteByte('\n')
	return r
}

var (
	uuid  = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|r[0-9a-f]{7}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	count = regexp.MustCompile(`([rR])evision: "\d+"`) // of commits, which come as they come
	blank = regexp.MustCompile(`(?m) +$`)
)

// matches compares what was printed with the file of the name. Ids differ from run to run.
func (s *terminal) matches(name string) {
	s.t.Helper()
	seen := map[string]string{}
	text := uuid.ReplaceAllStringFunc(s.transcript.String(), func(id string) string {
		if seen[id] == "" {
			seen[id] = fmt.Sprintf("<id-%d>%s", len(seen)+1, strings.Repeat(" ", len(id)-len(fmt.Sprintf("<id-%d>", len(seen)+1))))
		}
		return seen[id]
	})
	text = blank.ReplaceAllString(strings.ReplaceAll(text, s.Socket, "/run/holdfast/api.sock"), "")
	text = count.ReplaceAllString(text, `${1}evision: "<n>"`)
	path := filepath.Join("testdata", "golden", name+".txt")
	if *golden {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			s.t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	if text != string(want) {
		s.t.Errorf("%s differs; what is printed now:\n%s", path, text)
	}
}

func TestVolumesOnTheCommandLine(t *testing.T) {
	s := newTerminal(t)
	s.run("volume create db --size 10Gi --repl 3 --class high --labels app=db")
	s.run("volume create name=web,size=1GiB,repl=1")
	s.run("volume create db --size 20Gi")
	s.run("volume create x --sise 1Gi")
	s.run("volume create x --opt rep=2")
	s.run("volume create x --size 1000")
	s.run("volume create x")
	s.run("volume list")
	s.run("volume list --selector app=db -o wide")
	s.run("volume attach db --node n1 --mount /mnt/db")
	s.run("volume attach db --node n2")
	s.run("volume delete db")
	s.run("volume update db --size 20Gi --read-iops 500 --labels tier=1 --unlabel app")
	s.run("volume update db --read-iops 0 --no-wait")
	s.run("volume update db --size 1Gi")
	s.run("volume unmount db")
	s.run("volume mount db /mnt/other")
	s.run("volume usage db")
	s.run("volume stats db")
	s.run("volume stats db --total -o json")
	s.run("volume stats db --over 2h")
	s.run("volume stats db --watch --total")
	s.run("volume stats web")
	s.run("volume get db -o yaml")
	s.run("volume detach db")
	s.run("volume move db --from n1 --to n9")
	s.run("volume delete web")
	s.run("volume restore web")
	s.run("volume delete web --purge")
	s.run("volume get web")
	s.matches("volumes")
}

func TestSnapshotsOnTheCommandLine(t *testing.T) {
	s := newTerminal(t)
	s.run("volume create db --size 1Gi --repl 2")
	s.run("snapshot create db monday --label keep=yes")
	s.run("snapshot clone monday copy --repl 1")
	s.run("snapshot create db tuesday")
	s.run("snapshot list --volume db")
	s.run("snapshot tree copy")
	s.run("snapshot group db copy --name both")
	s.run("snapshot restore db monday --safety-name before")
	s.run("snapshot changed tuesday --base monday")
	s.run("snapshot delete monday")
	s.run("snapshot get monday")
	s.run("policy create nightly --daily 23:30,keep=7 --for app=db")
	s.run("policy create wrong --daily 25:00")
	s.run("policy list")
	s.run("volume update db --snap-policy nightly --no-wait")
	s.run("policy delete nightly")
	s.run("volume update db --snap-policy= --no-wait")
	s.run("policy delete nightly")
	s.matches("snapshots")
}

func TestNodesAndStatusOnTheCommandLine(t *testing.T) {
	s := newTerminal(t)
	s.run("status")
	s.run("volume create db --size 1Gi --repl 3")
	s.run("node list")
	s.run("node update n1 --zone z --label disk=nvme")
	s.run("node cordon n2")
	s.run("node drain n2")
	s.run("node undrain n2")
	s.run("node maintenance n3")
	s.run("node remove n1 --preview")
	s.run("pool list")
	s.run("pool update n1-1 --class low --reserve 95")
	s.run("pool rebalance --dry-run")
	s.run("operation list --kind NodeDrain")
	s.Stage.Down(3)
	s.until("node n3 is down", func(st *v1.ClusterStatus) bool { return st.Nodes.Down == 1 })
	s.run("node get n3")
	s.run("volume get db")
	s.run("status")
	s.run("cluster set repair_delay=30m rebuilds_max=4 pause_resync=true")
	s.run("cluster set pause_resync=perhaps")
	s.run("cluster set colour=red")
	s.run("cluster get")
	s.run("cluster whoami")
	s.run("events volume/db -o table")
	s.matches("nodes")
}

func TestRebuildsAreShownWithWhatIsLeft(t *testing.T) {
	s := newTerminal(t)
	s.run("volume create db --size 1Gi --repl 2")
	s.run("volume attach db --node n1")
	id := s.volumeID("db")
	s.Stage.Outdate(id, 2)
	e, err := state.AttachStatuses.Get(s.Ctx, s.Store, id)
	s.Must(err)
	e.Value.Epoch++
	r, err := state.Records.Get(s.Ctx, s.Store, id)
	s.Must(err)
	e.Value.Replicas = []*v1.ReplicaStatus{{Id: r.Value.Members[1].ReplicaId, State: v1.ReplicaState_REPLICA_STATE_SYNCING, Reachable: true,
		Progress: &v1.Progress{DoneBytes: 256 << 20, TotalBytes: 1 << 30, BytesPerSecond: 64 << 20}}}
	s.Stage.Still()
	s.Commit(state.AttachStatuses.Put(id, e.Value))
	s.until("it is being rebuilt", func(st *v1.ClusterStatus) bool { return len(st.Rebuilds) == 1 })
	s.transcript.Reset()
	s.run("status")
	s.run("volume get db")
	s.matches("rebuild")
}

func (s *terminal) volumeID(name string) string {
	s.t.Helper()
	v, err := s.Client.Volumes.GetVolume(s.Ctx, &v1.GetVolumeRequest{Volume: name})
	s.Must(err)
	return v.Meta.Id
}

// until waits for the cluster's status to be as a test wants it.
func (s *terminal) until(what string, so func(*v1.ClusterStatus) bool) {
	s.t.Helper()
	end := time.After(servertest.Patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		st, err := s.Client.Cluster.GetStatus(s.Ctx, &v1.GetStatusRequest{})
		s.Must(err)
		if so(st) {
			return
		}
		select {
		case <-tick.C:
		case <-end:
			s.t.Fatalf("not so after %s: %s", servertest.Patience, what)
		}
	}
}

func TestTokensOnTheCommandLine(t *testing.T) {
	s := newTerminal(t)
	join := strings.TrimSpace(s.run("token create").out)
	if !strings.HasPrefix(join, "hf1.") {
		t.Errorf("the join token is %q", join)
	}
	secret := strings.TrimSpace(s.run("token create --role viewer --subject ann").out)
	as := func(args ...string) result {
		return holdfast(t, append(args, "--address", s.TCP, "--token", secret)...)
	}
	if r := as("cluster", "whoami"); r.status != 0 || !strings.Contains(r.out, "viewer") {
		t.Errorf("%+v", r)
	}
	r := as("volume", "create", "v", "--size", "1Gi")
	if r.status != 8 || !strings.Contains(r.err, "ann has the role viewer, and this needs user") || !strings.Contains(r.err, "cure: use a token with that role") {
		t.Errorf("a viewer creates: %+v", r)
	}
	if r := holdfast(t, "volume", "list", "--address", s.TCP); r.status != 8 || !strings.Contains(r.err, "HOLDFAST_TOKEN") {
		t.Errorf("nobody lists: %+v", r)
	}
	says(t, s.run("token list").out, "viewer", "ann", "never", "join")
	if r := s.run("token create --role king"); r.status != 2 || !strings.Contains(r.err, "viewer, user or admin") {
		t.Errorf("%+v", r)
	}
}

func TestWatchPrintsARowForEachChange(t *testing.T) {
	s := newTerminal(t)
	out, interrupt := s.start("volume", "list", "--watch")
	out.has("CHANGE      NAME") // at once: it is empty, and it is watched
	interrupt()
	s.run("volume create db --size 1Gi --repl 1")
	out, interrupt = s.start("volume", "list", "--watch")
	out.has("CHANGE      NAME", "added", "db")
	s.run("volume attach db --node n2")
	out.has("updated     db")
	s.run("volume detach db")
	s.run("volume delete db --purge")
	out.has("removed     db")
	interrupt()
}

func TestWhereNoNodeRunsTheCureIsToStartOne(t *testing.T) {
	t.Setenv("HOLDFAST_ADDRESS", filepath.Join(t.TempDir(), "none.sock"))
	fail(t, 7, []string{"does not answer", "cure: start a node on this machine: holdfast up"}, "status")
	fail(t, 2, []string{"host:port", "cure:"}, "status", "--address", "ftp://x")
}

func TestDoctorSaysACureForWhateverIsWrong(t *testing.T) {
	s := newTerminal(t)
	s.Stage.Down(2)
	s.until("n2 is down", func(st *v1.ClusterStatus) bool { return st.Nodes.Down == 1 })
	s.Commit(state.NodeStatuses.Put(servertest.NodeID(1), &v1.NodeStatus{ApiAddress: "127.0.0.1:1"})) // nobody listens there
	dir := t.TempDir()
	r := s.run("doctor --data-dir " + dir)
	says(t, r.out, "kernel", "Linux", "clock", "disk", "memory", "io_uring", "API", "node n2", "port", "API of node n1 at 127.0.0.1:1 can't be reached",
		"there is none in "+dir, "cure: make one: holdfast pool create")
	if r.status != 4 {
		t.Errorf("ports are closed and it exits with %d", r.status)
	}
	for line := range strings.Lines(r.out) {
		if strings.HasPrefix(line, "error") && strings.TrimSpace(line) == "error" {
			t.Errorf("%q says nothing", line)
		}
	}
	if !atLeast("6.1.0-18-amd64", kernelMin) || !atLeast("5.8", kernelMin) || atLeast("5.7.19", kernelMin) || atLeast("nonsense", kernelMin) || atLeast("4.19.0", kernelMin) {
		t.Error("kernels are mistaken for others")
	}
}

func TestShellsCompleteNames(t *testing.T) {
	s := newTerminal(t)
	s.run("volume create db --size 1Gi --repl 1")
	s.run("volume create data --size 1Gi --repl 1")
	s.run("volume create web --size 1Gi --repl 1")
	s.run("snapshot create db monday")
	t.Setenv("HOLDFAST_ADDRESS", s.Socket)
	for line, want := range map[string]string{
		"volume get d":               "data db",
		"volume delete db w":         "web",
		"node drain n":               "n1 n2 n3",
		"pool get n1":                "n1-1",
		"snapshot clone m":           "monday",
		"snapshot restore db mo":     "monday",
		"volume attach db --node n3": "n3",
		"volume get db d":            "",
		"stat":                       "status",
	} {
		args := append([]string{"__complete"}, strings.Fields(line)...)
		r := holdfast(t, args...)
		var got []string
		for l := range strings.Lines(r.out) {
			if word, _, _ := strings.Cut(strings.TrimSpace(l), "\t"); word != "" && !strings.HasPrefix(word, ":") {
				got = append(got, word)
			}
		}
		if text := strings.Join(got, " "); text != want {
			t.Errorf("%q is completed to %q, want %q", line, text, want)
		}
	}
}

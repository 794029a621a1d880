package house

import (
	"fmt"
	"strings"
	"testing"
)

// floor says how far up the house a room is. A room imports only what is below it, or
// before it in the table.
type floor int

const (
	words floor = iota
	ground
	deciders
	workers
	doors
	beside // not in the house: nobody imports these
)

var floorNames = []string{"0 words", "1 ground", "2 deciders", "3 workers", "4 doors", "beside"}

// room is a package directly under internal, with the packages below it.
type room struct {
	floor    floor
	name     string
	sentence string
}

// rooms is the house from the ground up. A new room gets a line here, in
// ARCHITECTURE.md, and a sentence; if the sentence needs an "and", it is two rooms.
var rooms = []room{
	{words, "block", "Names for bytes: volume, replica and node ids, extents, regions, chunks, generations, epochs, block checksums."},
	{words, "fault", "What went wrong, as a kind that every door can translate (errno, gRPC/Connect, CSI)."},
	{words, "spec", "Names for intentions: volume, snapshot, schedule, node, pool, pair, migration: each a Spec and a Status."},
	{words, "obs", "Logs, metrics and traces that carry volume and epoch."},

	{ground, "host", "The machine: clock, disk, network, randomness as interfaces, and the real ones."},
	{ground, "wire", "The bytes between a coordinator and a replica, one line a version."},
	{ground, "store", "One replica's bytes in one directory."},
	{ground, "pool", "Turns devices and directories into pools with capacity, class and health."},
	{ground, "trust", "Who belongs to the cluster: its authority, certificates, join tokens and bearer tokens."},
	{ground, "state", "What the cluster has agreed on: typed, revisioned, watchable; etcd and in-memory pass one suite."},

	{deciders, "lineage", "Snapshot ancestry: what a generation sees, what differs, what may be deleted."},
	{deciders, "placement", "Given the cluster and a spec: which pools, and why not the others."},
	{deciders, "replica", "A replica's side of the conversation: admit an epoch, grant leases, keep intent, order what it is told."},
	{deciders, "resync", "Given two copies' tables: what to copy, and when a copy may be trusted."},
	{deciders, "coordinator", "A volume's head: order I/O, replicate, decide who is in sync, gate regions, fence, repair."},
	{deciders, "turns", "Whose turn it is at a disk that volumes share."},
	{deciders, "migration", "Given a migration and what is observed: the single next step."},

	{workers, "attach", "Shows a volume to the kernel and to clients, brings back reads, writes, flushes."},
	{workers, "mobility", "Moves units between replicas, buckets and clusters."},
	{workers, "node", "Runs coordinators, replicas, pools and attachments on this machine: feeds events, performs effects, reports status."},
	{workers, "control", "Brings status toward spec, one reconciler a kind, on the elected leader."},

	{doors, "server", "The API once: authenticate, validate, make idempotent, write spec, read status."},
	{doors, "csi", "Adapter in front of the API: the CSI sockets. No policy of its own."},
	{doors, "docker", "Adapter in front of the API: Docker's plugin protocol. No policy of its own."},
	{doors, "kube", "What Kubernetes needs besides CSI: the kubelet's registration, release of what a dead node holds, pods near their data."},
	{doors, "web", "Serves the built UI."},
	{doors, "daemon", "A node: makes a cluster or joins one, runs its processes and watches over them."},
	{doors, "cli", "The commands."},

	{beside, "sim", "The whole cluster in one goroutine and one seed."},
	{beside, "bench", "Measures against a baseline in the same run."},
	{beside, "house", "The rules of this page as tests."},
}

// testOnly are packages for tests that live under a room. Tests anywhere above the
// room import them, and so do the rooms beside the house; the product does not.
var testOnly = map[string]string{
	"internal/host/patiently":      "it ends tests",
	"internal/host/simdisk":        "a disk that loses, tears and rots by seed has no place in a product",
	"internal/host/hosttest":       "the conformance suite imports testing",
	"internal/wire/link/linktest":  "an authority that certifies whoever asks",
	"internal/state/statetest":     "the conformance suite imports testing",
	"internal/state/etcd/etcdtest": "servers that forget what they were told",

	"internal/placement/placementtest": "it makes up clusters",

	"internal/server/servertest": "a stage on which control and nodes are played",
	"internal/csi/csitest":       "a cluster without replicas, for tests of the doors",
	"internal/docker/dockertest": "engines without a network",

	"internal/attach/attachtest": "the conformance suite imports testing",
}

// exceptions are imports that break the order for a reason that is written here.
var exceptions = map[[2]string]string{}

// TestArchitectureIsTrue compares the rooms with the table in ARCHITECTURE.md: the same
// rooms, sentences and order, and a room is marked as existing exactly when it does.
func TestArchitectureIsTrue(t *testing.T) {
	var page string
	exists := map[string]bool{}
	for _, f := range sources(t) {
		if f.path == "ARCHITECTURE.md" {
			page = string(f.text)
		}
		if f.ast != nil && !strings.HasSuffix(f.path, "_test.go") {
			exists[roomOf(f.dir())] = true
		}
	}
	if page == "" {
		t.Fatal("there is no ARCHITECTURE.md")
	}
	at := 0
	for _, r := range rooms {
		today := "not yet"
		if exists[r.name] {
			today = "yes"
		}
		row := fmt.Sprintf("| %s | %s | %s | %s |", floorNames[r.floor], r.name, r.sentence, today)
		i := strings.Index(page[at:], row)
		if i < 0 {
			t.Errorf("ARCHITECTURE.md lacks, in this order, the row\n%s", row)
			continue
		}
		at += i + len(row)
	}
	if got := strings.Count(page, "| yes |") + strings.Count(page, "| not yet |"); got != len(rooms) {
		t.Errorf("ARCHITECTURE.md has %d rooms, the house has %d", got, len(rooms))
	}
}

package house

import (
	"fmt"
	"strings"
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
	{ground, "state", "What the cluster has agreed on: typed, revisioned, watchable; etcd and in-memory pass one suite."},

	{deciders, "lineage", "Snapshot ancestry: what a generation sees, what differs, what may be deleted."},
	{deciders, "placement", "Given the cluster and a spec: which pools, and why not the others."},
	{deciders, "replica", "A replica's side of the conversation: admit an epoch, grant leases, keep intent, order what it is told."},
	{deciders, "coordinator", "A volume's head: order I/O, replicate, decide who is in sync, gate regions, fence, repair."},
	{deciders, "resync", "Given two copies' tables: what to copy, and when a copy may be trusted."},
	{deciders, "migration", "Given a migration and what is observed: the single next step."},

	{workers, "attach", "Shows a volume to the kernel and to clients, brings back reads, writes, flushes."},
	{workers, "mobility", "Moves units between replicas, buckets and clusters."},
	{workers, "node", "Runs coordinators, replicas, pools and attachments on this machine: feeds events, performs effects, reports status."},
	{workers, "control", "Brings status toward spec, one reconciler a kind, on the elected leader."},

	{doors, "server", "The API once: authenticate, validate, make idempotent, write spec, read status."},
	{doors, "csi", "Adapter in front of the API: the CSI sockets. No policy of its own."},
	{doors, "docker", "Adapter in front of the API: Docker's plugin protocol. No policy of its own."},
	{doors, "kube", "Adapter in front of the API: custom resources. No policy of its own."},
	{doors, "web", "Serves the built UI."},
	{doors, "cli", "The commands."},

	{beside, "sim", "The whole cluster in one goroutine and one seed."},
	{beside, "bench", "Measures against a baseline in the same run."},
	{beside, "house", "The rules of this page as tests."},
}

// testOnly are packages for tests that live under a room. Tests anywhere above the
// room import them, and so do the rooms beside the house; the product does not.
var testOnly = map[string]string{
	"internal/host/simdisk":  "a disk that loses, tears and rots by seed has no place in a product",
	"internal/host/hosttest": "the conformance suite imports testing",
}

// exceptions are imports that break the order for a reason that is written here.
var exceptions = map[[2]string]string{}

// place returns the room's position in the table, or -1.
func place(name string) int {
	for i, r := range rooms {
		if r.name == name {
			return i
		}
	}
	return -1
}

// roomOf returns the room that the package directory dir is in; "" outside internal.
func roomOf(dir string) string {
	rest, ok := strings.CutPrefix(dir, "internal/")
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(rest, "/")
	return name
}

// mayImport returns why the package directory from may not import the package
// directory to of this module, or "". test says that the importing file is a test.
func mayImport(from, to string, test bool) string {
	if from == to || roomOf(to) == "" {
		return ""
	}
	if exceptions[[2]string{from, to}] != "" {
		return ""
	}
	src, dst := place(roomOf(from)), place(roomOf(to))
	if dst < 0 {
		return fmt.Sprintf("%s is not a room: give it a line and a sentence in rooms_test.go and ARCHITECTURE.md", roomOf(to))
	}
	outside := roomOf(from) == ""
	besideHouse := outside && from != "cmd/holdfast" || src >= 0 && rooms[src].floor == beside
	if why := testOnly[to]; why != "" && !test && !besideHouse && testOnly[from] == "" {
		return fmt.Sprintf("%s is for tests: %s", to, why)
	}
	if rooms[dst].floor == beside && !(from == "bench" && rooms[dst].name == "bench") && src != dst {
		return fmt.Sprintf("%s is beside the house: nobody imports it", rooms[dst].name)
	}
	switch {
	case from == "api" || strings.HasPrefix(from, "api/"):
		return "api is the public door: programs outside this module import it, so it can't lean on a room"
	case outside || src == dst || dst < src:
		return ""
	case src < 0:
		return fmt.Sprintf("%s is not a room: give it a line and a sentence in rooms_test.go and ARCHITECTURE.md", roomOf(from))
	}
	return fmt.Sprintf("%s (%s) may not import %s (%s): imports point down, or to an earlier room of the same floor; "+
		"let %[1]s declare the interface it needs, or let a worker carry the effect",
		rooms[src].name, floorNames[rooms[src].floor], rooms[dst].name, floorNames[rooms[dst].floor])
}

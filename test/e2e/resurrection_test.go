package e2e

import (
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
)

// TestAClusterComesBackFromADumpOnNewMachines loses three machines but for the disks of
// their pools and a dump of the metadata, which is older than the last writes. Three other
// machines, at other addresses, get the disks. In the long form only: it starts six nodes.
func TestAClusterComesBackFromADumpOnNewMachines(t *testing.T) {
	if !long {
		return
	}
	old := newCluster(t, 3)
	n1 := old.nodes[0]
	old.volume("db", 256<<20, 3)
	old.volume("spare", 64<<20, 2)
	dir := n1.mount("db")
	sh(t, `dd if=/dev/urandom of="$1/one" bs=1M count=32 conv=fsync status=none`, dir)
	dump := n1.path("kept.dump")
	n1.mustCLI("metadata", "dump", dump)
	old.detach("db") // which the dump does not know
	dir = old.nodes[1].mount("db")
	sh(t, `dd if=/dev/urandom of="$1/two" bs=1M count=32 conv=fsync status=none`, dir)
	want := sh(t, `cd "$1"; sha256sum one two`, dir)
	old.detach("db")
	for _, n := range old.nodes {
		n.crash()
	}

	c := prepare(t)
	for _, was := range old.nodes {
		sh(t, `"$1" pool unmount "$2"; mkdir "$3"; mv "$2" "$3/"`, program, was.path("pool"), filepath.Join(c.dir, was.name))
	}
	c.args = []string{"--restore", dump}
	c.grow(1)
	c.args = nil
	c.grow(2)
	n1 = c.nodes[0]
	if status, err := n1.api().Cluster.GetStatus(t.Context(), &v1.GetStatusRequest{}); err != nil || status.GetNodes().GetTotal() != 3 {
		t.Fatalf("the cluster is not the one of before: %v, %v", status, err)
	}
	c.detach("db") // on the first one the dump has it attached
	for _, n := range []*node{c.nodes[2], n1} {
		if got := sh(t, `cd "$1"; sha256sum one two`, n.mount("db")); got != want {
			t.Errorf("on %s:\n%s\nand was written:\n%s", n.name, got, want)
		}
		c.detach("db")
	}
	n1.awaitHealth("db", v1.Health_HEALTH_HEALTHY)
	n1.awaitHealth("spare", v1.Health_HEALTH_HEALTHY)
	c.sameOnAllNodes("db")
	n1.stop()
	n1.start() // as a service does, with what it was started with
	c.awaitNodes()
	if _, err := os.Stat(n1.path("data/restore.dump")); !os.IsNotExist(err) {
		t.Errorf("a dump waits to be restored: %v", err)
	}
}

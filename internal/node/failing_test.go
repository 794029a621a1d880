package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/spec"
)

// whole reports whether all replicas count.
func whole(r spec.Record) bool { return r.InSync() == len(r.Members) }

func lacks(id block.ReplicaID) func(spec.Record) bool {
	return func(r spec.Record) bool { return r.Members[r.Find(id)].State == spec.Outdated }
}

// The disk of a replica fails, and everything ends before anybody could record that. The
// replica says so when it is opened again, and does not count before it was brought up to
// date.
func TestReplicaThatFailedBeforeAnybodyNotedItIsBroughtUpToDate(t *testing.T) {
	g := newRig(t, 3)
	v := g.nodes[0].attach()
	v.write(0, 7, block.Size)
	for _, n := range g.nodes {
		n.stop()
	}
	note := filepath.Join(g.nodes[1].root(), g.record.now().Volume.String(), "lost")
	must(t, os.WriteFile(note, []byte("a sync failed"), 0o600))
	epoch := g.record.now().Epoch
	for _, n := range g.nodes {
		n.start()
	}
	v = g.nodes[0].attach()
	g.await(func(r spec.Record) bool { return whole(r) && r.Epoch >= epoch+3 }) // attached, left behind, taken back
	v.holds(0, 7, block.Size)
	if _, err := os.Stat(note); !os.IsNotExist(err) {
		t.Errorf("the note is still there: %v", err)
	}
}

// A write of a replica fails: the volume goes on without it, its node opens it anew, and it
// is brought up to date, without a restart of anything.
func TestReplicaWhoseDiskFailedOnceComesBack(t *testing.T) {
	g := newRig(t, 3)
	v := g.nodes[0].attach()
	v.write(0, 1, block.Size)
	n := g.nodes[1]
	breakFiles(t, filepath.Join(n.root(), g.record.now().Volume.String(), "chunks"))
	v.write(0, 2, block.Size)
	g.await(lacks(n.replica))
	g.await(whole)
	v.holds(0, 2, block.Size)
	for _, n := range g.nodes {
		n.do(func() {
			if err := n.residents[n.replica].store.Err(); err != nil {
				t.Errorf("node %d: %v", n.i, err)
			}
		})
	}
}

// breakFiles makes what is open below a directory fail to be written.
func breakFiles(t *testing.T, dir string) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	broken := 0
	for _, e := range fds {
		var fd int
		name, err := os.Readlink("/proc/self/fd/" + e.Name())
		if _, serr := fmt.Sscan(e.Name(), &fd); err != nil || serr != nil || !strings.HasPrefix(name, dir) {
			continue
		}
		f, err := os.Open(name) // for reading only
		must(t, err)
		must(t, syscall.Dup3(int(f.Fd()), fd, syscall.O_CLOEXEC))
		must(t, f.Close())
		broken++
	}
	if broken == 0 {
		t.Fatalf("nothing is open below %s", dir)
	}
}

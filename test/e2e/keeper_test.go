package e2e

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// In Kubernetes the keeper is a pod of its own. A node that ended it when it held nothing had
// Kubernetes start it again, each time later, and meanwhile started one in its own container,
// with which devices would have gone at the next upgrade.
func TestKeeperOfSomebodyElseOutlivesTheNode(t *testing.T) {
	t.Setenv("HOLDFAST_KEEPER_APART", "true")
	c := prepare(t)
	socket := filepath.Join(c.dir, "n1", "run", "keeper.sock")
	must(t, os.MkdirAll(filepath.Dir(socket), 0o700))
	keeper := exec.Command(program, "keeper", "--socket", socket)
	must(t, keeper.Start())
	t.Cleanup(func() {
		_ = keeper.Process.Kill()
		_ = keeper.Wait() // killed
	})
	c.grow(1)
	n := c.nodes[0]
	n.stop()
	conn, err := net.Dial("unixpacket", socket)
	if err != nil {
		t.Fatalf("the keeper has ended with the node: %v", err)
	}
	conn.Close()
	n.start()
	c.await("the node is up again", func(ctx context.Context) bool { return n.isUp(ctx, "n1") })
	if pid := n.pid("keeper"); pid != keeper.Process.Pid {
		t.Errorf("the node uses keeper %d, and not %d", pid, keeper.Process.Pid)
	}
}

package e2e

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
)

// In Kubernetes the keeper is a pod of its own. A node that ended it when it held nothing had
// Kubernetes start it again, each time later, and meanwhile started one in its own container,
// with which devices would have gone at the next upgrade.
func TestKeeperOfSomebodyElseOutlivesTheNode(t *testing.T) {
	t.Setenv("HOLDFAST_KEEPER_APART", "true")
	c := prepare(t)
	socket := filepath.Join(c.dir, "n1", "run", "keeper.sock")
	must(t, os.MkdirAll(filepath.Dir(socket), 0o700))
	keep := func() *exec.Cmd {
		keeper := exec.Command(program, "keeper", "--socket", socket)
		must(t, keeper.Start())
		t.Cleanup(func() {
			_ = keeper.Process.Kill()
			_ = keeper.Wait() // killed, here or before
		})
		return keeper
	}
	keeper := keep()
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
	// Nor does the node need to be started again when its keeper is replaced.
	must(t, keeper.Process.Kill())
	_ = keeper.Wait() // killed
	keep()
	_, err = n.api().Volumes.CreateVolume(t.Context(), &v1.CreateVolumeRequest{Name: "v", Spec: &v1.VolumeSpec{SizeBytes: 64 << 20, Replicas: 1}, Wait: durationpb.New(patience)})
	must(t, err)
	a, err := n.api().Attachments.Attach(t.Context(), &v1.AttachRequest{Volume: "v", Node: n.name, Wait: durationpb.New(patience)})
	must(t, err)
	if a.GetStatus().GetDevice() == "" {
		t.Errorf("the new keeper keeps no device: %v", a.Status)
	}
	_, err = n.api().Attachments.Detach(t.Context(), &v1.DetachRequest{Volume: "v", Node: n.name, Wait: durationpb.New(patience)})
	must(t, err)
}

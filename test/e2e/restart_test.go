package e2e

import (
	"context"
	"os/exec"
	"testing"
)

// TestIOGoesOnWhileDaemonsDie has fio write and verify through the device while processes
// of its node, and of another, are killed, and the node's software is restarted. No
// request fails, and nothing that fio reads is wrong.
func TestIOGoesOnWhileDaemonsDie(t *testing.T) {
	c := newCluster(t, 3)
	c.volume("db", 256<<20, 3)
	device := c.nodes[0].attach("db")
	load := exec.CommandContext(t.Context(), "fio", "--name=load", "--filename="+device, "--direct=1", "--rw=randwrite", "--bs=4k",
		"--iodepth=16", "--ioengine=io_uring", "--size=200M", "--io_size=400M", "--rate_iops=4000", "--verify=crc32c", "--verify_backlog=2048", "--verify_fatal=1")
	load.Dir = t.TempDir()
	done := make(chan error, 1)
	out, err := load.StdoutPipe()
	must(t, err)
	load.Stderr = load.Stdout
	must(t, load.Start())
	var said []byte
	go func() {
		said = readAll(out)
		done <- load.Wait()
	}()
	for _, disturb := range []func(){
		func() { c.nodes[0].restarts("data", c.nodes[0].kill) },
		func() { c.nodes[1].restarts("data", c.nodes[1].kill) },
		func() { c.nodes[0].restarts("control", c.nodes[0].kill) },
		func() { c.nodes[2].crash(); c.nodes[2].start() },
		func() { c.nodes[0].stop(); c.nodes[0].start() },
	} {
		disturb()
		c.await("node n1 serves the volume", func(ctx context.Context) bool { return c.nodes[0].serves(ctx, "db") })
	}
	if err := <-done; err != nil {
		t.Errorf("fio: %v\n%s", err, said)
	}
}

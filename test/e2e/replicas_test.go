package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
)

// TestReplicas has replicas come, go and be silent under a writer.
func TestReplicas(t *testing.T) {
	c := prepare(t)
	mib := 64
	if long {
		mib, c.poolSize = 1024, "4Gi"
	}
	c.grow(3)
	n1, n2, n3 := c.nodes[0], c.nodes[1], c.nodes[2]

	// B is off while more is written, then A while all is read on C.
	c.during(t, "WhatWasWrittenWhileOneWasOffIsReadWhenAnotherIs", func(t *testing.T) {
		c.volume("litmus", int64(2*mib+384)<<20, 3)
		dir := n3.mount("litmus")
		sh(t, `dd if=/dev/urandom of="$1/one" bs=1M count="$2" conv=fsync status=none`, dir, strconv.Itoa(mib))
		n2.crash()
		sh(t, `dd if=/dev/urandom of="$1/two" bs=1M count="$2" conv=fsync status=none`, dir, strconv.Itoa(mib))
		want := sh(t, `cd "$1"; sha256sum one two`, dir)
		began := time.Now()
		n2.start()
		c.awaitNodes()
		n3.awaitHealth("litmus", v1.Health_HEALTH_HEALTHY)
		t.Logf("%d MiB that one lacked were there %v after it was started", mib, time.Since(began).Round(10*time.Millisecond))
		c.detach("litmus")
		n1.crash()
		// On the node that was off, too: from its own copy, and all of it.
		for _, n := range []*node{n3, n2} {
			if got := sh(t, `cd "$1"; sha256sum one two`, n.mount("litmus")); got != want {
				t.Errorf("on %s:\n%s\nand was written:\n%s", n.name, got, want)
			}
			c.detach("litmus")
		}
		n1.start()
		c.awaitNodes()
	})

	if long {
		c.during(t, "VolumesAreMadeWhileANodeHasJustDied", c.madeWithoutTheDead)
	}

	c.during(t, "WritesGoOnWithoutASilentReplica", func(t *testing.T) {
		c.volume("silent", 64<<20, 3)
		w := newWriter(t, n1.attach("silent"), 0)
		w.goesOn(c)
		pid := n2.pid("data")
		must(t, syscall.Kill(pid, syscall.SIGSTOP))
		defer syscall.Kill(pid, syscall.SIGCONT)
		began := time.Now()
		n1.awaitHealth("silent", v1.Health_HEALTH_DEGRADED)
		w.goesOn(c)
		t.Logf("from the silence of a replica to writes without it: %v", time.Since(began).Round(10*time.Millisecond))
		must(t, syscall.Kill(pid, syscall.SIGCONT))
		n1.awaitHealth("silent", v1.Health_HEALTH_HEALTHY)
		must(t, w.end(c))
		w.verify(t, w.path)
		c.detach("silent")
		w.verify(t, n2.attach("silent"))
		c.detach("silent")
	})

	c.during(t, "VolumesGoOnWithoutTheMetadata", func(t *testing.T) {
		c.volume("alone", 64<<20, 3)
		w := newWriter(t, n1.attach("alone"), 0)
		w.goesOn(c)
		var pids []int
		resume := func() {
			for _, pid := range pids {
				_ = syscall.Kill(pid, syscall.SIGCONT) // it may have ended
			}
			pids = nil
		}
		defer resume()
		for _, n := range []*node{n2, n3} { // most of etcd
			pids = append(pids, n.pid("control"))
			must(t, syscall.Kill(n.pid("control"), syscall.SIGSTOP))
		}
		w.goesOn(c)
		w.reads(t)
		var refusals sync.WaitGroup
		for _, change := range []string{"volume create never --size 64Mi", "volume detach alone", "node cordon n2"} {
			refusals.Go(func() { n1.refuses(strings.Fields(change)...) })
		}
		refusals.Wait()
		if out, err := n1.bounded("status"); !strings.Contains(out, "attached volumes go on") {
			t.Errorf("the status without the metadata is: %v\n%s", err, out)
		}
		w.goesOn(c)
		resume()
		c.awaitNodes()
		w.goesOn(c)
		must(t, w.end(c))
		w.verify(t, w.path)
		c.detach("alone")
	})
}

// madeWithoutTheDead makes volumes while the cluster takes a dead node for alive, so that
// some are placed there. All can be used before it is back.
func (c *cluster) madeWithoutTheDead(t *testing.T) {
	n1, n3 := c.nodes[0], c.nodes[2]
	n3.crash()
	const volumes = 8
	name := func(i int) string { return fmt.Sprint("newborn", i) }
	began := time.Now()
	c.eachOf(volumes, "is made", func(ctx context.Context, i int) error {
		spec := &v1.VolumeSpec{SizeBytes: 16 << 20, Replicas: 1}
		if i == 0 {
			spec.Replicas = 3
		}
		_, err := n1.api().Volumes.CreateVolume(ctx, &v1.CreateVolumeRequest{Name: name(i), Spec: spec, Wait: durationpb.New(patience)})
		return err
	})
	t.Logf("all could be used %v after a node had died", time.Since(began).Round(10*time.Millisecond))
	for i := range volumes {
		device := n1.attach(name(i))
		must(t, stamp(device, i))
		must(t, stamped(device, i))
		c.detach(name(i))
	}
	n3.start()
	c.awaitNodes()
	n1.awaitHealth(name(0), v1.Health_HEALTH_HEALTHY)
	for i := range volumes {
		c.gone(name(i))
	}
}

// bounded is cli of a command that must end by itself, and before long.
func (n *node) bounded(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(n.c.t.Context(), patience)
	defer cancel()
	began := time.Now()
	raw, err := exec.CommandContext(ctx, program, append(args, "--address", n.path("run/api.sock"))...).CombinedOutput()
	n.c.t.Logf("without the metadata holdfast %s takes %v, and says: %s", strings.Join(args, " "), time.Since(began).Round(10*time.Millisecond), raw)
	if ctx.Err() != nil {
		n.c.t.Errorf("holdfast %s does not end by itself", strings.Join(args, " "))
	}
	return string(raw), err
}

// refuses runs a command that can't be done without the metadata, and must say so.
func (n *node) refuses(args ...string) {
	n.c.t.Helper()
	if out, err := n.bounded(args...); err == nil || !strings.Contains(out, "metadata") || !strings.Contains(out, "cure:") {
		n.c.t.Errorf("holdfast %s says without the metadata: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// reads has the device read while it is written.
func (w *writer) reads(t *testing.T) {
	t.Helper()
	f, err := os.Open(w.path)
	must(t, err)
	defer f.Close()
	_, err = f.ReadAt(make([]byte, blockSize), 0)
	must(t, err)
}

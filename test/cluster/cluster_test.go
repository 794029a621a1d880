package cluster_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/state/dump"
	"github.com/holdfast-io/holdfast/internal/state/etcd/etcdtest"
)

// TestAClusterLivesThroughTheLossOfItsParts makes a cluster of four nodes, and takes from
// it, one after the other: control processes, the process that watches over them, a member
// of its metadata store for good, and all of that store.
func TestAClusterLivesThroughTheLossOfItsParts(t *testing.T) {
	c := newCluster(t, 4)
	for _, part := range []struct {
		name string
		test func()
	}{
		{"It grows", c.grows},
		{"Control is killed", c.losesControl},
		{"Control freezes", c.freezes},
		{"The watcher is killed", c.losesTheWatcher},
		{"A member is lost", c.losesAMember},
		{"The store is lost", c.losesItsStore},
	} {
		ok := t.Run(part.name, func(t *testing.T) {
			defer func(outer *testing.T) { c.T = outer }(c.T)
			c.T = t
			part.test()
		})
		if !ok {
			return
		}
	}
}

// grows makes the cluster, with a token that is good for one node, and one for all.
func (c *cluster) grows() {
	n1, n2, n3, n4 := c.nodes[0], c.nodes[1], c.nodes[2], c.nodes[3]
	n1.start()
	n1.ready(1)
	once := n1.token(1)
	n2.start("--join", n1.address, "--token", once)
	n2.ready(2)
	n3.start("--join", n1.address, "--token", once)
	c.await("the end of a node that is not let in", func() error {
		if n3.cmd.ProcessState == nil {
			return errors.New("it runs")
		}
		return nil
	})
	if got := n3.cmd.ProcessState.ExitCode(); got != fault.Denied.ExitCode() {
		c.Fatalf("a used token: the node ended with status %d", got)
	}
	many := n1.token(0)
	n3.start("--join", n2.address, "--token", many)
	n3.ready(3)
	n2.voters(n1, n2, n3)
	n4.start("--join", n3.address, "--token", many)
	n4.ready(4)
	n4.voters(n1, n2, n3)
}

// losesControl kills the control process on every node that has a member, the leader's too.
func (c *cluster) losesControl() {
	for _, n := range c.nodes[:3] {
		data, keeper, control := n.pid("data"), n.pid("keeper"), n.pid("control")
		n.kill("control")
		other := c.nodes[3]
		c.await("the others to go on", func() error {
			_, err := other.cluster().UpdateSettings(c.Context(), &v1.UpdateSettingsRequest{Paths: []string{"events_max"}})
			return err
		})
		n.ready(4)
		if n.pid("control") == control || n.pid("data") != data || n.pid("keeper") != keeper {
			c.Fatalf("the death of control on %s touched others", n.name)
		}
		other.voters(c.nodes[:3]...)
	}
}

// freezes stops the control process whose etcd leads, as a machine that hangs would. The
// connections to it stay open.
func (c *cluster) freezes() {
	var frozen *node
	for _, m := range c.members(c.nodes[3]) {
		for _, n := range c.nodes {
			if m.Role == "leader" && strings.Contains(m.Address, n.address+":") {
				frozen = n
			}
		}
	}
	if frozen == nil {
		c.Fatal("no member leads")
	}
	pid := frozen.pid("control")
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		c.Fatal(err)
	}
	defer unix.Kill(pid, unix.SIGCONT)
	for _, n := range c.nodes {
		if n == frozen {
			continue
		}
		c.await("the others to go on", func() error {
			_, err := n.cluster().UpdateSettings(c.Context(), &v1.UpdateSettingsRequest{Paths: []string{"events_max"}})
			return err
		})
		s, err := n.cluster().GetStatus(c.Context(), &v1.GetStatusRequest{})
		if err != nil || s.GetNodes().GetUp() != 4 {
			c.Errorf("%d nodes are up, %v: their data processes are well", s.GetNodes().GetUp(), err)
		}
	}
}

// losesTheWatcher kills the process that people started, and starts it again.
func (c *cluster) losesTheWatcher() {
	n := c.nodes[0]
	data, control, keeper := n.pid("data"), n.pid("control"), n.pid("keeper")
	n.kill("node")
	n.ready(4)
	n.start()
	c.await("the node to be watched over again", func() error {
		if n.pid("node") != n.cmd.Process.Pid {
			return errors.New("not yet")
		}
		return nil
	})
	if n.pid("data") != data || n.pid("control") != control || n.pid("keeper") != keeper {
		c.Fatal("processes were started again")
	}
	n.kill("control") // the new one is in charge
	n.ready(4)
}

// losesAMember takes away a node with a member, until another node has taken its place.
func (c *cluster) losesAMember() {
	n1, n2, n3, n4 := c.nodes[0], c.nodes[1], c.nodes[2], c.nodes[3]
	n2.kill("node", "control", "data", "keeper")
	n4.voters(n1, n3, n4)
	n2.start()
	n2.ready(4)
	c.await("what the old member knew to be put aside", func() error {
		_, err := os.Stat(filepath.Join(n2.dir, "etcd", "etcd.old"))
		return err
	})
	n2.voters(n1, n3, n4)
}

// losesItsStore takes away all nodes but one, and the metadata with them, and restores it
// from a dump.
func (c *cluster) losesItsStore() {
	n1 := c.nodes[0]
	var file struct{ File string }
	mine := filepath.Join(c.dir, "mine.dump")
	n1.metadata(&file, "dump", mine)
	c.await("dumps, but not too many", func() error {
		names, err := filepath.Glob(filepath.Join(n1.dir, "dumps", "*.dump"))
		if err == nil && len(names) == 0 || len(names) > 4 { // one may be about to be deleted
			err = fmt.Errorf("there are %d", len(names))
		}
		return err
	})
	for _, n := range c.nodes[1:] {
		n.kill("node", "control", "data", "keeper")
	}
	data := n1.pid("data")
	var h dump.Header
	n1.metadata(&h, "restore", mine)
	if h.Items == 0 {
		c.Fatalf("restored %+v", h)
	}
	n1.ready(4)
	n1.voters(n1)
	if n1.pid("data") != data {
		c.Error("the data process was started again")
	}
	for _, n := range c.nodes[1:] {
		n.start()
	}
	for _, n := range c.nodes[1:] {
		n.ready(4)
	}
	c.await("three voters again", func() error {
		voters := 0
		for _, m := range c.members(n1) {
			if m.Healthy && m.Role != "learner" {
				voters++
			}
		}
		if voters != 3 {
			return fmt.Errorf("there are %d", voters)
		}
		return nil
	})
	for _, n := range c.nodes {
		n.stop()
	}
}

// TestAMachineReturnsWithItsOldDisk takes a node's system disk away, and leaves its pool.
func TestAMachineReturnsWithItsOldDisk(t *testing.T) {
	c := newCluster(t, 2)
	n1, n2 := c.nodes[0], c.nodes[1]
	pool := filepath.Join(c.dir, "pool")
	n1.start()
	n1.ready(1)
	args := []string{"--join", n1.address, "--token", n1.token(0), "--pool", pool, "--pool-size", "320Mi"}
	n2.start(args...)
	n2.ready(2)
	c.await("the pool", func() error {
		s, err := n1.cluster().GetStatus(c.Context(), &v1.GetStatusRequest{})
		if err == nil && s.GetPools().GetHealthy() != 1 {
			err = fmt.Errorf("%v", s.GetPools())
		}
		return err
	})
	n2.stop()
	if err := os.RemoveAll(n2.dir); err != nil {
		t.Fatal(err)
	}
	n2.start(args...)
	n2.ready(2) // not 3
	s, err := n2.cluster().GetStatus(c.Context(), &v1.GetStatusRequest{})
	if err != nil || s.GetPools().GetTotal() != 1 {
		t.Errorf("%v, %v: want the pool of before", s.GetPools(), err)
	}
	n2.stop()
	n1.stop()
}

// TestAnEtcdOfYoursWillDo keeps the metadata in an etcd that is not ours.
func TestAnEtcdOfYoursWillDo(t *testing.T) {
	server := etcdtest.Start(t)
	c := newCluster(t, 2)
	n1, n2 := c.nodes[0], c.nodes[1]
	ours := []string{"--etcd-endpoints", server.Options.ClientURL, "--etcd-prefix", "/storage"}
	n1.start(ours...)
	n1.ready(1)
	n2.start(append(ours, "--join", n1.address, "--token", n1.token(0))...)
	n2.ready(2)
	r, err := server.Client().Get(t.Context(), "/storage/holdfast/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil || r.Count < 5 {
		t.Errorf("%v, %v: the metadata is elsewhere", r, err)
	}
	s, err := n2.cluster().GetStatus(c.Context(), &v1.GetStatusRequest{})
	if err != nil || s.GetMetadata().GetKind() != "external" || !s.GetMetadata().GetReachable() {
		t.Errorf("%v, %v", s.GetMetadata(), err)
	}
	n2.stop()
	n1.stop()
}

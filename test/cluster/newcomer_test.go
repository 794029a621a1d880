package cluster_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/api/holdfast/v1/holdfastv1connect"
)

// TestOneNodeIsWhatItSays does on one node what the first pages of the documentation say: a
// volume, a filesystem, its speed, what is wrong, and what there is to watch.
func TestOneNodeIsWhatItSays(t *testing.T) {
	c := newCluster(t, 1)
	n := c.nodes[0]
	n.start("--pool", filepath.Join(c.dir, "pool"), "--pool-size", "2Gi")
	n.ready(1)
	c.await("the pool", func() error {
		s, err := n.cluster().GetStatus(t.Context(), &v1.GetStatusRequest{})
		if err == nil && s.GetPools().GetHealthy() != 1 {
			err = fmt.Errorf("%v", s.GetPools())
		}
		return err
	})
	mnt := filepath.Join(c.dir, "mnt")
	t.Cleanup(func() { _ = unix.Unmount(mnt, unix.MNT_DETACH) }) // when it failed
	n.says("health:    healthy", "status")
	n.says("db", "volume", "create", "db", "--size", "700Mi", "--repl", "1")
	n.says("state:     attached", "volume", "attach", "db")

	var report struct {
		On      string
		Results []struct{ Ratio float64 }
	}
	n.prints(&report, "bench", "db", "--time", "20ms", "--size", "64Mi")
	if len(report.Results) != 3 || !strings.HasSuffix(report.On, "only read") {
		t.Errorf("the bench of a device that is not mounted: %+v", report)
	}
	n.prints(&report, "bench", "db", "--time", "20ms", "--size", "64Mi", "--destructive")
	if len(report.Results) != 7 {
		t.Errorf("the bench of a device that may be written: %+v", report)
	}
	n.says("mount:", "volume", "mount", "db", mnt)
	n.prints(&report, "bench", "db", "--time", "20ms", "--size", "64Mi")
	if len(report.Results) != 7 || !strings.Contains(report.On, mnt) {
		t.Errorf("the bench of a filesystem: %+v", report)
	}
	for _, r := range report.Results {
		if r.Ratio <= 0 {
			t.Errorf("no ratio: %+v", report)
		}
	}
	if left, err := os.ReadDir(mnt); err != nil || len(left) != 1 { // lost+found
		t.Errorf("the bench has left %v, %v", left, err)
	}
	n.refuses("leave out --destructive", "bench", "db", "--destructive")

	c.watched(n)
	if page := n.page("/debug/volumes/db"); !strings.Contains(page, "epoch") {
		t.Errorf("the page of the volume is %s", page)
	}
	n.says("volume db is detached", "volume", "detach", "db")
	n.says("restore db", "volume", "delete", "db")
	n.says("of it to volumes in the trash", "status")
	n.says("there is no volume nothing", "volume", "purge", "nothing")
	n.says("deleted for good", "volume", "purge", "db")
	n.stop()
}

// watched checks that a node shows every metric that alerts and dashboards are made of.
func (c *cluster) watched(n *node) {
	c.Helper()
	nodes := holdfastv1connect.NewNodeServiceClient(n.client(), "http://holdfast")
	if _, err := nodes.DrainNode(c.Context(), &v1.DrainNodeRequest{Node: n.name, Draining: true}); err != nil { // it can't end
		c.Fatal(err)
	}
	wanted := map[string]bool{}
	for _, file := range []string{"alerts.yaml", "dashboard.json"} {
		raw, err := os.ReadFile(filepath.Join("../../deploy/helm/holdfast/monitoring", file))
		if err != nil {
			c.Fatal(err)
		}
		for _, name := range regexp.MustCompile(`holdfast_\w+`).FindAllString(string(raw), -1) {
			wanted[name] = true
		}
	}
	c.await("all metrics", func() (err error) {
		page := n.page("/metrics")
		for name := range wanted {
			if !regexp.MustCompile(`(?m)^` + name + `[{ ]`).MatchString(page) {
				err = errors.Join(err, fmt.Errorf("nobody shows %s", name))
			}
		}
		return err
	})
	if len(wanted) < 25 {
		c.Errorf("only %d metrics are watched", len(wanted))
	}
	if _, err := nodes.DrainNode(c.Context(), &v1.DrainNodeRequest{Node: n.name}); err != nil {
		c.Fatal(err)
	}
}

// page gets a page of the node's server.
func (n *node) page(path string) string {
	n.c.Helper()
	r, err := n.client().Get("http://holdfast" + path)
	if err != nil {
		return err.Error()
	}
	defer r.Body.Close()
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return err.Error()
	}
	return string(raw)
}

// command runs a command of holdfast at the node's socket.
func (n *node) command(args ...string) (stdout, stderr string, err error) {
	n.c.Helper()
	program, err := os.Executable()
	if err != nil {
		n.c.Fatal(err)
	}
	var out, wrong bytes.Buffer
	cmd := exec.CommandContext(n.c.Context(), program, append(args, "--address", filepath.Join(n.run, "api.sock"))...)
	cmd.Stdout, cmd.Stderr = &out, &wrong
	err = cmd.Run()
	return out.String(), wrong.String(), err
}

// says runs a command that has to succeed, and to print a text.
func (n *node) says(text string, args ...string) {
	n.c.Helper()
	out, wrong, err := n.command(args...)
	if err != nil || !strings.Contains(out, text) {
		n.c.Fatalf("holdfast %v: %v\n%s%s; want %q", args, err, out, wrong, text)
	}
}

// refuses runs a command that has to fail, with a cure.
func (n *node) refuses(cure string, args ...string) {
	n.c.Helper()
	if out, wrong, err := n.command(args...); err == nil || !strings.Contains(wrong, cure) {
		n.c.Errorf("holdfast %v: %v\n%s%s; want %q", args, err, out, wrong, cure)
	}
}

// prints runs a command, and reads what it prints as JSON.
func (n *node) prints(into any, args ...string) {
	n.c.Helper()
	out, wrong, err := n.command(append(args, "-o", "json")...)
	if err != nil {
		n.c.Fatalf("holdfast %v: %v\n%s", args, err, wrong)
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		n.c.Fatalf("holdfast %v: %v in %s", args, err, out)
	}
}

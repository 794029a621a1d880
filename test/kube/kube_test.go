//go:build kube

package kube

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// patience bounds every wait: the machine may be busy, and a test that fails says where.
const patience = 5 * time.Minute

// kubernetes is a cluster of three nodes.
type kubernetes struct {
	t    *testing.T
	dir  string
	name string
}

// script runs the cluster script.
func (k *kubernetes) script(in string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "./cluster", args...)
	cmd.Env = append(os.Environ(), "KUBE_DIR="+k.dir)
	cmd.Stdin = strings.NewReader(in)
	cmd.WaitDelay = time.Second // for what the script has started
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s%s", strings.Join(args, " "), err, out.String(), complaint.String())
	}
	return strings.TrimSpace(out.String()), err
}

// ctl runs kubectl, which has to go well.
func (k *kubernetes) ctl(args ...string) string {
	k.t.Helper()
	out, err := k.script("", append([]string{"kubectl", k.name}, args...)...)
	if err != nil {
		k.t.Fatal(err)
	}
	return out
}

// apply makes objects.
func (k *kubernetes) apply(objects string) {
	k.t.Helper()
	if _, err := k.script(objects, "kubectl", k.name, "apply", "-f", "-"); err != nil {
		k.t.Fatal(err)
	}
}

// eventually asks until an answer is good.
func (k *kubernetes) eventually(what string, good func(out string) bool, args ...string) string {
	k.t.Helper()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for {
		out, err := k.script("", append([]string{"kubectl", k.name}, args...)...)
		if err == nil && good(out) {
			return out
		}
		select {
		case <-tick.C:
		case <-late:
			k.t.Fatalf("%s: still %q, %v\n%s", what, out, err, k.ctl("get", "events", "-A", "--sort-by=.lastTimestamp"))
		}
	}
}

// until waits for what is not asked of kubectl alone.
func (k *kubernetes) until(what string, good func() bool) {
	k.t.Helper()
	k.within(patience, what, good)
}

func (k *kubernetes) within(limit time.Duration, what string, good func() bool) {
	k.t.Helper()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	late := time.After(limit)
	for !good() {
		select {
		case <-tick.C:
		case <-late:
			k.t.Fatalf("%s: not in %s\n%s", what, limit, k.ctl("get", "events", "-A", "--sort-by=.lastTimestamp"))
		}
	}
}

func is(want string) func(string) bool { return func(out string) bool { return out == want } }

// running waits until a pod runs and is ready.
func (k *kubernetes) running(pod string) {
	k.t.Helper()
	k.eventually("pod "+pod+" is ready", is("true"), "get", "pod", pod, "-o", "jsonpath={.status.containerStatuses[0].ready}")
}

// in runs a shell's line in a pod.
func (k *kubernetes) in(pod, line string) string {
	k.t.Helper()
	return k.ctl("exec", pod, "--", "sh", "-c", line)
}

func TestMain(m *testing.M) {
	status := 1
	if out, err := exec.Command("./setup").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "setup: %v\n%s", err, out)
	} else {
		status = m.Run()
	}
	os.Exit(status)
}

// start makes a cluster of three nodes with Holdfast on all of them.
func start(t *testing.T) *kubernetes {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("namespaces and mounts need root")
	}
	dir := os.Getenv("KUBE_DIR")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(home, ".cache", "holdfast-kube")
	}
	k := &kubernetes{t: t, dir: dir, name: cmp.Or(os.Getenv("KUBE_NAME"), "hfk")}
	number := cmp.Or(os.Getenv("KUBE_NUMBER"), "8")
	t.Cleanup(func() {
		if _, err := k.script("", "down", k.name); err != nil {
			t.Error(err)
		}
	})
	for _, args := range [][]string{{"up", k.name, number}, {"node", k.name, "2"}, {"node", k.name, "3"}} {
		if _, err := k.script("", args...); err != nil {
			t.Fatal(err)
		}
	}
	for _, node := range []string{"1", "2", "3"} {
		for _, image := range []string{"holdfast.tar", "csi.tar", "scheduler.tar"} {
			if _, err := k.script("", "load", k.name, node, filepath.Join(dir, "img2", image)); err != nil {
				t.Fatal(err)
			}
		}
	}
	k.snapshotter()
	k.install()
	return k
}

// snapshotter installs what Kubernetes has for snapshots outside of it.
func (k *kubernetes) snapshotter() {
	out, err := exec.Command("go", "env", "GOMODCACHE").Output()
	if err != nil {
		k.t.Fatal(err)
	}
	module := filepath.Join(strings.TrimSpace(string(out)), "github.com/kubernetes-csi/external-snapshotter")
	files, err := filepath.Glob(filepath.Join(module, "client/v8@v8.6.0/config/crd/*storage*.yaml"))
	if err != nil || len(files) == 0 {
		k.t.Fatal(files, err)
	}
	files = append(files, filepath.Join(filepath.Dir(module), "external-snapshot-metadata/client@v1.0.0/config/crd/cbt.storage.k8s.io_snapshotmetadataservices.yaml"))
	for _, f := range files {
		k.ctl("create", "-f", f)
	}
	k.ctl("apply", "-f", filepath.Join(module, "v8@v8.6.0/deploy/kubernetes/snapshot-controller/rbac-snapshot-controller.yaml"))
	k.apply(snapshotController)
}

// holdfast runs a command of ours on some node.
func (k *kubernetes) holdfast(args ...string) string {
	k.t.Helper()
	return k.ctl(append([]string{"exec", "-n", "holdfast", "daemonset/holdfast", "-c", "node", "--", "holdfast"}, args...)...)
}

// on returns the node that a pod is on.
func (k *kubernetes) on(pod string) string {
	return k.ctl("get", "pod", pod, "-o", "jsonpath={.spec.nodeName}")
}

// TestKubernetes is one cluster's life, because making one costs more than each of its parts.
func TestKubernetes(t *testing.T) {
	k := start(t)
	part := func(name string, test func(k *kubernetes)) {
		t.Run(name, func(t *testing.T) { test(&kubernetes{t: t, dir: k.dir, name: k.name}) })
	}
	part("a pod moves and its data is there", podMoves)
	part("kubectl has our commands", plugin)
	part("a snapshot becomes a claim, and a claim a clone", snapshotsAndClones)
	part("a snapshot has what was not flushed when the filesystem is frozen for it", frozenSnapshot)
	part("a group of snapshots is of one moment", groupSnapshot)
	part("backup programs learn which blocks have changed", changedBlocks)
	part("a volume grows under its pod", grows)
	part("a device as it is", rawBlock)
	part("a class of attributes changes a volume", attributes)
	part("the first copy is where the pod is", firstCopy)
	part("pods go to their data", podsGoToTheirData)
	part("the daemon is replaced under a pod", daemonReplaced)
	part("Helm upgrades image and values under a pod", helmUpgrade)
	part("Helm uninstalls, and installs again, under a pod", helmUninstall)
	part("keepers are replaced by hand", keeperReplaced)
	part("a node loses its power", powerCut)
	part("a hundred claims at once", hundredClaims)
	part("nothing is left", nothingLeft)
	part("nothing of the chart is left", helmGone)
}

func podMoves(k *kubernetes) {
	k.apply(statefulSet("db", "holdfast"))
	k.running("db-0")
	k.in("db-0", "echo hello > /data/hello && sync /data/hello")
	was := k.on("db-0")
	k.ctl("cordon", was)
	k.ctl("delete", "pod", "db-0")
	k.running("db-0")
	if now := k.on("db-0"); now == was {
		k.t.Errorf("it is on %s again", now)
	}
	if got := k.in("db-0", "cat /data/hello"); got != "hello" {
		k.t.Errorf("read %q", got)
	}
	k.ctl("uncordon", was)
}

func snapshotsAndClones(k *kubernetes) {
	k.apply(snapshotOf("s1", "data-db-0", "holdfast"))
	k.eventually("the snapshot is ready", is("true"), "get", "volumesnapshot", "s1", "-o", "jsonpath={.status.readyToUse}")
	k.in("db-0", "echo changed > /data/hello && sync /data/hello")
	k.apply(claimFrom("restored", "snapshot.storage.k8s.io", "VolumeSnapshot", "s1"))
	k.apply(podWith("restored", "restored"))
	k.running("restored")
	if got := k.in("restored", "cat /data/hello"); got != "hello" {
		k.t.Errorf("the snapshot has %q", got)
	}
	k.apply(claimFrom("clone", "", "PersistentVolumeClaim", "data-db-0"))
	k.apply(podWith("clone", "clone"))
	k.running("clone")
	if got := k.in("clone", "cat /data/hello"); got != "changed" {
		k.t.Errorf("the clone has %q", got)
	}
	k.ctl("delete", "pod", "restored", "clone")
	k.ctl("delete", "pvc", "restored", "clone")
	k.ctl("delete", "volumesnapshot", "s1")
}

func grows(k *kubernetes) {
	k.ctl("patch", "pvc", "data-db-0", "-p", `{"spec":{"resources":{"requests":{"storage":"700Mi"}}}}`)
	k.eventually("the claim has grown", is("700Mi"), "get", "pvc", "data-db-0", "-o", "jsonpath={.status.capacity.storage}")
	kib, err := strconv.Atoi(k.in("db-0", "df -k /data | tail -1 | awk '{print $2}'"))
	if err != nil || kib < 600<<10 {
		k.t.Errorf("the filesystem has %d KiB, %v", kib, err)
	}
}

func rawBlock(k *kubernetes) {
	k.apply(rawPod)
	k.running("raw")
	k.in("raw", "echo sector | dd of=/dev/xvda bs=4096 conv=sync,fsync 2>/dev/null")
	k.ctl("delete", "pod", "raw")
	k.apply(rawPod)
	k.running("raw")
	if got := k.in("raw", "head -c 6 /dev/xvda"); got != "sector" {
		k.t.Errorf("the device has %q", got)
	}
	k.ctl("delete", "pod", "raw")
	k.ctl("delete", "pvc", "raw")
}

func attributes(k *kubernetes) {
	k.ctl("patch", "pvc", "data-db-0", "-p", `{"spec":{"volumeAttributesClassName":"holdfast-three-copies"}}`)
	k.eventually("the class is in force", is("holdfast-three-copies"), "get", "pvc", "data-db-0", "-o", "jsonpath={.status.currentVolumeAttributesClassName}")
	volume := k.ctl("get", "pvc", "data-db-0", "-o", "jsonpath={.spec.volumeName}")
	k.eventually("there are three copies", func(out string) bool { return strings.Contains(out, "3/3") },
		"exec", "-n", "holdfast", "daemonset/holdfast", "-c", "node", "--", "holdfast", "volume", "list", "--prefix", volume)
}

// writer appends a line each second, and counts what fails.
const writer = `i=0; while true; do echo $(date +%s) | dd of=/data/log oflag=append conv=notrunc,fsync 2>/dev/null || echo failed; i=$((i+1)); sleep 1; done`

// lines is how many lines the writer has written.
func (k *kubernetes) lines() int {
	n, _ := strconv.Atoi(k.in("db-0", "wc -l < /data/log"))
	return n
}

// writes waits until the writer has written some lines more than it had, and none has failed.
func (k *kubernetes) writes(before int) {
	k.t.Helper()
	k.until("the pod writes", func() bool { return k.lines() >= before+5 })
	if said := k.ctl("logs", "db-0"); strings.Contains(said, "failed") {
		k.t.Errorf("the pod saw errors: %s", said)
	}
}

func daemonReplaced(k *kubernetes) {
	before, keepers := k.lines(), k.pods("keeper", keeperRun)
	node := k.on("db-0")
	pod := k.ctl("get", "pods", "-n", "holdfast", "-l", "app.kubernetes.io/component=node", "--field-selector", "spec.nodeName="+node, "-o", "jsonpath={.items[0].metadata.name}")
	k.ctl("delete", "pod", "-n", "holdfast", pod)
	k.ctl("rollout", "status", "-n", "holdfast", "daemonset/holdfast", "--timeout=200s")
	if now := k.pods("keeper", keeperRun); now != keepers {
		k.t.Errorf("the keepers were %s, and are %s", keepers, now)
	}
	k.writes(before)
}

// powerCut cuts a node's power, and says how long it takes until the pod writes elsewhere.
// Kubernetes by itself takes more than six minutes.
func powerCut(k *kubernetes) {
	was := k.on("db-0")
	last := k.in("db-0", "tail -1 /data/log")
	atClaim := []string{"get", "events", "--field-selector", "involvedObject.kind=PersistentVolumeClaim,involvedObject.name=data-db-0,source=holdfast", "-o", "jsonpath={.items[*].message}"}
	said := strings.Count(k.ctl(atClaim...), was)
	if _, err := k.script("", "crash", k.name, was[len(was)-1:]); err != nil {
		k.t.Fatal(err)
	}
	at := time.Now()
	k.eventually("the pod is elsewhere", func(out string) bool {
		return out != "" && !strings.HasPrefix(out, was+" ") && strings.HasSuffix(out, " true")
	},
		"get", "pod", "db-0", "-o", "jsonpath={.spec.nodeName} {.status.containerStatuses[0].ready}")
	var first int64
	k.until("the pod writes", func() bool {
		first, _ = strconv.ParseInt(k.in("db-0", "tail -1 /data/log"), 10, 64)
		return first >= at.Unix()
	})
	k.t.Logf("first write %d s after the power was cut", first-at.Unix())
	if all := k.in("db-0", "cat /data/log"); !strings.Contains(all, last) {
		k.t.Errorf("a write that was flushed before is not there: %s", last)
	}
	if events := k.ctl("get", "events", "-A"); !strings.Contains(events, "NodeGone") {
		k.t.Error("no event says why")
	}
	k.eventually("the claim says what is wrong", func(out string) bool { return strings.Count(out, was) > said }, atClaim...)
	if _, err := k.script("", "boot", k.name, was[len(was)-1:]); err != nil {
		k.t.Fatal(err)
	}
	k.eventually("the node is trusted again", func(out string) bool { return !strings.Contains(out, "out-of-service") }, "get", "node", was, "-o", "jsonpath={.spec.taints}")
}

func nothingLeft(k *kubernetes) {
	k.ctl("delete", "statefulset", "db")
	k.ctl("delete", "pvc", "--all")
	k.leavesNothing(nil)
}

//go:build kube

package kube

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// How many claims are made at once, and by how many pods they are used.
const (
	claimsMany = 100
	podsMany   = 10
)

// watch notes when kubectl shows a line for the first time.
type watch struct {
	mu   sync.Mutex
	seen map[string]time.Time
	stop func()
}

// watch follows objects of a kind: each line is the event, and what path shows.
func (k *kubernetes) watch(kind, path string) *watch {
	k.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "./cluster", "kubectl", k.name, "get", kind, "--watch", "--output-watch-events", "-o", "jsonpath={.type} "+path+"{\"\\n\"}")
	cmd.Env = append(os.Environ(), "KUBE_DIR="+k.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // kubectl too, which has the pipe
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		k.t.Fatal(err)
	}
	w := &watch{seen: map[string]time.Time{}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			w.mu.Lock()
			if _, ok := w.seen[lines.Text()]; !ok {
				w.seen[lines.Text()] = time.Now()
			}
			w.mu.Unlock()
		}
	}()
	w.stop = func() {
		cancel()
		<-done
		_ = cmd.Wait()
	}
	k.t.Cleanup(w.stop)
	return w
}

// times returns how long after since each line was seen that is good.
func (w *watch) times(since time.Time, good func(line string) bool) (list []time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for line, at := range w.seen {
		if at.After(since) && good(line) {
			list = append(list, at.Sub(since))
		}
	}
	slices.Sort(list)
	return list
}

// all waits until a watch has seen something of all, and says how long it took.
func (k *kubernetes) all(what string, w *watch, since time.Time, good func(line string) bool) {
	k.t.Helper()
	k.within(3*patience, what, func() bool { return len(w.times(since, good)) >= claimsMany })
	list := w.times(since, good)
	k.t.Logf("%d claims %s: p50 %.1f s, p99 %.1f s", len(list), what, list[len(list)/2].Seconds(), list[len(list)*99/100].Seconds())
}

// onNodeTraces lists what a node has of volumes: links to devices, replicas, what the driver and
// the kubelet remember, mounts, and the connections to the kernel that the keeper holds.
const onNodeTraces = `for d in /run/holdfast/dev /var/lib/holdfast/pool/mount/volumes /var/lib/holdfast/csi \
	/var/lib/kubelet/plugins/kubernetes.io/csi/csi.holdfast.io /var/lib/kubelet/pods/*/volumes/kubernetes.io~csi; do
	find $d -mindepth 1 -maxdepth 1 2>/dev/null
done
awk '$5 ~ /kubernetes.io.csi/ {print "mount", $5}' /proc/self/mountinfo
ls -l /proc/$(cat /run/holdfast/keeper.pid)/fd | grep /dev/fuse | awk '{print "fuse", NR}'`

// backing is of the loop device of a claim's volume; others on the machine have such devices too.
var backing = regexp.MustCompile(`\.pvc-[0-9a-f]{8}-`)

// traces lists all that there is of volumes: Kubernetes' objects, Holdfast's, and on the nodes.
func (k *kubernetes) traces() []string {
	k.t.Helper()
	all := strings.Fields(k.ctl("get", "pvc,pv,volumeattachments,volumesnapshotcontents", "-o", "name"))
	for _, which := range []string{"--trash", "--trash=false"} {
		for i, line := range strings.Split(k.holdfast("volume", "list", which), "\n") {
			if i > 0 { // below the head
				all = append(all, "volume "+strings.Fields(line)[0])
			}
		}
	}
	for _, node := range []string{"1", "2", "3"} {
		there, err := k.script("", "in", k.name, node, "sh", "-c", onNodeTraces)
		if err != nil {
			k.t.Fatal(err)
		}
		for line := range strings.Lines(there) {
			all = append(all, "node "+node+" "+strings.TrimSpace(line))
		}
	}
	loops, _ := filepath.Glob("/sys/block/loop*/loop/backing_file") // the pattern is good
	for _, loop := range loops {
		if raw, err := os.ReadFile(loop); err == nil && backing.Match(raw) { // it may be gone by now
			all = append(all, "loop device of "+strings.TrimSpace(string(raw)))
		}
	}
	return all
}

// newTraces returns what there is of volumes that was not there before.
func (k *kubernetes) newTraces(before []string) []string {
	k.t.Helper()
	return slices.DeleteFunc(k.traces(), func(line string) bool { return slices.Contains(before, line) })
}

// leavesNothing waits until there is nothing more of volumes than there was before. What is
// deleted goes a little later than Kubernetes' objects do.
func (k *kubernetes) leavesNothing(before []string) {
	k.t.Helper()
	var left []string
	defer func() {
		if len(left) > 0 {
			k.t.Errorf("left:\n%s", strings.Join(left, "\n"))
		}
	}()
	k.until("nothing is left", func() bool {
		left = k.newTraces(before)
		return len(left) == 0
	})
}

// countTraces says how much there is of each kind, so that finding nothing later means something.
func (k *kubernetes) countTraces(traces []string) {
	k.t.Helper()
	for _, kind := range []string{"persistentvolumeclaim/", "persistentvolume/", "volumeattachment.", "volume pvc-", "loop device of", " mount /", " fuse ",
		"/holdfast/dev/", "/holdfast/pool/", "/holdfast/csi/", "/csi.holdfast.io/", "~csi/"} {
		n := 0
		for _, line := range traces {
			if strings.Contains(line, kind) {
				n++
			}
		}
		k.t.Logf("%d traces of the kind %q", n, kind)
		if n < claimsMany {
			k.t.Errorf("of the kind %q there are %d", kind, n)
		}
	}
}

// hundredClaims makes a hundred claims at once, has pods use them all, and deletes all of it.
func hundredClaims(k *kubernetes) {
	before := k.traces()
	claims := k.watch("pvc", "{.object.metadata.name} {.object.status.phase}")
	volumes := k.watch("pv", "{.object.metadata.name}")
	attachments := k.watch("volumeattachments", "{.object.metadata.name} {.object.status.attached}")

	var objects []string
	for i := range claimsMany {
		objects = append(objects, claim(fmt.Sprintf("many-%d", i), "holdfast-many", "16Mi"))
	}
	since := time.Now()
	k.apply(manyClass + "---" + strings.Join(objects, "---"))
	k.all("bound", claims, since, func(line string) bool {
		return strings.Contains(line, " many-") && strings.HasSuffix(line, " Bound")
	})

	objects = nil
	for p := range podsMany {
		var own []string
		for i := p; i < claimsMany; i += podsMany {
			own = append(own, fmt.Sprintf("many-%d", i))
		}
		objects = append(objects, podWithTwo(fmt.Sprintf("many-%d", p), "sleep 100000", own...))
	}
	since = time.Now()
	k.apply(strings.Join(objects, "---"))
	k.all("attached", attachments, since, func(line string) bool { return strings.HasSuffix(line, " true") && !strings.HasPrefix(line, "DELETED") })
	for p := range podsMany {
		k.running(fmt.Sprintf("many-%d", p))
	}
	k.t.Logf("all pods run after %.1f s", time.Since(since).Seconds())
	k.countTraces(k.newTraces(before))

	since = time.Now()
	k.ctl("delete", "pods", "-l", "test=true", "--wait=false")
	k.all("detached", attachments, since, func(line string) bool { return strings.HasPrefix(line, "DELETED") })

	since = time.Now()
	k.ctl("delete", "pvc", "-l", "test=true", "--wait=false")
	k.all("deleted", volumes, since, func(line string) bool { return strings.HasPrefix(line, "DELETED") })
	k.ctl("delete", "storageclass", "holdfast-many")
	k.leavesNothing(before)
	k.t.Logf("nothing is left after %.1f s", time.Since(since).Seconds())
}

// manyClass makes small volumes when they are asked for, not when a pod wants them.
const manyClass = `
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: holdfast-many}
provisioner: csi.holdfast.io
parameters: {repl: "2", fs: ext4}
`

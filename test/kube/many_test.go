//go:build kube

package kube

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
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

// hundredClaims makes a hundred claims at once, has pods use them all, and deletes all of it.
func hundredClaims(k *kubernetes) {
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

	since = time.Now()
	k.ctl("delete", "pods", "-l", "test=true", "--wait=false")
	k.all("detached", attachments, since, func(line string) bool { return strings.HasPrefix(line, "DELETED") })

	since = time.Now()
	k.ctl("delete", "pvc", "-l", "test=true", "--wait=false")
	k.all("deleted", volumes, since, func(line string) bool { return strings.HasPrefix(line, "DELETED") })
	k.ctl("delete", "storageclass", "holdfast-many")
	if left := k.ctl("get", "pvc,pods", "-l", "test=true", "-o", "name"); left != "" {
		k.t.Errorf("left: %s", left)
	}
}

// manyClass makes small volumes when they are asked for, not when a pod wants them.
const manyClass = `
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: holdfast-many}
provisioner: csi.holdfast.io
parameters: {repl: "2", fs: ext4}
`

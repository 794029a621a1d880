package e2e

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
)

// TestManyVolumesAreAttachedAtOnce attaches volumes of three replicas to the three nodes,
// uses all of them, and has the data process of one node die with all that it has. It
// tells what they cost. In the long form only: what is tested is how many there are.
func TestManyVolumesAreAttachedAtOnce(t *testing.T) {
	if !long {
		return
	}
	const volumes = 200
	c := newCluster(t, 3)
	name := func(i int) string { return fmt.Sprintf("v%03d", i) }
	at := func(i int) *node { return c.nodes[i%len(c.nodes)] }
	began := time.Now()
	c.eachOf(volumes, "is created", func(ctx context.Context, i int) error {
		_, err := at(i).api().Volumes.CreateVolume(ctx, &v1.CreateVolumeRequest{Name: name(i), Wait: durationpb.New(patience), Spec: &v1.VolumeSpec{SizeBytes: 16 << 20, Replicas: 3}})
		return err
	})
	t.Logf("%d volumes were created in %v", volumes, time.Since(began).Round(10*time.Millisecond))
	began = time.Now()
	devices := make([]string, volumes)
	c.eachOf(volumes, "is attached", func(ctx context.Context, i int) error {
		a, err := at(i).api().Attachments.Attach(ctx, &v1.AttachRequest{Volume: name(i), Node: at(i).name, Wait: durationpb.New(patience)})
		devices[i] = a.GetStatus().GetDevice()
		return err
	})
	t.Logf("and attached in %v", time.Since(began).Round(10*time.Millisecond))
	began = time.Now()
	c.eachOf(volumes, "is written", func(_ context.Context, i int) error { return stamp(devices[i], i) })
	t.Logf("and each was written in %v", time.Since(began).Round(10*time.Millisecond))
	c.costs()
	c.nodes[0].restarts("data", c.nodes[0].kill)
	began = time.Now()
	c.eachOf(volumes, "is read", func(_ context.Context, i int) error { return stamped(devices[i], i) })
	t.Logf("after the data process of one node was killed, all were read in %v", time.Since(began).Round(10*time.Millisecond))
	c.await("all volumes are healthy", func(ctx context.Context) bool {
		st, err := c.nodes[1].api().Cluster.GetStatus(ctx, &v1.GetStatusRequest{})
		c.saw = fmt.Sprint(st.GetVolumes(), err)
		return err == nil && st.Volumes.Healthy == volumes && st.Volumes.Attached == volumes
	})
	began = time.Now()
	c.eachOf(volumes, "is detached", func(ctx context.Context, i int) error {
		_, err := at(i).api().Attachments.Detach(ctx, &v1.DetachRequest{Volume: name(i), Wait: durationpb.New(patience)})
		return err
	})
	t.Logf("all were detached in %v", time.Since(began).Round(10*time.Millisecond))
}

// eachOf does something for every number below count, eight at a time.
func (c *cluster) eachOf(count int, what string, do func(ctx context.Context, i int) error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 5*patience)
	defer cancel()
	next := make(chan int)
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for i := range next {
				if err := do(ctx, i); err != nil {
					c.t.Errorf("number %d: it can't be that it %s: %v", i, what, err)
				}
			}
		})
	}
	for i := range count {
		next <- i
	}
	close(next)
	workers.Wait()
	if c.t.Failed() {
		c.t.FailNow()
	}
}

// stamp writes a number all over a device's first blocks, durably.
func stamp(device string, n int) error {
	f, err := os.OpenFile(device, os.O_WRONLY|os.O_SYNC, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt([]byte(strings.Repeat(fmt.Sprintf("%015d\n", n), 4096)), 0)
	return err
}

func stamped(device string, n int) error {
	f, err := os.Open(device)
	if err != nil {
		return err
	}
	defer f.Close()
	got := make([]byte, 16*4096)
	if _, err := f.ReadAt(got, 0); err != nil {
		return err
	}
	if string(got) != strings.Repeat(fmt.Sprintf("%015d\n", n), 4096) {
		return fmt.Errorf("it has something else, beginning with %q", got[:16])
	}
	return nil
}

// costs tells what the processes of each node take, idle.
func (c *cluster) costs() {
	const fields, user, system, hertz = 13, 11, 12, 100 // of /proc/PID/stat behind the name
	ticks := func(pid int) (sum float64) {
		raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		_, behind, _ := strings.Cut(string(raw), ") ")
		if f := strings.Fields(behind); len(f) > fields {
			for _, i := range []int{user, system} {
				n, _ := strconv.ParseFloat(f[i], 64)
				sum += n
			}
		}
		return sum
	}
	const span = 10 * time.Second
	before := map[int]float64{}
	for _, n := range c.nodes {
		for _, p := range []string{"keeper", "data", "control"} {
			before[n.pid(p)] = ticks(n.pid(p))
		}
	}
	<-time.After(span) // a measurement takes its time
	for _, n := range c.nodes {
		for _, p := range []string{"keeper", "data", "control"} {
			pid := n.pid(p)
			cpu := (ticks(pid) - before[pid]) / hertz / span.Seconds() * 100
			status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			rss, threads := "", ""
			for line := range strings.Lines(string(status)) {
				if f := strings.Fields(line); len(f) > 1 && f[0] == "VmRSS:" {
					rss = f[1]
				} else if len(f) > 1 && f[0] == "Threads:" {
					threads = f[1]
				}
			}
			kib, _ := strconv.Atoi(rss)
			files, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
			c.t.Logf("%s %s: %.1f %% of a core, %d MiB, %s threads, %d files open", n.name, p, cpu, kib>>10, threads, len(files))
		}
	}
}

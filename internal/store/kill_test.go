package store

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
)

// childEnv has the test binary work on a replica below the directory that it names,
// instead of testing.
const childEnv = "HOLDFAST_STORE_TEST_CHILD"

const (
	killSize   = 2*block.ChunkSize + block.RegionSize
	killPlaces = 400 // runs of blocks that are written, all over the volume
)

// killPlace returns the i-th run: 1 to 32 blocks, which is what of them differs.
func killPlace(i int) block.Extent {
	stride := killSize / block.Size / killPlaces
	return block.Extent{Start: block.Index(i * stride), Count: uint64(1 + i%32)}
}

// killRound returns the runs that are written in a round, in random order.
func killRound(round uint64) []int {
	rnd := rand.New(rand.NewPCG(round, 4))
	return rnd.Perm(killPlaces)[:20+rnd.IntN(60)]
}

// workUntilKilled opens the replica, and writes round after round, as many requests at
// once as there are; it says which rounds are flushed, and which were taken a snapshot of.
func workUntilKilled(root string) error {
	d, err := host.Open(root, host.Options{})
	if err != nil {
		return err
	}
	r, err := openWhenFree(d)
	if err != nil {
		return err
	}
	var round uint64
	if _, err := fmt.Println("open"); err != nil {
		return err
	}
	if _, err := fmt.Scan(&round); err != nil {
		return err
	}
	for ; ; round++ {
		if err := submitAll(d, r, round); err != nil {
			return err
		}
		if round%8 == 0 {
			gen := r.Manifest().Generation
			err = awaitOn(d, func(done func(error)) { r.Snapshot(gen, done) })
			fmt.Println("snapshot", round, gen)
		} else {
			mark := r.Mark()
			err = awaitOn(d, func(done func(error)) { r.Submit(&Request{Verb: Flush, Done: func(q *Request) { done(q.Err) }}) })
			fmt.Println("flushed", round, 0)
			if round%3 == 0 {
				r.Clean(mark)
			}
		}
		if snapshots := r.Manifest().Snapshots; err == nil && len(snapshots) > 4 {
			err = awaitOn(d, func(done func(error)) { r.DeleteSnapshot(snapshots[round%4], done) })
		}
		if err != nil {
			return err
		}
	}
}

func submitAll(d host.Disk, r *Replica, round uint64) error {
	left, failed := 0, error(nil)
	for _, i := range killRound(round) {
		e := killPlace(i)
		q := writeOf(e.Start, int(e.Count), round)
		if (int(round)+i)%11 == 0 {
			q = &Request{Verb: Zero, Extent: e}
		}
		left++
		q.Done = func(q *Request) {
			left--
			if q.Err != nil {
				failed = q.Err
			}
		}
		r.Submit(q)
	}
	for left > 0 {
		mustPoll(d)
	}
	return failed
}

func awaitOn(d host.Disk, f func(done func(error))) (err error) {
	finished := false
	f(func(e error) { finished, err = true, e })
	for !finished {
		mustPoll(d)
	}
	return err
}

// mustPoll lets the disk go on. Who waits while nothing is in flight would wait for ever.
func mustPoll(d host.Disk) {
	if d.Poll(-1) == 0 && d.InFlight() == 0 {
		panic("the replica waits, and no disk operation is in flight")
	}
}

// openWhenFree opens the replica, once a dead process has let go of it.
func openWhenFree(d host.Disk) (r *Replica, err error) {
	for end := time.Now().Add(patiently.Patience); ; {
		err = awaitOn(d, func(done func(error)) {
			Open(d, "v", Options{Boot: host.Boot(), FilesMax: 8, TablesMax: 16, JournalBlocks: 64}, func(got *Replica, err error) { r = got; done(err) })
		})
		if !fault.Is(err, fault.Busy) || time.Now().After(end) {
			return r, err
		}
	}
}

// xfs makes a filesystem in a file, and returns where it is mounted until the test ends.
func xfs(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a filesystem needs root")
	}
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%q: %v: %s", args, err, out)
		}
		return string(bytes.TrimSpace(out))
	}
	image, root := filepath.Join(t.TempDir(), "image"), t.TempDir()
	for _, err := range []error{os.WriteFile(image, nil, 0o600), os.Truncate(image, 2<<30)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	device := run("losetup", "--find", "--show", "--direct-io=on", "--sector-size=4096", image)
	t.Cleanup(func() { run("losetup", "--detach", device) })
	run("mkfs.xfs", "-q", "-f", "-K", "-m", "reflink=1", device)
	run("mount", device, root)
	t.Cleanup(func() { run("umount", root) })
	return root
}

// worker is a process that works on the replica.
type worker struct {
	cmd *exec.Cmd
	in  io.Writer
	out *bufio.Reader
}

// startWorker starts a process, which has the replica open when this returns.
func startWorker(t *testing.T, root string) *worker {
	t.Helper()
	w := &worker{cmd: exec.Command(os.Args[0])}
	w.cmd.Env = append(os.Environ(), childEnv+"="+root)
	w.cmd.Stderr = os.Stderr
	out, err := w.cmd.StdoutPipe()
	if err == nil {
		w.in, err = w.cmd.StdinPipe()
	}
	if err == nil {
		err = w.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.kill)
	w.out = bufio.NewReader(out)
	if line, err := w.line(); line != "open\n" {
		t.Fatalf("the process said %q: %v", line, err)
	}
	return w
}

// line returns what the process says next. One that says nothing is killed, which is an
// error here.
func (w *worker) line() (string, error) {
	silent := time.AfterFunc(patiently.Patience, func() { _ = w.cmd.Process.Kill() })
	defer silent.Stop()
	return w.out.ReadString('\n')
}

func (w *worker) kill() {
	if w.cmd.ProcessState == nil {
		_ = w.cmd.Process.Kill()
		_ = w.cmd.Wait()
	}
}

// killedWork is what must be found on the replica.
type killedWork struct {
	next      uint64 // the round to go on with
	contents  [][]uint64
	snapshots map[block.Generation][]uint64
}

// flushed notes that rounds up to round are there, and, as far as is known, no later one.
func (k *killedWork) flushed(round uint64) {
	for ; k.next <= round; k.next++ {
		for i, tag := range roundTags(k.next) {
			k.contents[i] = []uint64{tag}
		}
	}
}

// roundTags returns what each run holds that a round writes.
func roundTags(round uint64) map[int]uint64 {
	tags := make(map[int]uint64)
	for _, i := range killRound(round) {
		tags[i] = round
		if (int(round)+i)%11 == 0 {
			tags[i] = 0
		}
	}
	return tags
}

// hear takes lines of a worker until enough were said, kills it, and takes the rest.
func (k *killedWork) hear(t *testing.T, w *worker, lines int) {
	t.Helper()
	for n := 0; ; n++ {
		line, err := w.line()
		if err != nil && n <= lines {
			t.Fatalf("the process said %d lines of %d: %v", n, lines, err)
		}
		if err != nil {
			break
		}
		var what string
		var round uint64
		var gen block.Generation
		if _, err := fmt.Sscan(strings.TrimSpace(line), &what, &round, &gen); err != nil {
			t.Fatalf("the process said %q", line)
		}
		k.flushed(round)
		if what == "snapshot" {
			k.snapshots[gen] = make([]uint64, killPlaces)
			for i := range k.contents {
				k.snapshots[gen][i] = k.contents[i][0]
			}
		}
		if n == lines {
			if err := w.cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = w.cmd.Wait()
	for _, round := range []uint64{k.next, k.next + 1} { // one may be flushed and not have been told
		for i, tag := range roundTags(round) {
			k.contents[i] = append(k.contents[i], tag)
		}
	}
	k.next += 2
}

// compare looks at everything, and takes what it finds.
func (k *killedWork) compare(t *testing.T, g *rig) {
	t.Helper()
	for _, gen := range g.r.Manifest().Snapshots {
		want, known := k.snapshots[gen]
		for i := range killPlaces {
			e := killPlace(i)
			if tags := g.tags(gen, e.Start, int(e.Count)); known && slices.ContainsFunc(tags, func(tag uint64) bool { return tag != want[i] }) {
				t.Fatalf("snapshot %d, blocks %v: %d, want %d", gen, e, tags, want[i])
			}
		}
	}
	for i := range killPlaces {
		e := killPlace(i)
		tags := g.tags(0, e.Start, int(e.Count))
		for _, tag := range tags {
			if !slices.Contains(k.contents[i], tag) {
				t.Fatalf("blocks %v: %d, want one of %d", e, tags, k.contents[i])
			}
		}
		k.contents[i] = slices.Compact(slices.Sorted(slices.Values(tags)))
		if len(k.contents[i]) > 1 { // partly written: make it one thing again
			g.write(e.Start, int(e.Count), k.next)
			k.contents[i] = []uint64{k.next}
		}
	}
	k.next++
	g.flush()
	g.must(g.verifyScrub())
}

// TestKilledProcessLosesNothingThatWasFlushed kills a process under load on a real
// filesystem, time after time, with 9.
func TestKilledProcessLosesNothingThatWasFlushed(t *testing.T) {
	kills := 5
	if long {
		kills = 50
	}
	root := xfs(t)
	d, err := host.Open(root, host.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	g := newRig(t, d, killSize, Options{JournalBlocks: 64})
	g.must(g.close())
	k := &killedWork{next: 1, contents: make([][]uint64, killPlaces), snapshots: map[block.Generation][]uint64{}}
	for i := range k.contents {
		k.contents[i] = []uint64{0}
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	for range kills {
		w := startWorker(t, root)
		if _, err := io.WriteString(w.in, strconv.FormatUint(k.next, 10)+"\n"); err != nil {
			t.Fatal(err)
		}
		k.hear(t, w, rnd.IntN(40))
		g.r, err = openWhenFree(d)
		g.must(err)
		k.compare(t, g)
		g.must(g.close())
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	root := t.TempDir()
	d, err := host.Open(root, host.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	g := newRig(t, d, killSize, Options{JournalBlocks: 64})
	g.must(g.close())
	w := startWorker(t, root)
	for name, err := range map[string]error{
		"open":    g.open(),
		"inspect": g.await(func(done func(error)) { Inspect(d, "v", g.opts, func(_ *Inspection, err error) { done(err) }) }),
		"delete":  g.await(func(done func(error)) { Delete(d, "v", done) }),
	} {
		if !fault.Is(err, fault.Busy) {
			t.Errorf("%s, while another process has it open: %v", name, err)
		}
	}
	w.kill()
	g.r, err = openWhenFree(d)
	g.must(err)
	g.must(g.close())
}

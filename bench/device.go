package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/bench"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/store"
)

var deviceBenchmarks = []bench.Benchmark{{
	Name: "device/empty",
	What: "the block device of a volume that does nothing, against that of qemu-storage-daemon's FUSE export",
	Run:  benchEmptyDevice,
}, {
	Name: "device/local",
	What: "the block device of a volume with one local replica, against a file on the same disk",
	Run:  benchLocalDevice,
}, {
	Name: "device/restart",
	What: "the longest I/O while the process that serves a device is killed and started again, against none of that",
	Run:  benchRestart,
}}

const (
	deviceBytes = 2 << 30
	deviceTime  = time.Second // each sample
)

// deviceLoad is one way in which fio works a device.
type deviceLoad struct {
	name  string
	job   bench.Fio
	least float64 // goal of device/empty: IOPS against qemu-storage-daemon
	iops  float64 // goal of device/empty
	local float64 // goal of device/local: IOPS against the file
	added float64 // goal of device/local: latency in µs more than the file's; 0 is none
}

var deviceLoads = []deviceLoad{
	{name: "read-4k-qd1", job: bench.Fio{Kind: "randread", Block: 4 << 10, Depth: 1}, added: 60},
	{name: "read-4k-qd32", job: bench.Fio{Kind: "randread", Block: 4 << 10, Depth: 32}, least: 1.5, iops: 150e3, local: 0.6},
	{name: "write-4k-qd1", job: bench.Fio{Kind: "randwrite", Block: 4 << 10, Depth: 1}, added: 60},
	{name: "write-4k-qd32", job: bench.Fio{Kind: "randwrite", Block: 4 << 10, Depth: 32}, least: 1.5, iops: 150e3, local: 0.6},
	{name: "read-128k-seq", job: bench.Fio{Kind: "read", Block: 128 << 10, Depth: 8}},
	{name: "write-128k-seq", job: bench.Fio{Kind: "write", Block: 128 << 10, Depth: 8}},
	{name: "fsync-4k-qd1", job: bench.Fio{Kind: "randwrite", Block: 4 << 10, Depth: 1, Sync: true}},
}

func atLeast(bound float64, goal func(float64) bench.Goal) bench.Goal {
	if bound == 0 {
		return bench.None
	}
	return goal(bound)
}

// target is a file or device, and the process that serves it, if one does.
type target struct {
	path    string
	pid     int
	mallocs func() (uint64, error) // nil: it is not known
}

// run has fio work the target. The cost's CPU and allocations are the server's.
func (t target) run(ctx context.Context, job bench.Fio) (bench.Cost, error) {
	job.File, job.Time = t.path, deviceTime
	var before uint64
	var err error
	if t.mallocs != nil {
		if before, err = t.mallocs(); err != nil {
			return bench.Cost{}, err
		}
	}
	began, err := t.cpu()
	if err != nil {
		return bench.Cost{}, err
	}
	c, err := job.Run(ctx)
	if err != nil {
		return c, err
	}
	ended, err := t.cpu()
	c.CPU = ended - began
	if err == nil && t.mallocs != nil {
		var after uint64
		after, err = t.mallocs()
		c.Allocs = after - before
	}
	return c, err
}

// cpu returns what the server has used so far.
func (t target) cpu() (time.Duration, error) {
	if t.pid == 0 {
		return 0, nil
	}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", t.pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:])) // from the third field of proc(5) on
	user, uErr := strconv.ParseInt(fields[11], 10, 64)
	system, sErr := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * (time.Second / 100), errors.Join(uErr, sErr)
}

// reported are the figures of one load of two targets.
func reported(r *bench.Run, rounds bench.Rounds[bench.Cost], name string, iops bench.Goal) {
	r.Report(rounds.Compare(bench.Cost.PerSecond).Figure(name+"iops", "1/s", iops))
	for _, q := range []struct {
		name  string
		share float64
	}{{"p50", 0.5}, {"p99", 0.99}, {"p999", 0.999}} {
		r.Report(rounds.Compare(bench.Quantile(q.share)).Figure(name+q.name, "us", bench.None))
	}
}

// benchEmptyDevice shows what the front end costs, and another one in C.
func benchEmptyDevice(r *bench.Run) error {
	ours, err := startDevice(r, 8<<30, "")
	if err != nil {
		return err
	}
	theirs, err := startQemu(r, 8<<30)
	if err != nil {
		return err
	}
	for _, l := range deviceLoads {
		r.Logf("%s", l.name)
		rounds, err := bench.Alternate(r.Context, r.Rounds,
			func() (bench.Cost, error) { return ours.target.run(r.Context, l.job) },
			func() (bench.Cost, error) { return theirs.run(r.Context, l.job) })
		if err != nil {
			return err
		}
		name := "device/empty/" + l.name + "/"
		reported(r, rounds, name, atLeast(l.least, bench.RatioAtLeast))
		r.Report(rounds.Compare(bench.Cost.CPUPerOp).Figure(name+"cpu", "us/op", bench.None))
		r.Report(bench.Single(name+"allocs", "allocs/op", rounds.Value(bench.Cost.AllocsPerOp), bench.ValueAtMost(0.001)))
		if l.iops > 0 {
			r.Report(bench.Single(name+"rate", "1/s", rounds.Value(bench.Cost.PerSecond), bench.ValueAtLeast(l.iops)))
		}
	}
	return nil
}

// benchLocalDevice shows what is left of the disk.
func benchLocalDevice(r *bench.Run) error {
	root, err := r.XFS(2*deviceBytes + 1<<30)
	if err != nil {
		return err
	}
	if err := makeReplica(root); err != nil {
		return err
	}
	ours, err := startDevice(r, deviceBytes, root)
	if err != nil {
		return err
	}
	raw := target{path: filepath.Join(root, "raw")}
	for _, path := range []string{ours.target.path, raw.path} {
		if err := fillWithFio(r.Context, path, deviceBytes); err != nil {
			return err
		}
	}
	for _, l := range deviceLoads {
		r.Logf("%s", l.name)
		rounds, err := bench.Alternate(r.Context, r.Rounds,
			func() (bench.Cost, error) { return ours.target.run(r.Context, l.job) },
			func() (bench.Cost, error) { return raw.run(r.Context, l.job) })
		if err != nil {
			return err
		}
		name := "device/local/" + l.name + "/"
		reported(r, rounds, name, atLeast(l.local, bench.RatioAtLeast))
		r.Report(bench.Single(name+"cpu", "us/op", rounds.Value(bench.Cost.CPUPerOp), bench.None))
		r.Report(bench.Single(name+"allocs", "allocs/op", rounds.Value(bench.Cost.AllocsPerOp), bench.ValueAtMost(0.001)))
		if l.added > 0 {
			c := rounds.Compare(bench.Quantile(0.5))
			r.Report(bench.Single(name+"added", "us", c.Value-c.Baseline, bench.ValueAtMost(l.added)))
		}
	}
	return nil
}

// benchRestart shows what users of a device feel of restarts.
func benchRestart(r *bench.Run) error {
	root, err := r.XFS(deviceBytes + 1<<30)
	if err != nil {
		return err
	}
	if err := makeReplica(root); err != nil {
		return err
	}
	d, err := startDevice(r, deviceBytes, root)
	if err != nil {
		return err
	}
	if err := fillWithFio(r.Context, d.target.path, deviceBytes); err != nil {
		return err
	}
	job := bench.Fio{File: d.target.path, Kind: "randwrite", Block: 4 << 10, Depth: 8, Time: 2 * time.Second}
	rounds, err := bench.Alternate(r.Context, r.Rounds,
		func() (bench.Cost, error) { return d.killedDuring(r.Context, job) },
		func() (bench.Cost, error) { return job.Run(r.Context) })
	if err != nil {
		return err
	}
	longest := func(c bench.Cost) float64 { return float64(c.Latency.Max().Milliseconds()) }
	r.Report(rounds.Compare(longest).Figure("device/restart/longest", "ms", bench.ValueAtMost(500)))
	r.Report(rounds.Compare(bench.Cost.PerSecond).Figure("device/restart/iops", "1/s", bench.None))
	return nil
}

// makeReplica makes the replica of a volume of deviceBytes in root.
func makeReplica(root string) error {
	disk, err := host.Open(root, host.Options{})
	if err != nil {
		return err
	}
	defer disk.Close()
	id, err := block.NewVolumeID(rand.Reader)
	if err != nil {
		return err
	}
	g := &ground{disk: disk, root: root}
	return g.await(func(done func(error)) {
		store.Create(disk, replicaDir, store.Spec{Volume: id, Size: deviceBytes}, store.Options{}, done)
	})
}

const replicaDir = "replica"

// fillWithFio writes all of a device, or of a file that it makes.
func fillWithFio(ctx context.Context, path string, bytes int64) error {
	out, err := exec.CommandContext(ctx, "fio", "--name=fill", "--filename="+path, "--rw=write", "--bs=1M", "--iodepth=8",
		"--ioengine=io_uring", "--direct=1", "--size="+strconv.FormatInt(bytes, 10), "--end_fsync=1").CombinedOutput()
	if err != nil {
		return fault.Errorf("bench.fill", fault.Unknown, "fio: %w: %s", err, out)
	}
	return nil
}

// device is one of ours, with the process that serves it.
type device struct {
	config deviceConfig
	target target
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
}

// startDevice starts a keeper and a process that serves a device: of the replica in
// root, or of nothing. Both end with the run.
func startDevice(r *bench.Run, size int64, root string) (*device, error) {
	if os.Geteuid() != 0 {
		return nil, fault.WithCure(fault.Errorf("bench.device", fault.Unsupported, "block devices need root"), "run make bench as root")
	}
	d := &device{config: deviceConfig{Dir: root, Size: size, Replica: replicaDir}}
	var err error
	if root == "" {
		d.config.Replica = ""
		if d.config.Dir, err = r.Scratch(); err != nil {
			return nil, err
		}
	}
	if d.config.Dir, err = filepath.Abs(d.config.Dir); err != nil { // the keeper works elsewhere
		return nil, err
	}
	k := exec.Command("/proc/self/exe", "--socket", d.config.socket())
	k.Env = append(os.Environ(), roleEnv+"="+roleKeeper)
	k.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := k.Start(); err != nil {
		return nil, err
	}
	r.Undo(func() error {
		_ = k.Process.Kill()
		_ = k.Wait() // killed
		return nil
	})
	if err := awaitFile(r.Context, d.config.socket()); err != nil {
		return nil, err
	}
	if err := d.start(); err != nil {
		return nil, err
	}
	r.Undo(d.stop)
	return d, nil
}

// awaitFile waits until something is at path.
func awaitFile(ctx context.Context, path string) error {
	for tick := time.NewTicker(5 * time.Millisecond); ; {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// start starts the process that serves, and waits until it does.
func (d *device) start() error {
	raw, err := json.Marshal(d.config)
	if err != nil {
		return err
	}
	d.cmd = exec.Command("/proc/self/exe", string(raw))
	d.cmd.Env = append(os.Environ(), roleEnv+"="+roleDevice)
	d.cmd.Stderr = os.Stderr
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if d.in, err = d.cmd.StdinPipe(); err != nil {
		return err
	}
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	d.out = bufio.NewReader(out)
	if err := d.cmd.Start(); err != nil {
		return err
	}
	path, err := d.out.ReadString('\n')
	if err != nil {
		return fault.Errorf("bench.device", fault.Unknown, "the process that serves ended: %w", d.cmd.Wait())
	}
	d.target = target{path: strings.TrimSpace(path), pid: d.cmd.Process.Pid, mallocs: d.mallocs}
	return nil
}

func (d *device) mallocs() (n uint64, err error) {
	if _, err := fmt.Fprintln(d.in); err != nil {
		return 0, err
	}
	_, err = fmt.Fscanln(d.out, &n)
	return n, err
}

func (d *device) stop() error {
	return errors.Join(d.in.Close(), d.cmd.Wait())
}

// killedDuring kills the process that serves, and starts it again, while the job runs.
func (d *device) killedDuring(ctx context.Context, job bench.Fio) (bench.Cost, error) {
	type result struct {
		cost bench.Cost
		err  error
	}
	done := make(chan result, 1)
	go func() {
		c, err := job.Run(ctx)
		done <- result{c, err}
	}()
	for tick := time.NewTicker(400 * time.Millisecond); ; {
		select {
		case got := <-done:
			return got.cost, got.err
		case <-tick.C:
			_ = d.cmd.Process.Kill()
			_ = d.cmd.Wait() // killed
			if err := d.start(); err != nil {
				return bench.Cost{}, err
			}
		}
	}
}

// startQemu serves a volume that does nothing with QEMU's storage daemon, by a FUSE file
// and a loop device over it.
func startQemu(r *bench.Run, size int64) (t target, err error) {
	dir, err := r.Scratch()
	if err != nil {
		return t, err
	}
	file := filepath.Join(dir, "export")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return t, err
	}
	var under unix.Stat_t
	if err := unix.Stat(file, &under); err != nil {
		return t, err
	}
	q := exec.Command("qemu-storage-daemon", "--blockdev", fmt.Sprintf("driver=null-co,node-name=null,size=%d,read-zeroes=off", size),
		"--export", "type=fuse,id=export,node-name=null,writable=on,mountpoint="+file)
	q.Stderr = os.Stderr
	q.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := q.Start(); err != nil {
		return t, err
	}
	r.Undo(func() error {
		_ = q.Process.Signal(syscall.SIGTERM)
		return q.Wait()
	})
	for tick := time.NewTicker(5 * time.Millisecond); ; {
		var st unix.Stat_t
		if unix.Stat(file, &st) == nil && st.Dev != under.Dev {
			break
		}
		select {
		case <-tick.C:
		case <-r.Context.Done():
			return t, r.Context.Err()
		}
	}
	out, err := exec.Command("losetup", "--find", "--show", "--direct-io=on", "--sector-size=4096", file).Output()
	if err != nil {
		return t, err
	}
	t = target{path: strings.TrimSpace(string(out)), pid: q.Process.Pid}
	r.Undo(func() error { return exec.Command("losetup", "--detach", t.path).Run() })
	return t, nil
}

package fuse

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/attach/attachtest"
	"github.com/holdfast-io/holdfast/internal/attach/keeper"
	"github.com/holdfast-io/holdfast/internal/host"
)

// BenchmarkDevice has fio, in a process of its own, work the block device of a volume
// that does nothing: what is left is the front end, the kernel's part included. cpu-µs/io
// is what this process used. Run it with -benchtime=1x; one run takes two seconds.
func BenchmarkDevice(b *testing.B) {
	path := serveNothing(b)
	for _, load := range []struct {
		rw, bs string
		depth  int
	}{
		{"randread", "4k", 1}, {"randwrite", "4k", 1}, {"randread", "4k", 32}, {"randwrite", "4k", 32},
		{"read", "128k", 8}, {"write", "128k", 8},
	} {
		b.Run(fmt.Sprintf("%s/%s/depth=%d", load.rw, load.bs, load.depth), func(b *testing.B) {
			before, ios := cpuTime(b), 0.0
			var last fioResult
			for b.Loop() {
				last = runFio(b, path, load.rw, load.bs, load.depth)
				ios += last.ios
			}
			b.ReportMetric(last.iops, "iops")
			b.ReportMetric(last.p50/1e3, "p50-µs")
			b.ReportMetric(last.p99/1e3, "p99-µs")
			b.ReportMetric(float64(cpuTime(b)-before)/1e3/ios, "cpu-µs/io")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// serveNothing serves a device whose backend does nothing, and returns its path.
func serveNothing(b *testing.B) string {
	b.Helper()
	dir := b.TempDir()
	startKeeper(b, dir)
	loop, err := host.NewLoop(host.Options{})
	must(b, err)
	ended := make(chan struct{})
	go func() { defer close(ended); loop.Run(context.Background()) }()
	b.Cleanup(func() { loop.Stop(); <-ended; loop.Close() })
	k, err := keeper.Dial(b.Context(), socketOf(dir))
	must(b, err)
	b.Cleanup(k.Close)
	f, err := New(attach.Options{Loop: loop, Backend: attachtest.Null{}, Node: attachtest.NodeOf(dir), Name: "vol", Size: 8 << 30,
		LinkDir: filepath.Join(dir, "dev")}, Config{Keeper: k, Errand: errands()})
	must(b, err)
	must(b, f.Start(b.Context()))
	b.Cleanup(func() {
		must(b, f.Abort())
		<-f.Ended()
	})
	return f.Device().Path
}

func cpuTime(b *testing.B) int64 {
	var u syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return u.Utime.Nano() + u.Stime.Nano()
}

// fioResult is what fio says; latencies are nanoseconds.
type fioResult struct{ ios, iops, p50, p99 float64 }

func runFio(b *testing.B, path, rw, bs string, depth int) fioResult {
	b.Helper()
	out, err := exec.Command("fio", "--name=bench", "--filename="+path, "--rw="+rw, "--bs="+bs, fmt.Sprintf("--iodepth=%d", depth),
		"--ioengine=io_uring", "--direct=1", "--norandommap", "--time_based", "--runtime=2", "--output-format=json").Output()
	must(b, err)
	type side struct {
		IOs  float64 `json:"total_ios"`
		IOPS float64 `json:"iops"`
		Lat  struct {
			Percentile map[string]float64 `json:"percentile"`
		} `json:"clat_ns"`
	}
	var report struct {
		Jobs []struct{ Read, Write side } `json:"jobs"`
	}
	must(b, json.Unmarshal(out, &report))
	s := report.Jobs[0].Read
	if s.IOs == 0 {
		s = report.Jobs[0].Write
	}
	return fioResult{s.IOs, s.IOPS, s.Lat.Percentile["50.000000"], s.Lat.Percentile["99.000000"]}
}

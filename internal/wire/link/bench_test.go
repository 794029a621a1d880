package link_test

import (
	"context"
	"runtime"
	"syscall"
	"testing"

	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/wire"
	"github.com/holdfast-io/holdfast/internal/wire/link"
)

// BenchmarkRoundTrip writes and waits for Done, with a number of writes under way. What
// arrives is handled by Receive's goroutine, or by a loop at each end.
func BenchmarkRoundTrip(b *testing.B) {
	for _, tr := range []transport{{"tcp", false}, {"tcp", true}, {"unix", false}} {
		for _, c := range []struct {
			name   string
			blocks int
			depth  int
			loops  bool
		}{
			{"4K/depth1", 1, 1, false},
			{"4K/depth32", 1, 32, false},
			{"128K/depth8", 32, 8, false},
			{"4K/depth1/loops", 1, 1, true},
			{"4K/depth32/loops", 1, 32, true},
		} {
			b.Run(tr.String()+"/"+c.name, func(b *testing.B) { roundTrips(b, tr, c.blocks, c.depth, c.loops) })
		}
	}
}

func roundTrips(b *testing.B, tr transport, blocks, depth int, loops bool) {
	if loops { // as docs/decisions/0001 says
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(runtime.NumCPU() + 2))
	}
	dialed, got := connect(b, tr, nil)
	var done wire.Done
	start(b, got, loops, func(f *link.Frame) {
		if err := f.Conn().Queue(f.Tag, &done, nil); err != nil {
			b.Error(err)
		}
		f.Release()
	})
	m := message(1, blocks)
	left, under := b.N, 0 // changed here until the first Flush, then by who handles answers
	end := make(chan struct{})
	send := func() {
		left--
		under++
		if err := dialed.Queue(wire.Tag{Channel: 1, ID: uint64(left)}, m, nil); err != nil {
			b.Error(err)
		}
	}
	start(b, dialed, loops, func(f *link.Frame) {
		f.Release()
		if under--; left > 0 {
			send()
		} else if under == 0 {
			close(end)
		}
	})
	b.SetBytes(int64(len(m.Data)))
	b.ReportAllocs()
	before, cpu := dialed.Stats(), cpuTime(b)
	b.ResetTimer()
	for range min(depth, b.N) {
		send()
	}
	dialed.Flush()
	<-end
	b.StopTimer()
	after := dialed.Stats()
	b.ReportMetric((cpuTime(b)-cpu)/float64(b.N), "cpu-us/op")
	b.ReportMetric(float64(after.Writes-before.Writes)/float64(b.N), "writes/op")
	b.ReportMetric(float64(after.Reads-before.Reads)/float64(b.N), "reads/op")
}

// start runs a connection, with handle called by Receive or by a loop, which flushes when
// it has handled all that was there.
func start(b *testing.B, c *link.Conn, onLoop bool, handle func(*link.Frame)) {
	if !onLoop {
		run(b, c, handle)
		return
	}
	loop, err := host.NewLoop(host.Options{Engine: host.EnginePool})
	if err != nil {
		b.Fatal(err)
	}
	ended := make(chan struct{}, 3)
	go func() { loop.Run(context.Background()); ended <- struct{}{} }()
	flushing := false
	flush := func() {
		flushing = false
		c.Flush()
	}
	go func() { _ = c.Transmit(); ended <- struct{}{} }()
	go func() {
		_ = c.ReceiveOn(loop, func(f *link.Frame) {
			handle(f)
			if !flushing {
				flushing = loop.TryPost(flush)
			}
		})
		ended <- struct{}{}
	}()
	b.Cleanup(func() {
		c.Close()
		loop.Stop()
		for range cap(ended) {
			<-ended
		}
		loop.Close()
	})
}

// cpuTime returns how much processor time the process has used, in microseconds.
func cpuTime(b *testing.B) float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Utime.Sec+u.Stime.Sec)*1e6 + float64(u.Utime.Usec+u.Stime.Usec)
}

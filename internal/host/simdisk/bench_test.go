package simdisk_test

import (
	"testing"

	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/host/simdisk"
)

// bench keeps 32 operations in flight on a file of 64 MiB that has all its pages.
func bench(b *testing.B, kind host.Kind, size int) {
	d := simdisk.New(simdisk.Options{})
	open := &host.Op{Kind: host.OpOpen, Path: "file", Flags: host.Create}
	if err := host.Do(d, open); err != nil {
		b.Fatal(err)
	}
	if err := host.Do(d, &host.Op{Kind: host.OpWrite, File: open.File, Buf: make([]byte, 64<<20)}); err != nil {
		b.Fatal(err)
	}
	var ops [32]host.Op
	left := b.N
	next := func(op *host.Op) {
		if left--; left >= 0 {
			op.Offset = int64(left*7919%(64<<20/4096)) * 4096
			d.Submit(op)
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range ops {
		ops[i] = host.Op{Kind: kind, File: open.File, Buf: make([]byte, size), Done: next}
		next(&ops[i])
	}
	for d.InFlight() > 0 {
		d.Poll(-1)
	}
}

func BenchmarkRead512(b *testing.B)   { bench(b, host.OpRead, 512) }
func BenchmarkRead4096(b *testing.B)  { bench(b, host.OpRead, 4096) }
func BenchmarkWrite512(b *testing.B)  { bench(b, host.OpWrite, 512) }
func BenchmarkWrite4096(b *testing.B) { bench(b, host.OpWrite, 4096) }
func BenchmarkSync(b *testing.B)      { bench(b, host.OpSync, 0) }

// BenchmarkBranch is a step of an exhaustive test: a clone of a disk with 20 files,
// two writes, a sync and a crash.
func BenchmarkBranch(b *testing.B) {
	d := simdisk.New(simdisk.Options{})
	var f host.File
	for i := range 20 {
		open := &host.Op{Kind: host.OpOpen, Path: string(rune('a' + i)), Flags: host.Create}
		_ = host.Do(d, open)
		f = open.File
		_ = host.Do(d, &host.Op{Kind: host.OpWrite, File: f, Buf: make([]byte, 1<<20)})
	}
	_ = host.Do(d, &host.Op{Kind: host.OpSyncAll})
	buf := make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		c := d.Clone()
		_ = host.Do(c, &host.Op{Kind: host.OpWrite, File: f, Buf: buf})
		_ = host.Do(c, &host.Op{Kind: host.OpSync, File: f})
		_ = host.Do(c, &host.Op{Kind: host.OpWrite, File: f, Buf: buf, Offset: 4096})
		c.Crash(simdisk.KeepSome)
	}
}

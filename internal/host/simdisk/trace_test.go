package simdisk_test

import (
	"strings"
	"testing"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/host/simdisk"
)

func TestTraceReadsAsATranscript(t *testing.T) {
	var trace []string
	p := start(t, simdisk.Options{InOrder: true, Capacity: 1 << 20, Trace: func(line string) { trace = append(trace, line) }})
	p.mkdir("chunks")
	f := p.open("chunks/00000000.000001", host.Create|host.Exclusive|host.Direct)
	p.must(&host.Op{Kind: host.OpWrite, File: f, Offset: 262144, Buf: host.Buffer(4096)})
	p.must(&host.Op{Kind: host.OpRead, File: f, Offset: 0, Buf: host.Buffer(8192)})
	p.fails(fault.NoSpace, &host.Op{Kind: host.OpAllocate, File: f, Length: 2 << 20})
	p.punch(f, 4096, 8192)
	p.truncate(f, 8192)
	p.sync(f)
	p.Inject(simdisk.Rule{Kind: host.OpWrite, Effect: simdisk.Lose})
	p.must(&host.Op{Kind: host.OpWrite, File: f, Buf: host.Buffer(4096)})
	p.Inject(simdisk.Rule{Kind: host.OpWrite, Effect: simdisk.Misdirect})
	p.must(&host.Op{Kind: host.OpWrite, File: f, Buf: host.Buffer(4096)})
	p.stat(f)
	p.close(f)
	p.fails(fault.Invalid, &host.Op{Kind: host.OpStat, File: f})
	p.fails(fault.NotFound, &host.Op{Kind: host.OpOpen, Path: "replica.json", Flags: host.ReadOnly | host.Lock})
	p.rename("chunks/00000000.000001", "a b")
	p.must(&host.Op{Kind: host.OpLink, Path: "a b", To: "c"})
	p.remove("c")
	p.must(&host.Op{Kind: host.OpList, Path: "."})
	p.syncDir("chunks")
	p.syncAll()
	p.must(&host.Op{Kind: host.OpSpace})
	p.fails(fault.Invalid, &host.Op{Kind: 99})
	p.Submit(&host.Op{Kind: host.OpMkdir, Path: "e"})
	p.Disk = p.Kill()
	p.Submit(&host.Op{Kind: host.OpMkdir, Path: "d"})
	p.Crash(simdisk.KeepAll)
	want := `mkdir chunks
open chunks/00000000.000001 create,exclusive,direct
write chunks/00000000.000001 off=262144 len=4096
read chunks/00000000.000001 off=0 len=8192
allocate chunks/00000000.000001 off=0 len=2097152 = no space
punch chunks/00000000.000001 off=4096 len=8192
truncate chunks/00000000.000001 size=8192
sync chunks/00000000.000001
write chunks/00000000.000001 off=0 len=4096 = lost
write chunks/00000000.000001 off=0 len=4096 = misdirected
stat chunks/00000000.000001
close chunks/00000000.000001
stat "" = invalid
open replica.json readonly,lock = not found
rename chunks/00000000.000001 "a b"
link "a b" c
remove c
list .
syncdir chunks
syncall
space
kind99 = invalid
kill
landed: mkdir e
crash keep=all
landed: mkdir d`
	if got := strings.Join(trace, "\n"); got != want {
		t.Errorf("the trace is\n%s\nwant\n%s", got, want)
	}
}

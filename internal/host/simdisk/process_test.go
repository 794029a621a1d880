package simdisk_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/host/simdisk"
)

// process uses a disk, one operation after the other.
type process struct {
	t *testing.T
	*simdisk.Disk
}

func start(t *testing.T, o simdisk.Options) process {
	return process{t, simdisk.New(o)}
}

func (p process) on(d *simdisk.Disk) process { return process{p.t, d} }

func (p process) must(op *host.Op) *host.Op {
	p.t.Helper()
	if err := host.Do(p.Disk, op); err != nil {
		p.t.Fatal(err)
	}
	return op
}

func (p process) fails(kind fault.Kind, op *host.Op) {
	p.t.Helper()
	if err := host.Do(p.Disk, op); !fault.Is(err, kind) {
		p.t.Fatalf("got error %v, want %v", err, kind)
	}
}

func (p process) open(path string, flags host.Flags) host.File {
	p.t.Helper()
	return p.must(&host.Op{Kind: host.OpOpen, Path: path, Flags: flags}).File
}

func (p process) create(path string) host.File {
	p.t.Helper()
	return p.open(path, host.Create)
}

func (p process) close(f host.File) {
	p.t.Helper()
	p.must(&host.Op{Kind: host.OpClose, File: f})
}

func (p process) write(f host.File, offset int64, data []byte) {
	p.t.Helper()
	p.must(&host.Op{Kind: host.OpWrite, File: f, Offset: offset, Buf: data})
}

func (p process) punch(f host.File, offset, length int64) {
	p.t.Helper()
	p.must(&host.Op{Kind: host.OpPunch, File: f, Offset: offset, Length: length})
}

func (p process) truncate(f host.File, size int64) {
	p.t.Helper()
	p.must(&host.Op{Kind: host.OpTruncate, File: f, Length: size})
}

func (p process) sync(f host.File) {
	p.t.Helper()
	p.must(&host.Op{Kind: host.OpSync, File: f})
}

func (p process) syncDir(path string) {
	p.t.Helper()
	p.must(&host.Op{Kind: host.OpSyncDir, Path: path})
}

func (p process) syncAll() {
	p.t.Helper()
	p.must(&host.Op{Kind: host.OpSyncAll})
}

func (p process) rename(path, to string) {
	p.t.Helper()
	p.must(&host.Op{Kind: host.OpRename, Path: path, To: to})
}

func (p process) remove(path string) {
	p.t.Helper()
	p.must(&host.Op{Kind: host.OpRemove, Path: path})
}

func (p process) mkdir(path string) {
	p.t.Helper()
	p.must(&host.Op{Kind: host.OpMkdir, Path: path})
}

func (p process) stat(f host.File) host.Stat {
	p.t.Helper()
	return p.must(&host.Op{Kind: host.OpStat, File: f}).Stat
}

// read returns the whole file, or nil when it does not exist.
func (p process) read(path string) []byte {
	p.t.Helper()
	data, err := p.ReadFile(path)
	if err != nil && !fault.Is(err, fault.NotFound) {
		p.t.Fatal(err)
	}
	return data
}

func (p process) expect(path string, want []byte) {
	p.t.Helper()
	if got := p.read(path); !bytes.Equal(got, want) {
		p.t.Fatalf("%s holds %d bytes %.20q, want %d bytes %.20q", path, len(got), got, len(want), want)
	}
}

func (p process) check() {
	p.t.Helper()
	if err := p.Check(); err != nil {
		p.t.Fatal(err)
	}
}

// names returns what the disk holds, directories with a slash.
func names(d *simdisk.Disk) (list []string) {
	for _, f := range d.Files() {
		if f.Dir {
			f.Path += "/"
		}
		list = append(list, f.Path)
	}
	return list
}

func (p process) expectNames(want ...string) {
	p.t.Helper()
	if got := names(p.Disk); !slices.Equal(got, want) {
		p.t.Fatalf("the disk holds %q, want %q", got, want)
	}
}

// crash powers a copy of the disk off and on again.
func (p process) crash(seed uint64, keep simdisk.Keep) process {
	p.t.Helper()
	c := p.Clone()
	c.Reseed(seed)
	after := p.on(c.Crash(keep))
	after.check()
	return after
}

func fill(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }

var keeps = []simdisk.Keep{simdisk.KeepNone, simdisk.KeepSome, simdisk.KeepAll}

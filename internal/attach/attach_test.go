package attach

import (
	"errors"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

func TestBucketsHoldWhatTheySay(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 100000 {
		d := time.Duration(r.Uint64() >> (1 + r.IntN(63)))
		i := bucketOf(d)
		if d >= BucketEnd(i) && i < buckets-1 || i > 0 && d < BucketEnd(i-1) {
			t.Fatalf("%v is in bucket %d, which ends at %v", d, i, BucketEnd(i))
		}
	}
	for i := 1; i < buckets; i++ {
		if a, b := BucketEnd(i-1), BucketEnd(i); b <= a || b > a*5/4 {
			t.Errorf("bucket %d ends at %v, the one before at %v", i, b, a)
		}
	}
	if bucketOf(-1) != 0 || bucketOf(1<<62) != buckets-1 {
		t.Error("durations out of range are lost")
	}
}

func TestQuantilesBracketTheDurations(t *testing.T) {
	var m Meter
	if s := m.Stats(); s.Read.Latency.Quantile(0.99) != 0 {
		t.Error("there is a quantile of nothing")
	}
	for i := range 1000 {
		m.Begin()
		m.End(&Request{Op: Read, Length: 4096}, time.Duration(i+1)*time.Millisecond)
	}
	m.Begin()
	m.End(&Request{Op: Flush, Err: errors.New("no")}, time.Second)
	s := m.Stats()
	for q, want := range map[float64]time.Duration{0: time.Millisecond, 0.5: 500 * time.Millisecond, 0.99: 990 * time.Millisecond, 1: time.Second} {
		if got := s.Read.Latency.Quantile(q); got < want || got > want*3/2 {
			t.Errorf("quantile %v is %v, want about %v", q, got, want)
		}
	}
	if s.Read.Bytes != 4096*1000 || s.Read.Errors != 0 || s.Flush.Errors != 1 || s.Flush.Latency.Count() != 1 || s.InFlight != 0 {
		t.Errorf("stats are off: %d bytes, %d errors, %d flush errors, %d in flight", s.Read.Bytes, s.Read.Errors, s.Flush.Errors, s.InFlight)
	}
}

func TestOnlyErrnosThatEndARequestLeave(t *testing.T) {
	if Errno(nil) != 0 {
		t.Error("success has an errno")
	}
	for k := fault.Unknown; k <= fault.Internal; k++ {
		switch no := Errno(fault.E("test", k, block.VolumeID{}, nil)); no {
		case syscall.EIO, syscall.ENOSPC, syscall.ETIMEDOUT, syscall.EOPNOTSUPP:
		default:
			t.Errorf("%v becomes %v, which somebody may try again, or believe to be something else", k, no)
		}
	}
}

func TestRequestsAreChecked(t *testing.T) {
	const size = 1 << 20
	for _, r := range []Request{
		{Op: Read, Length: 4096},
		{Op: Read, Offset: size - 4096, Length: 4096},
		{Op: Write, Length: size},
		{Op: Write, Length: 512, Offset: 512, Flags: FUA},
		{Op: Zero, Length: size, Flags: FUA | Unmap},
		{Op: Flush},
	} {
		if err := r.Check(size, 512); err != nil {
			t.Errorf("%+v: %v", r, err)
		}
	}
	for _, r := range []Request{
		{},
		{Op: ops, Length: 512},
		{Op: Read},
		{Op: Read, Length: -512},
		{Op: Read, Offset: -512, Length: 1024},
		{Op: Read, Offset: size, Length: 512},
		{Op: Read, Offset: 1<<63 - 512, Length: 1024},
		{Op: Write, Offset: 100, Length: 512},
		{Op: Write, Length: 513},
		{Op: Read, Length: 512, Flags: FUA},
		{Op: Write, Length: 512, Flags: Unmap},
		{Op: Zero, Length: 512, Flags: 1 << 7},
		{Op: Flush, Length: 512},
		{Op: Flush, Flags: FUA},
	} {
		if err := r.Check(size, 512); !fault.Is(err, fault.Invalid) {
			t.Errorf("%+v: %v, want it invalid", r, err)
		}
	}
	long := Request{Op: Read, Length: IOBytesMax + 4096}
	if err := long.Check(1<<30, 4096); !fault.Is(err, fault.Invalid) {
		t.Errorf("a read of %d bytes: %v", long.Length, err)
	}
}

func TestNamesThatCanBeFiles(t *testing.T) {
	for _, name := range []string{"a", "pvc-0d9f3c6e-52a1", "Data.1_x", "9", strings.Repeat("n", NameLengthMax)} {
		if !ValidName(name) {
			t.Errorf("%q is refused", name)
		}
	}
	for _, name := range []string{"", ".", "..", "-x", "_x", "a/b", "a b", "a\x00", "ä", "a\n", strings.Repeat("n", NameLengthMax+1)} {
		if ValidName(name) {
			t.Errorf("%q is accepted", name)
		}
	}
}

func TestMemoryIsBounded(t *testing.T) {
	o := Options{Depth: 128, LargeDepth: 16}
	if got := o.MemoryBytesMax(); got != 128*68<<10+16<<20 {
		t.Errorf("a volume takes %d bytes", got)
	}
}

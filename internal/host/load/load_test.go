package load

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/fault"
)

const size = 8 << 20

func TestEveryKindOfWorkIsCountedAndTimed(t *testing.T) {
	target, err := Scratch(t.Context(), t.TempDir(), size)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	for _, job := range []Job{
		{Bytes: 4 << 10, Depth: 1, Random: true},
		{Bytes: 4 << 10, Depth: 32, Random: true},
		{Bytes: 128 << 10, Depth: 4, Write: true},
		{Bytes: 4 << 10, Depth: 2, Write: true, Flush: true},
	} {
		got, err := target.Run(t.Context(), job, 20*time.Millisecond)
		if err != nil {
			t.Fatalf("%+v: %v", job, err)
		}
		if got.Ops < int64(job.Depth) || got.PerSecond() <= 0 || got.P50 <= 0 || got.P99 < got.P50 || got.Elapsed < got.P50 {
			t.Errorf("%+v: got %+v", job, got)
		}
	}
}

func TestScratchIsWrittenWholeAndHasNoName(t *testing.T) {
	dir := t.TempDir()
	target, err := Scratch(t.Context(), dir, size)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestReadOnlyTargetIsNotWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "device")
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	target, err := Device(path, size, true)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	if _, err := target.Run(t.Context(), Job{Bytes: 4096, Depth: 1, Random: true}, time.Millisecond); err != nil {
		t.Error(err)
	}
	if _, err := target.Run(t.Context(), Job{Bytes: 4096, Depth: 1, Write: true}, time.Millisecond); err == nil {
		t.Error("it was written")
	}
}

func TestInterruptedRunEnds(t *testing.T) {
	target, err := Scratch(t.Context(), t.TempDir(), size)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := target.Run(ctx, Job{Bytes: 4096, Depth: 4}, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := Scratch(ctx, t.TempDir(), size); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestTargetThatIsTooSmallIsRefused(t *testing.T) {
	target, err := Scratch(t.Context(), t.TempDir(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	if _, err := target.Run(t.Context(), Job{Bytes: 2 << 20, Depth: 1}, time.Second); !fault.Is(err, fault.Invalid) {
		t.Errorf("got %v", err)
	}
}

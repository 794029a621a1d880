package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/host/patiently"
)

// result is what a command did.
type result struct {
	status   int
	out, err string
}

// holdfast runs a command in this process.
func holdfast(t *testing.T, args ...string) result {
	t.Helper()
	var out, err bytes.Buffer
	status := Main(context.Background(), args, Streams{In: strings.NewReader(""), Out: &out, Err: &err})
	return result{status, out.String(), err.String()}
}

// succeed runs a command that must succeed, and complain about nothing.
func succeed(t *testing.T, args ...string) string {
	t.Helper()
	r := holdfast(t, args...)
	if r.status != 0 || r.err != "" {
		t.Fatalf("holdfast %s: exit %d: %s", strings.Join(args, " "), r.status, r.err)
	}
	return r.out
}

// fail runs a command that must fail with a status, and say all of the texts on standard
// error, and nothing on standard output.
func fail(t *testing.T, status int, texts []string, args ...string) {
	t.Helper()
	r := holdfast(t, args...)
	if r.status != status || r.out != "" || !strings.HasPrefix(r.err, "holdfast: ") || strings.Count(r.err, "holdfast: ") != 1 {
		t.Errorf("holdfast %s: exit %d, want %d; out %q; err %q", strings.Join(args, " "), r.status, status, r.out, r.err)
	}
	says(t, r.err, texts...)
}

func says(t *testing.T, text string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in:\n%s", want, text)
		}
	}
}

// asJSON runs a command with -o json into v.
func asJSON(t *testing.T, v any, args ...string) {
	t.Helper()
	out := succeed(t, append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(out), v); err != nil {
		t.Fatalf("%v is no JSON: %v: %s", args, err, out)
	}
}

// poolDir returns where a test may make a pool; what is mounted there is unmounted in
// the end.
func poolDir(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pool")
	t.Cleanup(func() {
		if _, err := os.Stat(filepath.Join(path, "pool.img")); err == nil {
			succeed(t, "pool", "unmount", path)
		}
		if out, _ := exec.Command("losetup", "-a").Output(); strings.Contains(string(out), path) {
			t.Errorf("a loop device is left: %s", out)
		}
	})
	return path
}

// screen is what a command has printed that still runs.
type screen struct {
	t    *testing.T
	mu   sync.Mutex
	text strings.Builder
	more chan struct{}
}

// Write takes what is printed.
func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	s.text.Write(b)
	s.mu.Unlock()
	select {
	case s.more <- struct{}{}:
	default:
	}
	return len(b), nil
}

// has waits until all texts are there.
func (s *screen) has(texts ...string) {
	s.t.Helper()
	end := time.After(time.Minute)
	for {
		s.mu.Lock()
		now, missing := s.text.String(), ""
		s.mu.Unlock()
		for _, text := range texts {
			if !strings.Contains(now, text) {
				missing = text
			}
		}
		if missing == "" {
			return
		}
		select {
		case <-s.more:
		case <-end:
			s.t.Fatalf("%q is missing in:\n%s", missing, now)
		}
	}
}

// start runs a command on the cluster until it is interrupted, which is no failure.
func (s *terminal) start(args ...string) (*screen, func()) {
	s.t.Helper()
	out := &screen{t: s.t, more: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan int, 1)
	go func() {
		var err strings.Builder
		done <- Main(ctx, append(args, "--address", s.Socket), Streams{In: strings.NewReader(""), Out: out, Err: &err})
	}()
	return out, func() {
		s.t.Helper()
		cancel()
		if status := patiently.From(s.t, done); status != 0 {
			s.t.Errorf("interrupted, it exits with %d", status)
		}
	}
}

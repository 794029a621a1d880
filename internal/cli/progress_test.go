package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestProgressIsOneLineThatGoesAway(t *testing.T) {
	var out strings.Builder
	now := time.Unix(0, 0)
	p := &progress{w: &out, done: "read", total: 4 << 20, now: func() time.Time { return now }, began: now, next: now.Add(progressEvery)}
	p.show(1 << 20)
	if out.Len() > 0 {
		t.Errorf("at once it says %q", &out)
	}
	now = now.Add(time.Second)
	p.show(2 << 20)
	p.show(3 << 20) // too soon
	if got := out.String(); got != "\r2.0 MiB of 4.0 MiB (50 %) read, 2.0 MiB/s" {
		t.Errorf("after a second it says %q", got)
	}
	out.Reset()
	p.end()
	if got := out.String(); strings.Trim(got, "\r ") != "" || !strings.HasSuffix(got, "\r") || len(got) != 43 {
		t.Errorf("in the end it says %q", got)
	}
	p.end()

	out.Reset()
	p = &progress{w: &out, done: "written", now: func() time.Time { return now }, began: now.Add(-time.Second)}
	p.show(1 << 20)
	if got := out.String(); got != "\r1.0 MiB written, 1.0 MiB/s" {
		t.Errorf("without a total it says %q", got)
	}
}

func TestFilesAndBuffersAreNoTerminals(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if isTerminal(f) || isTerminal(&strings.Builder{}) {
		t.Error("one is")
	}
}

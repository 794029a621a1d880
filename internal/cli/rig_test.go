package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
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

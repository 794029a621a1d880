package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/store"
)

// replicaDir makes a replica of size in a directory of its own.
func replicaDir(t *testing.T, size string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "demo")
	succeed(t, "store", "create", dir, "--size", size)
	return dir
}

// content returns blocks whole blocks that no other seed gives.
func content(seed uint64, blocks int) []byte {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	b := make([]byte, blocks*block.Size)
	_, _ = rand.NewChaCha8(key).Read(b) // it never fails
	return b
}

// fed runs a command that reads input and must succeed.
func fed(t *testing.T, input []byte, args ...string) string {
	t.Helper()
	var out, err bytes.Buffer
	status := Main(context.Background(), args, Streams{In: bytes.NewReader(input), Out: &out, Err: &err})
	if status != 0 {
		t.Fatalf("holdfast %s: exit %d: %s", strings.Join(args, " "), status, &err)
	}
	return out.String()
}

// put writes content at a block.
func put(t *testing.T, dir string, at block.Index, data []byte) {
	t.Helper()
	fed(t, data, "store", "write", dir, "--offset", fmt.Sprint(at.Offset()))
}

// get reads blocks of a generation, 0 for the live one.
func get(t *testing.T, dir string, gen block.Generation, at block.Index, blocks int) []byte {
	t.Helper()
	return []byte(succeed(t, "store", "read", dir, "--generation", fmt.Sprint(gen),
		"--offset", fmt.Sprint(at.Offset()), "--length", fmt.Sprint(blocks*block.Size)))
}

func same4K(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s: %d bytes are not the %d that were written", what, len(got), len(want))
	}
}

// damage flips a bit of a block where store dump says that it lies.
func damage(t *testing.T, dir string, gen block.Generation, b block.Index) {
	t.Helper()
	var v placeView
	asJSON(t, &v, "store", "dump", dir, "--block", fmt.Sprint(b), "--generation", fmt.Sprint(gen))
	flip(t, v.Path, v.Offset+1234)
}

// flip flips a bit of a file.
func flip(t *testing.T, path string, offset int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, offset); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 4
	if _, err := f.WriteAt(b, offset); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

// whileOpen calls f while a replica is open, as in another process.
func whileOpen(t *testing.T, dir string, f func()) {
	t.Helper()
	disk, err := host.Open(filepath.Dir(dir), host.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	var r *store.Replica
	err = await(disk, func(done func(error)) {
		store.Open(disk, filepath.Base(dir), store.Options{}, func(got *store.Replica, err error) { r = got; done(err) })
	})
	if err != nil {
		t.Fatal(err)
	}
	f()
	if err := await(disk, r.Close); err != nil {
		t.Fatal(err)
	}
}

func jsonOf(text string, v any) error { return json.Unmarshal([]byte(text), v) }

func hex8(n uint32) string { return fmt.Sprintf("%08x", n) }

package cli

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-io/holdfast/internal/block"
)

func TestAReplicaThatLostSomethingIsTakenAsItIsOnlyWhenToldTo(t *testing.T) {
	dir := replicaDir(t, "8Mi")
	put(t, dir, 0, content(1, 5))
	says(t, succeed(t, "store", "accept", dir), "nothing is in doubt")
	note := filepath.Join(dir, "lost")
	if err := os.WriteFile(note, []byte("a sync failed"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := holdfast(t, "store", "accept", dir)
	if r.status != 1 {
		t.Errorf("exit %d", r.status)
	}
	says(t, r.err, "Give up what the replica", "a sync failed", "nothing was given up", "--yes")
	if _, err := os.Stat(note); err != nil {
		t.Errorf("the note: %v", err)
	}
	var v recovered
	asJSON(t, &v, "store", "accept", dir, "--yes")
	if _, err := os.Stat(note); !os.IsNotExist(err) || !v.Done || v.Path != dir || v.Volume == "" {
		t.Errorf("the note: %v; %+v", err, v)
	}
	same4K(t, "what it holds", get(t, dir, 0, 0, 5), content(1, 5))
}

func TestADamagedRegionIsGivenUpOnlyWhenToldTo(t *testing.T) {
	dir := replicaDir(t, "8Mi")
	put(t, dir, block.PerRegion, content(1, 100))
	put(t, dir, 0, content(2, 5))
	says(t, succeed(t, "store", "reset-region", dir, "1", "--yes"), "is fine")
	flip(t, filepath.Join(dir, "chunks", "00000000.000001"), 3*12288+4000) // region 1, copy B
	fail(t, 6, []string{"corrupt"}, "store", "read", dir, "--offset", "4Mi", "--length", "4096")
	r := holdfast(t, "store", "reset-region", dir, "1")
	if r.status != 1 {
		t.Errorf("exit %d", r.status)
	}
	says(t, r.err, "Give up what the replica", "region 1", "4194304 bytes at offset 4194304", "nothing was given up")
	fail(t, 2, []string{"region 2"}, "store", "reset-region", dir, "2", "--yes")
	fail(t, 2, []string{"not a region"}, "store", "reset-region", dir, "one")
	says(t, succeed(t, "store", "reset-region", dir, "1", "--yes"), "given up: what the replica")
	fail(t, 6, []string{"lost"}, "store", "read", dir, "--offset", "4Mi", "--length", "4096")
	put(t, dir, block.PerRegion, content(3, 7))
	same4K(t, "the region", get(t, dir, 0, block.PerRegion, 7), content(3, 7))
	same4K(t, "the other region", get(t, dir, 0, 0, 5), content(2, 5))
	says(t, succeed(t, "store", "reset-region", dir, "1", "--yes"), "is fine")
}

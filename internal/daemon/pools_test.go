package daemon

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-io/holdfast/internal/block"
)

// TestAnEmptyMountPointIsNotTakenForANewPool: the disk of a pool is not mounted, and what
// would be made in its place would be on the system's disk.
func TestAnEmptyMountPointIsNotTakenForANewPool(t *testing.T) {
	o := &NodeOptions{Config: Config{DataDir: t.TempDir(), Pools: []string{filepath.Join(t.TempDir(), "disk")}}, Log: slog.New(slog.DiscardHandler)}
	path := o.Config.Pools[0]
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(o.Config.poolsFile(), []byte(path+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := o.pools(t.Context(), identity{Cluster: block.ClusterID{1}, Node: block.NodeID{1}}); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(path); err != nil || len(left) > 0 {
		t.Errorf("something was made there: %v, %v", left, err)
	}
	if known := o.Config.knownPools(); len(known) != 1 || known[0] != path {
		t.Errorf("what is known now is %q", known)
	}
}

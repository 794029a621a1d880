package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-io/holdfast/internal/pool"
)

func TestReplicaInAPoolIsNamedByThePool(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	path := poolDir(t)
	succeed(t, "pool", "create", path, "--size", "300Mi", "--measure", "20ms")
	demo := filepath.Join(path, "demo")
	inside := filepath.Join(path, "mount", "volumes", "demo")
	says(t, succeed(t, "store", "create", demo, "--size", "1Gi"), "path:", inside)
	put(t, demo, 0, content(1, 100))
	same4K(t, "by its directory", get(t, inside, 0, 0, 100), content(1, 100))
	succeed(t, "store", "snapshot", inside)
	says(t, succeed(t, "store", "clone", demo, "1", filepath.Join(path, "copy")), filepath.Join(path, "mount", "volumes", "copy"))

	succeed(t, "pool", "unmount", path) // as after a reboot
	same4K(t, "when it was not mounted", get(t, demo, 0, 0, 100), content(1, 100))
	says(t, succeed(t, "store", "check", filepath.Join(path, "copy")), "nothing is wrong")
	says(t, succeed(t, "pool", "show", path), "Unmounted")

	p, err := pool.Open(t.Context(), path, pool.OpenOptions{AnyCluster: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, replica := range []string{demo, inside} {
		fail(t, 4, []string{"is in use by process"}, "store", "write", replica)
		says(t, succeed(t, "store", "check", replica), "nothing is wrong") // to look is no harm
		says(t, succeed(t, "store", "dump", replica), inside)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	succeed(t, "store", "delete", demo, "--yes")
	succeed(t, "store", "delete", filepath.Join(path, "volumes"), "--yes") // a replica of that name, which is not there
	same4K(t, "the clone", get(t, filepath.Join(path, "copy"), 0, 0, 100), content(1, 100))
}

func TestReplicaKeepsToThePoolsReserve(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	path := poolDir(t)
	succeed(t, "pool", "create", path, "--size", "300Mi", "--measure", "20ms", "--reserve", "40")
	for _, demo := range []string{filepath.Join(path, "demo"), filepath.Join(path, "mount", "volumes", "other")} {
		succeed(t, "store", "create", demo, "--size", "1Gi")
		put(t, demo, 0, content(1, 100))
		var err strings.Builder
		big := strings.NewReader(string(content(2, 60000))) // 234 MiB
		status := Main(t.Context(), []string{"store", "write", demo, "--offset", "1Mi"}, Streams{In: big, Out: &strings.Builder{}, Err: &err})
		if status != 5 {
			t.Errorf("a full pool: exit %d", status)
		}
		says(t, err.String(), "is full", "reserve (40 %)", "  cure: delete")
		same4K(t, "in a full pool", get(t, demo, 0, 0, 100), content(1, 100))
		put(t, demo, 0, content(3, 100)) // what has space can be written over
		succeed(t, "store", "delete", demo, "--yes")
		says(t, succeed(t, "pool", "check", path), "Ready")
	}
}

func TestReplicaInADirectoryPool(t *testing.T) {
	path := poolDir(t)
	succeed(t, "pool", "create", path, "--directory", "--force", "--measure", "20ms")
	demo := filepath.Join(path, "demo")
	says(t, succeed(t, "store", "create", demo, "--size", "1Mi"), filepath.Join(path, "volumes", "demo"))
	put(t, demo, 0, content(1, 10))
	for _, replica := range []string{demo, filepath.Join(path, "volumes", "demo")} {
		says(t, succeed(t, "store", "scrub", replica), "everything is as it was written")
	}
	flip(t, filepath.Join(path, "pool.json"), 20)
	fail(t, 6, []string{"is damaged"}, "store", "check", demo)
}

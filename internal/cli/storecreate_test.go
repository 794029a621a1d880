package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

const aVolume = "7b1e9002-0c44-4f7a-9e55-31d068af1193"

func TestReplicaIsMadeOnceAndShown(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "demo")
	table := succeed(t, "store", "create", dir, "--size", "64Mi", "--volume-id", aVolume)
	says(t, table, "path:", dir, "volume:", aVolume, "replica:", "64.0 MiB", "generation:", "1")

	var v, again replicaView
	asJSON(t, &v, "store", "create", dir, "--size", "64Mi", "--volume-id", aVolume)
	if v.Path != dir || v.Volume != aVolume || v.SizeBytes != 64<<20 || v.Generation != 1 || v.Snapshots == nil {
		t.Errorf("it is %+v", v)
	}
	if err := yaml.UnmarshalStrict([]byte(succeed(t, "store", "create", dir, "--size", "64Mi", "-o", "yaml")), &again); err != nil || again.Replica != v.Replica {
		t.Errorf("YAML gives %+v, %v", again, err)
	}
	fail(t, 4, []string{"exists", aVolume, "67108864 bytes", "  cure: choose another name, or delete it: holdfast store delete " + dir},
		"store", "create", dir, "--size", "32Mi")
	fail(t, 4, []string{"exists"}, "store", "create", dir, "--size", "64Mi", "--volume-id", aCluster)
}

func TestCreateRefusesWhatCantBe(t *testing.T) {
	dir := t.TempDir()
	demo := filepath.Join(dir, "demo")
	fail(t, 2, []string{"size"}, "store", "create", demo)
	fail(t, 2, []string{"can't have 5000 bytes", "multiple of 4096"}, "store", "create", demo, "--size", "5000")
	fail(t, 2, []string{"--volume-id", "not an id"}, "store", "create", demo, "--size", "1Mi", "--volume-id", "x")
	fail(t, 2, []string{"can't be a replica's directory"}, "store", "create", "/", "--size", "1Mi")
	fail(t, 3, []string{"nowhere"}, "store", "create", filepath.Join(dir, "nowhere", "demo"), "--size", "1Mi")
	fail(t, 4, []string{dir + " exists", "another name"}, "store", "create", dir, "--size", "1Mi")

	// What stands where an unfinished replica would be is not destroyed.
	mine := filepath.Join(dir, "demo.tmp", "letters")
	if err := os.MkdirAll(mine, 0o755); err != nil {
		t.Fatal(err)
	}
	fail(t, 4, []string{"demo.tmp is in the way", "move it away"}, "store", "create", demo, "--size", "1Mi")
	if !exists(mine) {
		t.Error("it was destroyed")
	}
}

func TestDeleteAsksFirst(t *testing.T) {
	dir := replicaDir(t, "1Mi")
	for _, answer := range []string{"", "no\n", "y\n"} {
		var out, err strings.Builder
		status := Main(t.Context(), []string{"store", "delete", dir}, Streams{In: strings.NewReader(answer), Out: &out, Err: &err})
		if status != 1 || out.Len() > 0 || !exists(dir) {
			t.Errorf("answered %q: exit %d, %s", answer, status, &out)
		}
		says(t, err.String(), "Destroy the replica at "+dir+", volume ", "1.0 MiB, 0 snapshots?", "nothing was destroyed", "--yes")
	}
	if out := fed(t, []byte("yes\n"), "store", "delete", dir); out != "deleted "+dir+"\n" || exists(dir) {
		t.Errorf("answered yes: %q", out)
	}
	if out := succeed(t, "store", "delete", dir, "--yes", "-o", "json"); !strings.Contains(out, `"deleted": true`) {
		t.Errorf("once more: %s", out)
	}
}

func TestDeleteTouchesOnlyReplicas(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{filepath.Join(dir, "letters"), filepath.Join(dir, "gone.tmp", "letters")} {
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	fail(t, 2, []string{dir + " is not a replica"}, "store", "delete", dir, "--yes")
	fail(t, 2, []string{"is not a replica"}, "store", "delete", filepath.Join(dir, "letters"), "--yes")
	fail(t, 4, []string{"gone.tmp is in the way"}, "store", "delete", filepath.Join(dir, "gone"), "--yes")
	if !exists(filepath.Join(dir, "letters")) || !exists(filepath.Join(dir, "gone.tmp", "letters")) {
		t.Error("something was destroyed")
	}

	// A replica whose manifest is gone to pieces can be deleted all the same.
	demo := replicaDir(t, "1Mi")
	flip(t, filepath.Join(demo, "replica.json"), 10)
	succeed(t, "store", "delete", demo, "--yes")
	if exists(demo) {
		t.Error("it is still there")
	}
}

func TestVolumeGrowsAndNeverShrinks(t *testing.T) {
	dir := replicaDir(t, "1Mi")
	put(t, dir, 0, content(1, 256))
	says(t, succeed(t, "store", "grow", dir, "--size", "130Mi"), "130 MiB")
	var v replicaView
	asJSON(t, &v, "store", "grow", dir, "--size", "130Mi")
	if v.SizeBytes != 130<<20 {
		t.Errorf("it is %+v", v)
	}
	fail(t, 2, []string{"never shrink", "136314880"}, "store", "grow", dir, "--size", "1Mi")
	fail(t, 2, []string{"multiple of 4096"}, "store", "grow", dir, "--size", "1000")
	same4K(t, "what was there", get(t, dir, 0, 0, 256), content(1, 256))
	same4K(t, "the new part", get(t, dir, 0, 256, 10), make([]byte, 10<<12))
}

func TestCloneIsAVolumeOfItsOwn(t *testing.T) {
	dir := replicaDir(t, "8Mi")
	put(t, dir, 0, content(1, 100))
	fail(t, 3, []string{"is not a snapshot"}, "store", "clone", dir, "1", dir+"-copy")
	succeed(t, "store", "snapshot", dir)
	put(t, dir, 0, content(2, 100))
	copied := dir + "-copy"
	says(t, succeed(t, "store", "clone", dir, "1", copied), copied, "cloned from:", "8.0 MiB")
	var v, again replicaView
	asJSON(t, &v, "store", "clone", dir, "1", copied)
	asJSON(t, &again, "store", "clone", dir, "1", copied, "--volume-id", v.Volume)
	if v.Replica != again.Replica || len(v.Origins) != 1 || v.Volume == v.Origins[0].String() {
		t.Errorf("the clone is %+v, then %+v", v, again)
	}
	same4K(t, "the clone", get(t, copied, 0, 0, 100), content(1, 100))
	put(t, copied, 50, content(3, 10))
	succeed(t, "store", "delete", dir, "--yes")
	same4K(t, "the clone alone", get(t, copied, 0, 60, 40), content(1, 100)[60<<12:])
	same4K(t, "the clone's own", get(t, copied, 0, 50, 10), content(3, 10))
	says(t, succeed(t, "store", "check", copied), "nothing is wrong")

	other := replicaDir(t, "8Mi")
	succeed(t, "store", "snapshot", copied)
	succeed(t, "store", "create", dir, "--size", "1Mi")
	fail(t, 4, []string{"is not this clone"}, "store", "clone", copied, "2", dir)
	fail(t, 2, []string{"is the replica itself"}, "store", "clone", copied, "2", copied)
	fail(t, 2, []string{"is not in the directory or pool of"}, "store", "clone", copied, "2", other+"-copy")
	fail(t, 2, []string{"0", "not a generation"}, "store", "clone", copied, "0", dir)
}

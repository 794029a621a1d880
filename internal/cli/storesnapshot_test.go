package cli

import (
	"fmt"
	"strings"
	"testing"
)

func TestSnapshotKeepsWhatWasThere(t *testing.T) {
	dir := replicaDir(t, "8Mi")
	put(t, dir, 0, content(1, 100))
	if out := succeed(t, "store", "snapshot", dir); out != "1\n" {
		t.Errorf("snapshot says %q", out)
	}
	put(t, dir, 50, content(2, 10))
	var taken struct{ Generation uint32 }
	asJSON(t, &taken, "store", "snapshot", dir)
	if taken.Generation != 2 {
		t.Errorf("it is generation %d", taken.Generation)
	}
	for range 2 { // the second time it is a snapshot already
		if out := succeed(t, "store", "snapshot", dir, "--generation", "3"); out != "3\n" {
			t.Errorf("snapshot says %q", out)
		}
	}
	fail(t, 4, []string{"generation 7 is not the live one, 4"}, "store", "snapshot", dir, "--generation", "7")
	fail(t, 2, []string{"count from 1"}, "store", "snapshot", dir, "--generation", "0")

	same4K(t, "generation 1", get(t, dir, 1, 0, 100), content(1, 100))
	same4K(t, "generation 2", get(t, dir, 2, 50, 10), content(2, 10))
	same4K(t, "the live one", get(t, dir, 0, 50, 10), content(2, 10))
}

func TestSnapshotsAreListedWithWhatTheyTake(t *testing.T) {
	dir := replicaDir(t, "8Mi")
	if out := succeed(t, "store", "snapshots", dir, "-o", "json"); out != "[]\n" {
		t.Errorf("there are none, and the list is %s", out)
	}
	put(t, dir, 0, content(1, 100))
	succeed(t, "store", "snapshot", dir)
	put(t, dir, 0, content(2, 25))
	succeed(t, "store", "snapshot", dir)
	put(t, dir, 0, content(3, 5))

	var list []generationView
	asJSON(t, &list, "store", "snapshots", dir)
	want := []generationView{{1, false, 100 << 12, 25 << 12, 75 << 12}, {2, false, 100 << 12, 5 << 12, 95 << 12}}
	if fmt.Sprint(list) != fmt.Sprint(want) {
		t.Errorf("the list is %v, want %v", list, want)
	}
	table := strings.Split(succeed(t, "store", "snapshots", dir), "\n")
	if len(table) != 4 || strings.Join(strings.Fields(table[0]), " ") != "GENERATION USED EXCLUSIVE SHARED" ||
		strings.Join(strings.Fields(table[1]), " ") != "1 400 KiB 100 KiB 300 KiB" {
		t.Errorf("the table is %q", table)
	}

	var u usageView
	asJSON(t, &u, "store", "usage", dir)
	want = append(want, generationView{3, true, 100 << 12, 5 << 12, 95 << 12})
	if fmt.Sprint(u.Generations) != fmt.Sprint(want) || u.StoredBytes != 130<<12 || u.Path != dir || u.SizeBytes != 8<<20 {
		t.Errorf("the usage is %+v, want %v", u, want)
	}
	says(t, succeed(t, "store", "usage", dir), "snapshots:   1-2", "stored:      520 KiB", "3 (live)")

	if out := succeed(t, "store", "delete-snapshot", dir, "2"); out != "deleted generation 2\n" {
		t.Errorf("delete says %q", out)
	}
	says(t, succeed(t, "store", "delete-snapshot", dir, "2", "-o", "json"), `"deleted": true`) // it is gone already
	fail(t, 4, []string{"generation 3 is the live one"}, "store", "delete-snapshot", dir, "3")
	fail(t, 2, []string{`"two" is not a generation`}, "store", "delete-snapshot", dir, "two")
	asJSON(t, &u, "store", "usage", dir)
	if len(u.Generations) != 2 || u.StoredBytes != 125<<12 {
		t.Errorf("then the usage is %+v", u)
	}
	same4K(t, "the older one", get(t, dir, 1, 0, 100), content(1, 100))
	same4K(t, "the live one", get(t, dir, 0, 5, 20), content(2, 25)[5<<12:])
	says(t, succeed(t, "store", "check", dir), "nothing is wrong")
}

func TestChangesAreListed(t *testing.T) {
	dir := replicaDir(t, "4100Mi") // more regions than one step looks at
	put(t, dir, 10, content(1, 20))
	succeed(t, "store", "snapshot", dir)
	put(t, dir, 1020, content(2, 8)) // over the end of a region
	put(t, dir, 1024*1024, content(3, 1))
	succeed(t, "store", "snapshot", dir)
	succeed(t, "store", "zero", dir, "--offset", "48Ki", "--length", "4Ki")

	for _, c := range []struct {
		args string
		want changedView
	}{
		{"--since 1", changedView{1, 3, 10 << 12, []extentView{{12 << 12, 4096}, {1020 << 12, 8 << 12}, {4 << 30, 4096}}}},
		{"--since 1 --generation 2", changedView{1, 2, 9 << 12, []extentView{{1020 << 12, 8 << 12}, {4 << 30, 4096}}}},
		{"--since 0 --generation 1", changedView{0, 1, 20 << 12, []extentView{{10 << 12, 20 << 12}}}},
	} {
		var v changedView
		asJSON(t, &v, append([]string{"store", "changed", dir}, strings.Fields(c.args)...)...)
		if fmt.Sprint(v) != fmt.Sprint(c.want) {
			t.Errorf("%s: %v, want %v", c.args, v, c.want)
		}
	}
	if out := succeed(t, "store", "changed", dir, "--since", "2"); strings.Join(strings.Fields(out), " ") != "OFFSET BYTES 49152 4096" {
		t.Errorf("the table is %q", out)
	}
	fail(t, 2, []string{"--since 3 is not before generation 2"}, "store", "changed", dir, "--since", "3", "--generation", "2")
	fail(t, 3, []string{"generation 9 does not exist"}, "store", "changed", dir, "--since", "1", "--generation", "9")
	fail(t, 2, []string{"since"}, "store", "changed", dir)
}

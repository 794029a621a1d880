package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/host"
)

func TestCheckNamesDamageAndCure(t *testing.T) {
	dir := replicaDir(t, "130Mi")
	put(t, dir, 0, content(1, 100))
	put(t, dir, block.PerChunk, content(2, 10))
	var v checkView
	asJSON(t, &v, "store", "check", dir)
	if v.Path != dir || v.Volume == "" || v.Regions == 0 || v.Files != 2 || v.Tables != 2 || v.Damaged != 0 || len(v.Findings) != 0 {
		t.Errorf("the check says %+v", v)
	}
	says(t, succeed(t, "store", "check", dir), "path:", dir, "2 chunk files", "result:", "nothing is wrong")

	// What is not ours is worth knowing, and no damage.
	if err := os.WriteFile(filepath.Join(dir, "chunks", "core"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	says(t, succeed(t, "store", "check", dir), "1 findings, 0 of them damage", "note:", "stray file chunks/core", "cure:", "move it away")

	flip(t, filepath.Join(dir, "regions"), 3)
	flip(t, filepath.Join(dir, "chunks", "00000001.000001"), 12288+70)
	r := holdfast(t, "store", "check", dir)
	if r.status != 6 {
		t.Errorf("exit %d", r.status)
	}
	says(t, r.out, "3 findings, 2 of them damage", "DAMAGE:", "region record regions", "4194304 at offset 0", "block table chunks/00000001.000001",
		"4194304 at offset 67108864", "generation:", "what:", "cure:")
	says(t, r.err, "the replica at "+dir+" is damaged", "  cure: do what the report says")
	r = holdfast(t, "store", "check", dir, "-o", "json")
	if err := jsonOf(r.out, &v); err != nil || r.status != 6 || v.Damaged != 2 || len(v.Findings) != 3 {
		t.Errorf("exit %d, %v: %+v", r.status, err, v)
	}
	for _, f := range v.Findings {
		if f.What == "" || f.File == "" || f.Detail == "" || f.Cure == "" || f.Damage != (f.Extent != nil) {
			t.Errorf("a finding is %+v", f)
		}
	}
}

func TestCheckChangesNothing(t *testing.T) {
	dir := replicaDir(t, "8Mi")
	put(t, dir, 0, content(1, 100))
	before := map[string]string{}
	walk := func(visit func(name, state string)) {
		t.Helper()
		err := filepath.Walk(dir, func(name string, info os.FileInfo, err error) error {
			if err != nil || info.IsDir() {
				return err
			}
			raw, err := os.ReadFile(name)
			visit(name, fmt.Sprint(info.ModTime(), info.Size(), block.Checksum(raw)))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	walk(func(name, state string) { before[name] = state })
	succeed(t, "store", "check", dir)
	succeed(t, "store", "dump", dir)
	count := 0
	walk(func(name, state string) {
		count++
		if before[name] != state {
			t.Errorf("%s was %s and is %s", name, before[name], state)
		}
	})
	if count != len(before) {
		t.Errorf("there were %d files, there are %d", len(before), count)
	}
}

func TestDumpShowsMetadata(t *testing.T) {
	dir := replicaDir(t, "64Mi")
	says(t, succeed(t, "store", "dump", dir, "-o", "json"), `"regions": []`, `"stores": []`)
	put(t, dir, 0, content(1, 100))
	succeed(t, "store", "snapshot", dir)
	put(t, dir, 2000, content(2, 30))
	var v dumpView
	asJSON(t, &v, "store", "dump", dir)
	if v.Path != dir || v.Manifest.Size != 64<<20 || v.Manifest.Generation != 2 || !v.Journal.Clean || v.Journal.Session == 0 ||
		len(v.Regions) == 0 || v.Regions[0].Dirty != 1 || len(v.Stores) != 2 || v.Stores[0].Blocks != 100 || v.Stores[1].Blocks != 30 || v.Damaged != 0 {
		t.Errorf("the dump is %+v", v)
	}
	says(t, succeed(t, "store", "dump", dir), "format version:", "journal:", "closed", "REGIONS", "dirty since 1", "GENERATION", "DATA BLOCKS")

	flip(t, filepath.Join(dir, "regions"), 3) // no obstacle
	says(t, succeed(t, "store", "dump", dir), "DAMAGED", "1 findings; see: holdfast store check "+dir)
	fail(t, 6, []string{"region record"}, "store", "dump", dir, "--block", "0")
}

func TestDumpShowsTablesAndPlaces(t *testing.T) {
	dir := replicaDir(t, "64Mi")
	put(t, dir, 0, content(1, 100))
	succeed(t, "store", "snapshot", dir)
	put(t, dir, 10, content(2, 1))
	lines := strings.Split(succeed(t, "store", "dump", dir, "--table", "0"), "\n")
	var runs []string
	for _, line := range lines[4:] {
		runs = append(runs, strings.Join(strings.Fields(line), " "))
	}
	want := "BLOCK COUNT STATE HELD BY SLOT|0 10 data 1 0|10 1 data 2 0|11 89 data 1 11|100 924 absent - -|"
	if got := strings.Join(runs, "|"); got != want {
		t.Errorf("the table is %s, want %s", got, want)
	}
	says(t, succeed(t, "store", "dump", dir, "--table", "5"), "none: the region was never written")

	var v placeView
	for gen, data := range map[string][]byte{"0": content(2, 1), "1": content(1, 11)[10<<12:], "2": content(2, 1)} {
		asJSON(t, &v, "store", "dump", dir, "--block", "10", "--generation", gen)
		raw, err := os.ReadFile(v.Path)
		if err != nil {
			t.Fatal(err)
		}
		same4K(t, "at the place of generation "+gen, raw[v.Offset:v.Offset+block.Size], data)
		if v.Sum != block.Checksum(data) || v.Suspect || v.State != "data" {
			t.Errorf("generation %s: the place is %+v", gen, v)
		}
	}
	says(t, succeed(t, "store", "dump", dir, "--block", "10"), "10, at offset 40960 of the volume", "held by:", "generation 2",
		"file:", filepath.Join(dir, "chunks", "00000000.000002"), "393216, which is 96 blocks", "crc32")
	says(t, succeed(t, "store", "dump", dir, "--block", "5000"), "absent", "it lies nowhere")

	fail(t, 2, []string{"block 16384 is beyond"}, "store", "dump", dir, "--block", "16384")
	fail(t, 2, []string{"region 16 is beyond"}, "store", "dump", dir, "--table", "16")
	fail(t, 3, []string{"generation 9 does not exist"}, "store", "dump", dir, "--block", "0", "--generation", "9")
	fail(t, 2, []string{"goes with --block or --table"}, "store", "dump", dir, "--generation", "1")
	fail(t, 2, []string{"table", "block"}, "store", "dump", dir, "--block", "0", "--table", "0")
}

// After a death, what the journal alone knows is shown too, and marked.
func TestDumpAfterADeath(t *testing.T) {
	dir := replicaDir(t, "64Mi")
	copied := dir + "-as-it-was"
	whileOpen(t, dir, func() {
		if err := os.CopyFS(copied, os.DirFS(dir)); err != nil { // as if the process died here
			t.Fatal(err)
		}
	})
	says(t, succeed(t, "store", "dump", copied), "not closed: what the journal has is added")
	says(t, succeed(t, "store", "check", copied), "nothing is wrong")
	if host.Boot() == 0 {
		t.Error("this boot has no name")
	}
}

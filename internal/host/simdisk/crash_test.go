package simdisk_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/host/simdisk"
)

func TestSyncedSurvivesEveryCrash(t *testing.T) {
	p := start(t, simdisk.Options{})
	p.mkdir("d")
	f := p.create("d/file")
	data := slices.Concat(fill('a', 5000), make([]byte, 4096*3), fill('b', 100))
	p.write(f, 0, data)
	p.punch(f, 4096*2, 4096)
	p.must(&host.Op{Kind: host.OpAllocate, File: f, Offset: 1 << 20, Length: 4096 * 3})
	p.sync(f)
	p.syncDir("d")
	p.syncDir(".")
	want := p.Dump()
	for _, keep := range keeps {
		for seed := range uint64(10) {
			if got := p.crash(seed, keep).Dump(); got != want {
				t.Fatalf("keep=%v left\n%swant\n%s", keep, got, want)
			}
		}
	}
}

func TestUnsyncedIsLostOrKeptAsAsked(t *testing.T) {
	p := start(t, simdisk.Options{})
	f := p.create("file")
	p.write(f, 0, fill('a', 8192))
	p.syncAll()
	durable := p.Dump()
	p.write(f, 100, fill('b', 9000))
	p.punch(f, 0, 50)
	p.create("other")
	seen := p.Dump()
	if got := p.crash(0, simdisk.KeepNone).Dump(); got != durable {
		t.Errorf("keep=none left\n%swant\n%s", got, durable)
	}
	if got := p.crash(0, simdisk.KeepAll).Dump(); got != seen {
		t.Errorf("keep=all left\n%swant\n%s", got, seen)
	}
}

func TestSyncOfAFileDoesNotKeepItsName(t *testing.T) {
	p := start(t, simdisk.Options{})
	f := p.create("file")
	p.write(f, 0, []byte("data"))
	p.sync(f)
	p.crash(0, simdisk.KeepNone).expectNames()
	p.syncDir(".")
	p.crash(0, simdisk.KeepNone).expect("file", []byte("data"))
}

func TestSyncDirDoesNotKeepBytes(t *testing.T) {
	p := start(t, simdisk.Options{})
	f := p.create("file")
	p.write(f, 0, []byte("data"))
	p.syncDir(".")
	p.crash(0, simdisk.KeepNone).expect("file", []byte{})
	found := map[string]bool{}
	for seed := range uint64(200) {
		found[string(p.crash(seed, simdisk.KeepSome).read("file"))] = true
	}
	for _, want := range []string{"", "data", "\x00\x00\x00\x00"} {
		if !found[want] {
			t.Errorf("never left %q; left %v", want, found)
		}
	}
}

func TestDirectoryInADirectoryThatWasNotSyncedIsLost(t *testing.T) {
	p := start(t, simdisk.Options{})
	p.mkdir("d")
	p.create("d/file")
	p.syncDir("d")
	p.crash(0, simdisk.KeepNone).expectNames()
	p.syncDir(".")
	p.crash(0, simdisk.KeepNone).expectNames("d/", "d/file")
}

func TestWritesTearAtSectors(t *testing.T) {
	p := start(t, simdisk.Options{})
	f := p.create("file")
	p.write(f, 0, fill('a', 4096))
	p.syncAll()
	p.write(f, 0, fill('b', 4096))
	whole, torn := map[byte]bool{}, 0
	for seed := range uint64(200) {
		got := p.crash(seed, simdisk.KeepSome).read("file")
		for s := range slices.Chunk(got, 512) {
			if s[0] != 'a' && s[0] != 'b' || !bytes.Equal(s, fill(s[0], 512)) {
				t.Fatalf("seed %d: a sector is torn: %q", seed, s)
			}
		}
		if bytes.Equal(got, fill(got[0], 4096)) {
			whole[got[0]] = true
		} else {
			torn++
		}
	}
	if !whole['a'] || !whole['b'] || torn < 20 {
		t.Errorf("of 200 crashes %d tore; whole pages: %v", torn, whole)
	}
}

func TestOverwrittenVersionMayBeWhatSurvives(t *testing.T) {
	found := map[byte]bool{}
	for seed := range uint64(300) {
		p := start(t, simdisk.Options{Seed: seed})
		f := p.create("file")
		p.write(f, 0, fill('a', 512))
		p.syncAll()
		p.write(f, 0, fill('b', 512))
		p.write(f, 0, fill('c', 512))
		found[p.on(p.Crash(simdisk.KeepSome)).read("file")[0]] = true
	}
	if !found['a'] || !found['b'] || !found['c'] {
		t.Errorf("survivors were %v, want each of a, b and c", found)
	}
}

func TestSizeAfterCrashIsOneThatTheFileHad(t *testing.T) {
	p := start(t, simdisk.Options{})
	f := p.create("file")
	p.write(f, 0, fill('a', 1000))
	p.syncAll()
	p.write(f, 1000, fill('b', 9000))
	grown := map[string]bool{}
	for seed := range uint64(300) {
		got := p.crash(seed, simdisk.KeepSome).read("file")
		if len(got) < 1000 || len(got) > 10000 || !bytes.Equal(got[:1000], fill('a', 1000)) {
			t.Fatalf("seed %d: %d bytes, or the synced ones changed", seed, len(got))
		}
		switch len(got) {
		case 1000:
			grown["kept"] = true
		case 10000:
			grown["whole"] = true
		default:
			grown["between"] = true
		}
	}
	p.sync(f)
	p.truncate(f, 500)
	for seed := range uint64(50) {
		got := p.crash(seed, simdisk.KeepSome).read("file")
		want := append(fill('a', 1000), fill('b', 9000)...)
		switch len(got) {
		case 500:
			grown["cut"] = true
		case 10000:
			grown["not cut"] = true
		}
		for i := range got { // only the rest of the page it cut may have been zeroed already
			if got[i] != want[i] && (got[i] != 0 || i < 500 || i >= 4096) {
				t.Fatalf("seed %d: the truncation changed byte %d to %q", seed, i, got[i])
			}
		}
	}
	if len(grown) != 5 {
		t.Errorf("only saw %v", grown)
	}
}

func TestPunchSurvivesByThePage(t *testing.T) {
	p := start(t, simdisk.Options{})
	f := p.create("file")
	p.write(f, 0, fill('a', 4*4096))
	p.syncAll()
	p.punch(f, 0, 3*4096)
	found := map[string]bool{}
	for seed := range uint64(200) {
		after := p.crash(seed, simdisk.KeepSome)
		shape := ""
		for page := range slices.Chunk(after.read("file"), 4096) {
			if page[0] != 0 && page[0] != 'a' || !bytes.Equal(page, fill(page[0], 4096)) {
				t.Fatalf("seed %d: a punched page is torn", seed)
			}
			shape += fmt.Sprint(page[0])
		}
		found[shape] = true
		holes := int64(strings.Count(shape, "0"))
		if got := after.stat(after.open("file", 0)).Allocated; got != (4-holes)*4096 {
			t.Fatalf("seed %d: %d bytes allocated with %d holes", seed, got, holes)
		}
	}
	if len(found) != 8 {
		t.Errorf("%d of 8 outcomes seen", len(found))
	}
}

func TestRenameOverAFileIsAtomic(t *testing.T) {
	p := start(t, simdisk.Options{})
	f := p.create("name")
	p.write(f, 0, []byte("old"))
	p.syncAll()
	g := p.create("name.new")
	p.write(g, 0, []byte("new"))
	p.sync(g)
	p.rename("name.new", "name")
	found := map[string]int{}
	for seed := range uint64(100) {
		after := p.crash(seed, simdisk.KeepSome)
		found[fmt.Sprintf("%q %s", names(after.Disk), after.read("name"))]++
	}
	for _, want := range []string{`["name"] old`, `["name" "name.new"] old`, `["name"] new`} {
		if found[want] == 0 {
			t.Errorf("never left %s", want)
		}
		delete(found, want)
	}
	if len(found) > 0 {
		t.Errorf("left %v", found)
	}
	p.syncDir(".")
	p.crash(0, simdisk.KeepNone).expect("name", []byte("new"))
}

func TestRenameBetweenDirectoriesLeavesTheFileInOneOfThem(t *testing.T) {
	p := start(t, simdisk.Options{})
	p.mkdir("a")
	p.mkdir("b")
	p.create("a/file")
	p.syncAll()
	p.rename("a/file", "b/file")
	found := map[string]int{}
	for seed := range uint64(50) {
		found[fmt.Sprint(names(p.crash(seed, simdisk.KeepSome).Disk))]++
	}
	if found["[a/ a/file b/]"] == 0 || found["[a/ b/ b/file]"] == 0 || len(found) != 2 {
		t.Errorf("left %v", found)
	}

	p.syncDir("b")
	p.crash(0, simdisk.KeepNone).expectNames("a/", "a/file", "b/") // a was not synced
	p.syncDir("a")
	p.crash(0, simdisk.KeepNone).expectNames("a/", "b/", "b/file")
}

func TestSyncDirTakesAlongWhatItsChangesStandOn(t *testing.T) {
	p := start(t, simdisk.Options{})
	p.mkdir("a")
	p.mkdir("b")
	p.create("a/one")
	p.syncAll()
	p.rename("a/one", "b/one")
	p.create("a/two")
	p.syncDir("a") // promises two, which came after the rename
	p.crash(0, simdisk.KeepNone).expectNames("a/", "a/two", "b/", "b/one")
}

func TestChangesOfADirectorySurviveAsAPrefix(t *testing.T) {
	p := start(t, simdisk.Options{})
	const files = 6
	for i := range files {
		p.create(fmt.Sprint(i))
	}
	found := map[int]bool{}
	for seed := range uint64(200) {
		got := names(p.crash(seed, simdisk.KeepSome).Disk)
		found[len(got)] = true
		for i, name := range got {
			if name != fmt.Sprint(i) {
				t.Fatalf("seed %d left %q", seed, got)
			}
		}
	}
	if len(found) != files+1 {
		t.Errorf("only %d of %d prefixes were seen", len(found), files+1)
	}
}

func TestDirectoriesThatMoveAreNeverLost(t *testing.T) {
	p := start(t, simdisk.Options{})
	for _, dir := range []string{"x", "y", "b", "b/a", "x/c"} {
		p.mkdir(dir)
	}
	p.create("b/a/file")
	p.syncAll()
	p.rename("b/a", "y/a")    // out of b,
	p.rename("x/c", "y/a/c")  // something into it,
	p.rename("b", "y/a/c/b")  // and b below what it held
	p.rename("y/a/file", "f") // and the file out of all of them
	p.remove("y/a/c/b")
	for seed := range uint64(300) {
		after := p.crash(seed, simdisk.KeepSome)
		files := 0
		for _, f := range after.Files() {
			if !f.Dir {
				files++
			}
		}
		if files != 1 {
			t.Fatalf("seed %d left %q", seed, names(after.Disk))
		}
	}
}

func TestSyncOfAMovedDirectoryTakesAlongWhatItStandsOn(t *testing.T) {
	p := start(t, simdisk.Options{})
	for _, dir := range []string{"x", "x/b", "x/b/a", "y"} {
		p.mkdir(dir)
	}
	p.syncAll()
	p.rename("x/b/a", "y/a")
	p.rename("x/b", "y/a/b") // without the rename before it, b would be in a and a in b
	p.syncDir("x")
	p.syncDir("y/a")
	p.crash(0, simdisk.KeepNone).expectNames("x/", "y/", "y/a/", "y/a/b/")
}

func TestFilesMovedOutOfARemovedDirectoryAreNeverLost(t *testing.T) {
	p := start(t, simdisk.Options{})
	p.mkdir("d")
	p.mkdir("e")
	p.create("d/file")
	p.syncAll()
	p.rename("d/file", "e/file")
	p.remove("d")
	found := map[string]bool{}
	for seed := range uint64(100) {
		found[fmt.Sprint(names(p.crash(seed, simdisk.KeepSome).Disk))] = true
	}
	for _, want := range []string{"[d/ d/file e/]", "[d/ e/ e/file]", "[e/ e/file]"} {
		if !found[want] {
			t.Errorf("never left %s", want)
		}
		delete(found, want)
	}
	if len(found) > 0 {
		t.Errorf("left %v", found)
	}
	p.syncDir(".")
	p.crash(0, simdisk.KeepNone).expectNames("e/", "e/file")
}

func TestChangesAfterALostRenameAreLostInBothDirectories(t *testing.T) {
	p := start(t, simdisk.Options{})
	p.mkdir("a")
	p.mkdir("b")
	p.create("a/x")
	p.syncAll()
	p.rename("a/x", "b/x")
	p.create("a/y")
	p.create("b/z")
	for seed := range uint64(100) {
		got := fmt.Sprint(names(p.crash(seed, simdisk.KeepSome).Disk))
		if strings.Contains(got, "a/x") && (strings.Contains(got, "a/y") || strings.Contains(got, "b/z")) {
			t.Fatalf("seed %d left %s", seed, got)
		}
	}
}

func TestRemovalThatWasNotSyncedMayBeUndone(t *testing.T) {
	p := start(t, simdisk.Options{})
	f := p.create("file")
	p.write(f, 0, []byte("data"))
	p.syncAll()
	p.close(f)
	p.remove("file")
	p.check()
	p.crash(0, simdisk.KeepNone).expect("file", []byte("data"))
	p.crash(0, simdisk.KeepAll).expectNames()
	p.syncDir(".")
	p.check()
	p.crash(0, simdisk.KeepNone).expectNames()
}

func TestLinksAreCountedAfterACrash(t *testing.T) {
	p := start(t, simdisk.Options{})
	p.mkdir("d")
	p.create("one")
	p.syncAll()
	p.must(&host.Op{Kind: host.OpLink, Path: "one", To: "d/two"})
	for _, keep := range []simdisk.Keep{simdisk.KeepNone, simdisk.KeepAll} {
		after := p.crash(0, keep)
		if got, want := after.stat(after.open("one", 0)).Links, 1+int(keep)/2; got != want {
			t.Errorf("keep=%v: %d links, want %d", keep, got, want)
		}
	}
}

func TestOpsInFlightAtACrashMaySurvive(t *testing.T) {
	p := start(t, simdisk.Options{})
	f := p.create("file")
	p.write(f, 0, fill('a', 1024))
	p.syncAll()
	p.Submit(&host.Op{Kind: host.OpWrite, File: f, Buf: fill('b', 1024), Done: func(*host.Op) {
		t.Error("Done of an operation in flight at the crash was called")
	}})
	found := map[string]bool{}
	for seed := range uint64(100) {
		data := p.crash(seed, simdisk.KeepSome).read("file")
		found[string([]byte{data[0], data[512]})] = true
	}
	if len(found) != 4 {
		t.Errorf("left %v, want all of aa, ab, ba, bb", found)
	}
	p.crash(0, simdisk.KeepNone).expect("file", fill('a', 1024))
	p.crash(0, simdisk.KeepAll).expect("file", fill('b', 1024))

	after := p.on(p.Crash(simdisk.KeepAll))
	if p.InFlight() != 1 || p.Poll(0) != 0 || !p.Dead() || after.InFlight() != 0 || after.Dead() {
		t.Error("the old disk goes on, or the new one is not fresh")
	}
	after.create("more") // handles of before are not valid, even where numbers could meet
	if err := host.Do(after.Disk, &host.Op{Kind: host.OpStat, File: f}); err == nil {
		t.Error("a handle survived the crash")
	}
}

func TestSyncSubmittedWithItsWritePromisesNothing(t *testing.T) {
	found := map[bool]bool{}
	for seed := range uint64(50) {
		p := start(t, simdisk.Options{Seed: seed})
		f := p.create("file")
		p.syncDir(".")
		done := func(*host.Op) {}
		p.Submit(&host.Op{Kind: host.OpWrite, File: f, Buf: []byte("data"), Done: done},
			&host.Op{Kind: host.OpSync, File: f, Done: done})
		for p.InFlight() > 0 {
			p.Poll(-1)
		}
		found[len(p.crash(0, simdisk.KeepNone).read("file")) > 0] = true
	}
	if len(found) != 2 {
		t.Error("a write and a sync that were in flight together always had the same outcome")
	}
}

package cli

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
)

func TestScrubFindsTheDamagedBlock(t *testing.T) {
	dir := replicaDir(t, "130Mi")
	put(t, dir, 0, content(1, 3000))
	put(t, dir, block.PerChunk, content(2, 10))
	var v scrubView
	asJSON(t, &v, "store", "scrub", dir, "--rate", "1Gi")
	if v.Path != dir || v.Volume == "" || v.BytesRead != 3010<<12 || v.Tables != 4 || len(v.Bad) != 0 || len(v.Resync) != 0 {
		t.Errorf("the scrub says %+v", v)
	}
	says(t, succeed(t, "store", "scrub", dir), "11.8 MiB of data and 4 block tables", "everything is as it was written")

	damage(t, dir, 0, 2345)
	damage(t, dir, 0, 2346)
	damage(t, dir, 0, block.PerChunk+7)
	says(t, succeed(t, "store", "check", dir), "nothing is wrong") // it does not read data
	r := holdfast(t, "store", "scrub", dir)
	if r.status != 6 {
		t.Errorf("exit %d", r.status)
	}
	says(t, r.out, "result:", "3 damaged", "block 2345 of generation 1", "4096 at offset 9605120", "checksum", "shown by:", "generation 1",
		"no other generation has the same content", "to be resynced from another replica:", "12.0 KiB in 2 extents", "8192 at offset 9605120")
	says(t, r.err, "3 damaged blocks or tables", "  cure: restore")
	r = holdfast(t, "store", "scrub", dir, "-o", "json")
	if err := jsonOf(r.out, &v); err != nil || r.status != 6 || len(v.Bad) != 3 || v.ResyncBytes != 3<<12 ||
		fmt.Sprint(v.Resync) != fmt.Sprint([]extentView{{2345 << 12, 2 << 12}, {(block.PerChunk + 7) << 12, 1 << 12}}) {
		t.Errorf("exit %d, %v: %+v", r.status, err, v)
	}
	if b := v.Bad[0]; b.Block != 2345 || b.Offset != 2345<<12 || b.Bytes != 4096 || b.Generation != 1 || b.What != "data" || b.Repairable != "replica" ||
		fmt.Sprint(b.ShownBy) != "[1]" || len(b.SameSumIn) != 0 {
		t.Errorf("the first is %+v", b)
	}

	put(t, dir, 2345, content(1, 2347)[2345<<12:]) // the right content heals it
	put(t, dir, block.PerChunk+7, content(2, 8)[7<<12:])
	asJSON(t, &v, "store", "scrub", dir)
	same4K(t, "healed", get(t, dir, 0, 0, 3000), content(1, 3000))
}

func TestScrubSaysWhoShowsDamageAndWhoHasTheContent(t *testing.T) {
	dir := replicaDir(t, "8Mi")
	put(t, dir, 0, content(1, 100))
	succeed(t, "store", "snapshot", dir)
	put(t, dir, 50, content(1, 51)[50<<12:]) // the same content in a block of its own
	succeed(t, "store", "snapshot", dir)
	damage(t, dir, 1, 10) // generations 1, 2 and 3 share it
	damage(t, dir, 1, 50) // only 1 has this one
	var v scrubView
	r := holdfast(t, "store", "scrub", dir, "-o", "json")
	if err := jsonOf(r.out, &v); err != nil || r.status != 6 || len(v.Bad) != 2 {
		t.Fatalf("exit %d, %v: %+v", r.status, err, v)
	}
	shared, own := v.Bad[0], v.Bad[1]
	if shared.Block != 10 || fmt.Sprint(shared.ShownBy) != "[1 2 3]" || len(shared.SameSumIn) != 0 || shared.Repairable != "replica" {
		t.Errorf("the shared block is %+v", shared)
	}
	if own.Block != 50 || fmt.Sprint(own.ShownBy) != "[1]" || fmt.Sprint(own.SameSumIn) != "[2 3]" || own.Repairable != "here" {
		t.Errorf("the other block is %+v", own)
	}
	says(t, holdfast(t, "store", "scrub", dir).out, "shown by:", "generation 1-3", "generation 2-3 has a good block with the same checksum")
}

func TestScrubReportsDamagedTables(t *testing.T) {
	dir := replicaDir(t, "6Mi")
	put(t, dir, 1024, content(1, 100))
	put(t, dir, 0, content(2, 5))
	flip(t, filepath.Join(dir, "chunks", "00000000.000001"), 3*12288+4000) // region 1, copy B
	var v scrubView
	r := holdfast(t, "store", "scrub", dir, "-o", "json")
	if err := jsonOf(r.out, &v); err != nil || r.status != 6 || len(v.Bad) != 1 || v.Bad[0].What != "block table" ||
		v.Bad[0].Offset != 4<<20 || v.Bad[0].Bytes != 2<<20 || v.ResyncBytes != 2<<20 || fmt.Sprint(v.Bad[0].ShownBy) != "[1]" {
		t.Errorf("exit %d, %v: %s %s", r.status, err, r.out, r.err)
	}
	same4K(t, "the other region", get(t, dir, 0, 0, 5), content(2, 5))
}

func TestScrubKeepsToItsRate(t *testing.T) {
	now := time.Duration(0)
	answers := []bool{}
	p := &pacer{rate: 1 << 20, now: func() time.Duration { return now }, began: 0}
	step := func(bytes int) { p.step(bytes, func(goOn bool) { answers = append(answers, goOn) }) }
	step(1 << 19)
	if got := p.wait(); got != 500*time.Millisecond {
		t.Errorf("half a second's bytes are to wait %v", got)
	}
	now = 600 * time.Millisecond // late
	if got := p.wait(); got != 0 {
		t.Errorf("a late step is to wait %v", got)
	}
	p.answer(true)
	step(1 << 19)
	if got := p.wait(); got != 400*time.Millisecond {
		t.Errorf("the next is to wait %v: what was late is caught up", got)
	}
	p.answer(false)
	if fmt.Sprint(answers) != "[true false]" || p.resume != nil {
		t.Errorf("the answers are %v", answers)
	}
	if p.rate = 0; p.wait() != 0 {
		t.Error("without a rate there is nothing to wait for")
	}
	fail(t, 2, []string{"--rate"}, "store", "scrub", "x", "--rate", "0")
}

func TestResyncIsSummedUpOnce(t *testing.T) {
	v := scrubView{Bad: []badView{{Offset: 8192, Bytes: 4096}, {Offset: 0, Bytes: 4096}, {Offset: 4096, Bytes: 4096}, {Offset: 8192, Bytes: 4096},
		{Offset: 1 << 20, Bytes: 1 << 22}, {Offset: 2 << 20, Bytes: 4096}}}
	v.sumUp()
	if fmt.Sprint(v.Resync) != "[{0 12288} {1048576 4194304}]" || v.ResyncBytes != 12288+1<<22 {
		t.Errorf("it is %v, %d bytes", v.Resync, v.ResyncBytes)
	}
}

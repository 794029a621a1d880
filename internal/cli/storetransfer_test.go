package cli

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast-io/holdfast/internal/block"
)

func TestWhatIsWrittenIsRead(t *testing.T) {
	dir := replicaDir(t, "130Mi")
	input := filepath.Join(t.TempDir(), "input")
	big := content(1, 10000) // 39 MiB: more than is in flight at once, over regions and chunks
	if err := os.WriteFile(input, big, 0o600); err != nil {
		t.Fatal(err)
	}
	if out := succeed(t, "store", "write", dir, "--offset", "40Mi", "--input", input); out != "wrote 40960000 bytes at offset 41943040\n" {
		t.Errorf("write says %q", out)
	}
	var v transferView
	if err := jsonOf(fed(t, content(2, 3), "store", "write", dir, "--offset", "40Mi", "-o", "json"), &v); err != nil ||
		v.Path != dir || v.Offset != 40<<20 || v.Bytes != 3<<12 {
		t.Errorf("write says %+v, %v", v, err)
	}
	copy(big, content(2, 3))
	same4K(t, "a stream", get(t, dir, 0, 40<<8, 10000), big)

	output := filepath.Join(t.TempDir(), "output")
	says(t, succeed(t, "store", "read", dir, "--to", output), "read 136314880 bytes at offset 0")
	got, err := os.ReadFile(output)
	if err != nil || len(got) != 130<<20 {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	same4K(t, "a file", got[40<<20:40<<20+len(big)], big)
	same4K(t, "what was never written", got[100<<20:], make([]byte, 30<<20))
	var stat syscall.Stat_t
	if err := syscall.Stat(output, &stat); err != nil || stat.Blocks*512 > 60<<20 {
		t.Errorf("the file takes %d bytes, %v: zeros should be holes", stat.Blocks*512, err)
	}
	if out := succeed(t, "store", "read", dir, "--offset", "130Mi"); out != "" {
		t.Errorf("the end reads as %q", out)
	}
}

func TestZeroFreesSpace(t *testing.T) {
	dir := replicaDir(t, "8Mi")
	put(t, dir, 0, content(1, 100))
	if out := succeed(t, "store", "zero", dir, "--offset", "40Ki", "--length", "80Ki"); out != "zeroed 81920 bytes at offset 40960\n" {
		t.Errorf("zero says %q", out)
	}
	succeed(t, "store", "zero", dir, "--length", "0")
	want := content(1, 100)
	clear(want[10<<12 : 30<<12])
	same4K(t, "the volume", get(t, dir, 0, 0, 100), want)
	var u usageView
	asJSON(t, &u, "store", "usage", dir)
	if u.StoredBytes != 80<<12 {
		t.Errorf("%d bytes are stored", u.StoredBytes)
	}
}

func TestTransfersRefuseWhatIsNotBlocks(t *testing.T) {
	dir := replicaDir(t, "1Mi")
	odd := filepath.Join(t.TempDir(), "odd file")
	if err := os.WriteFile(odd, make([]byte, 5000), 0o600); err != nil {
		t.Fatal(err)
	}
	fail(t, 2, []string{"offset 5 ", "multiple of 4096"}, "store", "write", dir, "--offset", "5")
	fail(t, 2, []string{"5000 bytes", "truncate -s %4096 '" + odd + "'"}, "store", "write", dir, "--input", odd)
	fail(t, 3, []string{"nothing-here"}, "store", "write", dir, "--input", "nothing-here")
	fail(t, 2, []string{"does not fit", "holdfast store grow " + dir}, "store", "write", dir, "--offset", "1Mi")
	fail(t, 2, []string{"offset 100 "}, "store", "read", dir, "--offset", "100")
	fail(t, 2, []string{"100 bytes"}, "store", "read", dir, "--length", "100")
	fail(t, 2, []string{"leave the volume of 1048576"}, "store", "read", dir, "--offset", "1Mi", "--length", "4Ki")
	fail(t, 2, []string{"100 bytes"}, "store", "zero", dir, "--length", "100")
	fail(t, 2, []string{"leave the volume"}, "store", "zero", dir, "--length", "2Mi")
	fail(t, 2, []string{"length"}, "store", "zero", dir)
	fail(t, 3, []string{"generation 7 does not exist"}, "store", "read", dir, "--generation", "7")

	big := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(big, make([]byte, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	fail(t, 2, []string{"does not fit"}, "store", "write", dir, "--input", big)

	// Of a stream, the whole blocks before the mistake are written.
	for _, c := range []struct {
		input []byte
		texts []string
	}{
		{content(1, 2)[:5000], []string{"standard input has 5000 bytes", "pad it"}},
		{content(1, 257), []string{"does not fit"}},
	} {
		var out, err strings.Builder
		status := Main(t.Context(), []string{"store", "write", dir}, Streams{In: bytes.NewReader(c.input), Out: &out, Err: &err})
		if status != 2 || out.Len() > 0 {
			t.Errorf("exit %d: %s", status, &out)
		}
		says(t, err.String(), c.texts...)
		same4K(t, "the first block", get(t, dir, 0, 0, 1), content(1, 1))
	}
}

func TestReadStopsAtDamageAndGivesWhatIsBefore(t *testing.T) {
	dir := replicaDir(t, "8Mi")
	put(t, dir, 0, content(1, 600))
	damage(t, dir, 0, 300)
	r := holdfast(t, "store", "read", dir)
	if r.status != 6 {
		t.Errorf("exit %d", r.status)
	}
	same4K(t, "what is before", []byte(r.out), content(1, 600)[:300<<12])
	says(t, r.err, "generation 1, block 300 (byte 1228800)", "  cure: see what else is damaged: holdfast store scrub "+dir)
	same4K(t, "what is behind", get(t, dir, 0, 301, 299), content(1, 600)[301<<12:])
}

func TestCommandsEndWhenInterrupted(t *testing.T) {
	dir := replicaDir(t, "8Mi")
	put(t, dir, 0, content(1, 1000))
	succeed(t, "store", "snapshot", dir)
	put(t, dir, 0, content(2, 10))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, args := range [][]string{
		{"scrub", dir}, {"scrub", dir, "--rate", "1"}, {"check", dir}, {"changed", dir, "--since", "1"}, {"read", dir}, {"dump", dir}, {"write", dir},
	} {
		var out, err strings.Builder
		status := Main(ctx, append([]string{"store"}, args...), Streams{In: bytes.NewReader(make([]byte, 8<<20)), Out: &out, Err: &err})
		if status != 1 {
			t.Errorf("%v: exit %d, %s", args, status, &err)
		}
		says(t, err.String(), "interrupted")
	}
	same4K(t, "the snapshot", get(t, dir, 1, 0, 1000), content(1, 1000))
}

func TestReplicaInUseIsRefused(t *testing.T) {
	dir := replicaDir(t, "1Mi")
	whileOpen(t, dir, func() {
		for _, args := range []string{"write", "read", "snapshot", "snapshots", "usage", "check", "scrub", "dump", "delete --yes",
			"grow --size 2Mi", "zero --length 4Ki", "changed --since 0", "create --size 1Mi"} {
			words := strings.Fields(args)
			fail(t, 4, []string{"open in another process"}, append([]string{"store", words[0], dir}, words[1:]...)...)
		}
	})
	succeed(t, "store", "check", dir)
}

func TestWhatIsNoReplicaIsRefused(t *testing.T) {
	dir := t.TempDir()
	nowhere := filepath.Join(dir, "nowhere")
	for _, verb := range []string{"write", "read", "snapshot", "snapshots", "usage", "check", "scrub", "dump"} {
		fail(t, 3, []string{"there is no replica at " + nowhere, "  cure: make one: holdfast store create " + nowhere}, "store", verb, nowhere)
		fail(t, 3, []string{dir + " is not a replica: there is no replica.json"}, "store", verb, dir)
	}
	fail(t, 2, []string{"can't be a replica's directory"}, "store", "check", "")
	fail(t, 2, []string{"want REPLICA, got 0"}, "store", "check")
}

func TestReplicaOfNewerReleaseIsRefused(t *testing.T) {
	dir := replicaDir(t, "1Mi")
	name := filepath.Join(dir, "replica.json")
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(strings.Replace(string(raw), `"version":2`, `"version":9`, 1), "\n")
	if err := os.WriteFile(name, sealed(line), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"read", "check", "scrub", "dump"} {
		fail(t, 1, []string{"format version 9", "  cure: upgrade holdfast"}, "store", verb, dir)
	}
	flip(t, name, 10)
	for _, verb := range []string{"read", "check", "scrub", "dump"} {
		fail(t, 6, []string{"replica.json"}, "store", verb, dir)
	}
}

// sealed appends the checksum that a manifest must have.
func sealed(line string) []byte {
	return append([]byte(line), []byte("\ncrc32c:"+hex8(block.MetaSum([]byte(line)))+"\n")...)
}

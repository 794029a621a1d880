package host

import "testing"

// openDir opens a disk that is closed when the test ends.
func openDir(t testing.TB, root string, o Options) *Dir {
	t.Helper()
	d, err := Open(root, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

// must does op, which must succeed.
func must(t testing.TB, d Disk, op *Op) *Op {
	t.Helper()
	if err := Do(d, op); err != nil {
		t.Fatal(err)
	}
	return op
}

func mustOpen(t testing.TB, d Disk, path string, flags Flags) File {
	t.Helper()
	return must(t, d, &Op{Kind: OpOpen, Path: path, Flags: flags}).File
}

// tiny gives o rings that are full all the time.
func tiny(o Options) Options {
	o.entries, o.completions = 2, 4
	return o
}

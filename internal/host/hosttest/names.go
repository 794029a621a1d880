package hosttest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

func renameFile(r *rig) {
	r.mkdir("t-a")
	r.mkdir("t-b")
	f := r.create("t-a/old")
	r.write(f, 0, []byte("data"))
	r.rename("t-a/old", "t-b/new")
	r.expectList("t-a")
	r.expectList("t-b", "new")
	r.expect(f, 0, []byte("data")) // an open handle follows its file
	r.expect(r.open("t-b/new", 0), 0, []byte("data"))
	r.rename("t-b/new", "t-b/new")
	r.expectList("t-b", "new")
	r.must(&host.Op{Kind: host.OpSyncDir, Path: "t-a"})
	r.must(&host.Op{Kind: host.OpSyncDir, Path: "t-b"})
}

func renameReplaces(r *rig) {
	r.mkdir("t-d")
	old, fresh := r.create("t-d/name"), r.create("t-d/name.new")
	r.write(old, 0, []byte("old"))
	r.write(fresh, 0, []byte("fresh"))
	r.rename("t-d/name.new", "t-d/name")
	r.expectList("t-d", "name")
	r.expect(r.open("t-d/name", 0), 0, []byte("fresh"))
	r.expect(old, 0, []byte("old"))
	if s := r.stat(old); s.Links != 0 {
		r.t.Errorf("a replaced file has %d links", s.Links)
	}
	if s := r.stat(fresh); s.Links != 1 {
		r.t.Errorf("a renamed file has %d links", s.Links)
	}
}

func renameDirectory(r *rig) {
	r.mkdir("t-a")
	r.mkdir("t-a/inner")
	f := r.create("t-a/inner/file")
	r.mkdir("t-b")
	r.rename("t-a", "t-b/moved")
	r.fails(&host.Op{Kind: host.OpList, Path: "t-a"}, fault.NotFound)
	r.expectList("t-b", "moved/")
	r.expectList("t-b/moved/inner", "file")
	r.write(f, 0, []byte("x"))
	r.expect(r.open("t-b/moved/inner/file", 0), 0, []byte("x"))
}

func renameRefuses(r *rig) {
	r.mkdir("t-dir")
	r.close(r.create("t-dir/file"))
	r.mkdir("t-other")
	r.close(r.create("t-file"))
	fails := func(path, to string, kind fault.Kind) {
		r.t.Helper()
		r.fails(&host.Op{Kind: host.OpRename, Path: path, To: to}, kind)
	}
	fails("t-no", "t-new", fault.NotFound)
	fails("t-file", "t-no/file", fault.NotFound)
	fails("t-file", "t-dir", fault.Invalid)
	fails("t-dir", "t-file", fault.Invalid)
	fails("t-dir", "t-dir/below", fault.Invalid)
	fails("t-other", "t-dir", fault.Exists) // not empty
	fails("t-file/x", "t-new", fault.Invalid)
	r.expectList("t-dir", "file")
}

func renameLinks(r *rig) {
	r.mkdir("t-d")
	f := r.create("t-d/one")
	r.must(&host.Op{Kind: host.OpLink, Path: "t-d/one", To: "t-d/two"})
	r.rename("t-d/one", "t-d/two") // both names stay: what POSIX asks for
	r.expectList("t-d", "one", "two")
	if s := r.stat(f); s.Links != 2 {
		r.t.Errorf("the file has %d links, want 2", s.Links)
	}
}

func link(r *rig) {
	r.mkdir("t-d")
	f := r.create("t-d/one")
	r.write(f, 0, []byte("data"))
	r.must(&host.Op{Kind: host.OpLink, Path: "t-d/one", To: "t-two"})
	g := r.open("t-two", 0)
	r.write(g, 4, []byte("more"))
	r.expect(f, 0, []byte("datamore"))
	if s := r.stat(f); s.Links != 2 {
		r.t.Errorf("the file has %d links, want 2", s.Links)
	}
	r.must(&host.Op{Kind: host.OpRemove, Path: "t-d/one"})
	if s := r.stat(g); s.Links != 1 {
		r.t.Errorf("the file has %d links after one was removed, want 1", s.Links)
	}
	r.expect(r.open("t-two", 0), 0, []byte("datamore"))

	r.close(r.create("t-taken"))
	r.fails(&host.Op{Kind: host.OpLink, Path: "t-two", To: "t-taken"}, fault.Exists)
	r.fails(&host.Op{Kind: host.OpLink, Path: "t-two", To: "t-d"}, fault.Exists)
	r.fails(&host.Op{Kind: host.OpLink, Path: "t-no", To: "t-new"}, fault.NotFound)
	r.fails(&host.Op{Kind: host.OpLink, Path: "t-two", To: "t-no/new"}, fault.NotFound)
	r.fails(&host.Op{Kind: host.OpLink, Path: "t-d", To: "t-new"}, fault.Denied)
}

func remove(r *rig) {
	r.mkdir("t-d")
	r.mkdir("t-d/inner")
	r.close(r.create("t-d/file"))
	r.fails(&host.Op{Kind: host.OpRemove, Path: "t-d"}, fault.Exists) // not empty
	r.must(&host.Op{Kind: host.OpRemove, Path: "t-d/file"})
	r.fails(&host.Op{Kind: host.OpRemove, Path: "t-d/file"}, fault.NotFound)
	r.must(&host.Op{Kind: host.OpRemove, Path: "t-d/inner"})
	r.expectList("t-d")
	r.must(&host.Op{Kind: host.OpRemove, Path: "t-d"})
	r.fails(&host.Op{Kind: host.OpList, Path: "t-d"}, fault.NotFound)
	r.fails(&host.Op{Kind: host.OpRemove, Path: "t-d/file"}, fault.NotFound)
}

func mkdir(r *rig) {
	r.mkdir("t-d")
	r.mkdir("t-d/inner")
	r.expectList("t-d", "inner/")
	r.expectList("t-d/inner")
	r.close(r.create("t-file"))
	r.fails(&host.Op{Kind: host.OpMkdir, Path: "t-d"}, fault.Exists)
	r.fails(&host.Op{Kind: host.OpMkdir, Path: "t-file"}, fault.Exists)
	r.fails(&host.Op{Kind: host.OpMkdir, Path: "t-no/inner"}, fault.NotFound)
	r.fails(&host.Op{Kind: host.OpMkdir, Path: "t-file/inner"}, fault.Invalid)
}

func list(r *rig) {
	r.mkdir("t-d")
	const files = 3000 // more than one system call returns
	var want []string
	ops := make([]host.Op, files)
	for i := range ops {
		want = append(want, fmt.Sprintf("a-rather-long-name-to-fill-buffers-%05d", i))
		ops[i] = host.Op{Kind: host.OpOpen, Path: "t-d/" + want[i], Flags: host.Create}
	}
	for batch := range slices.Chunk(ops, 500) {
		for i := range batch {
			r.submit(nil, &batch[i])
		}
		r.drain()
		for i := range batch {
			if batch[i].Err != nil {
				r.t.Fatal(batch[i].Err)
			}
			r.close(batch[i].File)
		}
	}
	r.mkdir("t-d/z")
	r.expectList("t-d", append(want, "z/")...)
	if root := r.list("."); !slices.Contains(root, "t-d/") {
		r.t.Errorf("the root holds %q, want t-d/ among them", root)
	}
	r.fails(&host.Op{Kind: host.OpList, Path: "t-no"}, fault.NotFound)
	r.fails(&host.Op{Kind: host.OpList, Path: "t-d/" + want[0]}, fault.Invalid)
}

func syncDir(r *rig) {
	r.mkdir("t-d")
	r.close(r.create("t-d/file"))
	r.must(&host.Op{Kind: host.OpSyncDir, Path: "t-d"})
	r.must(&host.Op{Kind: host.OpSyncDir, Path: "."})
	r.fails(&host.Op{Kind: host.OpSyncDir, Path: "t-no"}, fault.NotFound)
	r.fails(&host.Op{Kind: host.OpSyncDir, Path: "t-d/file"}, fault.Invalid)
}

func oddNames(r *rig) {
	r.mkdir("t-d")
	names := []string{"with space", "new\nline", "ünïcode", "..dots", "-dash", strings.Repeat("n", 255)}
	for _, name := range names {
		f := r.create("t-d/" + name)
		r.write(f, 0, []byte(name))
		r.close(f)
		r.expect(r.open("t-d/"+name, 0), 0, []byte(name))
	}
	slices.Sort(names)
	r.expectList("t-d", names...)
	tooLong := "t-d/" + strings.Repeat("n", 256)
	r.fails(&host.Op{Kind: host.OpOpen, Path: tooLong, Flags: host.Create}, fault.Invalid)
	r.fails(&host.Op{Kind: host.OpMkdir, Path: tooLong}, fault.Invalid)
	r.fails(&host.Op{Kind: host.OpOpen, Path: "t-d/nul\x00byte", Flags: host.Create}, fault.Invalid)
}

func escapes(r *rig) {
	r.mkdir("t-d")
	r.close(r.create("t-file"))
	bad := []string{"", "..", "../t-out", "/t-out", "/", "t-d/../../t-out", "t-d/../.."}
	for _, path := range bad {
		for _, kind := range []host.Kind{host.OpOpen, host.OpRemove, host.OpMkdir, host.OpList, host.OpSyncDir} {
			r.fails(&host.Op{Kind: kind, Path: path, Flags: host.Create}, fault.Invalid, fault.Denied)
		}
		for _, kind := range []host.Kind{host.OpRename, host.OpLink} {
			r.fails(&host.Op{Kind: kind, Path: path, To: "t-new"}, fault.Invalid, fault.Denied)
			r.fails(&host.Op{Kind: kind, Path: "t-file", To: path}, fault.Invalid, fault.Denied)
		}
	}
	// The root itself can be listed and synced, not replaced.
	root := []*host.Op{
		{Kind: host.OpRemove, Path: "."},
		{Kind: host.OpRename, Path: ".", To: "t-new"},
		{Kind: host.OpRename, Path: "t-d", To: "."},
		{Kind: host.OpMkdir, Path: "."},
		{Kind: host.OpOpen, Path: "."},
	}
	for _, op := range root {
		r.fails(op, fault.Invalid, fault.Denied, fault.Busy, fault.Exists)
	}
	r.expectList("t-d")
}

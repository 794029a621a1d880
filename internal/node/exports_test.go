package node

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/state"
)

// exportAt attaches a volume for clients, and returns where they find it.
func (m *machine) exportAt(id string, spec *v1.AttachmentSpec) string {
	spec.NodeId, spec.Frontend = m.o.Node.String(), "export"
	m.commit(state.Attachments.Put(id, &v1.Attachment{VolumeId: id, Spec: spec}))
	// Until then the status may be that of a head that was tended, which is attached without a front end.
	s := await(m, state.AttachStatuses, id, func(s *v1.AttachmentStatus) bool { return attached(s) && s.Frontend != "none" })
	if s.Device != "" || s.Frontend != "export" || s.Address == "" {
		m.t.Fatalf("exported as %v", s)
	}
	return s.Address
}

// TestVolumeIsExportedThroughARestart copies images into and out of a volume with the
// tools of others, which see what of it is sparse.
func TestVolumeIsExportedThroughARestart(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to mount")
	}
	m := newMachine(t)
	id := m.create("db", 64<<20)
	uri := m.exportAt(id, &v1.AttachmentSpec{})
	if want := "nbd+unix:///db?socket=" + m.o.ExportDir + "/db.sock"; uri != want {
		t.Errorf("it is at %s, want %s", uri, want)
	}
	if info, err := os.Stat(m.o.ExportDir + "/db.sock"); err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("the socket is %v, %v: others than root can open it", info, err)
	}
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	sh(t, `truncate -s 64M "$1"; dd if=/dev/urandom of="$1" bs=1M count=3 seek=20 conv=notrunc status=none`, image)
	sh(t, `timeout 60 nbdcopy --flush "$1" "$2"`, image, uri)
	var map_ []struct {
		Offset, Length int64
		Type           int
	}
	must(t, json.Unmarshal([]byte(sh(t, `timeout 60 nbdinfo --map --json "$1"`, uri)), &map_))
	if len(map_) != 3 || map_[1].Offset != 20<<20 || map_[1].Length != 3<<20 || map_[1].Type != 0 || map_[0].Type != 3 || map_[2].Type != 3 {
		t.Errorf("nbdinfo sees %+v, want 3 MiB of data at 20 MiB", map_)
	}
	m.stop()
	m.start()
	waitFor(t, func() bool { return exec.Command("timeout", "10", "nbdinfo", "--size", uri).Run() == nil }) // the socket comes before the export
	sh(t, `timeout 60 qemu-img compare -f raw -F raw "$1" "$2"`, image, uri)
	sh(t, `cd "$2"; timeout 60 fio --name=x --ioengine=nbd --uri="$1" --rw=randwrite --bs=4k --size=16M --iodepth=16 --verify=crc32c --end_fsync=1 >"$2/fio" || { cat "$2/fio"; false; }`, uri, dir)
	m.detach(id)
	if left, _ := filepath.Glob(m.o.ExportDir + "/*"); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	// Of a snapshot, and read-only, at a place that was named.
	m.tend(id, m.o.Node.String())
	if s := m.snapshot(id, "one", nil); s.Problem != "" {
		t.Fatal(s.Problem)
	}
	m.tend(id, "")
	named := filepath.Join(dir, "named.sock")
	uri = m.exportAt(id, &v1.AttachmentSpec{SnapshotId: "one", Export: &v1.Export{Socket: named}})
	if !strings.HasSuffix(uri, named) {
		t.Errorf("it is at %s, want %s", uri, named)
	}
	if got := sh(t, `timeout 60 nbdinfo --is read-only "$1" && echo yes`, uri); got != "yes" {
		t.Error("a snapshot can be written")
	}
	m.detach(id)
}

// TestExportOfATakenVolumeServesNobody takes the volume away while a client is connected.
func TestExportOfATakenVolumeServesNobody(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to mount")
	}
	m := newMachine(t)
	id := m.create("db", 64<<20)
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	m.commit(state.Attachments.Put(id, &v1.Attachment{VolumeId: id, Spec: &v1.AttachmentSpec{NodeId: m.o.Node.String(), Frontend: "export", Export: &v1.Export{Socket: file}}}))
	s := await(m, state.AttachStatuses, id, func(s *v1.AttachmentStatus) bool { return s.State == v1.AttachmentState_ATTACHMENT_STATE_FAILED })
	if text := s.Conditions[len(s.Conditions)-1].Message; !strings.Contains(text, "no socket") {
		t.Errorf("a file in the socket's place: %s", text)
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("the file: %v", err)
	}
	m.detach(id)
	socket := filepath.Join(t.TempDir(), "s")
	uri := m.exportAt(id, &v1.AttachmentSpec{Export: &v1.Export{Socket: socket}})
	client := exec.CommandContext(t.Context(), "fio", "--name=x", "--ioengine=nbd", "--uri="+uri, "--rw=randwrite", "--bs=4k", "--size=16M", "--time_based", "--runtime=600")
	client.Dir = t.TempDir()
	must(t, client.Start())
	ended := make(chan error, 1)
	go func() { ended <- client.Wait() }()
	waitFor(t, func() bool {
		return strings.Contains(m.page("/metrics"), `holdfast_volume_io_bytes_total{op="write",volume="db"} `) && !strings.Contains(m.page("/metrics"), `holdfast_volume_io_bytes_total{op="write",volume="db"} 0`)
	})
	m.commit(state.Attachments.Put(id, &v1.Attachment{VolumeId: id, Spec: &v1.AttachmentSpec{NodeId: block.NodeID{1, 2, 3}.String()}}))
	waitFor(t, func() bool {
		e, err := state.Records.Get(t.Context(), m.store, id)
		return err == nil && e.Value.OwnerNodeId == ""
	})
	waitFor(t, func() bool { _, err := os.Lstat(socket); return err != nil })
	select {
	case err := <-ended:
		if err == nil {
			t.Error("the client saw no error")
		}
	case <-time.After(time.Minute):
		t.Error("the client is still served")
	}
}

// TestMapTellsWhatIsData asks a backend for parts of a volume.
func TestMapTellsWhatIsData(t *testing.T) {
	for _, c := range []struct {
		offset, length int64
		capacity       int
		data           []block.Extent
		end            int64
		want           []attach.Extent
	}{
		{0, 1 << 20, 8, nil, 1 << 20, []attach.Extent{{Length: 1 << 20, Hole: true}}},
		{4096, 8192, 8, []block.Extent{{Start: 0, Count: 2}, {Start: 2, Count: 5}}, 1 << 20, []attach.Extent{{Length: 4096}, {Length: 4096}}},
		{0, 1 << 20, 2, []block.Extent{{Start: 1, Count: 1}, {Start: 3, Count: 1}}, 1 << 20, []attach.Extent{{Length: 4096, Hole: true}, {Length: 4096}}},
		{512, 4096, 8, []block.Extent{{Start: 1, Count: 1}}, 1 << 20, []attach.Extent{{Length: 3584, Hole: true}, {Length: 512}}},
		{0, 1 << 20, 8, []block.Extent{{Start: 0, Count: 256}}, 65536, []attach.Extent{{Length: 65536}}},
	} {
		q := &attach.Question{Offset: c.offset, Length: c.length, Extents: make([]attach.Extent, 0, c.capacity)}
		extents(q, c.data, min(c.offset+c.length, c.end))
		if len(q.Extents) != len(c.want) {
			t.Errorf("%+v: %v", c, q.Extents)
			continue
		}
		for i := range c.want {
			if q.Extents[i] != c.want[i] {
				t.Errorf("%+v: %v", c, q.Extents)
			}
		}
	}
}

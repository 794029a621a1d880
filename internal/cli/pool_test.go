package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

const aCluster = "0d9f3c6e-52a1-4c5e-8d8a-6a8f3b1c2d4e"

func TestLifeOfAnImagePool(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	path := poolDir(t)
	table := succeed(t, "pool", "create", path, "--size", "300Mi", "--cluster", aCluster, "--measure", "20ms", "--class", "low")
	says(t, table, "path:", path, aCluster, "state:", "Ready", "image", "xfs", "low", "(5 %)", "MiB")

	var v poolView
	asJSON(t, &v, "pool", "show", path)
	if v.Path != path || v.Cluster != aCluster || v.State != "Ready" || v.Kind != "image" || v.Mount != filepath.Join(path, "mount") ||
		v.Class != "low" || !v.ClassGiven || v.CapacityBytes < 200<<20 || v.AvailableBytes <= 0 || v.Measured == nil || v.Created.IsZero() {
		t.Errorf("show gives %+v", v)
	}
	var fromYAML poolView
	if err := yaml.UnmarshalStrict([]byte(succeed(t, "pool", "show", path, "-o", "yaml")), &fromYAML); err != nil || fromYAML.Pool != v.Pool {
		t.Errorf("YAML gives %+v, %v", fromYAML, err)
	}

	fail(t, 4, []string{"is a pool already", "holdfast pool wipe " + path + " --pool " + v.Pool}, "pool", "create", path)
	says(t, succeed(t, "pool", "check", path), "Ready")

	asJSON(t, &v, "pool", "set", path, "--reserve", "10", "--class", "measured")
	if v.ReservePercent != 10 || v.ClassGiven {
		t.Errorf("set gives %+v", v)
	}

	v = poolView{}
	asJSON(t, &v, "pool", "unmount", path)
	if v.State != "Unmounted" || v.Mount != "" || !strings.Contains(v.Cure, "holdfast pool remount "+path) {
		t.Errorf("unmount gives %+v", v)
	}
	says(t, succeed(t, "pool", "check", path), "Ready") // it mounts it for the while
	asJSON(t, &v, "pool", "show", path)
	if v.State != "Unmounted" {
		t.Errorf("check left it %s", v.State)
	}
	says(t, succeed(t, "pool", "remount", path), "Ready", filepath.Join(path, "mount"))

	fail(t, 4, []string{"is pool " + v.Pool, "holdfast pool wipe " + path + " --pool " + v.Pool}, "pool", "wipe", path)
	if out := succeed(t, "pool", "wipe", path, "--pool", v.Pool); out != "wiped "+path+"\n" {
		t.Errorf("wipe says %q", out)
	}
	fail(t, 3, []string{"there is no pool at " + path, "  cure: make one: holdfast pool create " + path}, "pool", "show", path)
}

func TestDirectoryPoolIsListedAndCheckedByStatus(t *testing.T) {
	path := poolDir(t)
	dir := filepath.Dir(path)
	says(t, succeed(t, "pool", "list", dir), "PATH")
	succeed(t, "pool", "create", path, "--directory", "--force", "--measure", "20ms")
	var list []poolView
	asJSON(t, &list, "pool", "list", dir)
	if len(list) != 1 || list[0].Path != path || list[0].State != "Ready" {
		t.Fatalf("the list is %+v", list)
	}
	table := strings.Split(succeed(t, "pool", "list", dir), "\n")
	if len(table) != 3 || strings.Join(strings.Fields(table[0]), " ") != "PATH KIND CLASS CAPACITY USED AVAILABLE STATE" ||
		!strings.HasPrefix(table[1], path+" ") || !strings.HasSuffix(table[1], "Ready") {
		t.Errorf("the table is %q", table)
	}

	identity := filepath.Join(path, "pool.json")
	raw, err := os.ReadFile(identity)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)/2] ^= 1
	if err := os.WriteFile(identity, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	fail(t, 6, []string{"is damaged", "  cure: put the copy"}, "pool", "check", path)
	asJSON(t, &list, "pool", "list", dir)
	if len(list) != 1 || list[0].State != "Failed" || list[0].Cure == "" {
		t.Errorf("the list is %+v", list)
	}
}

func TestFullPoolFailsItsCheckAndIsShownNevertheless(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	path := poolDir(t)
	var v poolView
	asJSON(t, &v, "pool", "create", path, "--size", "300Mi", "--measure", "20ms")
	f, err := os.Create(filepath.Join(v.Mount, "volumes", "big"))
	if err == nil {
		err = f.Truncate(v.AvailableBytes)
	}
	for at := int64(0); err == nil && at < v.AvailableBytes; at += 1 << 20 {
		_, err = f.WriteAt(make([]byte, 1<<20), at)
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	r := holdfast(t, "pool", "check", path)
	if r.status != 5 {
		t.Errorf("exit %d: %s", r.status, r.err)
	}
	says(t, r.out, "Full", "reserve")
	says(t, r.err, "is Full", "  cure: delete")
	succeed(t, "pool", "wipe", path, "--pool", v.Pool)
}

func TestListOfNothing(t *testing.T) {
	if out := succeed(t, "pool", "list", t.TempDir(), "-o", "json"); out != "[]\n" {
		t.Errorf("got %q", out)
	}
	fail(t, 3, []string{"nowhere"}, "pool", "list", filepath.Join(t.TempDir(), "nowhere"))
}

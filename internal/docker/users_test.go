package docker

import (
	"encoding/json"
	"path/filepath"
	"testing"
)

func TestUsesOfAnEarlierBootAreOver(t *testing.T) {
	var u users
	if err := u.open(filepath.Join(t.TempDir(), "docker.json")); err != nil {
		t.Fatal(err)
	}
	raw, _ := json.Marshal(saved{Boot: "another", Users: map[string][]string{"db": {"c1"}}})
	u.read(raw)
	if len(u.of) != 0 {
		t.Errorf("uses are %v", u.of)
	}
}

func FuzzUsers(f *testing.F) {
	raw, _ := json.Marshal(saved{Boot: "b", Users: map[string][]string{"db": {"c1", "c2"}}})
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		u := users{boot: "b", of: map[string][]string{}}
		u.read(raw)
		if u.of == nil {
			t.Error("there is no map to write to")
		}
	})
}

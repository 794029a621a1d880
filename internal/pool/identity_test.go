package pool

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// example is the identity in testdata/v1.json.
var example = Identity{
	Cluster:        block.ClusterID{0x0d, 0x9f, 0x3c, 0x6e, 0x52, 0xa1, 0x4c, 0x5e, 0x8d, 0x8a, 0x6a, 0x8f, 0x3b, 0x1c, 0x2d, 0x4e},
	Pool:           block.PoolID{0x7b, 0x1e, 0x90, 0x02, 0x0c, 0x44, 0x4f, 0x7a, 0x9e, 0x55, 0x31, 0xd0, 0x68, 0xaf, 0x11, 0x93},
	Created:        time.Date(2026, 11, 22, 10, 30, 0, 0, time.UTC),
	Kind:           Device,
	Device:         "/dev/disk/by-id/nvme-1",
	ReservePercent: 5,
	Class:          High,
	Measured:       Figures{ReadIOPS: 84000, WriteIOPS: 71000, SyncMicros: 190},
}

func golden(t testing.TB) []byte {
	raw, err := os.ReadFile("testdata/v1.json")
	must(t, err)
	return raw
}

func TestFormatOneIsReadAndWrittenAsItEverWas(t *testing.T) {
	raw, err := example.encode()
	must(t, err)
	if !bytes.Equal(raw, golden(t)) {
		t.Errorf("encode gives\n%swant\n%s", raw, golden(t))
	}
	id, err := decode(golden(t))
	must(t, err)
	if !reflect.DeepEqual(id, example) {
		t.Errorf("decode gives %+v, want %+v", id, example)
	}
}

func TestNoIdentityWithAFlippedBitIsAccepted(t *testing.T) {
	raw := golden(t)
	for bit := range 8 * len(raw) {
		raw[bit/8] ^= 1 << (bit % 8)
		if id, err := decode(raw); !fault.Is(err, fault.Corrupt) {
			t.Errorf("bit %d of byte %d flipped: got %+v, %v", bit%8, bit/8, id, err)
		}
		raw[bit/8] ^= 1 << (bit % 8)
	}
}

func TestNoPartOfAnIdentityIsAccepted(t *testing.T) {
	raw := golden(t)
	for n := range raw {
		if _, err := decode(raw[:n]); !fault.Is(err, fault.Corrupt) {
			t.Errorf("the first %d bytes: got %v", n, err)
		}
	}
	for _, more := range []string{" ", "\n", "{}", "\x00"} {
		if _, err := decode(append(golden(t), more...)); !fault.Is(err, fault.Corrupt) {
			t.Errorf("with %q after it: got %v", more, err)
		}
	}
}

func TestIntactIdentityOfAnotherFormatIsNamedAsSuch(t *testing.T) {
	e := envelope{Format: 2, Pool: json.RawMessage(`{"colour": "green"}`)}
	var err error
	e.CRC32C, err = e.sum()
	must(t, err)
	raw, err := json.MarshalIndent(e, "", "  ")
	must(t, err)
	_, err = decode(raw)
	wantFault(t, err, fault.Unsupported, "format 2", "format 1")
}

func TestIdentityThatMakesNoSenseIsRefused(t *testing.T) {
	for name, spoil := range map[string]func(*Identity){
		"no cluster":         func(id *Identity) { id.Cluster = block.ClusterID{} },
		"no pool":            func(id *Identity) { id.Pool = block.PoolID{} },
		"no kind":            func(id *Identity) { id.Kind = "" },
		"image with device":  func(id *Identity) { id.Kind = Image },
		"device without one": func(id *Identity) { id.Device = "" },
		"no class":           func(id *Identity) { id.Class = "" },
		"no reserve":         func(id *Identity) { id.ReservePercent = 0 },
		"all reserve":        func(id *Identity) { id.ReservePercent = 51 },
		"no time":            func(id *Identity) { id.Created = time.Time{} },
		"local time":         func(id *Identity) { id.Created = id.Created.In(time.FixedZone("there", 3600)) },
	} {
		id := example
		spoil(&id)
		if raw, err := id.encode(); err == nil {
			t.Errorf("%s: encoded as %s", name, raw)
		}
		body, err := json.Marshal(id)
		must(t, err)
		e := envelope{Format: format, Pool: body}
		e.CRC32C, err = e.sum()
		must(t, err)
		raw, err := json.MarshalIndent(e, "", "  ")
		must(t, err)
		if _, err := decode(append(raw, '\n')); !fault.Is(err, fault.Corrupt) {
			t.Errorf("%s: decode gives %v", name, err)
		}
	}
}

func TestDamagedIdentityIsNotReplacedByItsCopyButNamesIt(t *testing.T) {
	dir := t.TempDir()
	must(t, saveIdentity(dir, example))
	name := filepath.Join(dir, identityName)
	raw := golden(t)
	raw[len(raw)/2] ^= 1
	must(t, os.WriteFile(name, raw, 0o600))
	_, err := loadIdentity(dir, "the wipe command")
	wantFault(t, err, fault.Corrupt, name, "cp "+filepath.Join(dir, copyName)+" "+name)

	must(t, os.Remove(name))
	_, err = loadIdentity(dir, "the wipe command")
	wantFault(t, err, fault.Corrupt, "is gone", "cp ")

	must(t, os.WriteFile(name, raw, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, copyName), raw, 0o600))
	_, err = loadIdentity(dir, "the wipe command")
	wantFault(t, err, fault.Corrupt, "the wipe command")

	must(t, os.WriteFile(name, bytes.Repeat([]byte(" "), identityBytesMax+1), 0o600))
	_, err = loadIdentity(dir, "the wipe command")
	wantFault(t, err, fault.Corrupt, "damaged")
}

func TestInterruptedSaveLeavesTheOldIdentity(t *testing.T) {
	dir := t.TempDir()
	must(t, saveIdentity(dir, example))
	must(t, os.WriteFile(filepath.Join(dir, identityName+newSuffix), []byte("half an ident"), 0o600))
	id, err := loadIdentity(dir, "")
	must(t, err)
	id.ReservePercent = 9
	must(t, saveIdentity(dir, id))
	again, err := loadIdentity(dir, "")
	must(t, err)
	if again.ReservePercent != 9 {
		t.Errorf("the reserve is %d %%, want 9", again.ReservePercent)
	}
	if got := names(t, dir); got != "pool.copy.json pool.json" {
		t.Errorf("the directory holds %s", got)
	}
}

func TestCommandsInMessagesSurviveTheShell(t *testing.T) {
	for in, want := range map[string]string{
		"/var/lib/holdfast": "/var/lib/holdfast",
		"/my pool":          "'/my pool'",
		"/it's":             `'/it'\''s'`,
		"":                  "''",
	} {
		if got := quote(in); got != want {
			t.Errorf("quote(%q) = %s, want %s", in, got, want)
		}
	}
}

// FuzzDecode holds decode to this: it never panics, refuses with a kind, and what it
// accepts is exactly what encode writes.
func FuzzDecode(f *testing.F) {
	f.Add(golden(f))
	f.Add([]byte(`{"format":2,"crc32c":"00000000","pool":{}}`))
	f.Add([]byte(strings.ReplaceAll(string(golden(f)), "  ", "")))
	f.Fuzz(func(t *testing.T, raw []byte) {
		id, err := decode(raw)
		if err != nil {
			if kind := fault.KindOf(err); kind != fault.Corrupt && kind != fault.Unsupported {
				t.Fatalf("refused as %v: %v", kind, err)
			}
			return
		}
		again, err := id.encode()
		if err != nil || !bytes.Equal(raw, again) {
			t.Fatalf("accepted %q, which encode writes as %q, %v", raw, again, err)
		}
	})
}

package dump_test

import (
	"bytes"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/dump"
	"github.com/holdfast-io/holdfast/internal/state/memory"
)

// full returns a store with things in it.
func full(t testing.TB) *memory.Store {
	s := memory.New()
	t.Cleanup(func() { _ = s.Close() })
	for i := range 300 {
		if _, err := s.Commit(t.Context(), state.Create(fmt.Sprintf("%svolumes/%d", state.Root, i), make([]byte, i*50))); err != nil {
			t.Fatal(err)
		}
	}
	_, err := s.Commit(t.Context(), state.Create(state.AliveKey("n"), nil), state.Create("/other", nil), state.Create(state.Root+"x", nil))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func written(t testing.TB, s state.Store) []byte {
	var b bytes.Buffer
	h := dump.Header{Cluster: "c", Node: "n", Time: time.Unix(1e9, 0).UTC()}
	if err := dump.Write(t.Context(), s, &h, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestADumpHoldsAllButWhatIsLeased(t *testing.T) {
	s := full(t)
	h, items, err := dump.Read(bytes.NewReader(written(t, s)))
	if err != nil || len(items) != 301 || h.Cluster != "c" || h.Items != 301 {
		t.Fatalf("%d items, %+v, %v", len(items), h, err)
	}
	other := memory.New()
	defer other.Close()
	if err := dump.Fill(t.Context(), other, items); err != nil {
		t.Fatal(err)
	}
	_, again, err := dump.Read(bytes.NewReader(written(t, other)))
	if err != nil {
		t.Fatal(err)
	}
	for i := range items {
		if items[i].Key != again[i].Key || !bytes.Equal(items[i].Value, again[i].Value) {
			t.Fatalf("item %d differs", i)
		}
	}
	if err := dump.Fill(t.Context(), other, items); !fault.Is(err, fault.Busy) {
		t.Errorf("filled twice: %v", err)
	}
}

func TestADamagedDumpIsRefused(t *testing.T) {
	raw := written(t, full(t))
	for _, bad := range [][]byte{nil, raw[:len(raw)/2], append(bytes.Clone(raw), 'x')} {
		if _, _, err := dump.Read(bytes.NewReader(bad)); !fault.Is(err, fault.Corrupt) {
			t.Errorf("%d bytes: %v", len(bad), err)
		}
	}
	_, items, err := dump.Read(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	for i := 20; i < len(raw); i += len(raw) / 50 {
		bad := bytes.Clone(raw)
		bad[i] ^= 4
		_, got, err := dump.Read(bytes.NewReader(bad))
		if err == nil && reflect.DeepEqual(got, items) {
			continue // a bit that means nothing to gzip
		}
		if !fault.Is(err, fault.Corrupt) {
			t.Errorf("a bit at %d: %v", i, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	s := memory.New()
	defer s.Close()
	f.Add(written(f, s))
	if _, err := s.Commit(f.Context(), state.Create(state.Root+"x", []byte("1"))); err != nil {
		f.Fatal(err)
	}
	f.Add(written(f, s))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if _, items, err := dump.Read(bytes.NewReader(raw)); err == nil && len(items) > len(raw)*1100 {
			t.Errorf("%d items of %d bytes", len(items), len(raw))
		}
	})
}

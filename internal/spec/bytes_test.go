package spec_test

import (
	"testing"

	"github.com/holdfast-io/holdfast/internal/spec"
)

func TestBytesAreReadAsKubernetesAndPeopleWriteThem(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "4096": 4096, "17B": 17, "1k": 1000, "1K": 1000, "1Ki": 1024, "1KiB": 1024, "1.5G": 1_500_000_000,
		"20Gi": 20 << 30, "10GB": 10_000_000_000, "512MiB": 512 << 20, "2Ti": 2 << 40, "0.5Mi": 1 << 19,
	} {
		if got, err := spec.ParseBytes(text); err != nil || got != want {
			t.Errorf("%s is %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "B", "Gi", "-1", "+1", "1 Gi", "1e9", "0x10", "NaN", "inf", "9000000Pi", "1iG", "1_000", "1BB", "1GiBB", "1.2.3"} {
		if got, err := spec.ParseBytes(text); err == nil {
			t.Errorf("%q was taken, as %d", text, got)
		}
	}
}

func FuzzParseBytes(f *testing.F) {
	for _, seed := range []string{"20Gi", "512MiB", "1.5T", "10GB", "", "i", "9e9"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if n, err := spec.ParseBytes(text); err == nil && n < 0 {
			t.Errorf("%q is %d", text, n)
		}
	})
}
